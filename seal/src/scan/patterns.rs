//! The second scanner: the opcodes' bytes, as the manuals have them.
//!
//! It looks at each offset for the bytes of an opcode and, where an instruction needs a prefix to
//! be what it is, looks *back* for it. It knows forms that the decoder does not.
//!
//! Source: Intel SDM 2, appendix A (opcode map) and the instructions' pages; AMD APM 3, appendix A;
//! Intel's APX architecture specification (REX2, EVEX map 4).

use super::{Family, Findings};

/// The longest instruction (Intel SDM 2, 2.3.11).
const MAX_INSTRUCTION_BYTES: usize = 15;

/// Scans `code` as if zeros followed it.
pub fn patterns(code: &[u8]) -> Findings {
    (0..code.len()).map(|at| Site { code, at }.family()).collect()
}

/// A byte that may begin an opcode.
struct Site<'a> {
    code: &'a [u8],
    at: usize,
}

impl Site<'_> {
    /// The byte at a distance; zero behind the end.
    fn byte(&self, distance: usize) -> u8 {
        let at = self.at.checked_add(distance);
        at.and_then(|at| self.code.get(at)).copied().unwrap_or(0)
    }

    fn family(&self) -> Option<Family> {
        let modrm = ModRm(self.byte(1));
        match self.byte(0) {
            0x0f => self.two_bytes(),
            0x6c | 0x6d => Some(Family::Ins),
            0x6e | 0x6f => Some(Family::Outs),
            0x9d => Some(Family::Popf),
            0xca | 0xcb => Some(Family::FarReturn),
            0xcc | 0xcd | 0xf1 => Some(Family::Int),
            0xcf => Some(Family::Iret),
            0xe4 | 0xe5 | 0xec | 0xed => Some(Family::In),
            0xe6 | 0xe7 | 0xee | 0xef => Some(Family::Out),
            0xf4 => Some(Family::Hlt),
            0xfa => Some(Family::Cli),
            0xfb => Some(Family::Sti),
            0xff if modrm.is_memory() && matches!(modrm.reg(), 3 | 5) => Some(Family::FarTransfer),
            0x62 | 0xc4 | 0xd5 => self.newer_form(),
            _ => None,
        }
    }

    fn two_bytes(&self) -> Option<Family> {
        let modrm = ModRm(self.byte(2));
        let memory = |family| modrm.is_memory().then_some(family);
        match self.byte(1) {
            0x00 => match modrm.reg() {
                2 => Some(Family::Lldt),
                3 => Some(Family::Ltr),
                6 if self.has_prefix(0xf2, 2) => Some(Family::Lkgs),
                _ => None,
            },
            0x01 => self.system_group(modrm),
            0x05 | 0x34 => Some(Family::Syscall),
            0x06 => Some(Family::Clts),
            0x07 | 0x35 => Some(Family::Sysret),
            0x08 | 0x09 => Some(Family::Invd),
            0x20 => Some(Family::MovFromControl),
            0x21 | 0x23 => Some(Family::MovDebug),
            0x22 => Some(Family::MovToControl),
            0x30 => Some(Family::Wrmsr),
            0x32 => Some(Family::Rdmsr),
            // getsec, vmread, vmwrite, rsm
            0x37 | 0x78 | 0x79 | 0xaa => Some(Family::Virtual),
            0x38 => self.three_bytes(),
            0xae => match modrm.reg() {
                5 => memory(Family::Xrstor),
                2 | 3 if !modrm.is_memory() && self.has_prefix(0xf3, 2) => Some(Family::WrBase),
                _ => None,
            },
            0xc7 => match modrm.reg() {
                3 => memory(Family::Xrstor),
                // vmptrld, vmclear, vmxon; vmptrst
                6 | 7 => memory(Family::Virtual),
                _ => None,
            },
            _ => None,
        }
    }

    /// `0F 01`: what SDM 2, table A-6 calls group 7.
    fn system_group(&self, modrm: ModRm) -> Option<Family> {
        if modrm.reg() == 6 {
            return Some(Family::Lmsw);
        }
        if modrm.is_memory() {
            return match modrm.reg() {
                2 => Some(Family::Lgdt),
                3 => Some(Family::Lidt),
                7 => Some(Family::Invlpg),
                _ => None,
            };
        }
        match modrm.0 {
            0xc6 => Some(Family::Wrmsr),
            // enclv, vmcall, vmlaunch, vmresume, vmxoff, pconfig; pbndkb; encls and seamcall;
            // vmfunc; AMD's vmrun to invlpga
            0xc0..=0xc5 | 0xc7 | 0xcf | 0xd4 | 0xd8..=0xdf => Some(Family::Virtual),
            0xca if self.has_prefix(0xf2, 2) || self.has_prefix(0xf3, 2) => Some(Family::Sysret),
            0xcb => Some(Family::Stac),
            // tdcall, seamret, seamops
            0xcc..=0xce if self.has_prefix(0x66, 2) => Some(Family::Virtual),
            0xd1 => Some(Family::Xsetbv),
            0xef => Some(Family::Wrpkru),
            0xf8 => Some(Family::Swapgs),
            0xfe | 0xff => Some(Family::Invlpgb),
            _ => None,
        }
    }

    /// `0F 38`.
    fn three_bytes(&self) -> Option<Family> {
        let modrm = ModRm(self.byte(3));
        let has_repeat = |length| self.has_prefix(0xf2, length) || self.has_prefix(0xf3, length);
        let length = self.length_with_modrm(3);
        match (self.byte(2), modrm.is_memory()) {
            (0x80..=0x82, true) if self.has_prefix(0x66, length) => Some(Family::Invpcid),
            (0xf5, true) if self.has_prefix(0x66, length) => Some(Family::Wrss),
            (0xf6, true) => Some(Family::Wrss),
            (0xf8, true) if has_repeat(length) => Some(Family::Enqcmd),
            // urdmsr, uwrmsr
            (0xf8, false) if has_repeat(length) => Some(Family::NewerForm),
            _ => None,
        }
    }

    /// VEX map 7 (the MSR forms with an immediate, `urdmsr`, `uwrmsr`); EVEX map 7 and the promoted
    /// `invept`, `invvpid`, `invpcid`, `wrss`, `wruss` of EVEX map 4; REX2 and a two-byte opcode.
    fn newer_form(&self) -> Option<Family> {
        let (first, second, opcode) = (self.byte(1), self.byte(2), self.byte(4));
        let is_newer = match self.byte(0) {
            0xc4 => first & 0x1f == 7,
            0x62 => match first & 0x07 {
                7 => true,
                4 => matches!((second & 3, opcode), (2, 0xf0..=0xf2) | (_, 0x65 | 0x66)),
                _ => false,
            },
            0xd5 => first & 0x80 != 0 && matches!(second, 0x00 | 0x01 | 0x05..=0x09 | 0x20..=0x23),
            _ => false,
        };
        is_newer.then_some(Family::NewerForm)
    }

    /// Whether an instruction that begins here with so many bytes may have `wanted` as the prefix
    /// that chooses the instruction: the last of F2 and F3, or 66 if there is neither.
    fn has_prefix(&self, wanted: u8, length: usize) -> bool {
        let most = MAX_INSTRUCTION_BYTES.saturating_sub(length);
        let before = self.code.get(..self.at).unwrap_or_default();
        for byte in before.iter().rev().take(most) {
            match *byte {
                found if found == wanted => return true,
                0xf2 | 0xf3 => return false,
                0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 => {}
                _ => return false,
            }
        }
        false
    }

    /// The length of an instruction whose ModR/M byte is at a distance (SDM 2, tables 2-2 and 2-3).
    fn length_with_modrm(&self, distance: usize) -> usize {
        let modrm = ModRm(self.byte(distance));
        let has_sib = modrm.is_memory() && modrm.rm() == 4;
        let sib_base = self.byte(distance.saturating_add(1)) & 7;
        let displacement = match (modrm.mode(), modrm.rm()) {
            (0, 5) => 4,
            (0, 4) if sib_base == 5 => 4,
            (1, _) => 1,
            (2, _) => 4,
            _ => 0,
        };
        let sib = if has_sib { 1 } else { 0 };
        distance.saturating_add(1).saturating_add(sib).saturating_add(displacement)
    }
}

/// A ModR/M byte (SDM 2, 2.1.3).
#[derive(Clone, Copy)]
struct ModRm(u8);

impl ModRm {
    const fn mode(self) -> u8 {
        self.0 >> 6
    }

    const fn reg(self) -> u8 {
        self.0 >> 3 & 7
    }

    const fn rm(self) -> u8 {
        self.0 & 7
    }

    const fn is_memory(self) -> bool {
        self.mode() != 3
    }
}
