//! The start info of the PVH boot protocol: where memory is and where ACPI begins.
//!
//! Source: Xen, public/arch-x86/hvm/start_info.h, version 1.

use abi::Span;
use arrayvec::ArrayVec;

use crate::{Malformed, Physical, u32_at, u64_at};

/// `"xEn3"` with the highest bit of the `E` set.
const MAGIC: u32 = 0x336e_c578;
const INFO_BYTES: u64 = 56;
const ENTRY_BYTES: u64 = 24;

/// How many ranges of memory we keep. QEMU gives about ten.
pub const MAX_RANGES: usize = 64;

/// A range of the physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Where it is.
    pub span: Span,
    /// Whether it is memory that nobody else uses (type 1).
    pub is_usable: bool,
}

/// What the loader told us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartInfo {
    /// The memory map, in the loader's order.
    pub memory: ArrayVec<MemoryRange, MAX_RANGES>,
    /// Where the ACPI root pointer is, if the loader knows.
    pub rsdp: Option<u64>,
}

/// Reads the start info at a physical address.
///
/// # Errors
///
/// [`Malformed`] if there is none, it has no memory map (version 0), or the map is too long.
pub fn parse(physical: &impl Physical, address: u64) -> Result<StartInfo, Malformed> {
    let missing = Malformed::OutOfReach("the PVH start info lies where there is no memory");
    let info = physical.read(address, INFO_BYTES).ok_or(missing)?;
    if u32_at(info, 0) != Some(MAGIC) {
        return Err(Malformed::Signature("the loader gave no PVH start info"));
    }
    if u32_at(info, 4) == Some(0) {
        return Err(Malformed::Signature(
            "the loader's PVH start info has no memory map (version 0)",
        ));
    }
    let map = u64_at(info, 40).ok_or(missing)?;
    let entries = u32_at(info, 48).ok_or(missing)?;
    if entries as usize > MAX_RANGES {
        return Err(Malformed::TooMany("the memory map has more than 64 ranges"));
    }
    let out = Malformed::OutOfReach("the memory map lies where there is no memory");
    let bytes = physical.read(map, u64::from(entries) * ENTRY_BYTES).ok_or(out)?;
    let memory = bytes
        .chunks_exact(ENTRY_BYTES as usize)
        .filter_map(|entry| {
            let span = Span::new(u64_at(entry, 0)?, u64_at(entry, 8)?);
            // A range that wraps is nobody's memory.
            let _end = span.end()?;
            Some(MemoryRange { span, is_usable: u32_at(entry, 16)? == 1 })
        })
        .collect();
    let rsdp = u64_at(info, 32).filter(|address| *address != 0);
    Ok(StartInfo { memory, rsdp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Islands;
    use std::vec;
    use std::vec::Vec;

    fn info(version: u32, map: u64, entries: u32) -> Vec<u8> {
        let mut bytes = vec![0; 56];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        bytes[32..40].copy_from_slice(&0xf0000u64.to_le_bytes());
        bytes[40..48].copy_from_slice(&map.to_le_bytes());
        bytes[48..52].copy_from_slice(&entries.to_le_bytes());
        bytes
    }

    fn entry(start: u64, length: u64, kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        bytes[0..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..16].copy_from_slice(&length.to_le_bytes());
        bytes[16..20].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn reads_the_map_and_the_root_pointer() {
        let map = [entry(0, 0x9fc00, 1), entry(0xf0000, 0x10000, 2)].concat();
        let memory = Islands(vec![(0x1000, info(1, 0x2000, 2)), (0x2000, map)]);
        let start = parse(&memory, 0x1000).unwrap();
        assert_eq!(start.rsdp, Some(0xf0000));
        assert_eq!(start.memory[0], MemoryRange { span: Span::new(0, 0x9fc00), is_usable: true });
        assert!(!start.memory[1].is_usable);
    }

    #[track_caller]
    fn check(memory: Islands, expected: Malformed) {
        assert_eq!(parse(&memory, 0x1000), Err(expected));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        check(
            Islands::default(),
            Malformed::OutOfReach("the PVH start info lies where there is no memory"),
        );
        check(
            Islands(vec![(0x1000, vec![0; 56])]),
            Malformed::Signature("the loader gave no PVH start info"),
        );
        check(
            Islands(vec![(0x1000, info(0, 0x2000, 1))]),
            Malformed::Signature("the loader's PVH start info has no memory map (version 0)"),
        );
        check(
            Islands(vec![(0x1000, info(1, 0x2000, 65))]),
            Malformed::TooMany("the memory map has more than 64 ranges"),
        );
        check(
            Islands(vec![(0x1000, info(1, u64::MAX, 2))]),
            Malformed::OutOfReach("the memory map lies where there is no memory"),
        );
    }

    #[test]
    fn a_range_that_wraps_is_left_out() {
        let map = [entry(u64::MAX, 2, 1), entry(0x10_0000, 0x1000, 1)].concat();
        let memory = Islands(vec![(0x1000, info(1, 0x2000, 2)), (0x2000, map)]);
        assert_eq!(parse(&memory, 0x1000).unwrap().memory.len(), 1);
    }
}
