//! virtio-net: negotiated once, every descriptor written once, then only its doorbell stays.
//!
//! Source: virtio 1.2, sections 3.1.1 (initialisation), 5.1 (network).

use abi::ring::{self, Descriptor};

use super::pci::Function;
use super::virtio_mmio::Mmio;
use crate::memory::{Frames, Memory};
use crate::refusal::Refusal;

/// Feature bits: what we take if it is offered, and what must be there.
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MAC: u64 = 1 << 5;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
const WANTED: u64 = CSUM | GUEST_CSUM | REQUIRED;
const REQUIRED: u64 = MAC | EVENT_IDX | VERSION_1;

/// Device status (virtio 1.2 section 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// How often we look whether a reset is done.
const PATIENCE: u32 = 1_000_000;

/// Queue numbers of virtio-net (section 5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// How a virtio device is reached: what its registers are called differs by the bus.
pub(crate) trait Transport {
    /// The device's status (section 2.1).
    fn status(&self) -> u8;

    /// Sets the status; zero resets the device.
    fn set_status(&self, status: u8);

    /// A half of the feature bits that the device offers, 0 for the lower one.
    fn offered(&self, half: u32) -> u32;

    /// Accepts a half of the feature bits.
    fn accept(&self, half: u32, features: u32);

    /// Lets the device's interrupts reach us; its queues' are chosen with the queues.
    fn route_interrupts(&self) -> Result<(), Refusal>;

    /// How many descriptors a queue may have.
    fn most_descriptors(&self, queue: u16) -> u32;

    /// The physical address of a queue's doorbell, if it may be the service's.
    fn doorbell(&self, queue: u16) -> Result<Option<u64>, Refusal>;

    /// Tells the device where a queue is, and lets it work.
    fn enable(&self, queue: &Queue) -> Result<(), Refusal>;

    /// A byte of the device's own configuration (section 5.1.4).
    fn configuration(&self, offset: u64) -> Option<u8>;
}

/// One queue: memory the device knows, all of it named here.
pub(crate) struct Queue {
    /// The queue's number.
    pub(crate) number: u16,
    /// How many descriptors.
    pub(crate) descriptors: u16,
    /// The descriptor table.
    pub(crate) table: Frames,
    /// The available ring.
    pub(crate) available: Frames,
    /// The used ring.
    pub(crate) used: Frames,
    /// The buffers.
    pub(crate) buffers: Frames,
    /// The physical address of the doorbell, or nothing if the gate rings it.
    pub(crate) doorbell: Option<u64>,
    /// What each descriptor says.
    pub(crate) geometry: fn(u16) -> Option<Descriptor>,
}

/// Where a card is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// On PCI.
    Pci(Function),
    /// On no bus: its registers lie in memory.
    Mmio(Mmio),
}

/// The network card, ready to run.
pub(crate) struct Nic {
    /// Where it is: the only device that reads and writes memory.
    pub(crate) place: Place,
    /// Its hardware address, first byte lowest.
    pub(crate) mac: u64,
    /// The features both sides agreed on.
    pub(crate) features: u64,
    /// Frames for us.
    pub(crate) receive: Queue,
    /// Frames from us.
    pub(crate) transmit: Queue,
}

impl Nic {
    /// Both queues.
    pub(crate) fn queues(&self) -> [&Queue; 2] {
        [&self.receive, &self.transmit]
    }

    /// Its place on PCI, if it is there.
    pub(crate) fn function(&self) -> Option<Function> {
        match self.place {
            Place::Pci(function) => Some(function),
            Place::Mmio(_) => None,
        }
    }

    /// Its registers, if the gate rings its doorbell.
    pub(crate) fn mmio(&self) -> Option<Mmio> {
        match self.place {
            Place::Pci(_) => None,
            Place::Mmio(mmio) => Some(mmio),
        }
    }
}

/// Takes the device from reset to running.
pub(crate) fn bring_up(
    device: &impl Transport,
    place: Place,
    memory: &mut Memory,
) -> Result<Nic, Refusal> {
    reset(device)?;
    device.set_status(ACKNOWLEDGE);
    device.set_status(ACKNOWLEDGE | DRIVER);
    let features = negotiate(device)?;
    device.route_interrupts()?;
    let receive = set_up_queue(device, RECEIVE, memory)?;
    let transmit = set_up_queue(device, TRANSMIT, memory)?;
    let mac = (0..6).rev().try_fold(0_u64, |mac, byte| {
        device.configuration(byte).map(|next| mac << 8 | u64::from(next))
    });
    let mac = mac.ok_or(Refusal::Device { what: "its configuration has no room for a MAC" })?;
    // From here on the device may work, but it has no buffer until the service offers one.
    device.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    Ok(Nic { place, mac, features, receive, transmit })
}

/// Resets a device and waits until it is done.
pub(crate) fn reset(device: &impl Transport) -> Result<(), Refusal> {
    device.set_status(0);
    let is_reset = (0..PATIENCE).any(|_| device.status() == 0);
    is_reset.then_some(()).ok_or(Refusal::Device { what: "it does not reset" })
}

fn negotiate(device: &impl Transport) -> Result<u64, Refusal> {
    let offered = u64::from(device.offered(0)) | u64::from(device.offered(1)) << 32;
    if offered & REQUIRED != REQUIRED {
        return Err(Refusal::Device {
            what: "it does not offer VERSION_1, RING_EVENT_IDX and MAC",
        });
    }
    let features = offered & WANTED;
    device.accept(0, features as u32);
    device.accept(1, (features >> 32) as u32);
    device.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if device.status() & FEATURES_OK == 0 {
        return Err(Refusal::Device { what: "it refuses features that it offers" });
    }
    Ok(features)
}

fn set_up_queue(
    device: &impl Transport,
    number: u16,
    memory: &mut Memory,
) -> Result<Queue, Refusal> {
    let (descriptors, bytes, geometry): (u16, u64, fn(u16) -> Option<Descriptor>) = match number {
        RECEIVE => {
            (ring::RECEIVE_DESCRIPTORS, ring::RECEIVE_BUFFER_BYTES, ring::receive_descriptor)
        }
        _ => (ring::TRANSMIT_DESCRIPTORS, ring::TRANSMIT_BUFFER_BYTES, ring::transmit_descriptor),
    };
    if device.most_descriptors(number) < descriptors.into() {
        return Err(Refusal::Device { what: "a queue has fewer than 256 descriptors" });
    }
    let mut queue = Queue {
        number,
        descriptors,
        table: memory.take("a descriptor table", ring::table_bytes(descriptors))?,
        available: memory.take("an available ring", ring::available_bytes(descriptors))?,
        used: memory.take("a used ring", ring::used_bytes(descriptors))?,
        buffers: memory.take("packet buffers", bytes)?,
        doorbell: device.doorbell(number)?,
        geometry,
    };
    queue.write_descriptors();
    device.enable(&queue)?;
    Ok(queue)
}

impl Queue {
    /// Writes every descriptor, once and for all.
    fn write_descriptors(&mut self) {
        let start = self.buffers.start();
        for (index, slot) in
            (0..self.descriptors).zip(self.table.words_mut().as_chunks_mut::<2>().0)
        {
            let Some(descriptor) = (self.geometry)(index) else { continue };
            let length = u64::from(descriptor.length);
            *slot = [start + descriptor.offset, length | u64::from(descriptor.flags) << 32];
        }
    }
}
