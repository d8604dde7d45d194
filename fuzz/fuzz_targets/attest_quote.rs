//! A TPM's quote, key and signature.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::attest_quote(data));
