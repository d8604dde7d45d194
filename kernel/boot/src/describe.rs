//! What the loader and the firmware say of this machine.

use abi::Span;
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
    /// The event log of what firmware measured, by its physical address; empty where firmware keeps
    /// none for us.
    pub(crate) event_log: Span,
    /// The file with the service's sealed key, likewise.
    pub(crate) key_file: Span,
    /// The file with a challenge for the TPM's credential, likewise.
    pub(crate) challenge_file: Span,
}

impl Firmware {
    /// Memory that holds what firmware left for us, and that nobody may be given.
    pub(crate) fn kept(&self) -> [Span; 3] {
        [self.event_log, self.key_file, self.challenge_file]
    }
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
    // A loader of the direct path brings neither a log nor files.
    let none = Span::default();
    let (event_log, key_file, challenge_file) = (none, none, none);
    Ok(Firmware { memory: info.memory, acpi, event_log, key_file, challenge_file })
}
