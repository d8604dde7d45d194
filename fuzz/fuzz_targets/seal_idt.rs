//! The audit of the interrupt descriptor table.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::seal_idt(data));
