//! A sealed key file, and what may be in one that opens.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::key_file_payload(data));
