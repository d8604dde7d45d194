//! A client's first message, in records of any size, against the library's reading of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tls_client_hello(data));
