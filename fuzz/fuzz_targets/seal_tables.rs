//! The audit of the page tables, against a second walk.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::seal_tables(data));
