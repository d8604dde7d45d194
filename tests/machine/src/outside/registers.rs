//! The CPU's registers, as QEMU's monitor prints them.

use super::Finding;
use crate::Error;

/// Where ring 0 lies (kernel/boot/src/arch/gate.s): the interrupt and segment tables in it.
const IDT: u64 = 0xffff_ffff_ffc0_5000;
const GDT: u64 = 0xffff_ffff_ffc0_6000;

/// Paging, write protection in ring 0 too, numeric errors, extension type, coprocessor monitored,
/// protection (Intel SDM 3A, 2.5).
const CR0: u64 = 0x8001_0033;

/// SMAP, SMEP, OSXSAVE, UMIP, OSXMMEXCPT, OSFXSR, PAE. Global pages, PCID, FSGSBASE, protection
/// keys and five levels are off.
const CR4: u64 = 0x34_0e20;

/// NXE, LMA, LME; `syscall` is off.
const EFER: u64 = 0xd00;

/// No breakpoint; bit 10 reads one (Intel SDM 3B, 18.2.4).
const DR7: u64 = 0x400;

/// IF, IOPL, TF, VM, RF, VIF: all of RFLAGS that must be clear in ring 3 but NT and AC, which it
/// may set and which do nothing.
const FORBIDDEN_FLAGS: u64 = 0x200 | 0x3000 | 0x100 | 0x2_0000 | 0x8_0000;

/// A segment register's hidden part does not matter in long mode but for its privilege.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible part.
    pub selector: u64,
    /// The base.
    pub base: u64,
    /// The limit.
    pub limit: u64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The first virtual address.
    pub base: u64,
    /// Bytes, less one.
    pub limit: u64,
}

/// What of the CPU decides about privilege and mappings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The next instruction.
    pub rip: u64,
    /// The flags.
    pub rflags: u64,
    /// The current privilege level.
    pub cpl: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// DR7.
    pub dr7: u64,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// The local descriptor table.
    pub ldt: Segment,
    /// The task register.
    pub task: Segment,
    /// GDTR.
    pub gdt: Table,
    /// IDTR.
    pub idt: Table,
}

impl Registers {
    /// Reads the answer to `info registers`.
    ///
    /// # Errors
    ///
    /// [`Error::Monitor`] if a register is not there.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let read = || {
            Some(Self {
                rip: number(text, "RIP=")?,
                rflags: number(text, "RFL=")?,
                cpl: number(text, "CPL=")?,
                cr0: number(text, "CR0=")?,
                cr3: number(text, "CR3=")?,
                cr4: number(text, "CR4=")?,
                efer: number(text, "EFER=")?,
                dr7: number(text, "DR7=")?,
                cs: segment(text, "\nCS =")?,
                ss: segment(text, "\nSS =")?,
                ldt: segment(text, "\nLDT=")?,
                task: segment(text, "\nTR =")?,
                gdt: table(text, "\nGDT=")?,
                idt: table(text, "\nIDT=")?,
            })
        };
        read().ok_or_else(|| Error::Monitor(text.to_owned()))
    }

    /// Everything that is not as promised for a sealed machine.
    pub fn findings(&self) -> Vec<Finding> {
        let is_service = self.cpl == 3;
        let code = if is_service { 0x23 } else { 0x08 };
        // An interrupt from ring 3 leaves a null selector of ring 0 (Intel SDM 3A, 6.14.4).
        let stack = if is_service { 0x1b } else { self.ss.selector & 0x10 };
        // In the gate IF is set only while `idle` halts, and the service's flags came along.
        let flags = if is_service { self.rflags & FORBIDDEN_FLAGS } else { self.rflags & 0x3000 };
        [
            ("CR0", self.cr0, CR0),
            ("CR4", self.cr4, CR4),
            ("EFER", self.efer, EFER),
            ("DR7", self.dr7, DR7),
            ("RFLAGS", flags, 0),
            ("CPL", self.cpl, if is_service { 3 } else { 0 }),
            ("CS", self.cs.selector, code),
            ("SS", self.ss.selector, stack),
            ("LDT", self.ldt.selector, 0),
            ("TR", self.task.selector, 0x28),
            ("TR limit", self.task.limit, 103),
            ("GDT", self.gdt.base, GDT),
            ("GDT limit", self.gdt.limit, 55),
            ("IDT", self.idt.base, IDT),
            ("IDT limit", self.idt.limit, 0xfff),
        ]
        .into_iter()
        .filter(|(_, found, promised)| found != promised)
        .map(|(name, found, promised)| Finding::Register { name, found, promised })
        .collect()
    }
}

