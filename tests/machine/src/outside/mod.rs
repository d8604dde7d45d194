//! A machine seen from outside: its registers and its memory, read by QEMU and judged here.
//!
//! Nothing of this is boot's audit, nor does it share a line with it. It was written from the CPU's
//! manual and from the promise in ARCHITECTURE.md, walks the tables on its own, and compares what
//! it finds with the image file and with what QEMU says of its own device.

mod descriptors;
mod device;
mod finding;
mod image;
mod pages;
mod registers;
mod tables;

pub use self::registers::{Registers, Segment, Table};
pub use device::{Queue, bells, queues, registers};
pub use finding::Finding;
pub use image::{Image, Part};
pub use tables::{Leaf, Walk, walk};

use std::fs;
use std::io::BufRead;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::{Error, Machine, body};

/// The size of a page and of a page table.
pub const PAGE: u64 = 4096;

/// More memory than this is not looked at: boards leave a hole for devices below 4 GiB.
pub const MAX_MEMORY_MIB: u64 = 2048;

/// What the monitor answers for a machine whose gate has ended it, if QEMU was told to keep it.
const ENDED: &str = "paused (shutdown)";

/// Physical memory from its first byte.
#[derive(Clone, Debug)]
pub struct Memory(Vec<u8>);

impl Memory {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.0.len() as u64
    }

    /// Bytes at a physical address, or `None` where there is no memory.
    pub fn bytes(&self, phys: u64, length: u64) -> Option<&[u8]> {
        let start = usize::try_from(phys).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.0.get(start..end)
    }

    /// A little-endian number of `N` bytes, at most eight.
    pub fn number<const N: usize>(&self, phys: u64) -> Option<u64> {
        let bytes = self.bytes(phys, N as u64)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Flips one bit, to see whether anybody notices.
    pub fn flip(&mut self, phys: u64, bit: u32) {
        let at = phys + u64::from(bit / 8);
        if let Some(byte) = usize::try_from(at).ok().and_then(|at| self.0.get_mut(at)) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Every physical address where `needle` lies; it must not begin with a zero.
    pub fn find(&self, needle: &[u8]) -> Vec<u64> {
        let Some(&first) = needle.first() else { return Vec::new() };
        let mut places = Vec::new();
        for (page, bytes) in self.0.chunks(ZEROS.len()).enumerate() {
            // Most of a small machine's memory is zero, and that is told fast.
            let mut rest = if is_zero(bytes) { &[] } else { bytes };
            let mut next = page * ZEROS.len();
            while let Ok(skipped @ 1..) = rest.skip_until(first) {
                next += skipped;
                if self.0[next - 1..].starts_with(needle) {
                    places.push(next - 1);
                }
            }
        }
        places.into_iter().map(|at| at as u64).collect()
    }
}

/// A page of zeros.
const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// Whether all of it is zero.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// A machine at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The CPU.
    pub registers: Registers,
    /// All of its memory.
    pub memory: Memory,
    /// What QEMU's network card was told, if the machine has one.
    pub queues: Vec<Queue>,
    /// The card's bells, as QEMU has them on its bus; empty without a card.
    pub bells: Range<u64>,
    /// The card's registers if it is on no bus, as QEMU has them; empty if it is on PCI.
    pub mmio: Range<u64>,
    /// Whether QEMU has a TPM on its bus.
    pub has_tpm: bool,
}

