//! The audit of the task state segment.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::seal_tss(data));
