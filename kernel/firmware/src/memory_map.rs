//! The memory map that UEFI firmware hands over when it is dismissed.
//!
//! Source: UEFI 2.10, sections 7.2 (`GetMemoryMap`, table 7.10 "Memory Type Usage after
//! ExitBootServices") and 2.3.4 (pages of 4 KiB).

use abi::{PAGE_BYTES, Span, is_page_aligned};
use arrayvec::ArrayVec;

use crate::{MAX_RANGES, Malformed, MemoryRange, u32_at, u64_at};

/// What a descriptor has at least; firmware may append to it.
const DESCRIPTOR_BYTES: usize = 40;

/// The longest descriptor we take.
const MAX_DESCRIPTOR_BYTES: usize = 256;

/// The most descriptors we look at. OVMF gives about a hundred.
const MAX_DESCRIPTORS: usize = 2048;

/// Loader code and data, boot services code and data, conventional memory: nobody's now.
const FREE_TYPES: [u32; 5] = [1, 2, 3, 4, 7];

/// Attributes of memory that is not for everybody: specific purpose memory, and what runtime
/// services need.
const KEPT: u64 = 1 << 18 | 1 << 63;

/// Reads a map whose descriptors are `stride` bytes apart. Ranges that touch and agree are one; the
/// result is ascending.
///
/// # Errors
///
/// [`Malformed`] if a descriptor describes no memory, or if there are more ranges than we keep.
pub fn parse(map: &[u8], stride: usize) -> Result<ArrayVec<MemoryRange, MAX_RANGES>, Malformed> {
    if !(DESCRIPTOR_BYTES..=MAX_DESCRIPTOR_BYTES).contains(&stride)
        || !map.len().is_multiple_of(stride)
    {
        return Err(Malformed::OutOfReach("the UEFI memory map is not whole descriptors"));
    }
    let descriptors = map.chunks_exact(stride);
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(Malformed::TooMany("the UEFI memory map has more than 2048 ranges"));
    }
    let mut ranges = ArrayVec::new();
    for descriptor in descriptors {
        if let Some(range) = range(descriptor)? {
            add(&mut ranges, range)?;
        }
    }
    ranges.sort_unstable_by_key(|range| range.span.start);
    Ok(ranges)
}

fn range(descriptor: &[u8]) -> Result<Option<MemoryRange>, Malformed> {
    let broken = Malformed::OutOfReach("a range of the UEFI memory map is no memory");
    let kind = u32_at(descriptor, 0).ok_or(broken)?;
    let start = u64_at(descriptor, 8).ok_or(broken)?;
    let pages = u64_at(descriptor, 24).ok_or(broken)?;
    let attributes = u64_at(descriptor, 32).ok_or(broken)?;
    let span = Span::new(start, pages.checked_mul(PAGE_BYTES).ok_or(broken)?);
    if !is_page_aligned(start) || span.end().is_none() {
        return Err(broken);
    }
    let is_usable = FREE_TYPES.contains(&kind) && attributes & KEPT == 0;
    Ok((pages > 0).then_some(MemoryRange { span, is_usable }))
}

