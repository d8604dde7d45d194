//! A peer's bytes in a log line: always a string of RFC 8259 that says what they are.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::log_escape(data));
