//! The sending half: pick a buffer, pick the smallest size class, pad with zeros, offer.

use abi::handoff;
use abi::ring::{
    FRAME_BYTES, FULL_BUFFERS, FULL_CLASSES, HEADER_BYTES, SMALL_BUFFERS, SMALL_CLASS,
    TRANSMIT_BUFFER_BYTES, transmit_descriptor,
};
use arrayvec::ArrayVec;

use super::{DeviceFault, FEATURE_CSUM, Queue, Shared};
use crate::link::{PartialChecksum, Transmitter};

/// Flags of the virtio-net header (virtio 1.2 section 5.1.6).
const NEEDS_CSUM: u8 = 1;

const HEADER: usize = HEADER_BYTES as usize;
const CLASSES: u16 = FULL_CLASSES.len() as u16;

/// When fewer full buffers than this are free, we look at what the device has finished.
pub(super) const FEW: usize = 8;

/// The ring of frames to be sent.
pub struct TransmitRing {
    pub(super) queue: Queue,
    buffers: Shared,
    small: ArrayVec<u16, { SMALL_BUFFERS as usize }>,
    full: ArrayVec<u16, { FULL_BUFFERS as usize }>,
    completes_checksums: bool,
}

impl TransmitRing {
    /// Takes the ring over; every buffer is free.
    pub(crate) fn new(queue: &handoff::Queue, features: u64) -> Option<Self> {
        let mut ring = Self {
            queue: Queue::new(queue)?,
            buffers: Shared::new(queue.buffers, TRANSMIT_BUFFER_BYTES, 1)?,
            small: (0..SMALL_BUFFERS).collect(),
            full: (0..FULL_BUFFERS).map(|buffer| SMALL_BUFFERS + buffer * CLASSES).collect(),
            completes_checksums: features & FEATURE_CSUM != 0,
        };
        ring.queue.ask_for_none();
        Some(ring)
    }

    /// Tells the device what there is to send: one bell for all of it.
    pub fn flush(&mut self) {
        self.queue.publish();
    }

    /// Asks to be woken when a buffer comes back; whether one is back already.
    pub fn ask_for_interrupt(&mut self) -> bool {
        self.queue.ask_for_interrupt()
    }

    /// Asks not to be woken: finished buffers are collected when they are needed.
    pub fn ask_for_none(&mut self) {
        self.queue.ask_for_none();
    }

    /// What the device did wrong, if it did. The ring stands still afterwards.
    pub fn fault(&self) -> Option<DeviceFault> {
        self.queue.fault
    }

    /// Takes back every buffer the device is done with: at most as many as it was offered.
    pub(super) fn collect(&mut self) {
        while let Some((id, _)) = self.queue.take() {
            match id.checked_sub(SMALL_BUFFERS) {
                None => self.small.push(id),
                Some(within) => self.full.push(id - within % CLASSES),
            }
        }
    }

    /// A descriptor of a free buffer, in the smallest class that holds that many bytes.
    fn pick(&mut self, bytes: u32) -> Option<u16> {
        if bytes <= SMALL_CLASS
            && let Some(id) = self.small.pop()
        {
            return Some(id);
        }
        let class = FULL_CLASSES.iter().position(|class| *class >= bytes)?;
        Some(self.full.pop()? + class as u16)
    }
}

impl Transmitter for TransmitRing {
    fn completes_checksums(&self) -> bool {
        self.completes_checksums
    }

    fn has_room(&mut self) -> bool {
        if self.full.len() < FEW {
            self.collect();
        }
        self.queue.fault.is_none() && !self.full.is_empty()
    }

    fn transmit<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (R, Option<PartialChecksum>),
    ) -> R {
        assert!(length <= FRAME_BYTES as usize, "a frame of {length} bytes");
        let bytes = HEADER_BYTES + length as u32;
        let Some(id) = self.pick(bytes) else { panic!("no transmit buffer is free") };
        let Some(descriptor) = transmit_descriptor(id) else { panic!("no descriptor {id}") };
        // SAFETY: the buffer was on a free list, so no descriptor of it is offered.
        let buffer = unsafe { self.buffers.buffer(descriptor.offset, descriptor.length as usize) };
        let Some(buffer) = buffer else { panic!("descriptor {id} lies outside the buffers") };
        let (header, rest) = buffer.split_at_mut(HEADER);
        let (frame, padding) = rest.split_at_mut(length);
        // Old frames lie in these buffers; what is sent besides the frame is zeros.
        padding.fill(0);
        let (result, checksum) = fill(frame);
        header.fill(0);
        if let Some(PartialChecksum { start, offset }) = checksum
            && let [flags, _, _, _, _, _, start_low, start_high, offset_low, offset_high, ..] =
                header
        {
            *flags = NEEDS_CSUM;
            [*start_low, *start_high] = start.to_le_bytes();
            [*offset_low, *offset_high] = offset.to_le_bytes();
        }
        self.queue.offer(id);
        result
    }
}
