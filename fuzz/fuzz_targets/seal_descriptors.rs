//! The audit of a virtqueue's descriptors.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::seal_descriptors(data));
