//! The audit of the global descriptor table.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::seal_gdt(data));
