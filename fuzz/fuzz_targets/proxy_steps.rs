//! A client and a backend that do anything in any order to one proxied connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::proxy_steps(data));
