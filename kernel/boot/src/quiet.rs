//! Quiets the machine: whatever firmware left alive must not touch us, now or after the seal.

use crate::arch::apic::{self, LocalApic};
use crate::describe::Firmware;
use crate::devices::pci::Bus;
use crate::memory::Memory;
use crate::refusal::Refusal;

/// Where an I/O APIC is if nobody says: the address of the first one ever made.
const USUAL_IO_APIC: u64 = 0xfec0_0000;

/// The machine with every source of interrupts masked and no device mastering the bus.
pub(crate) struct Machine {
    /// Our interrupt controller.
    pub(crate) apic: LocalApic,
    /// Everything on PCI.
    pub(crate) bus: Bus,
}

/// Masks, stops and disarms, from the outside in.
pub(crate) fn quiet(firmware: &Firmware, memory: &Memory) -> Result<Machine, Refusal> {
    let bus = Bus::scan(&firmware.acpi, memory)?;
    bus.quiet();
    let stated = firmware.acpi.io_apics.as_slice();
    for address in if stated.is_empty() { &[USUAL_IO_APIC] } else { stated } {
        apic::quiet_io_apic(memory, *address)?;
    }
    apic::quiet_pic();
    let apic = LocalApic::take(memory)?;
    Ok(Machine { apic, bus })
}
