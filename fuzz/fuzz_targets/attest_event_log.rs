//! An event log, as firmware and boot wrote it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::attest_event_log(data));
