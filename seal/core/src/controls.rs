//! The audit of the CPU's registers, read after everything that could change them.

use crate::gates::IDT_LIMIT;
use crate::segments::{GDT_LIMIT, KERNEL_CODE, KERNEL_DATA, TASK_STATE, USER_CODE, USER_DATA};
use crate::violation::Violation;

/// CR0: protection, coprocessor monitored, extension type, numeric errors, **write protection in
/// ring 0 too**, paging (Intel SDM 3A, 2.5).
const CR0: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;

/// CR4: PAE, OSFXSR, OSXMMEXCPT, OSXSAVE, SMEP, SMAP (Intel SDM 3A, 2.5). Never PGE or PCIDE, whose
/// translations outlive the last `mov cr3`; never FSGSBASE, PKE, LA57, VMXE or CET.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18 | 1 << 20 | 1 << 21;
const CR4_UMIP: u64 = 1 << 11;

/// EFER: long mode enabled and active, execute disable. Not SCE, so `syscall` is undefined.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;

/// XCR0: x87 and SSE state (Intel SDM 1, 13.3).
const XCR0: u64 = 1 << 0 | 1 << 1;
const XCR0_AVX: u64 = 1 << 2;

/// DR7 with every breakpoint off: bit 10 always reads one (Intel SDM 3B, 18.2.4).
const DR7: u64 = 1 << 10;

/// The page attribute table as after reset (Intel SDM 3A, 12.12.4): what makes cache disable and
/// write-through together mean uncacheable.
const PAT: u64 = 0x0007_0406_0007_0406;

/// IA32_APIC_BASE: the boot processor, enabled, not in x2APIC mode (Intel SDM 3A, 11.4.4).
const APIC_BASE: u64 = 1 << 8 | 1 << 11;

/// RFLAGS: interrupts off, I/O privilege 0, no trap, no alignment check (which would lift SMAP).
const RFLAGS: u64 = 1 << 1;

/// The flags every comparison changes, and ID, which any ring may change: they promise nothing.
const RFLAGS_FREE: u64 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11 | 1 << 21;

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    /// The table's first virtual address.
    pub base: u64,
    /// Its size in bytes, less one.
    pub limit: u16,
}

/// The CPU's registers, as boot read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// CR0.
    pub cr0: u64,
    /// CR3 of the sealed address space: the value that the tail will load.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// DR7.
    pub dr7: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// The task register's selector.
    pub tr: u16,
    /// The local descriptor table's selector.
    pub ldtr: u16,
    /// The code segment's selector.
    pub cs: u16,
    /// The stack segment's selector.
    pub ss: u16,
}

/// What differs from machine to machine; everything else is a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promised {
    /// The frame of the sealed address space's root table.
    pub root: u64,
    /// The GDT's first virtual address.
    pub gdt: u64,
    /// The IDT's first virtual address.
    pub idt: u64,
    /// The local APIC's first physical address.
    pub apic: u64,
    /// Whether the CPU has UMIP.
    pub has_umip: bool,
    /// Whether the CPU has AVX.
    pub has_avx: bool,
}

/// Compares the CPU's registers with what they have to be, bit by bit.
///
/// # Errors
///
/// [`Violation::Register`] with the first register that differs.
pub fn audit_controls(seen: &Controls, promised: &Promised) -> Result<(), Violation> {
    let cr4 = CR4 | if promised.has_umip { CR4_UMIP } else { 0 };
    let xcr0 = XCR0 | if promised.has_avx { XCR0_AVX } else { 0 };
    let registers = [
        ("CR0", seen.cr0, CR0),
        ("CR3", seen.cr3, promised.root),
        ("CR4", seen.cr4, cr4),
        ("EFER", seen.efer, EFER),
        ("XCR0", seen.xcr0, xcr0),
        ("RFLAGS", seen.rflags & !RFLAGS_FREE, RFLAGS),
        ("DR7", seen.dr7, DR7),
        ("SYSENTER_CS", seen.sysenter_cs, 0),
        ("STAR", seen.star, 0),
        ("LSTAR", seen.lstar, 0),
        ("PAT", seen.pat, PAT),
        ("APIC_BASE", seen.apic_base, promised.apic | APIC_BASE),
        ("GDTR base", seen.gdtr.base, promised.gdt),
        ("GDTR limit", u64::from(seen.gdtr.limit), u64::from(GDT_LIMIT)),
        ("IDTR base", seen.idtr.base, promised.idt),
        ("IDTR limit", u64::from(seen.idtr.limit), u64::from(IDT_LIMIT)),
        ("TR", u64::from(seen.tr), u64::from(TASK_STATE)),
        ("LDTR", u64::from(seen.ldtr), 0),
        ("CS", u64::from(seen.cs), u64::from(KERNEL_CODE)),
        ("SS", u64::from(seen.ss), u64::from(KERNEL_DATA)),
    ];
    match registers.into_iter().find(|(_, found, promised)| found != promised) {
        Some((name, found, promised)) => Err(Violation::Register { name, found, promised }),
        None => Ok(()),
    }
}

/// Compares what the drop's `iretq` will take from the gate's stack with what it has to be: the
/// service's entry and stack, its own segments, and no flag but the one that always reads one.
/// Interrupts stay off in ring 3 for ever, because of this word and nothing else.
///
/// # Errors
///
/// [`Violation::Register`] with the first word that differs.
pub fn audit_drop(frame: &[u64; 5], entry: u64, stack: u64) -> Result<(), Violation> {
    let [rip, cs, rflags, rsp, ss] = *frame;
    let words = [
        ("RIP after the drop", rip, entry),
        ("CS after the drop", cs, u64::from(USER_CODE | 3)),
        ("RFLAGS after the drop", rflags, RFLAGS),
        ("RSP after the drop", rsp, stack),
        ("SS after the drop", ss, u64::from(USER_DATA | 3)),
    ];
    match words.into_iter().find(|(_, found, promised)| found != promised) {
        Some((name, found, promised)) => Err(Violation::Register { name, found, promised }),
        None => Ok(()),
    }
}
