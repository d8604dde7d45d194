//! The PVH start info in physical memory of any contents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::firmware_pvh(data));