/// The words after `name`, which are separated by spaces.
fn words<'a>(text: &'a str, name: &str) -> Option<impl Iterator<Item = Option<u64>> + 'a> {
    let rest = &text[text.find(name)? + name.len()..];
    let line = rest.lines().next().unwrap_or_default();
    Some(line.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok()))
}

fn number(text: &str, name: &str) -> Option<u64> {
    words(text, name)?.next()?
}

fn segment(text: &str, name: &str) -> Option<Segment> {
    let mut words = words(text, name)?;
    let mut next = || words.next()?;
    Some(Segment { selector: next()?, base: next()?, limit: next()? })
}

fn table(text: &str, name: &str) -> Option<Table> {
    let mut words = words(text, name)?;
    let mut next = || words.next()?;
    Some(Table { base: next()?, limit: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 7.2 says of a sealed machine in ring 3, shortened.
    const SEALED: &str = "\nCPU#0\nRAX=0000000000000000 RBX=0000000000000000\n\
        RIP=00001004b3a1f2c0 RFL=00000046 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0\n\
        CS =0023 0000000000000000 ffffffff 00affb00 DPL=3 CS64 [-RA]\n\
        SS =001b 0000000000000000 ffffffff 00cff300 DPL=3 DS   [-WA]\n\
        LDT=0000 0000000000000000 00000000 00008200 DPL=0 LDT\n\
        TR =0028 ffffffffffc03000 00000067 00008b00 DPL=0 TSS64-busy\n\
        GDT=     ffffffffffc06000 00000037\nIDT=     ffffffffffc05000 00000fff\n\
        CR0=80010033 CR2=0000000000000000 CR3=0000000000245000 CR4=00340e20\n\
        DR0=0000000000000000\nDR6=00000000ffff0ff0 DR7=0000000000000400\n\
        EFER=0000000000000d00\n";

    #[track_caller]
    fn check(from: &str, to: &str, name: &str) {
        assert!(SEALED.contains(from), "{from}");
        let registers = Registers::parse(&SEALED.replace(from, to)).unwrap();
        let findings = registers.findings();
        let is_named = |finding: &Finding| matches!(finding, Finding::Register { name: seen, .. } if *seen == name);
        assert!(findings.iter().any(is_named), "{from} to {to}: {findings:?}");
    }

    #[test]
    fn a_sealed_cpu_has_no_findings() {
        let registers = Registers::parse(SEALED).unwrap();
        assert_eq!((registers.rip, registers.cpl), (0x1004_b3a1_f2c0, 3));
        assert_eq!(registers.findings(), []);
        assert!(Registers::parse("").is_err());
    }

    #[test]
    fn each_register_is_looked_at() {
        check("CR0=80010033", "CR0=80000033", "CR0");
        check("CR4=00340e20", "CR4=00240e20", "CR4");
        check("CR4=00340e20", "CR4=00340ea0", "CR4");
        check("EFER=0000000000000d00", "EFER=0000000000000d01", "EFER");
        check("DR7=0000000000000400", "DR7=0000000000000401", "DR7");
        check("RFL=00000046", "RFL=00000246", "RFLAGS");
        check("RFL=00000046", "RFL=00003046", "RFLAGS");
        check("CPL=3", "CPL=0", "CS");
        check("CS =0023", "CS =0033", "CS");
        check("SS =001b", "SS =0023", "SS");
        check("LDT=0000", "LDT=0030", "LDT");
        check("TR =0028", "TR =0000", "TR");
        check("00000067", "0000ffff", "TR limit");
        check("ffffffffffc06000", "0000000000106000", "GDT");
        check("00000037", "00000047", "GDT limit");
        check("ffffffffffc05000", "0000000000105000", "IDT");
        check("00000fff", "0000ffff", "IDT limit");
    }
}
