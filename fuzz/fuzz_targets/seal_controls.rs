//! The audit of the CPU's registers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::seal_controls(data));
