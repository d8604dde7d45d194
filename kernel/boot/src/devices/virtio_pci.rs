//! virtio on PCI: the structures its capabilities name, a message for each queue.
//!
//! Source: virtio 1.2, section 4.1; PCI local bus specification 3.0, section 6.8.2 (MSI-X).

use abi::gate::{RECEIVE_VECTOR, TRANSMIT_VECTOR};
use abi::{PAGE_BYTES, Span};

use super::pci::{Bus, Function, MSI_X, VENDOR};
use super::virtio_net::{self, Nic, Place, Queue, Transport};
use crate::memory::{Memory, Registers, Width};
use crate::quiet::Machine;
use crate::refusal::Refusal;

const VIRTIO_VENDOR: u16 = 0x1af4;
const NET_MODERN: u16 = 0x1041;
const NET_TRANSITIONAL: u16 = 0x1000;

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

/// Whether a PCI function is a virtio network card, by its ids.
fn is_ours(vendor: u16, device: u16) -> bool {
    vendor == VIRTIO_VENDOR && matches!(device, NET_MODERN | NET_TRANSITIONAL)
}

/// The first network card on PCI.
pub(crate) fn find(machine: &Machine) -> Option<Function> {
    machine.bus.find(is_ours)
}

/// Takes the device from reset to running.
pub(crate) fn set_up(
    machine: &Machine,
    function: Function,
    memory: &mut Memory,
) -> Result<Nic, Refusal> {
    let places = Places::find(&machine.bus, function, memory)?;
    machine.bus.enable(function);
    let device = Device { machine, function, places };
    virtio_net::bring_up(&device, Place::Pci(function), memory)
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

/// The device, as its capabilities show it.
struct Device<'a> {
    machine: &'a Machine,
    function: Function,
    places: Places,
}

impl Transport for Device<'_> {
    fn status(&self) -> u8 {
        self.read(STATUS).unwrap_or(0xff)
    }

    fn set_status(&self, status: u8) {
        self.write(STATUS, status);
    }

    fn offered(&self, half: u32) -> u32 {
        self.write(DEVICE_FEATURE_SELECT, half);
        self.read(DEVICE_FEATURE).unwrap_or(0)
    }

    fn accept(&self, half: u32, features: u32) {
        self.write(DRIVER_FEATURE_SELECT, half);
        self.write(DRIVER_FEATURE, features);
    }

    fn route_interrupts(&self) -> Result<(), Refusal> {
        program_messages(self.machine, self.function, &self.places)?;
        self.write(CONFIGURATION_VECTOR, NO_VECTOR);
        Ok(())
    }

    fn most_descriptors(&self, queue: u16) -> u32 {
        self.write(QUEUE_SELECT, queue);
        self.read::<u16>(QUEUE_SIZE).unwrap_or(0).into()
    }

    fn doorbell(&self, queue: u16) -> Result<Option<u64>, Refusal> {
        self.write(QUEUE_SELECT, queue);
        self.places.doorbell(self.read(QUEUE_NOTIFY_OFFSET).unwrap_or(0)).map(Some)
    }

    fn enable(&self, queue: &Queue) -> Result<(), Refusal> {
        self.write(QUEUE_SELECT, queue.number);
        self.write(QUEUE_SIZE, queue.descriptors);
        self.write(QUEUE_VECTOR, queue.number);
        if self.read(QUEUE_VECTOR) != Some(queue.number) {
            return Err(Refusal::Device { what: "it has no interrupt for a queue" });
        }
        self.write_wide(QUEUE_DESCRIPTORS, queue.table.start());
        self.write_wide(QUEUE_AVAILABLE, queue.available.start());
        self.write_wide(QUEUE_USED, queue.used.start());
        self.write(QUEUE_ENABLE, 1_u16);
        Ok(())
    }

    fn configuration(&self, offset: u64) -> Option<u8> {
        self.places.device.read(offset)
    }
}

impl Device<'_> {
    /// 64-bit fields are written as two halves (section 4.1.3.1).
    fn write_wide(&self, offset: u64, value: u64) {
        self.write(offset, value as u32);
        self.write(offset + 4, (value >> 32) as u32);
    }

    fn read<W: Width>(&self, offset: u64) -> Option<W> {
        self.places.common.read(offset)
    }

    fn write<W: Width>(&self, offset: u64, value: W) {
        // `Places::find` checked that the common configuration is long enough.
        let _done = self.places.common.write(offset, value);
    }
}
