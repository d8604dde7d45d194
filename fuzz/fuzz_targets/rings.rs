//! A hostile device against the rings of received frames and of frames to be sent.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::rings(data));
