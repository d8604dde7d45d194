//! Quiets the machine: whatever firmware left alive must not touch us, now or after the seal.

use arrayvec::ArrayVec;
use firmware::Line;

use crate::arch::apic::{self, IoApic, LocalApic};
use crate::describe::Firmware;
use crate::devices::pci::Bus;
use crate::devices::virtio_mmio::{self, Devices};
use crate::memory::Memory;
use crate::refusal::Refusal;

/// Where an I/O APIC is if nobody says: the address of the first one ever made.
const USUAL_IO_APIC: firmware::IoApic = firmware::IoApic { address: 0xfec0_0000, first_line: 0 };

/// How many I/O APICs we can look after: as many as ACPI's reader finds.
const MAX_IO_APICS: usize = 8;

/// The machine with every source of interrupts masked and no device mastering the bus.
pub(crate) struct Machine {
    /// Our interrupt controller.
    pub(crate) apic: LocalApic,
    /// Everything on PCI.
    pub(crate) bus: Bus,
    /// Every virtio device that is on no bus.
    pub(crate) virtio: Devices,
    io_apics: ArrayVec<IoApic, MAX_IO_APICS>,
}

/// Masks, stops and disarms, from the outside in.
pub(crate) fn quiet(firmware: &Firmware, memory: &Memory) -> Result<Machine, Refusal> {
    let bus = Bus::scan(&firmware.acpi, memory)?;
    bus.quiet();
    let virtio = virtio_mmio::quiet(&firmware.acpi, memory)?;
    let stated = firmware.acpi.io_apics.as_slice();
    let mut io_apics = ArrayVec::new();
    for io_apic in if stated.is_empty() { &[USUAL_IO_APIC] } else { stated } {
        let full = Refusal::Bound { what: "I/O APICs", limit: MAX_IO_APICS };
        io_apics.try_push(IoApic::take(memory, io_apic)?).map_err(|_| full)?;
    }
    apic::quiet_pic();
    let apic = LocalApic::take(memory)?;
    Ok(Machine { apic, bus, virtio, io_apics })
}

impl Machine {
    /// Lets one line reach us, as the vector.
    pub(crate) fn open(&self, line: Line, vector: u8) -> Result<(), Refusal> {
        let mut opened =
            self.io_apics.iter().filter_map(|io_apic| io_apic.open(line, vector, self.apic.id()));
        opened.next().ok_or(Refusal::Line { line: line.number })
    }

    /// How many lines reach us, read back from the interrupt controllers.
    pub(crate) fn open_lines(&self) -> usize {
        self.io_apics.iter().map(IoApic::open_lines).sum()
    }

    /// How many devices may read and write memory, besides PCI's.
    pub(crate) fn running(&self) -> usize {
        self.virtio.iter().filter(|device| device.is_running()).count()
    }
}
