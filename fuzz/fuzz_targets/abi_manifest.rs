//! The manifest of an image, as boot reads it; what parses encodes to the same meaning.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::abi_manifest(data));
