//! An event log and a table of final events of any contents.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::firmware_event_log(data));
