//! Evidence and claims on the wire; what is read is written again as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::attest_evidence(data));
