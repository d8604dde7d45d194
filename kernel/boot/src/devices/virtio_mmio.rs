//! virtio without a bus: registers in memory, where ACPI says, and one line for all interrupts.
//!
//! The doorbell shares its page with the configuration, so the gate rings it, and acknowledges.
//! Source: virtio 1.2, section 4.2.

use abi::gate::RECEIVE_VECTOR;
use abi::{PAGE_BYTES, Span};
use arrayvec::ArrayVec;
use firmware::{Acpi, Line};

use super::virtio_net::{self, Nic, Place, Queue, Transport};
use crate::arch::gate;
use crate::memory::{Memory, Registers};
use crate::quiet::Machine;
use crate::refusal::Refusal;

/// How many devices we can look after: as many as ACPI's reader finds.
const MAX_DEVICES: usize = 32;

/// "virt".
const MAGIC_VALUE: u32 = 0x7472_6976;
const VERSION_LEGACY: u32 = 1;
const VERSION_MODERN: u32 = 2;
/// A network card (section 5.1).
const NET: u32 = 1;

/// The registers (section 4.2.2); gate.s has the doorbell at 0x50 and the interrupts from 0x60 on.
const MAGIC: u64 = 0x00;
const VERSION: u64 = 0x04;
const DEVICE_ID: u64 = 0x08;
const DEVICE_FEATURE: u64 = 0x10;
const DEVICE_FEATURE_SELECT: u64 = 0x14;
const DRIVER_FEATURE: u64 = 0x20;
const DRIVER_FEATURE_SELECT: u64 = 0x24;
const QUEUE_SELECT: u64 = 0x30;
const QUEUE_SIZE_MAX: u64 = 0x34;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const STATUS: u64 = 0x70;
const QUEUE_DESCRIPTORS: u64 = 0x80;
const QUEUE_AVAILABLE: u64 = 0x90;
const QUEUE_USED: u64 = 0xa0;
const CONFIGURATION: u64 = 0x100;

/// A device's registers, and the line that it interrupts by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mmio {
    registers: Registers,
    line: Line,
}

/// Every device that ACPI names.
pub(crate) type Devices = ArrayVec<Mmio, MAX_DEVICES>;

/// Finds every device and resets it: none reads or writes memory, none interrupts.
pub(crate) fn quiet(acpi: &Acpi, memory: &Memory) -> Result<Devices, Refusal> {
    let mut devices = Devices::new();
    for stated in &acpi.virtio {
        let registers = memory.registers(Span::new(stated.address, stated.length))?;
        let device = Mmio { registers, line: stated.line };
        // A place without a device has the id 0 (section 4.2.2.1).
        if device.read(MAGIC) != MAGIC_VALUE || device.read(DEVICE_ID) == 0 {
            continue;
        }
        virtio_net::reset(&device)?;
        let full = Refusal::Bound { what: "virtio devices in memory", limit: MAX_DEVICES };
        devices.try_push(device).map_err(|_| full)?;
    }
    Ok(devices)
}

/// The first network card.
pub(crate) fn find(machine: &Machine) -> Option<Mmio> {
    machine.virtio.iter().copied().find(|device| device.read(DEVICE_ID) == NET)
}

/// Takes the device from reset to running.
pub(crate) fn set_up(machine: &Machine, mmio: Mmio, memory: &mut Memory) -> Result<Nic, Refusal> {
    match mmio.read(VERSION) {
        VERSION_MODERN => {}
        VERSION_LEGACY => {
            let what = "its registers are legacy (QEMU: -global virtio-mmio.force-legacy=off)";
            return Err(Refusal::Device { what });
        }
        _ => return Err(Refusal::Device { what: "its registers have an unknown version" }),
    }
    let place = mmio.registers.span();
    // The gate reaches no register of a device that begins elsewhere.
    let is_in_a_unit = gate::is_device_unit(place.start % PAGE_BYTES)
        && place.length >= gate::DEVICE_UNIT
        && place.start % PAGE_BYTES + place.length <= PAGE_BYTES;
    if !is_in_a_unit {
        return Err(Refusal::Device { what: "its registers are not whole units in one page" });
    }
    machine.open(mmio.line, RECEIVE_VECTOR)?;
    virtio_net::bring_up(&mmio, Place::Mmio(mmio), memory)
}

impl Transport for Mmio {
    fn status(&self) -> u8 {
        self.read(STATUS) as u8
    }

    fn set_status(&self, status: u8) {
        self.write(STATUS, status.into());
    }

    fn offered(&self, half: u32) -> u32 {
        self.write(DEVICE_FEATURE_SELECT, half);
        self.read(DEVICE_FEATURE)
    }

    fn accept(&self, half: u32, features: u32) {
        self.write(DRIVER_FEATURE_SELECT, half);
        self.write(DRIVER_FEATURE, features);
    }

    fn route_interrupts(&self) -> Result<(), Refusal> {
        // One line for all of them, which `set_up` has opened.
        Ok(())
    }

    fn most_descriptors(&self, queue: u16) -> u32 {
        self.write(QUEUE_SELECT, queue.into());
        self.read(QUEUE_SIZE_MAX)
    }

    fn doorbell(&self, _queue: u16) -> Result<Option<u64>, Refusal> {
        Ok(None)
    }

    fn enable(&self, queue: &Queue) -> Result<(), Refusal> {
        self.write(QUEUE_SELECT, queue.number.into());
        self.write(QUEUE_SIZE, queue.descriptors.into());
        self.write_wide(QUEUE_DESCRIPTORS, queue.table.start());
        self.write_wide(QUEUE_AVAILABLE, queue.available.start());
        self.write_wide(QUEUE_USED, queue.used.start());
        self.write(QUEUE_READY, 1);
        Ok(())
    }

    fn configuration(&self, offset: u64) -> Option<u8> {
        self.registers.read(CONFIGURATION + offset)
    }
}

impl Mmio {
    /// Where its registers are.
    pub(crate) fn start(&self) -> u64 {
        self.registers.span().start
    }

    /// Whether it was told to work: it may read and write memory then.
    pub(crate) fn is_running(&self) -> bool {
        self.status() != 0
    }

    fn read(&self, offset: u64) -> u32 {
        self.registers.read(offset).unwrap_or(0)
    }

    fn write(&self, offset: u64, value: u32) {
        // `set_up` checks that there are registers enough; what lies beyond them stays as it is.
        let _done = self.registers.write(offset, value);
    }

    fn write_wide(&self, offset: u64, value: u64) {
        self.write(offset, value as u32);
        self.write(offset + 4, (value >> 32) as u32);
    }
}
