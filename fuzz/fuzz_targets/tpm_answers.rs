//! A TPM's answers to everything that boot asks.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tpm_answers(data));
