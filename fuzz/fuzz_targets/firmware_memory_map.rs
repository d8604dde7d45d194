//! A UEFI memory map of any contents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::firmware_memory_map(data));
