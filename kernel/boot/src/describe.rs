//! What the loader and the firmware say of this machine.

use arrayvec::ArrayVec;
use firmware::{Acpi, MAX_RANGES, Malformed, MemoryRange};

use crate::memory::FirmwareMemory;
use crate::refusal::Refusal;

/// The machine in the firmware's words.
pub(crate) struct Firmware {
    /// The memory map.
    pub(crate) memory: ArrayVec<MemoryRange, MAX_RANGES>,
    /// What ACPI says; nothing where there is no ACPI.
    pub(crate) acpi: Acpi,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Firmware { what: malformed.as_str() }
    }
}

/// Reads the start info and, where there is one, ACPI.
pub(crate) fn describe(start_info: u64) -> Result<Firmware, Refusal> {
    let info = firmware::parse_start_info(&FirmwareMemory, start_info)?;
    let acpi = match info.rsdp {
        Some(rsdp) => firmware::parse_acpi(&FirmwareMemory, rsdp)?,
        None => Acpi::default(),
    };
    Ok(Firmware { memory: info.memory, acpi })
}
