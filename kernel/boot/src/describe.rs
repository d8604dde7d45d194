//! What the loader and the firmware say of this machine.

use abi::Span;
use arrayvec::ArrayVec;
use firmware::{Acpi, MAX_RANGES, Malformed, MemoryRange};

use crate::arch::console::say;
use crate::efi::Taken;
use crate::memory::{FirmwareMemory, Frames};
use crate::refusal::Refusal;

/// How boot was entered, and what it was given.
pub(crate) enum Door {
    /// By a PVH loader, which told where its start info is.
    Direct {
        /// The start info's physical address.
        start_info: u64,
    },
    /// By UEFI firmware, which has been dismissed; this is what was taken from it.
    Efi(Frames),
}

/// The machine in the firmware's words.
pub(crate) struct Firmware {
    /// The memory map.
    pub(crate) memory: ArrayVec<MemoryRange, MAX_RANGES>,
    /// What ACPI says; nothing where there is no ACPI.
    pub(crate) acpi: Acpi,
    /// What was measured before boot, as a TCG log; empty on the direct path.
    pub(crate) event_log: Span,
    /// The key file beside the image; empty where there is none.
    pub(crate) key_file: Span,
    /// The challenge beside the image; empty where there is none.
    pub(crate) challenge_file: Span,
    /// The pages that hold these three: boot's until its last act, which wipes them.
    pub(crate) taken: Span,
    /// Whether firmware has left copies of the image in memory that is free now.
    pub(crate) leaves_copies: bool,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Firmware { what: malformed.as_str() }
    }
}

/// Reads what came through the door and, where there is one, ACPI.
pub(crate) fn describe(door: Door) -> Result<Firmware, Refusal> {
    match door {
        Door::Direct { start_info } => describe_direct(start_info),
        Door::Efi(frames) => describe_efi(frames),
    }
}

fn describe_direct(start_info: u64) -> Result<Firmware, Refusal> {
    let physical = FirmwareMemory::all();
    let info = firmware::parse_start_info(&physical, start_info)?;
    Ok(Firmware {
        memory: info.memory,
        acpi: read_acpi(&physical, info.rsdp)?,
        event_log: Span::default(),
        key_file: Span::default(),
        challenge_file: Span::default(),
        taken: Span::default(),
        leaves_copies: false,
    })
}

fn describe_efi(mut frames: Frames) -> Result<Firmware, Refusal> {
    let mut taken = Taken::read(&frames);
    taken.complete_log(&mut frames)?;
    let (map, stride) = taken.map(&frames);
    let firmware = Firmware {
        memory: firmware::parse_memory_map(map, stride)?,
        acpi: read_acpi(&FirmwareMemory::but(frames.span()), taken.rsdp)?,
        event_log: taken.event_log(&frames),
        key_file: taken.key_file(&frames),
        challenge_file: taken.challenge_file(&frames),
        taken: frames.span(),
        leaves_copies: true,
    };
    say!(
        "boot: from UEFI: event log {} bytes, key file {} bytes, challenge {} bytes",
        firmware.event_log.length,
        firmware.key_file.length,
        firmware.challenge_file.length
    );
    Ok(firmware)
}

fn read_acpi(physical: &FirmwareMemory, rsdp: Option<u64>) -> Result<Acpi, Refusal> {
    Ok(rsdp.map(|rsdp| firmware::parse_acpi(physical, rsdp)).transpose()?.unwrap_or_default())
}
