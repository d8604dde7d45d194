//! The receiving half: every buffer is the device's until it has filled it.

use abi::handoff;
use abi::ring::{FRAME_BYTES, HEADER_BYTES, RECEIVE_BUFFER_BYTES, receive_descriptor};

use super::{DESCRIPTORS, DeviceFault, FEATURE_GUEST_CSUM, Queue, Shared};
use crate::link::{Checksum, Received, Receiver};

/// Flags of the virtio-net header (virtio 1.2 section 5.1.6).
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

/// The ring of received frames, with private room for the one that is being read: its bytes are
/// there until the next frame is asked for.
pub struct ReceiveRing {
    queue: Queue,
    buffers: Shared,
    frame: [u8; (HEADER_BYTES + FRAME_BYTES) as usize],
    /// Whether its word on checksums was agreed on.
    checks_checksums: bool,
}

impl ReceiveRing {
    /// Takes the ring over and offers every buffer.
    pub(crate) fn new(queue: &handoff::Queue, features: u64) -> Option<Self> {
        let mut ring = Self {
            queue: Queue::new(queue)?,
            buffers: Shared::new(queue.buffers, RECEIVE_BUFFER_BYTES, 1)?,
            frame: [0; (HEADER_BYTES + FRAME_BYTES) as usize],
            checks_checksums: features & FEATURE_GUEST_CSUM != 0,
        };
        for id in 0..DESCRIPTORS {
            ring.queue.offer(id);
        }
        ring.queue.ask_for_none();
        ring.queue.publish();
        Some(ring)
    }

    /// Gives the emptied buffers back to the device.
    pub fn flush(&mut self) {
        self.queue.publish();
    }

    /// Asks to be woken by the next frame; whether one is there already.
    pub fn ask_for_interrupt(&mut self) -> bool {
        self.queue.ask_for_interrupt()
    }

    /// What the device did wrong, if it did. The ring stands still afterwards.
    pub fn fault(&self) -> Option<DeviceFault> {
        self.queue.fault
    }

    /// Copies a frame out of its buffer; `None` if it cannot have that length.
    fn copy_out(&mut self, id: u16, length: u32) -> Option<Received> {
        let frame_bytes = length.checked_sub(HEADER_BYTES).filter(|bytes| *bytes <= FRAME_BYTES)?;
        let descriptor = receive_descriptor(id)?;
        let room = self.frame.get_mut(..length as usize)?;
        if !self.buffers.copy_to(descriptor.offset, room) {
            return None;
        }
        let flags = room.first().copied().unwrap_or(0);
        // Without the feature both flags must be 0 (virtio 1.2 section 5.1.6.4), so they mean nothing.
        let is_trusted = self.checks_checksums && flags & (NEEDS_CSUM | DATA_VALID) != 0;
        Some(Received {
            index: id,
            length: frame_bytes as u16,
            checksum: if is_trusted { Checksum::Trusted } else { Checksum::Unknown },
        })
    }
}

impl Receiver for ReceiveRing {
    fn next(&mut self) -> Option<Received> {
        let (id, length) = self.queue.take()?;
        let Some(received) = self.copy_out(id, length) else {
            self.queue.fault = Some(DeviceFault::Length { length });
            return None;
        };
        // The copy is ours: the buffer can go back at once.
        self.queue.offer(id);
        Some(received)
    }

    fn bytes(&self, frame: &Received) -> &[u8] {
        let start = HEADER_BYTES as usize;
        self.frame.get(start..start + usize::from(frame.length)).unwrap_or(&[])
    }

    fn release(&mut self, _frame: Received) {
        // Its buffer went back when it was copied.
    }
}
