//! Finds privileged instructions at every byte offset, twice.
//!
//! [`decoder`] asks a disassembler (iced-x86) to decode at every offset; [`patterns`] looks for the
//! opcodes' bytes, written down from the manuals. They share the names of the families and nothing
//! else, so that one mistake cannot hide in both.
//!
//! A finding is named by the offset of its *opcode*, behind all prefixes: `66 0F 22 D8` and the
//! `0F 22 D8` in it are one finding, at the `0F`. Families are sets of opcodes that no prefix tells
//! apart, so at most one family begins at any offset, and two scans can be compared byte by byte.

mod decoder;
mod patterns;

pub use decoder::decoder;
pub(crate) use decoder::{family, opcode_offset};
pub use patterns::patterns;

/// What a scanner found where: for each offset, the family of the opcode that begins there.
pub type Findings = Vec<Option<Family>>;

/// Instructions that ring 0 can do and ring 3 cannot, or that lead elsewhere; grouped by opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A write to a control register.
    MovToControl,
    /// A read of a control register.
    MovFromControl,
    /// A debug register, read or written.
    MovDebug,
    /// `wrmsr`, `wrmsrns`, `wrmsrlist` (and `rdmsrlist`, the same opcode).
    Wrmsr,
    /// `rdmsr`.
    Rdmsr,
    /// `xsetbv`.
    Xsetbv,
    /// `xrstor` and `xrstors`: both can load PKRU.
    Xrstor,
    /// `wrpkru`.
    Wrpkru,
    /// `lgdt`.
    Lgdt,
    /// `lidt`.
    Lidt,
    /// `lldt`.
    Lldt,
    /// `ltr`.
    Ltr,
    /// `lkgs`.
    Lkgs,
    /// `lmsw`.
    Lmsw,
    /// `clts`.
    Clts,
    /// `stac`: opens the service's pages to ring 0.
    Stac,
    /// `invlpg`.
    Invlpg,
    /// `invpcid`, `invept`, `invvpid`.
    Invpcid,
    /// `invlpgb`, `tlbsync` and the page validation of SEV-SNP, the same opcodes.
    Invlpgb,
    /// `invd`, `wbinvd`.
    Invd,
    /// `swapgs`.
    Swapgs,
    /// `wrfsbase`, `wrgsbase`.
    WrBase,
    /// `syscall`, `sysenter`.
    Syscall,
    /// `sysret`, `sysexit`, and FRED's `erets`, `eretu`.
    Sysret,
    /// A far call or jump through memory.
    FarTransfer,
    /// A far return.
    FarReturn,
    /// `iret` of any width.
    Iret,
    /// Virtual machines, enclaves, SMM: VMX, SVM, TDX, SGX, SMX, `rsm`.
    Virtual,
    /// Shadow stack writes: `wrss`, `wruss`.
    Wrss,
    /// `enqcmd`, `enqcmds`: hands a device a command.
    Enqcmd,
    /// VEX, EVEX and REX2 forms of the above, newer than the decoder.
    NewerForm,
    /// `in`.
    In,
    /// `out`.
    Out,
    /// `ins`.
    Ins,
    /// `outs`.
    Outs,
    /// `hlt`.
    Hlt,
    /// `cli`.
    Cli,
    /// `sti`.
    Sti,
    /// `popf`.
    Popf,
    /// `int n`, `int3`, `int1`.
    Int,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 40] = [
        Self::MovToControl,
        Self::MovFromControl,
        Self::MovDebug,
        Self::Wrmsr,
        Self::Rdmsr,
        Self::Xsetbv,
        Self::Xrstor,
        Self::Wrpkru,
        Self::Lgdt,
        Self::Lidt,
        Self::Lldt,
        Self::Ltr,
        Self::Lkgs,
        Self::Lmsw,
        Self::Clts,
        Self::Stac,
        Self::Invlpg,
        Self::Invpcid,
        Self::Invlpgb,
        Self::Invd,
        Self::Swapgs,
        Self::WrBase,
        Self::Syscall,
        Self::Sysret,
        Self::FarTransfer,
        Self::FarReturn,
        Self::Iret,
        Self::Virtual,
        Self::Wrss,
        Self::Enqcmd,
        Self::NewerForm,
        Self::In,
        Self::Out,
        Self::Ins,
        Self::Outs,
        Self::Hlt,
        Self::Cli,
        Self::Sti,
        Self::Popf,
        Self::Int,
    ];

    /// The family in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MovToControl => "mov cr, r",
            Self::MovFromControl => "mov r, cr",
            Self::MovDebug => "mov dr",
            Self::Wrmsr => "wrmsr",
            Self::Rdmsr => "rdmsr",
            Self::Xsetbv => "xsetbv",
            Self::Xrstor => "xrstor, xrstors",
            Self::Wrpkru => "wrpkru",
            Self::Lgdt => "lgdt",
            Self::Lidt => "lidt",
            Self::Lldt => "lldt",
            Self::Ltr => "ltr",
            Self::Lkgs => "lkgs",
            Self::Lmsw => "lmsw",
            Self::Clts => "clts",
            Self::Stac => "stac",
            Self::Invlpg => "invlpg",
            Self::Invpcid => "invpcid, invept, invvpid",
            Self::Invlpgb => "invlpgb, tlbsync, SEV-SNP",
            Self::Invd => "invd, wbinvd",
            Self::Swapgs => "swapgs",
            Self::WrBase => "wrfsbase, wrgsbase",
            Self::Syscall => "syscall, sysenter",
            Self::Sysret => "sysret, sysexit, eret",
            Self::FarTransfer => "far call, far jmp",
            Self::FarReturn => "far ret",
            Self::Iret => "iret",
            Self::Virtual => "VMX, SVM, TDX, SGX, SMX, rsm",
            Self::Wrss => "wrss, wruss",
            Self::Enqcmd => "enqcmd",
            Self::NewerForm => "newer VEX, EVEX, REX2 forms",
            Self::In => "in",
            Self::Out => "out",
            Self::Ins => "ins",
            Self::Outs => "outs",
            Self::Hlt => "hlt",
            Self::Cli => "cli",
            Self::Sti => "sti",
            Self::Popf => "popf",
            Self::Int => "int n, int3, int1",
        }
    }

    /// Whether it could undo the seal or leave the gate, so that the gate must not hold it at any
    /// offset. (Its own `iretq` is the exception, and it is listed.)
    ///
    /// The others cannot be kept out, for their opcodes are single bytes; and alone they change no
    /// mapping, no control register and no descriptor table.
    pub const fn is_forbidden(self) -> bool {
        !matches!(
            self,
            Self::MovFromControl
                | Self::In
                | Self::Out
                | Self::Ins
                | Self::Outs
                | Self::Hlt
                | Self::Cli
                | Self::Sti
                | Self::Popf
                | Self::Int
        )
    }

    /// Whether the decoder knows it. What only the patterns know counts all the same.
    pub const fn is_known_to_decoder(self) -> bool {
        !matches!(self, Self::NewerForm)
    }
}

/// The offsets where two scans differ in what both can see.
pub fn differences(decoder: &[Option<Family>], patterns: &[Option<Family>]) -> Vec<usize> {
    let visible = |found: &Option<Family>| found.filter(|family| family.is_known_to_decoder());
    let pairs = decoder.iter().zip(patterns).enumerate();
    let differ = pairs.filter(|(_, (first, second))| visible(first) != visible(second));
    let missing = decoder.len().abs_diff(patterns.len());
    differ.map(|(at, _)| at).chain((missing > 0).then_some(decoder.len())).collect()
}

#[cfg(test)]
mod tests;
