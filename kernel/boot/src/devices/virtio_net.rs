//! virtio-net: negotiated once, every descriptor written once, then only its doorbell stays.
//!
//! Source: virtio 1.2, sections 3.1.1 (initialisation), 4.1.4 (PCI capabilities), 5.1 (network).

use abi::gate::{RECEIVE_VECTOR, TRANSMIT_VECTOR};
use abi::ring::{self, Descriptor};
use abi::{PAGE_BYTES, Span};

use super::pci::{Bus, Function, MSI_X, VENDOR};
use crate::memory::{Frames, Memory, Registers};
use crate::quiet::Machine;
use crate::refusal::Refusal;

const VIRTIO_VENDOR: u16 = 0x1af4;
const NET_MODERN: u16 = 0x1041;
const NET_TRANSITIONAL: u16 = 0x1000;

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

/// The common configuration (section 4.1.4.3).
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIGURATION_VECTOR: u64 = 0x10;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_AVAILABLE: u64 = 0x28;
const QUEUE_USED: u64 = 0x30;
const COMMON_BYTES: u64 = 0x38;

const NO_VECTOR: u16 = 0xffff;
/// How often we look whether a reset is done.
const PATIENCE: u32 = 1_000_000;

/// Queue numbers of virtio-net (section 5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

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
    /// The physical address of the doorbell.
    pub(crate) doorbell: u64,
    /// What each descriptor says.
    pub(crate) geometry: fn(u16) -> Option<Descriptor>,
}

/// The network card, ready to run.
pub(crate) struct Nic {
    /// Its place on PCI: the only function that masters the bus.
    pub(crate) function: Function,
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
}

/// Whether a PCI function is a virtio network card, by its ids.
pub(crate) fn is_ours(vendor: u16, device: u16) -> bool {
    vendor == VIRTIO_VENDOR && matches!(device, NET_MODERN | NET_TRANSITIONAL)
}

/// Takes the device from reset to running.
pub(crate) fn set_up(
    machine: &Machine,
    function: Function,
    memory: &mut Memory,
) -> Result<Nic, Refusal> {
    let places = Places::find(&machine.bus, function, memory)?;
    machine.bus.enable(function);
    let device = Device { common: places.common };
    device.reset()?;
    device.set_status(ACKNOWLEDGE);
    device.set_status(ACKNOWLEDGE | DRIVER);
    let features = device.negotiate()?;
    program_messages(machine, function, &places)?;
    device.write(CONFIGURATION_VECTOR, NO_VECTOR);

    let receive = device.set_up_queue(RECEIVE, &places, memory)?;
    let transmit = device.set_up_queue(TRANSMIT, &places, memory)?;
    let mac = (0..6).rev().try_fold(0_u64, |mac, byte| {
        places.device.read::<u8>(byte).map(|next| mac << 8 | u64::from(next))
    });
    let mac = mac.ok_or(Refusal::Device { what: "its configuration has no room for a MAC" })?;
    // From here on the device may work, but it has no buffer until the service offers one.
    device.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    Ok(Nic { function, mac, features, receive, transmit })
}

/// Where the device keeps what, from its PCI capabilities.
struct Places {
    common: Registers,
    device: Registers,
    notify: Registers,
    notify_multiplier: u64,
    messages: Registers,
    /// Pages of registers that the service must never see.
    private: [Span; 5],
}

impl Places {
    fn find(bus: &Bus, function: Function, memory: &Memory) -> Result<Self, Refusal> {
        let missing = |what| Refusal::Device { what };
        let structure = |kind: u8, what| {
            let at = bus
                .capabilities(function)
                .filter(|(_, id)| *id == VENDOR)
                .map(|(at, _)| at)
                .find(|at| (bus.read(function, *at) >> 24) as u8 == kind)
                .ok_or(missing(what))?;
            let bar = bus.bar(function, bus.read(function, at + 4) as u8, memory)?;
            let offset = u64::from(bus.read(function, at + 8));
            let length = u64::from(bus.read(function, at + 12));
            let place = memory.registers(bar)?.part(offset, length).ok_or(missing(what))?;
            Ok::<_, Refusal>((at, place))
        };
        let (_, common) = structure(1, "no common configuration (is it a legacy device?)")?;
        let (notify_at, notify) = structure(2, "no doorbell")?;
        let (_, interrupt) = structure(3, "no interrupt status")?;
        let (_, device) = structure(4, "no device configuration")?;
        if common.span().length < COMMON_BYTES {
            return Err(missing("its common configuration is too short"));
        }
        let at = bus.capability(function, MSI_X).ok_or(missing("no MSI-X"))?;
        let table = bus.read(function, at + 4);
        let bar = bus.bar(function, (table & 7) as u8, memory)?;
        let messages = memory
            .registers(bar)?
            .part(u64::from(table & !7), 32)
            .ok_or(missing("its MSI-X table has fewer than two entries"))?;
        // The pending bits are the device's to write; two entries take 8 bytes of them.
        let pending = bus.read(function, at + 8);
        let bar = bus.bar(function, (pending & 7) as u8, memory)?;
        let pending = memory
            .registers(bar)?
            .part(u64::from(pending & !7), 8)
            .ok_or(missing("its MSI-X pending bits lie outside its registers"))?;
        Ok(Self {
            private: [
                common.span(),
                interrupt.span(),
                device.span(),
                messages.span(),
                pending.span(),
            ],
            common,
            device,
            notify,
            notify_multiplier: u64::from(bus.read(function, notify_at + 16)),
            messages,
        })
    }

