//! The receiving half: every buffer is the device's until it has filled it.

use abi::handoff;
use abi::ring::{FRAME_BYTES, HEADER_BYTES, RECEIVE_BUFFER_BYTES, receive_descriptor};

use super::{DESCRIPTORS, DeviceFault, Queue, Shared};
use crate::link::{Checksum, Received, Receiver};

/// Flags of the virtio-net header (virtio 1.2 section 5.1.6).
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

/// The ring of received frames, with private room for the one that is being read.
pub struct ReceiveRing {
    queue: Queue,
    buffers: Shared,
    frame: [u8; (HEADER_BYTES + FRAME_BYTES) as usize],
    fault: Option<DeviceFault>,
}

impl ReceiveRing {
    /// Takes the ring over and offers every buffer.
    pub(crate) fn new(queue: &handoff::Queue) -> Option<Self> {
        let mut ring = Self {
            queue: Queue::new(queue)?,
            buffers: Shared::new(queue.buffers, RECEIVE_BUFFER_BYTES)?,
            frame: [0; (HEADER_BYTES + FRAME_BYTES) as usize],
            fault: None,
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
        self.fault
    }

    fn copy_out(&mut self) -> Result<Option<Received>, DeviceFault> {
        let Some((id, length)) = self.queue.take()? else { return Ok(None) };
        let wrong = DeviceFault::Length { length };
        if !(HEADER_BYTES..=HEADER_BYTES + FRAME_BYTES).contains(&length) {
            return Err(wrong);
        }
        let descriptor = receive_descriptor(id).ok_or(DeviceFault::NotOffered { id })?;
        let room = self.frame.get_mut(..length as usize).ok_or(wrong)?;
        if !self.buffers.copy_to(descriptor.offset, room) {
            return Err(wrong);
        }
        // The copy is ours: the buffer can go back at once.
        self.queue.offer(id);
        let flags = room.first().copied().unwrap_or(0);
        let is_trusted = flags & (NEEDS_CSUM | DATA_VALID) != 0;
        Ok(Some(Received {
            index: id,
            length: (length - HEADER_BYTES) as u16,
            checksum: if is_trusted { Checksum::Trusted } else { Checksum::Unknown },
        }))
    }
}

impl Receiver for ReceiveRing {
    fn next(&mut self) -> Option<Received> {
        if self.fault.is_some() {
            return None;
        }
        self.copy_out().unwrap_or_else(|fault| {
            self.fault = Some(fault);
            None
        })
    }

    fn bytes(&self, frame: &Received) -> &[u8] {
        let start = HEADER_BYTES as usize;
        self.frame.get(start..start + usize::from(frame.length)).unwrap_or(&[])
    }

    fn release(&mut self, frame: Received) {
        // Its buffer went back when it was copied.
        drop(frame);
    }
}
