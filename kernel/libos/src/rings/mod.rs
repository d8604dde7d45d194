//! Split virtqueues, as the service may use them: offer a descriptor, take one back.
//!
//! The descriptor tables are read-only, so nothing here can point the device anywhere new. What the
//! device writes is hostile: a used index that jumps, an id that was never offered or a length beyond
//! the buffer is a named fault, and a received frame is copied out before anybody looks at it, so a
//! device that changes it later changes nothing.
//!
//! Why the raw accesses are sound, said once: a [`Shared`] span comes from the handoff, mapped for
//! good, used by one ring; every access is checked against the span and volatile, because the device
//! may read and write at any time; no reference to shared memory exists, except the one to a
//! transmit buffer that is being filled. No descriptor lets the device write there: a device that
//! does it all the same can write any frame of the machine, and no code of ours helps against that.
//!
//! Virtio 1.2 sections 2.7 (split virtqueues) and 5.1.6 (network device operation).

mod receive;
mod shared;
mod transmit;

#[cfg(any(test, feature = "hostile-device"))]
#[cfg_attr(not(test), allow(dead_code, reason = "some of it only the unit tests use"))]
pub mod software;
#[cfg(test)]
mod tests;

use core::sync::atomic::{Ordering, fence};

use abi::handoff;
use abi::ring::{available_bytes, used_bytes};
use arrayvec::ArrayVec;

#[cfg(not(any(test, feature = "hostile-device")))]
use crate::arch::notify;
pub use receive::ReceiveRing;
use shared::{Shared, full_fence};
#[cfg(any(test, feature = "hostile-device"))]
use software::watch::notify;
pub use transmit::TransmitRing;

/// The device completes checksums (`VIRTIO_NET_F_CSUM`).
const FEATURE_CSUM: u64 = 1;

/// The device may hand over frames without a checksum (`VIRTIO_NET_F_GUEST_CSUM`).
const FEATURE_GUEST_CSUM: u64 = 2;

/// How many descriptors a queue has: both rings of [`abi::ring`].
const DESCRIPTORS: u16 = 256;

const _: () = assert!(
    abi::ring::RECEIVE_DESCRIPTORS == DESCRIPTORS && abi::ring::TRANSMIT_DESCRIPTORS == DESCRIPTORS
);

/// What a device did wrong. After this it is not trusted with anything any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// It gave back a descriptor that does not exist.
    Id {
        /// The descriptor.
        id: u32,
    },
    /// It moved its index further than descriptors were offered, or backwards.
    Index {
        /// How far.
        moved: u16,
    },
    /// It says it wrote more than fits, or less than a header.
    Length {
        /// How much it says.
        length: u32,
    },
    /// It gave back a descriptor that it was not offered.
    NotOffered {
        /// The descriptor.
        id: u16,
    },
}

impl core::fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Id { id } => write!(f, "used id {id} does not exist"),
            Self::Index { moved } => write!(f, "used index moved by {moved}"),
            Self::Length { length } => write!(f, "used length {length} is impossible"),
            Self::NotOffered { id } => write!(f, "used id {id} was not offered"),
        }
    }
}

/// How a queue's bell is rung.
enum Doorbell {
    /// By a store: the page is ours.
    Page(Shared),
    /// By the gate: the page holds the device's configuration too.
    Gate,
}

impl Doorbell {
    /// What the handoff says: an address, or 0 for the gate.
    fn new(address: u64) -> Option<Self> {
        if address == 0 {
            return Some(Self::Gate);
        }
        // A doorbell is one 16-bit word.
        Shared::new(abi::Span::new(address, 2), 2, 2).map(Self::Page)
    }

    fn ring(&self, queue: u16) {
        match self {
            Self::Page(page) => page.write(0, queue),
            Self::Gate => notify(queue),
        }
    }
}

/// One queue's rings and where we are in them.
struct Queue {
    available: Shared,
    used: Shared,
    doorbell: Doorbell,
    number: u16,
    /// The next free slot of the available ring, published or not.
    next_available: u16,
    /// What the device has been told.
    published: u16,
    /// The next slot of the used ring we look at.
    next_used: u16,
    /// What the device may give back.
    offered: [bool; DESCRIPTORS as usize],
    /// What it was not told of yet. Each descriptor is here at most once: it had to come back.
    waiting: ArrayVec<u16, { DESCRIPTORS as usize }>,
    /// What the device did wrong. Nothing moves any more then.
    fault: Option<DeviceFault>,
}

