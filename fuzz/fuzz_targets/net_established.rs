//! Hostile segments for a connection that is established already.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::net_established(data));