/// Adds a range, joined with all that it touches.
fn add(
    ranges: &mut ArrayVec<MemoryRange, MAX_RANGES>,
    mut range: MemoryRange,
) -> Result<(), Malformed> {
    let full = Malformed::TooMany("the UEFI memory map has more than 64 ranges apart");
    let end = |span: Span| span.start.saturating_add(span.length);
    let touches = |one: &MemoryRange, other: &MemoryRange| {
        one.is_usable == other.is_usable
            && one.span.start <= end(other.span)
            && other.span.start <= end(one.span)
    };
    // Each turn takes one range away, so this ends.
    while let Some(index) = ranges.iter().position(|other| touches(other, &range)) {
        let other = ranges.swap_remove(index).span;
        let start = other.start.min(range.span.start);
        range.span = Span::new(start, end(other).max(end(range.span)).saturating_sub(start));
    }
    ranges.try_push(range).map_err(|_| full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const STRIDE: usize = 48;

    fn descriptor(kind: u32, start: u64, pages: u64, attributes: u64) -> Vec<u8> {
        let mut bytes = std::vec![0; STRIDE];
        bytes[0..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&start.to_le_bytes());
        bytes[24..32].copy_from_slice(&pages.to_le_bytes());
        bytes[32..40].copy_from_slice(&attributes.to_le_bytes());
        bytes
    }

    fn map(ranges: &[(u32, u64, u64, u64)]) -> Vec<u8> {
        ranges
            .iter()
            .flat_map(|&(kind, start, pages, bits)| descriptor(kind, start, pages, bits))
            .collect()
    }

    #[track_caller]
    fn check(ranges: &[(u32, u64, u64, u64)], expected: &[(u64, u64, bool)]) {
        let seen = parse(&map(ranges), STRIDE).unwrap();
        let seen: Vec<_> =
            seen.iter().map(|r| (r.span.start, r.span.length, r.is_usable)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_the_firmware_leaves_is_free_and_nothing_else_is() {
        for kind in 0..=16 {
            let is_free = matches!(kind, 1..=4 | 7);
            check(&[(kind, 0x1000, 1, 0xf)], &[(0x1000, 0x1000, is_free)]);
        }
        for kind in [0x7000_0000, 0x8000_0000, u32::MAX] {
            check(&[(kind, 0x1000, 1, 0xf)], &[(0x1000, 0x1000, false)]);
        }
    }

    #[test]
    fn memory_with_a_purpose_is_not_free() {
        check(&[(7, 0x1000, 1, 1 << 63)], &[(0x1000, 0x1000, false)]);
        check(&[(7, 0x1000, 1, 1 << 18)], &[(0x1000, 0x1000, false)]);
    }

    #[test]
    fn neighbours_that_agree_are_one_in_whatever_order_they_come() {
        check(
            &[(7, 0x3000, 1, 0), (1, 0x1000, 1, 0), (4, 0x2000, 1, 0)],
            &[(0x1000, 0x3000, true)],
        );
        check(
            &[(6, 0x2000, 1, 0), (3, 0x1000, 1, 0), (7, 0x3000, 2, 0)],
            &[(0x1000, 0x1000, true), (0x2000, 0x1000, false), (0x3000, 0x2000, true)],
        );
    }

    #[test]
    fn a_frame_that_is_named_twice_is_there_once() {
        check(
            &[(7, 0x1000, 4, 0), (7, 0x2000, 1, 0), (2, 0x4000, 2, 0)],
            &[(0x1000, 0x5000, true)],
        );
        // Memory that is free in one line and not in another: `Memory` takes the second away.
        check(
            &[(7, 0x1000, 4, 0), (0, 0x2000, 1, 0)],
            &[(0x1000, 0x4000, true), (0x2000, 0x1000, false)],
        );
    }

    #[test]
    fn a_range_of_nothing_is_left_out() {
        check(&[(7, 0x1000, 0, 0), (0, 0, 0, 0)], &[]);
        check(&[], &[]);
    }

    #[track_caller]
    fn check_error(map: &[u8], stride: usize, expected: Malformed) {
        assert_eq!(parse(map, stride), Err(expected));
    }

    #[test]
    fn a_map_that_describes_no_memory_is_refused() {
        let broken = Malformed::OutOfReach("a range of the UEFI memory map is no memory");
        check_error(&descriptor(7, 0x1001, 1, 0), STRIDE, broken);
        check_error(&descriptor(7, 0x1000, u64::MAX, 0), STRIDE, broken);
        check_error(&descriptor(7, 0x1000, 1 << 52, 0), STRIDE, broken);
        check_error(&descriptor(0, u64::MAX - 0xfff, 1, 0), STRIDE, broken);
        check_error(&descriptor(7, u64::MAX - 0x1fff, 2, 0), STRIDE, broken);
        let whole = Malformed::OutOfReach("the UEFI memory map is not whole descriptors");
        for stride in [0, 1, 39, 257, usize::MAX] {
            check_error(&descriptor(7, 0x1000, 1, 0), stride, whole);
        }
        check_error(&descriptor(7, 0x1000, 1, 0)[..47], STRIDE, whole);
    }

    #[test]
    fn a_map_has_a_bound() {
        let apart = |count: u64| -> Vec<u8> {
            (0..count).flat_map(|index| descriptor(7, index * 0x2000, 1, 0)).collect()
        };
        assert_eq!(parse(&apart(64), STRIDE).unwrap().len(), 64);
        let full = Malformed::TooMany("the UEFI memory map has more than 64 ranges apart");
        check_error(&apart(65), STRIDE, full);
        let together = |count: u64| -> Vec<u8> {
            (0..count).flat_map(|index| descriptor(7, index * 0x1000, 1, 0)).collect()
        };
        assert_eq!(parse(&together(2048), STRIDE).unwrap().len(), 1);
        let many = Malformed::TooMany("the UEFI memory map has more than 2048 ranges");
        check_error(&together(2049), STRIDE, many);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..2000_usize {
            let mut bytes = Vec::new();
            for _ in 0..round % 40 * STRIDE / 8 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Mostly small numbers: they reach further.
                let word = if state & 3 == 0 { state } else { state >> 44 & !0xfff };
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            let _either = parse(&bytes, STRIDE);
        }
    }
}
