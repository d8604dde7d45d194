//! The edge proxy's configuration; what decodes encodes to the same meaning.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::edge_config(data));
