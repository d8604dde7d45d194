//! What boot reads of the firmware's; mostly, physical memory is the data, from address 0 on.

use firmware::event_log::{self, MAX_BYTES, append, final_events};
use firmware::{Acpi, Physical, parse_acpi, parse_memory_map, parse_start_info};

/// The data as physical memory, and once more at the very end of the address space, so that sums of
/// addresses come near to wrapping.
struct Memory<'a>(&'a [u8]);

impl Physical for Memory<'_> {
    fn read(&self, address: u64, length: u64) -> Option<&[u8]> {
        let size = self.0.len() as u64;
        let start =
            if address < size { address } else { address.checked_sub(0u64.wrapping_sub(size))? };
        let end = start.checked_add(length)?;
        self.0.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

/// The start info at address 0.
pub fn pvh(data: &[u8]) {
    let memory = Memory(data);
    match parse_start_info(&memory, 0) {
        Ok(start) => {
            assert!(start.memory.iter().all(|range| range.span.end().is_some()));
            assert!(start.memory.len() * 24 <= data.len(), "no range is made up");
            assert_ne!(start.rsdp, Some(0));
            assert_eq!(parse_start_info(&memory, 0), Ok(start));
        }
        Err(malformed) => assert!(!malformed.as_str().is_empty()),
    }
}

/// UEFI's memory map, its descriptors as far apart as the first byte says.
pub fn memory_map(data: &[u8]) {
    let Some((stride, map)) = data.split_first() else { return };
    match parse_memory_map(map, usize::from(*stride)) {
        Ok(ranges) => {
            assert!(ranges.iter().all(|range| range.span.end().is_some()));
            assert!(ranges.iter().all(|range| range.span.length > 0));
            // No frame is free twice: whoever agrees and touches is one.
            for (one, other) in ranges.iter().zip(ranges.iter().skip(1)) {
                let touches = one.span.end() >= Some(other.span.start);
                assert!(!touches || one.is_usable != other.is_usable);
            }
            let pages: u64 = ranges.iter().map(|range| range.span.length / 4096).sum();
            assert!(ranges.is_empty() || pages > 0);
        }
        Err(malformed) => assert!(!malformed.as_str().is_empty()),
    }
}

/// An event log at address 0 and a table of final events behind it: the first five bytes say where
/// the log's last entry is, where the table is, and how many of its events are known.
pub fn event_log(data: &[u8]) {
    let [last_low, last_high, table_low, table_high, known, rest @ ..] = data else { return };
    let memory = Memory(rest);
    let last = u16::from_le_bytes([*last_low, *last_high]).into();
    let table = u16::from_le_bytes([*table_low, *table_high]).into();
    let log = match event_log::read(&memory, 0, last) {
        Ok(log) => log,
        Err(malformed) => return assert!(!malformed.as_str().is_empty()),
    };
    assert!(log.len() as u64 > last && log.len() as u64 <= MAX_BYTES);
    let mut room = log.to_vec();
    room.resize(MAX_BYTES as usize, 0);
    let used = log.len();
    match append(&mut room, used, &memory, table, (*known).into()) {
        Ok(filled) => {
            assert!((used..=room.len()).contains(&filled));
            let count = final_events(&memory, table).expect("it was just read");
            assert!(filled > used || count <= (*known).into());
        }
        Err(malformed) => assert!(!malformed.as_str().is_empty()),
    }
    assert_eq!(room[..used], *log, "what was there stays");
}

/// The root pointer at address 16; the first byte says whether the checksums are put right.
pub fn acpi(data: &[u8]) {
    let mut bytes = data.to_vec();
    if data.first().is_some_and(|first| first & 1 == 1) {
        put_checksums_right(&mut bytes);
    }
    let memory = Memory(&bytes);
    match parse_acpi(&memory, 16) {
        Ok(acpi) => check(&memory, &acpi),
        Err(malformed) => assert!(!malformed.as_str().is_empty()),
    }
}

fn check(memory: &Memory<'_>, acpi: &Acpi) {
    let Acpi { pm_timer, power_off, century, generation_id, .. } = acpi;
    assert!(*pm_timer != Some(0) && *century != Some(0));
    if let Some((port, value)) = power_off {
        // SLP_TYP and SLP_EN, and nothing else.
        assert!(*port != 0 && value & !0x3c00 == 0 && value & 0x2000 != 0);
    }
    if let Some(address) = generation_id {
        assert!(memory.read(*address, 16).is_some(), "boot maps the page of this address");
    }
    assert_eq!(parse_acpi(memory, 16).as_ref(), Ok(acpi));
}

/// The tables whose contents are looked at, and those that lead to them.
const SIGNATURES: [&[u8]; 7] = [b"RSDT", b"XSDT", b"FACP", b"APIC", b"MCFG", b"SSDT", b"DSDT"];

/// Mutations break checksums, and behind a broken checksum nothing is tested.
fn put_checksums_right(bytes: &mut [u8]) {
    for at in 0..bytes.len() {
        let Some(table) = bytes.get_mut(at..) else { continue };
        if SIGNATURES.iter().any(|signature| table.starts_with(signature)) && table.len() >= 36 {
            let length = u32::from_le_bytes([table[4], table[5], table[6], table[7]]) as usize;
            if let Some(whole) = table.get_mut(..length).filter(|whole| whole.len() >= 36) {
                settle(whole, 9);
            }
        }
    }
    if let Some(pointer) = bytes.get_mut(16..36) {
        settle(pointer, 8);
    }
    if let Some(pointer) = bytes.get_mut(16..52) {
        settle(pointer, 32);
    }
}

/// Makes all bytes add up to zero with the one at `at`.
fn settle(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = 0u8.wrapping_sub(sum);
}
