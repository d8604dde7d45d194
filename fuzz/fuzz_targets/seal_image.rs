//! The audit of an image file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::seal_image(data));
