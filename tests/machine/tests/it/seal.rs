//! What the sealed machine can no longer do: each forbidden act is one program's last.

use crate::support::{GUEST, PATIENCE, probe};

/// Boots a probe and returns all that its machine said.
fn console_of(act: &str) -> String {
    let machine = probe(act, |builder| builder);
    machine.wait_for_off(PATIENCE).unwrap();
    machine.console().text()
}

/// Fails unless the act ends in a crash with this vector and one of these error codes.
#[track_caller]
fn check(act: &str, vector: &str, errors: &[u64]) {
    let console = console_of(act);
    assert!(!console.contains("SURVIVED"), "{act} was not stopped:\n{console}");
    assert!(console.contains("seal:"), "{act} ran in a machine that was not sealed:\n{console}");
    assert!(console.contains(&format!("PROBE {act}: begin")), "{act} was not tried:\n{console}");
    let record = console.lines().find(|line| line.starts_with("CRASH"));
    let record = record.unwrap_or_else(|| panic!("{act} left no record:\n{console}"));
    assert_eq!(field(record, "vector"), Some(vector), "{act}: {record}");
    let error = field(record, "error").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    assert!(error.is_some_and(|error| errors.contains(&error)), "{act}: {record}, not {errors:?}");
    // No base address is told: a place is one of the service, or it is the null that was called.
    let is_place = |rip: &str| rip.starts_with("service+") || rip.trim_matches('0').is_empty();
    assert!(field(record, "rip").is_some_and(is_place), "{act}: {record}");
}

fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// One test an act, so that each claim has a name: the test's, the act's, the vector, and which
/// error codes the CPU may give (Intel SDM volume 3, section 4.7: 1 present, 2 write, 4 user,
/// 16 fetch).
macro_rules! acts {
    ($($(#[$note:meta])* fn $name:ident = $act:literal: $vector:literal $errors:expr;)*) => {
        $($(#[$note])* #[test] fn $name() { check($act, $vector, &$errors); })*
    };
}

acts! {
    fn code_cannot_be_written = "write_text": "0e" [7];
    fn read_only_data_cannot_be_written = "write_rodata": "0e" [7];
    fn the_configuration_cannot_be_written = "write_configuration": "0e" [7];
    fn the_heap_cannot_be_executed = "execute_heap": "0e" [0x15];
    fn the_stack_cannot_be_executed = "execute_stack": "0e" [0x15];
    fn packet_buffers_cannot_be_executed = "execute_packet_buffer": "0e" [0x15];
    /// The tables are not even mapped for ring 3, or mapped for ring 0 only.
    fn page_tables_cannot_be_written = "write_page_table": "0e" [6, 7];
    fn page_tables_cannot_be_read = "read_page_table": "0e" [4, 5];
    fn boot_is_gone = "read_boot": "0e" [4];
    fn cr0_cannot_be_loaded = "mov_cr0": "0d" [0];
    fn cr3_cannot_be_loaded = "mov_cr3": "0d" [0];
    fn cr4_cannot_be_loaded = "mov_cr4": "0d" [0];
    fn model_specific_registers_cannot_be_written = "wrmsr": "0d" [0];
    fn the_interrupt_table_cannot_be_moved = "lidt": "0d" [0];
    fn no_port_can_be_written = "out 0xcf8": "0d" [0];
    fn interrupts_cannot_be_switched = "cli": "0d" [0];
    fn receive_descriptors_cannot_be_written = "write_descriptor_table": "0e" [7];
    fn transmit_descriptors_cannot_be_written = "write_transmit_descriptor": "0e" [7];
    fn used_rings_cannot_be_written = "write_used_ring": "0e" [7];
    fn device_configuration_cannot_be_touched = "touch_device_configuration": "0e" [4, 6];
    fn the_interrupt_controller_cannot_be_touched = "touch_lapic": "0e" [5, 7];
    fn a_stack_that_overflows_hits_its_guard_page = "stack_overflow": "0e" [6];
    fn the_heap_has_a_guard_page = "heap_guard_below": "0e" [6];
    fn null_cannot_be_read = "null_read": "0e" [4];
    fn null_cannot_be_called = "null_call": "0e" [0x14];
}

#[test]
fn a_program_that_does_nothing_forbidden_reaches_its_end() {
    let console = console_of("control");
    assert!(console.contains("PROBE control: end of program"), "{console}");
    assert!(!console.contains("CRASH"), "{console}");
    assert!(console.contains("STOP reason="), "{console}");
    println!("{console}");
}

#[test]
fn the_record_of_a_fault_leads_to_the_line_that_did_it() {
    let console = console_of("write_text");
    let record = console.lines().find(|line| line.starts_with("CRASH")).unwrap();
    let offsets = xtask::symbolize::offsets(record);
    // Where it was, and what it touched: its own text.
    assert_eq!(offsets.len(), 2, "{record}");
    let program = std::fs::read(&GUEST.probe).unwrap();
    let symbols = xtask::symbolize::Symbols::parse(&program).unwrap();
    let frames = symbols.frames(offsets[0]).unwrap();
    let shown: Vec<String> = frames.iter().map(ToString::to_string).collect();
    let names_the_act = |frame: &String| frame.contains("tests/probe/src/acts/memory.rs:");
    assert!(shown.iter().any(names_the_act), "{shown:?}");
}
