//! Records of any type and content after a handshake, sealed with the right keys.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tls_records(data));