/// Offsets in a ring (virtio 1.2 sections 2.7.6 and 2.7.8).
const INDEX: u64 = 2;
const RING: u64 = 4;
const USED_EVENT: u64 = RING + 2 * DESCRIPTORS as u64;
const AVAILABLE_EVENT: u64 = RING + 8 * DESCRIPTORS as u64;

impl Queue {
    fn new(queue: &handoff::Queue) -> Option<Self> {
        if queue.descriptors != u64::from(DESCRIPTORS) {
            return None;
        }
        Some(Self {
            // Alignments of virtio 1.2 section 2.7.
            available: Shared::new(queue.available, available_bytes(DESCRIPTORS), 2)?,
            used: Shared::new(queue.used, used_bytes(DESCRIPTORS), 4)?,
            doorbell: Doorbell::new(queue.doorbell)?,
            number: u16::try_from(queue.number).ok()?,
            next_available: 0,
            published: 0,
            next_used: 0,
            offered: [false; DESCRIPTORS as usize],
            waiting: ArrayVec::new(),
            fault: None,
        })
    }

    /// Offers a descriptor; the device learns of it with the next [`Queue::publish`].
    fn offer(&mut self, id: u16) {
        let slot = RING + 2 * u64::from(self.next_available % DESCRIPTORS);
        self.available.write(slot, id);
        self.next_available = self.next_available.wrapping_add(1);
        self.waiting.push(id);
    }

    /// Tells the device what was offered, and rings its bell if it asked for that.
    fn publish(&mut self) {
        let (old, new) = (self.published, self.next_available);
        if old == new || self.fault.is_some() {
            return;
        }
        for id in self.waiting.drain(..) {
            if let Some(offered) = self.offered.get_mut(usize::from(id)) {
                *offered = true;
            }
        }
        // The device must see the slots before the index (section 2.7.13.3.1).
        fence(Ordering::Release);
        self.available.write(INDEX, new);
        self.published = new;
        // And we must see its wish after it can see the index (section 2.7.13.4.1).
        full_fence();
        let event: u16 = self.used.read(AVAILABLE_EVENT);
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            self.doorbell.ring(self.number);
        }
    }

    /// Takes back one descriptor with the length the device says it wrote.
    fn take(&mut self) -> Option<(u16, u32)> {
        if self.fault.is_some() {
            return None;
        }
        self.look().unwrap_or_else(|fault| {
            self.fault = Some(fault);
            None
        })
    }

    fn look(&mut self) -> Result<Option<(u16, u32)>, DeviceFault> {
        let index: u16 = self.used.read(INDEX);
        let moved = index.wrapping_sub(self.next_used);
        if moved == 0 {
            return Ok(None);
        }
        if moved > self.published.wrapping_sub(self.next_used) {
            return Err(DeviceFault::Index { moved });
        }
        // Read the slot only after the index that covers it.
        fence(Ordering::Acquire);
        let slot = RING + 8 * u64::from(self.next_used % DESCRIPTORS);
        let id: u32 = self.used.read(slot);
        let length: u32 = self.used.read(slot + 4);
        self.next_used = self.next_used.wrapping_add(1);
        let short = u16::try_from(id).map_err(|_| DeviceFault::Id { id })?;
        let offered = self.offered.get_mut(usize::from(short)).ok_or(DeviceFault::Id { id })?;
        if !core::mem::take(offered) {
            return Err(DeviceFault::NotOffered { id: short });
        }
        Ok(Some((short, length)))
    }

    /// Asks for an interrupt at the next completion; whether there is one already, or a fault,
    /// which is no reason to sleep either.
    fn ask_for_interrupt(&mut self) -> bool {
        if self.fault.is_some() {
            return true;
        }
        self.available.write(USED_EVENT, self.next_used);
        full_fence();
        self.used.read::<u16>(INDEX) != self.next_used
    }

    /// Asks for no interrupt: the event lies as far ahead as it can.
    fn ask_for_none(&mut self) {
        if self.fault.is_some() {
            return;
        }
        self.available.write(USED_EVENT, self.next_used.wrapping_sub(1));
    }
}
