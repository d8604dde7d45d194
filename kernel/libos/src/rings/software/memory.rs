//! Memory as boot lays it out, with guards around every span.

use core::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;

use abi::ring::{Descriptor, available_bytes, table_bytes, used_bytes};
use abi::{Span, handoff};

use super::super::{AVAILABLE_EVENT, DESCRIPTORS, INDEX, RING, USED_EVENT};
use super::watch;

/// What lies around a span.
const GUARD: u16 = 0xa5c3;
/// How many bytes of it, on each side.
const GUARD_BYTES: u64 = 64;
/// What a doorbell shows that nobody has rung.
const SILENT: u16 = 0xdead;

/// One span, in cells that driver and device may use at the same time.
pub(in super::super) struct Block {
    cells: Box<[AtomicU16]>,
    /// Bytes before the span.
    lead: u64,
    bytes: u64,
}

impl Block {
    fn new(bytes: u64) -> Self {
        // Room for both guards, and to move the span to a boundary of 16 bytes.
        let cells = (2 * GUARD_BYTES + bytes + 16) / 2;
        let cells: Box<[_]> = (0..cells).map(|_| AtomicU16::new(GUARD)).collect();
        let start = cells.as_ptr().expose_provenance() as u64;
        let lead = (start + GUARD_BYTES).next_multiple_of(16) - start;
        let block = Self { cells, lead, bytes };
        block.clear(0);
        block
    }

    pub(in super::super) fn clear(&self, byte: u8) {
        let word = u16::from_ne_bytes([byte; 2]);
        self.range(0, self.bytes as usize).iter().for_each(|cell| cell.store(word, SeqCst));
    }

    pub(in super::super) fn span(&self) -> Span {
        Span::new(self.cells.as_ptr().addr() as u64 + self.lead, self.bytes)
    }

    fn cell(&self, offset: u64) -> &AtomicU16 {
        assert!(offset < self.bytes && offset.is_multiple_of(2));
        &self.cells[((self.lead + offset) / 2) as usize]
    }

    pub(in super::super) fn get(&self, offset: u64) -> u16 {
        self.cell(offset).load(SeqCst)
    }

    pub(in super::super) fn put(&self, offset: u64, value: u16) {
        self.cell(offset).store(value, SeqCst);
    }

    fn put_wide(&self, offset: u64, value: u32) {
        self.put(offset, value as u16);
        self.put(offset + 2, (value >> 16) as u16);
    }

    fn range(&self, offset: u64, bytes: usize) -> &[AtomicU16] {
        assert!(offset + bytes as u64 <= self.bytes && offset.is_multiple_of(2));
        let first = ((self.lead + offset) / 2) as usize;
        &self.cells[first..first + bytes.div_ceil(2)]
    }

    pub(in super::super) fn read(&self, offset: u64, to: &mut [u8]) {
        for (cell, pair) in self.range(offset, to.len()).iter().zip(to.chunks_mut(2)) {
            pair.copy_from_slice(&cell.load(SeqCst).to_ne_bytes()[..pair.len()]);
        }
    }

    /// Writes bytes; behind an odd number of them comes a zero.
    pub(in super::super) fn write(&self, offset: u64, bytes: &[u8]) {
        for (cell, pair) in self.range(offset, bytes.len()).iter().zip(bytes.chunks(2)) {
            let pair = [pair[0], *pair.get(1).unwrap_or(&0)];
            cell.store(u16::from_ne_bytes(pair), SeqCst);
        }
    }

    fn check_guards(&self) {
        let span = (self.lead / 2) as usize..((self.lead + self.bytes) / 2) as usize;
        for (index, cell) in self.cells.iter().enumerate() {
            let is_whole = span.contains(&index) || cell.load(SeqCst) == GUARD;
            assert!(is_whole, "a guard was overwritten: cell {index}, the span is {span:?}");
        }
    }
}

/// One queue's memory. Clones share it: one for the driver's side of a test, one for the device.
#[derive(Clone)]
pub(in super::super) struct Memory {
    pub(in super::super) table: Arc<Block>,
    pub(in super::super) available: Arc<Block>,
    pub(in super::super) used: Arc<Block>,
    pub(in super::super) buffers: Arc<Block>,
    pub(in super::super) doorbell: Arc<Block>,
    number: u16,
}

