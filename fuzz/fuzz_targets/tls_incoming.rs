//! A stranger's bytes, and changed ClientHellos, in chunks of any size.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tls_incoming(data));
