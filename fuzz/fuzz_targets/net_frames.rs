//! Frames, time and applications of any kind against the network stack.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::net_frames(data));
