//! A device in software: it can behave, and it can do anything its memory lets it do.

use std::collections::{BTreeSet, VecDeque};
use std::vec::Vec;

use abi::ring::Descriptor;

use super::super::DESCRIPTORS;
use super::dice::Dice;
use super::memory::Memory;

/// A virtqueue from the other side (virtio 1.2 section 2.7).
pub(super) struct Device {
    pub(super) memory: Memory,
    /// Offered and not given back, in the order of the offers.
    held: VecDeque<u16>,
    /// Where these lie.
    buffers: BTreeSet<u64>,
    seen: u16,
    used: u16,
    /// What the used index was when an interrupt was last considered.
    signalled: u16,
}

impl Device {
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            memory,
            held: VecDeque::new(),
            buffers: BTreeSet::new(),
            seen: 0,
            used: 0,
            signalled: 0,
        }
    }

    /// Takes what the driver has published; each must be new and in a buffer of its own.
    pub(super) fn accept(&mut self) -> Vec<u16> {
        let accepted = self.take_published();
        for id in &accepted {
            let buffer = self.memory.descriptor(*id).offset;
            let is_free = self.buffers.insert(buffer);
            assert!(is_free, "the buffer of {id} was offered twice");
            self.held.push_back(*id);
        }
        accepted
    }

    /// The same for a device that gave back what it has not got, and so may hold it twice.
    pub(super) fn accept_again(&mut self) {
        let again = self.take_published();
        self.held.extend(again);
    }

    fn take_published(&mut self) -> Vec<u16> {
        let published = self.memory.available_index().wrapping_sub(self.seen);
        assert!(published <= DESCRIPTORS, "the available index moved by {published}");
        let slots = (0..published).map(|entry| self.seen.wrapping_add(entry));
        let ids: Vec<u16> = slots.map(|slot| self.memory.available_id(slot)).collect();
        assert!(ids.iter().all(|id| *id < DESCRIPTORS), "no such descriptors: {ids:?}");
        self.seen = self.seen.wrapping_add(published);
        ids
    }

    /// Says from which entry on it wants to hear the bell.
    pub(super) fn wish_for_bell(&self, event: u16) {
        self.memory.set_available_event(event);
    }

    /// How many entries it has taken, ever.
    pub(super) fn seen(&self) -> u16 {
        self.seen
    }

    /// Takes a held descriptor off, the oldest or any.
    pub(super) fn choose(
        &mut self,
        dice: &mut Dice,
        is_in_order: bool,
    ) -> Option<(u16, Descriptor)> {
        let count = self.held.len() as u64;
        let place = if is_in_order || count == 0 { 0 } else { dice.below(count) };
        let id = self.held.remove(place as usize)?;
        let descriptor = self.memory.descriptor(id);
        self.buffers.remove(&descriptor.offset);
        Some((id, descriptor))
    }

    /// Writes a used element without moving the index.
    pub(super) fn put_used(&mut self, id: u32, length: u32) {
        self.memory.set_used_element(self.used, id, length);
        self.used = self.used.wrapping_add(1);
    }

    /// Shows the driver every element up to now.
    pub(super) fn show(&self) {
        self.memory.set_used_index(self.used);
    }

    /// Whether it interrupts for what it has shown: some entry of these is the driver's event
    /// (virtio 1.2 section 2.7.7.2).
    pub(super) fn interrupts(&mut self) -> bool {
        let event = self.memory.used_event();
        let entries = self.used.wrapping_sub(self.signalled);
        let is_wanted = (0..entries).any(|entry| self.signalled.wrapping_add(entry) == event);
        self.signalled = self.used;
        is_wanted
    }
}
