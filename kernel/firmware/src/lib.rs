//! What the firmware and the host say of a machine: PVH start info, UEFI's memory map and event log,
//! ACPI and KVM's clock, parsed as hostile input.
//!
//! Boot cannot avoid reading these, and it reads them in ring 0. So nothing here has `unsafe`,
//! nothing indexes, nothing loops without a bound, and a table that lies costs at most a refusal.
//! AML is never interpreted: the two values we need from it are found by their fixed encoding.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod acpi;
pub mod event_log;
pub mod kvmclock;
mod memory_map;
mod pvh;

pub use acpi::{Acpi, Ecam, IoApic, Line, Reset, Tpm2, VirtioMmio, parse as parse_acpi};
pub use memory_map::parse as parse_memory_map;
pub use pvh::{MAX_RANGES, MemoryRange, StartInfo, parse as parse_start_info};

/// Physical memory, as far as it may be read.
pub trait Physical {
    /// The bytes at a physical address, or `None` where there is nothing to read.
    fn read(&self, address: u64, length: u64) -> Option<&[u8]>;
}

/// Why the firmware's tables could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A table's bytes do not add up to zero.
    Checksum(&'static str),
    /// A table ends before it should, or lies where there is no memory.
    OutOfReach(&'static str),
    /// A table begins with something else.
    Signature(&'static str),
    /// More of something than we have room for.
    TooMany(&'static str),
}

impl Malformed {
    /// What is wrong, as a phrase for one line.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Checksum(_) => "a table has a wrong checksum",
            Self::OutOfReach(what) | Self::Signature(what) | Self::TooMany(what) => what,
        }
    }
}

pub(crate) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod fake {
    //! Physical memory for tests: a few islands of bytes.

    use super::Physical;
    use std::vec::Vec;

    #[derive(Default)]
    pub(crate) struct Islands(pub(crate) Vec<(u64, Vec<u8>)>);

    impl Physical for Islands {
        fn read(&self, address: u64, length: u64) -> Option<&[u8]> {
            self.0.iter().find_map(|(start, bytes)| {
                let from = usize::try_from(address.checked_sub(*start)?).ok()?;
                bytes.get(from..from.checked_add(usize::try_from(length).ok()?)?)
            })
        }
    }
}
