//! Which CPU this is, and which it must be.

use core::arch::x86_64::__cpuid_count;
use core::fmt;

use crate::refusal::Refusal;

/// What the CPU offers beyond what we require.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// User-mode instruction prevention: `sgdt` and friends fault in ring 3.
    pub(crate) has_umip: bool,
    /// Vector instructions, with their state enabled in XCR0.
    pub(crate) has_avx: bool,
    /// Multi-precision add with carry, which ring uses where it can.
    pub(crate) has_adx: bool,
    /// How many bits a physical address has.
    pub(crate) physical_bits: u8,
}

/// Features that were asked for and are not there, printed as a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing(u16);

/// Name, CPUID leaf, subleaf, register (0 eax, 1 ebx, 2 ecx, 3 edx), bit. SDM 2A, "CPUID".
const REQUIRED: [(&str, u32, u32, usize, u32); 10] = [
    ("NX", 0x8000_0001, 0, 3, 20),
    ("SMEP", 7, 0, 1, 7),
    ("SMAP", 7, 0, 1, 20),
    ("RDRAND", 1, 0, 2, 30),
    ("AES", 1, 0, 2, 25),
    ("PCLMULQDQ", 1, 0, 2, 1),
    ("SSSE3", 1, 0, 2, 9),
    ("SSE4.1", 1, 0, 2, 19),
    ("XSAVE", 1, 0, 2, 26),
    ("APIC", 1, 0, 3, 9),
];

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = (0..).zip(REQUIRED).filter(|(index, _)| self.0 & (1 << index) != 0);
        for (count, (_, (name, ..))) in missing.enumerate() {
            let comma = if count == 0 { "" } else { ", " };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

/// One CPUID leaf as [eax, ebx, ecx, edx]; zeros where the CPU does not have the leaf.
pub(crate) fn leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    // The highest leaf of each range (basic, hypervisor, extended) is in eax of its first.
    let first = leaf & 0xf000_0000;
    if leaf > __cpuid_count(first, 0).eax {
        return [0; 4];
    }
    let answer = __cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

fn has(leaf_number: u32, subleaf: u32, register: usize, bit: u32) -> bool {
    leaf(leaf_number, subleaf).get(register).is_some_and(|value| value & (1 << bit) != 0)
}

/// The hypervisor's name, if there is a hypervisor that gives one.
pub(crate) fn hypervisor() -> Option<[u8; 12]> {
    if !has(1, 0, 2, 31) {
        return None;
    }
    let [_, b, c, d] = leaf(0x4000_0000, 0);
    let mut name = [0; 12];
    for (to, register) in name.chunks_exact_mut(4).zip([b, c, d]) {
        to.copy_from_slice(&register.to_le_bytes());
    }
    Some(name)
}

/// Checks the CPU, then turns on what the seal and the service need of it.
pub(crate) fn require() -> Result<Cpu, Refusal> {
    let mut missing = 0;
    for (index, (_, leaf_number, subleaf, register, bit)) in REQUIRED.iter().enumerate() {
        if !has(*leaf_number, *subleaf, *register, *bit) {
            missing |= 1 << index;
        }
    }
    if missing != 0 {
        return Err(Refusal::CpuLacks(Missing(missing)));
    }
    if hypervisor() == Some(*b"VMwareVMware") {
        return Err(Refusal::VmwareBackdoor);
    }
    let [sizes, ..] = leaf(0x8000_0008, 0);
    let cpu = Cpu {
        has_umip: has(7, 0, 2, 2),
        has_avx: has(1, 0, 2, 28),
        has_adx: has(7, 0, 1, 19),
        // The leaf is optional; 36 bits is what every x86_64 CPU can do.
        physical_bits: if sizes == 0 { 36 } else { (sizes & 0xff) as u8 },
    };
    super::controls::enable(&cpu);
    Ok(cpu)
}

/// Whether the firmware locked the local APIC in x2APIC mode (SDM 3A, 11.12.1).
pub(crate) fn is_x2apic_locked() -> bool {
    const CAPABILITIES: u32 = 0x10a;
    const XAPIC_DISABLE_STATUS: u32 = 0xbd;
    // Each register says whether the next one exists.
    has(7, 0, 3, 29)
        && super::controls::read_msr(CAPABILITIES) & (1 << 21) != 0
        && super::controls::read_msr(XAPIC_DISABLE_STATUS) & 1 != 0
}