impl Snapshot {
    /// Stops the machine and reads everything. `monitor("cont")` lets it go on.
    ///
    /// # Errors
    ///
    /// [`Error`] if the monitor does not say what it should.
    pub fn take(machine: &Machine, memory_mib: u64) -> Result<Self, Error> {
        machine.monitor("stop")?;
        let cpu = Registers::parse(&machine.monitor("info registers")?)?;
        let queues = queues(machine)?;
        let bus = machine.monitor("info mtree -f")?;
        let (bells, has_tpm) = (bells(&bus), bus.contains(": tpm-"));
        // A card on PCI has bells on the bus.
        let is_on_bus = !bells.is_empty();
        let mmio = if is_on_bus { 0..0 } else { registers(&machine.monitor("info qtree")?) };
        let path = machine.save_memory(0, memory_mib.min(MAX_MEMORY_MIB) << 20)?;
        let memory = Memory(fs::read(&path).map_err(Error::file(&path))?);
        fs::remove_file(&path).map_err(Error::file(&path))?;
        Ok(Self { registers: cpu, memory, queues, bells, mmio, has_tpm })
    }

    /// Everything that is not as promised; an empty list is a seal.
    pub fn findings(&self, image: &Image) -> Vec<Finding> {
        let (walk, mut findings) = walk(&self.memory, self.registers.cr3);
        findings.extend(self.registers.findings());
        findings.extend(descriptors::findings(&self.memory, &walk));
        findings.extend(device::findings(&self.memory, &walk, &self.queues));
        findings.extend(pages::findings(self, &walk, image));
        findings
    }

    /// A digest of all that must never change again: page tables, and every page that nobody may
    /// write but for the used rings, which the device writes.
    pub fn digest(&self) -> String {
        let (walk, _) = walk(&self.memory, self.registers.cr3);
        let mut hash = Sha256::new();
        for table in &walk.tables {
            hash.update(self.memory.bytes(*table, PAGE).unwrap_or_default());
        }
        let is_used = |leaf: &&Leaf| !self.queues.iter().any(|queue| leaf.holds(queue.used));
        for leaf in walk.leaves.iter().filter(|leaf| !leaf.is_writable).filter(is_used) {
            hash.update(leaf.virt.to_le_bytes());
            hash.update(leaf.phys.to_le_bytes());
            hash.update(self.memory.bytes(leaf.phys, leaf.bytes).unwrap_or_default());
        }
        body::hex(&hash.finalize())
    }

    /// Addresses of the service that a text tells: its base is a secret, and any of them would do.
    pub fn addresses_in(&self, text: &str) -> Vec<u64> {
        let (walk, _) = walk(&self.memory, self.registers.cr3);
        let user = || walk.leaves.iter().filter(|leaf| leaf.is_user);
        let Some(start) = user().map(|leaf| leaf.virt).min() else { return Vec::new() };
        let end = user().map(|leaf| leaf.virt + leaf.bytes).max().unwrap_or(start);
        let words = text.split(|c: char| !c.is_ascii_hexdigit());
        let numbers = words.filter_map(|word| u64::from_str_radix(word, 16).ok());
        // The base's page number gives it away as well.
        numbers.filter(|&n| (start..end).contains(&n) || n == start / PAGE).collect()
    }
}

/// Whether the gate has ended the machine, and QEMU, told `-no-shutdown`, keeps it as it was.
///
/// # Errors
///
/// [`Error`] if the monitor does not answer.
pub fn is_over(machine: &Machine) -> Result<bool, Error> {
    Ok(machine.monitor("info status")?.contains(ENDED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(needle: &[u8], expected: &[u64]) {
        let mut bytes = vec![0; 3 * PAGE as usize];
        for at in [5, PAGE as usize - 2, 2 * PAGE as usize, 3 * PAGE as usize - 3] {
            bytes[at..at + 3].copy_from_slice(b"aab");
        }
        assert_eq!(Memory(bytes).find(needle), expected);
    }

    #[test]
    fn finds_what_lies_across_pages_and_at_both_ends() {
        check(b"aab", &[5, PAGE - 2, 2 * PAGE, 3 * PAGE - 3]);
        check(b"ab", &[6, PAGE - 1, 2 * PAGE + 1, 3 * PAGE - 2]);
        check(b"b", &[7, PAGE, 2 * PAGE + 2, 3 * PAGE - 1]);
        check(b"ba", &[]);
        check(b"", &[]);
    }
}
