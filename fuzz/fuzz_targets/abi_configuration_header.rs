//! The header of a configuration section, as boot reads it; what parses encodes to the same bits.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::abi_configuration_header(data));
