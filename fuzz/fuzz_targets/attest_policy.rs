//! A policy or an identity in JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::attest_policy(data));