    /// The physical address of a queue's doorbell, on a page with nothing but doorbells.
    fn doorbell(&self, notify_offset: u16) -> Result<u64, Refusal> {
        let offset = u64::from(notify_offset) * self.notify_multiplier;
        let outside = Refusal::Device { what: "a doorbell lies outside its registers" };
        let bell = self.notify.part(offset, 2).ok_or(outside)?.span();
        let page = Span::new(bell.start & !(PAGE_BYTES - 1), PAGE_BYTES);
        if self.private.iter().any(|private| private.overlaps(&page)) {
            return Err(Refusal::Device { what: "its doorbell shares a page with configuration" });
        }
        Ok(bell.start)
    }
}

/// Programs the two messages that wake us and turns MSI-X on.
fn program_messages(machine: &Machine, function: Function, places: &Places) -> Result<(), Refusal> {
    let address = 0xfee0_0000 | u32::from(machine.apic.id()) << 12;
    let broken = || Refusal::Device { what: "its MSI-X table cannot be written" };
    for (entry, vector) in [RECEIVE_VECTOR, TRANSMIT_VECTOR].into_iter().enumerate() {
        // Address low, address high, data, not masked (PCI 3.0 section 6.8.2).
        for (word, value) in [address, 0, u32::from(vector), 0].into_iter().enumerate() {
            let offset = (16 * entry + 4 * word) as u64;
            places.messages.write(offset, value).ok_or_else(broken)?;
        }
    }
    let at = machine.bus.capability(function, MSI_X).ok_or_else(broken)?;
    let control = machine.bus.read(function, at) & !(1 << 30);
    machine.bus.write(function, at, control | 1 << 31);
    Ok(())
}

/// The device through its common configuration.
struct Device {
    common: Registers,
}

impl Device {
    fn reset(&self) -> Result<(), Refusal> {
        self.set_status(0);
        let is_reset = (0..PATIENCE).any(|_| self.status() == 0);
        is_reset.then_some(()).ok_or(Refusal::Device { what: "it does not reset" })
    }

    fn negotiate(&self) -> Result<u64, Refusal> {
        let half = |select: u32| {
            self.write(DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read::<u32>(DEVICE_FEATURE).unwrap_or(0))
        };
        let offered = half(0) | half(1) << 32;
        if offered & REQUIRED != REQUIRED {
            return Err(Refusal::Device {
                what: "it does not offer VERSION_1, RING_EVENT_IDX and MAC",
            });
        }
        let features = offered & WANTED;
        for (select, value) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(DRIVER_FEATURE_SELECT, select);
            self.write(DRIVER_FEATURE, value);
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() & FEATURES_OK == 0 {
            return Err(Refusal::Device { what: "it refuses features that it offers" });
        }
        Ok(features)
    }

    fn set_up_queue(
        &self,
        number: u16,
        places: &Places,
        memory: &mut Memory,
    ) -> Result<Queue, Refusal> {
        let (descriptors, bytes, geometry): (u16, u64, fn(u16) -> Option<Descriptor>) = match number
        {
            RECEIVE => {
                (ring::RECEIVE_DESCRIPTORS, ring::RECEIVE_BUFFER_BYTES, ring::receive_descriptor)
            }
            _ => {
                (ring::TRANSMIT_DESCRIPTORS, ring::TRANSMIT_BUFFER_BYTES, ring::transmit_descriptor)
            }
        };
        self.write(QUEUE_SELECT, number);
        if self.common.read::<u16>(QUEUE_SIZE).is_none_or(|most| most < descriptors) {
            return Err(Refusal::Device { what: "a queue has fewer than 256 descriptors" });
        }
        let mut queue = Queue {
            number,
            descriptors,
            table: memory.take("a descriptor table", ring::table_bytes(descriptors))?,
            available: memory.take("an available ring", ring::available_bytes(descriptors))?,
            used: memory.take("a used ring", ring::used_bytes(descriptors))?,
            buffers: memory.take("packet buffers", bytes)?,
            doorbell: places.doorbell(self.common.read(QUEUE_NOTIFY_OFFSET).unwrap_or(0))?,
            geometry,
        };
        queue.write_descriptors();
        self.write(QUEUE_SIZE, descriptors);
        self.write(QUEUE_VECTOR, number);
        if self.common.read::<u16>(QUEUE_VECTOR) != Some(number) {
            return Err(Refusal::Device { what: "it has no interrupt for a queue" });
        }
        self.write_wide(QUEUE_DESCRIPTORS, queue.table.start());
        self.write_wide(QUEUE_AVAILABLE, queue.available.start());
        self.write_wide(QUEUE_USED, queue.used.start());
        self.write(QUEUE_ENABLE, 1_u16);
        Ok(queue)
    }

    fn status(&self) -> u8 {
        self.common.read(STATUS).unwrap_or(0xff)
    }

    fn set_status(&self, status: u8) {
        self.write(STATUS, status);
    }

    /// 64-bit fields are written as two halves (section 4.1.3.1).
    fn write_wide(&self, offset: u64, value: u64) {
        self.write(offset, value as u32);
        self.write(offset + 4, (value >> 32) as u32);
    }

    fn write<W: crate::memory::Width>(&self, offset: u64, value: W) {
        // `Places::find` checked that the common configuration is long enough.
        let _done = self.common.write(offset, value);
    }
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
