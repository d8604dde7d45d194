//! How much memory a machine needs for an image: one sum for the tool that prints it and for the
//! boot that refuses a machine with less.

use crate::{PAGE_BYTES, page_up, ring};

/// What firmware keeps for itself and boot does not touch: the first MiB (real mode's memory, the
/// BIOS's data and its window), and at the top of memory ACPI tables and SeaBIOS's high zone,
/// which together stay below half a MiB on QEMU's `pc` and `q35`.
pub const FIRMWARE_BYTES: u64 = (1 << 20) + (512 << 10);

/// Pages of ring 0 but for its tables: tail, text, data, descriptor tables, stacks.
pub const GATE_PAGES: u64 = 16;

/// Page tables that do not grow with the heap: the top levels, the image's and the gate's.
const FIXED_TABLES: u64 = 16;

/// What one page table maps in small pages.
const TABLE_REACH: u64 = 2 << 20;

/// What a machine's memory is used for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The service's heap.
    pub heap: u64,
    /// The service's stack.
    pub stack: u64,
    /// The NIC's rings and buffers, whether the service uses them or not.
    pub packets: u64,
    /// The image as it was loaded, boot and its zeroed data included, and the service's own
    /// zeroed data.
    pub image: u64,
    /// Page tables and the gate, each page of the heap mapped by a leaf of its own.
    pub tables: u64,
    /// What firmware keeps.
    pub firmware: u64,
}

impl Memory {
    /// What an image of so many loaded and zeroed bytes needs, with this heap and stack.
    pub const fn of(image: u64, heap: u64, stack: u64) -> Self {
        let tables = (small_page_tables(heap) + GATE_PAGES) * PAGE_BYTES;
        Self { heap, stack, packets: packet_bytes(), image, tables, firmware: FIRMWARE_BYTES }
    }

    /// All of it.
    pub const fn total(&self) -> u64 {
        self.heap + self.stack + self.packets + self.image + self.tables + self.firmware
    }

    /// All of it in whole MiB, as QEMU's `-m` counts.
    pub const fn mib(&self) -> u64 {
        self.total().div_ceil(1 << 20)
    }
}

/// How many page tables there are if the heap lies in 2 MiB pages.
pub const fn large_page_tables(heap: u64) -> u64 {
    // Two more for the heap's ends, and one for each GiB.
    FIXED_TABLES + 2 + heap / (TABLE_REACH * 512)
}

/// How many page tables there are if the heap lies in 4 KiB pages.
pub const fn small_page_tables(heap: u64) -> u64 {
    large_page_tables(heap) + heap.div_ceil(TABLE_REACH)
}

/// Both queues: buffers, and the three rings of each on pages of their own.
const fn packet_bytes() -> u64 {
    let rings = queue_bytes(ring::RECEIVE_DESCRIPTORS) + queue_bytes(ring::TRANSMIT_DESCRIPTORS);
    rings + ring::RECEIVE_BUFFER_BYTES + ring::TRANSMIT_BUFFER_BYTES
}

const fn queue_bytes(descriptors: u16) -> u64 {
    whole_pages(ring::table_bytes(descriptors))
        + whole_pages(ring::available_bytes(descriptors))
        + whole_pages(ring::used_bytes(descriptors))
}

const fn whole_pages(bytes: u64) -> u64 {
    match page_up(bytes) {
        Some(bytes) => bytes,
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_by_hand() {
        let memory = Memory::of(1 << 20, 40 << 20, 256 << 10);
        // 512 KiB to receive; 8 KiB of small and 64 KiB of full buffers to send; each queue's
        // descriptor table, available ring and used ring on 1 page each.
        assert_eq!(memory.packets, (512 + 8 + 64 + 2 * 12) << 10);
        assert_eq!(memory.tables, (16 + 2 + 20 + 16) * 4096);
        assert_eq!(memory.total(), (41 << 20) + (256 + 608 + 216 + 1536) * 1024);
        assert_eq!(memory.mib(), 44);
    }
}
