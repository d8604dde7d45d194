//! What the image, boot, the gate and the service agree on.
//!
//! Three programs meet here and share no other code: `xtask image` composes the file, boot maps it
//! and lets go of it, the service runs in it. Everything is plain old data with fixed sizes, little
//! endian, so that each side can check what the other wrote before it believes it.

#![no_std]
#![forbid(unsafe_code)]

pub mod configuration;
pub mod gate;
pub mod handoff;
pub mod image;
pub mod memory;
pub mod record;
pub mod ring;

/// The size of a page and of a page table, in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// A range of addresses: `start..start + length`, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first address.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

impl Span {
    /// A span from its first address and its size in bytes.
    pub const fn new(start: u64, length: u64) -> Self {
        Self { start, length }
    }

    /// The first address after the span, or `None` if that is no address.
    pub const fn end(&self) -> Option<u64> {
        self.start.checked_add(self.length)
    }

    /// Whether `address` lies in the span.
    pub const fn contains(&self, address: u64) -> bool {
        match address.checked_sub(self.start) {
            Some(offset) => offset < self.length,
            None => false,
        }
    }

    /// Whether all of `other` lies in the span. An empty span lies nowhere.
    pub const fn covers(&self, other: &Span) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => {
                other.length > 0 && other.start >= self.start && other_end <= end
            }
            _ => false,
        }
    }

    /// Whether the two share an address.
    pub const fn overlaps(&self, other: &Span) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => {
                self.length > 0 && other.length > 0 && self.start < other_end && other.start < end
            }
            // A span that runs off the end of the address space is nobody's friend.
            _ => true,
        }
    }
}

/// Rounds up to a whole page, or `None` if that is no address.
pub const fn page_up(bytes: u64) -> Option<u64> {
    match bytes.checked_add(PAGE_BYTES - 1) {
        Some(sum) => Some(sum & !(PAGE_BYTES - 1)),
        None => None,
    }
}

/// Whether `address` is the first of a page.
pub const fn is_page_aligned(address: u64) -> bool {
    address & (PAGE_BYTES - 1) == 0
}

/// Reads a little-endian `u64` at `offset`, or `None` past the end.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Span, page_up};

    #[test]
    fn spans_know_their_edges() {
        let span = Span::new(0x1000, 0x1000);
        assert!(span.contains(0x1000) && span.contains(0x1fff));
        assert!(!span.contains(0xfff) && !span.contains(0x2000));
        assert!(span.covers(&Span::new(0x1800, 0x800)));
        assert!(!span.covers(&Span::new(0x1800, 0x801)));
        assert!(!span.covers(&Span::new(0x1800, 0)));
        assert!(span.overlaps(&Span::new(0x1fff, 1)));
        assert!(!span.overlaps(&Span::new(0x2000, 1)));
        assert!(span.overlaps(&Span::new(u64::MAX, 2)), "a span that wraps overlaps everything");
    }

    #[test]
    fn page_up_refuses_what_is_no_address() {
        assert_eq!(page_up(1), Some(4096));
        assert_eq!(page_up(4096), Some(4096));
        assert_eq!(page_up(u64::MAX), None);
    }
}
