//! The sealed key's file, as far as ring 0 reads it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tpm_key_file(data));
