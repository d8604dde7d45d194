//! A device in software: memory as boot lays it out, and every access of the driver watched.
//!
//! The unit tests use it, and so does the fuzz target `rings`, through [`DeviceSide`] and behind the
//! feature `hostile-device`, which nothing that is shipped turns on. All of it is safe code: the raw
//! accesses under test are those of [`super::shared`], and they are the only ones.

pub(super) mod memory;
pub(super) mod watch;

use std::vec::Vec;

use abi::ring::{
    RECEIVE_BUFFER_BYTES, TRANSMIT_BUFFER_BYTES, receive_descriptor, transmit_descriptor,
};

use self::memory::Memory;
use super::{FEATURE_CSUM, FEATURE_GUEST_CSUM, ReceiveRing, TransmitRing};

/// What the device sees of a queue and may write there, hostile as it likes. Clones are the same
/// device.
///
/// An access of the driver outside what it may touch is a panic, on the thread that made the ring;
/// a thread drives one ring at a time.
#[derive(Clone)]
pub struct DeviceSide {
    memory: Memory,
}

impl DeviceSide {
    /// A receive queue, both sides of it; the device vouches for checksums if it may.
    pub fn with_receive_ring(vouches: bool) -> (ReceiveRing, Self) {
        let memory = receive_memory();
        let features = if vouches { FEATURE_GUEST_CSUM } else { 0 };
        let ring = ReceiveRing::new(&memory.hand_over(true), features);
        (ring.expect("the memory is as boot lays it out"), Self { memory })
    }

    /// A transmit queue, both sides of it; the device completes checksums if it may.
    pub fn with_transmit_ring(completes: bool) -> (TransmitRing, Self) {
        let memory = transmit_memory();
        let features = if completes { FEATURE_CSUM } else { 0 };
        let ring = TransmitRing::new(&memory.hand_over(false), features);
        (ring.expect("the memory is as boot lays it out"), Self { memory })
    }

    /// The available ring's index.
    pub fn available_index(&self) -> u16 {
        self.memory.available_index()
    }

    /// What a slot of the available ring offers; the slot counts modulo the ring's size.
    pub fn available_id(&self, slot: u16) -> u16 {
        self.memory.available_id(slot)
    }

    /// The entry whose completion the driver wants an interrupt for.
    pub fn used_event(&self) -> u16 {
        self.memory.used_event()
    }

    /// The bytes of a descriptor's buffer.
    ///
    /// # Panics
    ///
    /// If there is no such descriptor, or it leads out of the buffers.
    pub fn buffer(&self, id: u16) -> Vec<u8> {
        let descriptor = self.memory.descriptor(id);
        let mut bytes = std::vec![0; descriptor.length as usize];
        self.memory.buffers.read(descriptor.offset, &mut bytes);
        bytes
    }

    /// Writes into a descriptor's buffer, from its beginning, as much as there is room for.
    ///
    /// # Panics
    ///
    /// As [`DeviceSide::buffer`].
    pub fn write_buffer(&self, id: u16, bytes: &[u8]) {
        let descriptor = self.memory.descriptor(id);
        let count = bytes.len().min(descriptor.length as usize);
        self.memory.buffers.write(descriptor.offset, &bytes[..count]);
    }

    /// Writes an element of the used ring; the slot counts modulo the ring's size.
    pub fn set_used_element(&self, slot: u16, id: u32, length: u32) {
        self.memory.set_used_element(slot, id, length);
    }

    /// Writes the used ring's index.
    pub fn set_used_index(&self, index: u16) {
        self.memory.set_used_index(index);
    }

    /// Says from which entry on the device wants to hear the bell.
    pub fn set_available_event(&self, event: u16) {
        self.memory.set_available_event(event);
    }

    /// Whether the bell was rung since the last call.
    ///
    /// # Panics
    ///
    /// If it was rung more than once, or with another queue's number.
    pub fn take_ring(&self) -> bool {
        self.memory.take_ring()
    }

    /// Looks at what lies around every span of the queue.
    ///
    /// # Panics
    ///
    /// If any of it was overwritten.
    pub fn check_guards(&self) {
        self.memory.check_guards();
    }
}

/// Runs `driver`, and `act` before each of its accesses to shared memory, which are counted from 0.
pub fn interleave<R>(driver: impl FnOnce() -> R, act: impl FnMut(u32) + 'static) -> R {
    watch::interleave(driver, act)
}

pub(super) fn receive_memory() -> Memory {
    Memory::new(0, RECEIVE_BUFFER_BYTES, receive_descriptor)
}

pub(super) fn transmit_memory() -> Memory {
    Memory::new(1, TRANSMIT_BUFFER_BYTES, transmit_descriptor)
}
