//! The first scanner: a disassembler, started at every offset.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};

use super::{Family, Findings};

/// The longest instruction (Intel SDM 2, 2.3.11).
const MAX_INSTRUCTION_BYTES: usize = 15;

/// Scans `code` as if zeros followed it.
pub fn decoder(code: &[u8]) -> Findings {
    let mut padded = code.to_vec();
    padded.resize(code.len().saturating_add(MAX_INSTRUCTION_BYTES), 0);
    // What the CPU refuses, such as LOCK before an instruction that cannot have it, is decoded all
    // the same: a finding too many is better than one too few.
    let mut decoder = Decoder::with_ip(64, &padded, 0, DecoderOptions::NO_INVALID_CHECK);
    let mut instruction = Instruction::default();
    let mut findings = vec![None; code.len()];
    for start in 0..code.len() {
        if decoder.set_position(start).is_err() {
            break;
        }
        decoder.decode_out(&mut instruction);
        let Some(family) = family(&instruction) else { continue };
        let rest = padded.get(start..).unwrap_or_default();
        let at = start.saturating_add(opcode_offset(rest));
        if let Some(slot) = findings.get_mut(at) {
            *slot = Some(family);
        }
    }
    findings
}

/// How many prefixes an instruction begins with.
pub(crate) fn opcode_offset(instruction: &[u8]) -> usize {
    let is_prefix = |byte: &u8| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        )
    };
    instruction.iter().take_while(|byte| is_prefix(byte)).count()
}

/// The family that an instruction belongs to.
pub(crate) fn family(instruction: &Instruction) -> Option<Family> {
    let by_code = match instruction.code() {
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => Some(Family::MovToControl),
        Code::Mov_r32_cr | Code::Mov_r64_cr => Some(Family::MovFromControl),
        Code::Mov_r32_dr | Code::Mov_r64_dr | Code::Mov_dr_r32 | Code::Mov_dr_r64 => {
            Some(Family::MovDebug)
        }
        Code::Call_m1616
        | Code::Call_m1632
        | Code::Call_m1664
        | Code::Jmp_m1616
        | Code::Jmp_m1632
        | Code::Jmp_m1664 => Some(Family::FarTransfer),
        _ => None,
    };
    by_code.or_else(|| by_mnemonic(instruction.mnemonic()))
}

fn by_mnemonic(mnemonic: Mnemonic) -> Option<Family> {
    Some(match mnemonic {
        Mnemonic::Wrmsr | Mnemonic::Wrmsrns | Mnemonic::Wrmsrlist | Mnemonic::Rdmsrlist => {
            Family::Wrmsr
        }
        Mnemonic::Rdmsr => Family::Rdmsr,
        Mnemonic::Xsetbv => Family::Xsetbv,
        Mnemonic::Xrstor | Mnemonic::Xrstor64 | Mnemonic::Xrstors | Mnemonic::Xrstors64 => {
            Family::Xrstor
        }
        Mnemonic::Wrpkru => Family::Wrpkru,
        Mnemonic::Lgdt => Family::Lgdt,
        Mnemonic::Lidt => Family::Lidt,
        Mnemonic::Lldt => Family::Lldt,
        Mnemonic::Ltr => Family::Ltr,
        Mnemonic::Lkgs => Family::Lkgs,
        Mnemonic::Lmsw => Family::Lmsw,
        Mnemonic::Clts => Family::Clts,
        Mnemonic::Stac => Family::Stac,
        Mnemonic::Invlpg => Family::Invlpg,
        Mnemonic::Invpcid | Mnemonic::Invept | Mnemonic::Invvpid => Family::Invpcid,
        Mnemonic::Invlpgb
        | Mnemonic::Tlbsync
        | Mnemonic::Psmash
        | Mnemonic::Pvalidate
        | Mnemonic::Rmpadjust
        | Mnemonic::Rmpupdate => Family::Invlpgb,
        Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => Family::Invd,
        Mnemonic::Swapgs => Family::Swapgs,
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => Family::WrBase,
        Mnemonic::Syscall | Mnemonic::Sysenter => Family::Syscall,
        Mnemonic::Sysret
        | Mnemonic::Sysretq
        | Mnemonic::Sysexit
        | Mnemonic::Sysexitq
        | Mnemonic::Erets
        | Mnemonic::Eretu => Family::Sysret,
        Mnemonic::Retf => Family::FarReturn,
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => Family::Iret,
        Mnemonic::Wrssd | Mnemonic::Wrssq | Mnemonic::Wrussd | Mnemonic::Wrussq => Family::Wrss,
        Mnemonic::Enqcmd | Mnemonic::Enqcmds => Family::Enqcmd,
        Mnemonic::In => Family::In,
        Mnemonic::Out => Family::Out,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Family::Ins,
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => Family::Outs,
        Mnemonic::Hlt => Family::Hlt,
        Mnemonic::Cli => Family::Cli,
        Mnemonic::Sti => Family::Sti,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => Family::Popf,
        Mnemonic::Int | Mnemonic::Int1 | Mnemonic::Int3 => Family::Int,
        other if is_virtual(other) => Family::Virtual,
        _ => return None,
    })
}

fn is_virtual(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Vmcall
            | Mnemonic::Vmlaunch
            | Mnemonic::Vmresume
            | Mnemonic::Vmxoff
            | Mnemonic::Vmxon
            | Mnemonic::Vmfunc
            | Mnemonic::Vmread
            | Mnemonic::Vmwrite
            | Mnemonic::Vmptrld
            | Mnemonic::Vmptrst
            | Mnemonic::Vmclear
            | Mnemonic::Vmrun
            | Mnemonic::Vmmcall
            | Mnemonic::Vmgexit
            | Mnemonic::Vmload
            | Mnemonic::Vmsave
            | Mnemonic::Stgi
            | Mnemonic::Clgi
            | Mnemonic::Skinit
            | Mnemonic::Invlpga
            | Mnemonic::Encls
            | Mnemonic::Enclv
            | Mnemonic::Pconfig
            | Mnemonic::Pbndkb
            | Mnemonic::Tdcall
            | Mnemonic::Seamret
            | Mnemonic::Seamops
            | Mnemonic::Seamcall
            | Mnemonic::Getsec
            | Mnemonic::Rsm
    )
}
