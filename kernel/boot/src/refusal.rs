//! Why a machine is not sealed and therefore does not serve.

use core::fmt;

use crate::arch::cpu::Missing;
use seal_core::Violation;

/// One line that says what was wrong, where, and what to do.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A device's base address could not be assigned.
    BarSpace { bytes: u64 },
    /// A device that nobody named may master the bus.
    BusMasters { others: usize },
    /// The clock that the time stamp counter would be measured against is not there.
    ClockSource,
    /// Somebody gave a command line, which nobody has measured.
    CommandLine { bytes: u32 },
    /// The configuration section is not what it should be.
    Configuration(abi::configuration::Malformed),
    /// The CPU lacks features.
    CpuLacks(Missing),
    /// A device does not behave as virtio says.
    Device { what: &'static str },
    /// UEFI firmware did not do what boot asked of it.
    Efi { what: &'static str },
    /// A table of the firmware's is not there or not whole.
    Firmware { what: &'static str },
    /// The image is not what `xtask image` writes.
    Image(abi::image::Malformed),
    /// The machine is too small.
    Memory { needed_mib: u64, found_mib: u64, what: &'static str },
    /// A device interrupts by a line that no I/O APIC has.
    Line { line: u32 },
    /// Other lines reach us than the one that the image's device needs.
    Lines { open: usize, needed: usize },
    /// Too many of something, with the bound.
    Bound { what: &'static str, limit: usize },
    /// The source of randomness fails its checks.
    NoEntropy(&'static str),
    /// The image wants a NIC and the machine has none we can drive.
    NoNic,
    /// The boot record does not hold what it should.
    Record(abi::record::Malformed),
    /// The service's own tables point outside of it.
    Relocation { offset: u64 },
    /// The seal was written wrong, or could not be read back as promised.
    Seal(Violation),
    /// The interrupt controller is locked in a mode that needs MSR writes after the seal.
    X2ApicLocked,
    /// The TPM failed.
    Tpm(tpm::Error),
    /// ACPI names a TPM, and there is none, or one with another interface.
    TpmAbsent,
    /// ACPI names a TPM that is used in another way than through its registers.
    TpmStart { method: u32 },
    /// VMware answers a port to ring 3, whatever the I/O bitmap says.
    VmwareBackdoor,
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::Seal(violation)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BarSpace { bytes } => {
                write!(f, "no room below 4 GiB for a device's {bytes:#x} bytes of registers")
            }
            Self::BusMasters { others } => {
                write!(f, "{others} devices that the image does not name may still master the bus")
            }
            Self::ClockSource => {
                write!(
                    f,
                    "no clock to measure the time stamp counter with; give the machine an ACPI PM timer or a PIT"
                )
            }
            Self::CommandLine { bytes } => {
                write!(
                    f,
                    "a command line of {bytes} bytes was given, which nobody has measured; start the image without one"
                )
            }
            Self::Configuration(malformed) => write!(f, "{malformed}; compose the image again"),
            Self::CpuLacks(missing) => {
                write!(f, "the CPU lacks {missing}; use a CPU model that has it (QEMU: -cpu max)")
            }
            Self::Device { what } => write!(f, "virtio-net: {what}"),
            Self::Efi { what } => write!(f, "UEFI firmware: {what}"),
            Self::Firmware { what } => write!(f, "firmware: {what}"),
            Self::Image(malformed) => write!(f, "{malformed}"),
            Self::Memory { needed_mib, found_mib, what } => write!(
                f,
                "this image needs {needed_mib} MiB of memory, the machine has {found_mib} MiB ({what} does not fit in one piece)"
            ),
            Self::Line { line } => {
                write!(f, "interrupt line {line} of a virtio device is on no I/O APIC")
            }
            Self::Lines { open, needed } => {
                write!(f, "{open} interrupt lines are open, {needed} needed")
            }
            Self::Bound { what, limit } => write!(f, "more than {limit} {what}"),
            Self::NoEntropy(why) => write!(f, "no entropy: {why}"),
            Self::NoNic => {
                write!(
                    f,
                    "the image needs a network card and none was found (QEMU: -device virtio-net-pci, or virtio-net-device on microvm)"
                )
            }
            Self::Record(malformed) => write!(f, "{malformed}"),
            Self::Relocation { offset } => {
                write!(
                    f,
                    "the service's relocation at {offset:#x} lies outside its data; compose the image again"
                )
            }
            Self::Seal(violation) => write!(f, "the seal does not hold: {violation}"),
            Self::X2ApicLocked => {
                write!(
                    f,
                    "the firmware locked x2APIC mode, which needs MSR writes; unlock it in the firmware"
                )
            }
            Self::Tpm(error) => write!(f, "the TPM fails: {error}"),
            Self::TpmAbsent => {
                write!(f, "no TPM is where ACPI says that there is one, or it is of another kind")
            }
            Self::TpmStart { method } => {
                write!(
                    f,
                    "the TPM has start method {method}; only register interfaces at 0xfed40000 are known"
                )
            }
            Self::VmwareBackdoor => {
                write!(
                    f,
                    "VMware answers port 0x5658 to ring 3, which no I/O bitmap can deny; use another hypervisor"
                )
            }
        }
    }
}