impl Memory {
    /// Writes the descriptors as boot does; everything else is zeros.
    pub(in super::super) fn new(
        number: u16,
        bytes: u64,
        geometry: fn(u16) -> Option<Descriptor>,
    ) -> Self {
        let block = |bytes| Arc::new(Block::new(bytes));
        let memory = Self {
            table: block(table_bytes(DESCRIPTORS)),
            available: block(available_bytes(DESCRIPTORS)),
            used: block(used_bytes(DESCRIPTORS)),
            buffers: block(bytes),
            doorbell: block(2),
            number,
        };
        for (id, at) in (0..DESCRIPTORS).zip((0..).step_by(16)) {
            let descriptor = geometry(id).unwrap();
            let address = memory.buffers.span().start + descriptor.offset;
            memory.table.put_wide(at, address as u32);
            memory.table.put_wide(at + 4, (address >> 32) as u32);
            memory.table.put_wide(at + 8, descriptor.length);
            memory.table.put(at + 12, descriptor.flags);
        }
        memory.silence();
        memory
    }

    /// Makes everything but the table as it was, for another driver.
    pub(in super::super) fn reset(&self) {
        self.available.clear(0);
        self.used.clear(0);
        self.silence();
    }

    /// The handoff, and what its reader may touch on this thread from now on.
    pub(in super::super) fn hand_over(&self, is_receive: bool) -> handoff::Queue {
        let [available, used, buffers, doorbell] =
            [&self.available, &self.used, &self.buffers, &self.doorbell].map(|block| block.span());
        let mut readable = std::vec![used];
        let mut writable = std::vec![available, doorbell];
        if is_receive { &mut readable } else { &mut writable }.push(buffers);
        watch::allow(readable, writable, doorbell.start);
        handoff::Queue {
            descriptors: u64::from(DESCRIPTORS),
            table: self.table.span(),
            available,
            used,
            buffers,
            doorbell: doorbell.start,
            number: u64::from(self.number),
        }
    }

    /// What the device sees in a descriptor: offset in the buffers, length, flags.
    pub(in super::super) fn descriptor(&self, id: u16) -> Descriptor {
        let at = 16 * u64::from(id);
        let wide = |at| u64::from(self.table.get(at)) | u64::from(self.table.get(at + 2)) << 16;
        let address = wide(at) | wide(at + 4) << 32;
        let (length, flags) = (wide(at + 8) as u32, self.table.get(at + 12));
        let place = Span::new(address, u64::from(length));
        assert!(self.buffers.span().covers(&place), "descriptor {id} lies outside the buffers");
        assert_eq!(self.table.get(at + 14), 0, "descriptor {id} has a next one");
        Descriptor { offset: address - self.buffers.span().start, length, flags }
    }

    pub(in super::super) fn available_index(&self) -> u16 {
        self.available.get(INDEX)
    }

    pub(in super::super) fn available_id(&self, slot: u16) -> u16 {
        self.available.get(RING + 2 * u64::from(slot % DESCRIPTORS))
    }

    pub(in super::super) fn used_event(&self) -> u16 {
        self.available.get(USED_EVENT)
    }

    pub(in super::super) fn used_index(&self) -> u16 {
        self.used.get(INDEX)
    }

    pub(in super::super) fn set_used_index(&self, index: u16) {
        self.used.put(INDEX, index);
    }

    pub(in super::super) fn used_element(&self, slot: u16) -> (u32, u32) {
        let at = RING + 8 * u64::from(slot % DESCRIPTORS);
        let wide = |at| u32::from(self.used.get(at)) | u32::from(self.used.get(at + 2)) << 16;
        (wide(at), wide(at + 4))
    }

    pub(in super::super) fn set_used_element(&self, slot: u16, id: u32, length: u32) {
        let at = RING + 8 * u64::from(slot % DESCRIPTORS);
        self.used.put_wide(at, id);
        self.used.put_wide(at + 4, length);
    }

    pub(in super::super) fn set_available_event(&self, event: u16) {
        self.used.put(AVAILABLE_EVENT, event);
    }

    fn silence(&self) {
        self.doorbell.put(0, SILENT);
    }

    /// Whether the bell was rung since the last call: once, with the queue's number.
    pub(in super::super) fn take_ring(&self) -> bool {
        let rings = watch::take_rings();
        assert!(rings <= 1, "one publication rings once, not {rings} times");
        let expected = if rings == 1 { self.number } else { SILENT };
        assert_eq!(self.doorbell.get(0), expected);
        self.silence();
        rings == 1
    }

    /// Everything that the driver writes besides buffers.
    pub(in super::super) fn driver_side(&self) -> Vec<u8> {
        let mut bytes = std::vec![0; available_bytes(DESCRIPTORS) as usize + 2];
        let (available, doorbell) = bytes.split_at_mut(available_bytes(DESCRIPTORS) as usize);
        self.available.read(0, available);
        self.doorbell.read(0, doorbell);
        bytes
    }

    pub(in super::super) fn check_guards(&self) {
        for block in [&self.table, &self.available, &self.used, &self.buffers, &self.doorbell] {
            block.check_guards();
        }
    }
}
