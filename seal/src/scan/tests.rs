//! The scanners against each other, and against what is planted for them.

#![allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails, as it should")]

use super::*;

/// A generator of bytes that look random and are the same in every run (xorshift64*).
struct Bytes(u64);

impl Iterator for Bytes {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        Some(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()[7])
    }
}

#[track_caller]
fn agree(code: &[u8]) {
    let (first, second) = (decoder(code), patterns(code));
    if let Some(at) = differences(&first, &second).first() {
        let near = &code[at.saturating_sub(8)..(at + 12).min(code.len())];
        panic!("decoder {:?}, patterns {:?} at {at}: {near:02x?}", first[*at], second[*at]);
    }
}

#[test]
fn the_scanners_agree_on_random_bytes() {
    let code: Vec<u8> = Bytes(1).take(1_000_000).collect();
    agree(&code);
}

#[test]
fn the_scanners_agree_where_opcodes_and_prefixes_are_dense() {
    const DENSE: [u8; 48] = [
        0x0f, 0x0f, 0x0f, 0x01, 0x01, 0x00, 0x22, 0x20, 0x21, 0x23, 0x30, 0x32, 0x38, 0x80, 0x81,
        0x82, 0xf5, 0xf6, 0xf8, 0xae, 0xc7, 0xff, 0x66, 0x66, 0xf2, 0xf3, 0xf2, 0xf3, 0x48, 0x41,
        0x67, 0xf0, 0x2e, 0xca, 0xcb, 0xcc, 0xcf, 0xd1, 0xd4, 0xd5, 0xd8, 0x62, 0xc4, 0x07, 0x04,
        0x18, 0x2c, 0xfe,
    ];
    let code: Vec<u8> =
        Bytes(7).take(1_000_000).map(|byte| DENSE[usize::from(byte) % DENSE.len()]).collect();
    agree(&code);
}

#[test]
fn the_scanners_agree_at_every_end() {
    let code: Vec<u8> = Bytes(3).take(2000).collect();
    for end in 0..code.len() {
        agree(&code[end.saturating_sub(40)..end]);
    }
}

#[test]
fn the_scanners_agree_on_every_two_byte_opcode() {
    for opcode in 0..=u8::MAX {
        for modrm in 0..=u8::MAX {
            for prefix in [0x90, 0x66, 0xf2, 0xf3] {
                agree(&[0x90, prefix, 0x0f, opcode, modrm, 0x24, 0x05, 0x90, 0x90, 0x90]);
                agree(&[0x90, prefix, 0x48, 0x0f, 0x38, opcode, modrm, 0x25, 0x90, 0x90]);
            }
        }
    }
}

/// Encodings that a scanner must find: what they are, their bytes, and where in them the opcode is.
const PLANTED: [(&str, Family, &[u8], usize); 73] = [
    ("mov cr0, rax", Family::MovToControl, &[0x0f, 0x22, 0xc0], 0),
    ("mov cr3, rax", Family::MovToControl, &[0x0f, 0x22, 0xd8], 0),
    ("mov cr4, rbx", Family::MovToControl, &[0x0f, 0x22, 0xe3], 0),
    ("mov cr8, rax", Family::MovToControl, &[0x44, 0x0f, 0x22, 0xc0], 1),
    ("lock mov cr0, rax (cr8)", Family::MovToControl, &[0xf0, 0x0f, 0x22, 0xc0], 1),
    ("66 mov cr3, rax", Family::MovToControl, &[0x66, 0x0f, 0x22, 0xd8], 1),
    ("rep rex.w mov cr0, r15", Family::MovToControl, &[0xf3, 0x49, 0x0f, 0x22, 0xc7], 2),
    ("mov cr0 with mod 0", Family::MovToControl, &[0x0f, 0x22, 0x00], 0),
    ("mov cr1, rax", Family::MovToControl, &[0x0f, 0x22, 0xc8], 0),
    ("mov dr7, rax", Family::MovDebug, &[0x0f, 0x23, 0xf8], 0),
    ("mov rax, dr6", Family::MovDebug, &[0x0f, 0x21, 0xf0], 0),
    ("wrmsr", Family::Wrmsr, &[0x0f, 0x30], 0),
    ("rex.w wrmsr", Family::Wrmsr, &[0x48, 0x0f, 0x30], 1),
    ("wrmsrns", Family::Wrmsr, &[0x0f, 0x01, 0xc6], 0),
    ("wrmsrlist", Family::Wrmsr, &[0xf3, 0x0f, 0x01, 0xc6], 1),
    ("rdmsr", Family::Rdmsr, &[0x0f, 0x32], 0),
    ("xsetbv", Family::Xsetbv, &[0x0f, 0x01, 0xd1], 0),
    ("wrpkru", Family::Wrpkru, &[0x0f, 0x01, 0xef], 0),
    ("xrstor [rax]", Family::Xrstor, &[0x0f, 0xae, 0x28], 0),
    ("xrstors [rbx]", Family::Xrstor, &[0x0f, 0xc7, 0x1b], 0),
    ("xrstors64 [r8]", Family::Xrstor, &[0x49, 0x0f, 0xc7, 0x18], 1),
    ("lgdt [rax]", Family::Lgdt, &[0x0f, 0x01, 0x10], 0),
    ("lgdt [rip]", Family::Lgdt, &[0x0f, 0x01, 0x15, 0, 0, 0, 0], 0),
    ("lidt [rsp]", Family::Lidt, &[0x0f, 0x01, 0x1c, 0x24], 0),
    ("fs lidt [rax]", Family::Lidt, &[0x64, 0x0f, 0x01, 0x18], 1),
    ("lldt ax", Family::Lldt, &[0x0f, 0x00, 0xd0], 0),
    ("ltr [rax]", Family::Ltr, &[0x0f, 0x00, 0x18], 0),
    ("lkgs ax", Family::Lkgs, &[0xf2, 0x0f, 0x00, 0xf0], 1),
    ("lmsw ax", Family::Lmsw, &[0x0f, 0x01, 0xf0], 0),
    ("lmsw [rax]", Family::Lmsw, &[0x0f, 0x01, 0x30], 0),
    ("clts", Family::Clts, &[0x0f, 0x06], 0),
    ("stac", Family::Stac, &[0x0f, 0x01, 0xcb], 0),
    ("invlpg [rax]", Family::Invlpg, &[0x0f, 0x01, 0x38], 0),
    ("invpcid rax, [rbx]", Family::Invpcid, &[0x66, 0x0f, 0x38, 0x82, 0x03], 1),
    ("fs invpcid", Family::Invpcid, &[0x66, 0x64, 0x0f, 0x38, 0x82, 0x03], 2),
    ("invept", Family::Invpcid, &[0x66, 0x0f, 0x38, 0x80, 0x03], 1),
    ("invlpgb", Family::Invlpgb, &[0x0f, 0x01, 0xfe], 0),
    ("invd", Family::Invd, &[0x0f, 0x08], 0),
    ("wbinvd", Family::Invd, &[0x0f, 0x09], 0),
    ("swapgs", Family::Swapgs, &[0x0f, 0x01, 0xf8], 0),
    ("wrfsbase rax", Family::WrBase, &[0xf3, 0x48, 0x0f, 0xae, 0xd0], 2),
    ("wrgsbase eax", Family::WrBase, &[0xf3, 0x0f, 0xae, 0xd8], 1),
    ("syscall", Family::Syscall, &[0x0f, 0x05], 0),
    ("sysenter", Family::Syscall, &[0x0f, 0x34], 0),
    ("sysretq", Family::Sysret, &[0x48, 0x0f, 0x07], 1),
    ("sysexit", Family::Sysret, &[0x0f, 0x35], 0),
    ("eretu", Family::Sysret, &[0xf3, 0x0f, 0x01, 0xca], 1),
    ("call far [rax]", Family::FarTransfer, &[0xff, 0x18], 0),
    ("rex.w call far [rax]", Family::FarTransfer, &[0x48, 0xff, 0x18], 1),
    ("jmp far [rip]", Family::FarTransfer, &[0xff, 0x2d, 0, 0, 0, 0], 0),
    ("retf", Family::FarReturn, &[0xcb], 0),
    ("rex.w retf 8", Family::FarReturn, &[0x48, 0xca, 8, 0], 1),
    ("iretd", Family::Iret, &[0xcf], 0),
    ("iret", Family::Iret, &[0x66, 0xcf], 1),
    ("vmcall", Family::Virtual, &[0x0f, 0x01, 0xc1], 0),
    ("vmmcall", Family::Virtual, &[0x0f, 0x01, 0xd9], 0),
    ("vmrun", Family::Virtual, &[0x0f, 0x01, 0xd8], 0),
    ("vmxon [rax]", Family::Virtual, &[0xf3, 0x0f, 0xc7, 0x30], 1),
    ("vmwrite", Family::Virtual, &[0x0f, 0x79, 0xc0], 0),
    ("tdcall", Family::Virtual, &[0x66, 0x0f, 0x01, 0xcc], 1),
    ("encls", Family::Virtual, &[0x0f, 0x01, 0xcf], 0),
    ("getsec", Family::Virtual, &[0x0f, 0x37], 0),
    ("rsm", Family::Virtual, &[0x0f, 0xaa], 0),
    ("wrssq [rax], rbx", Family::Wrss, &[0x48, 0x0f, 0x38, 0xf6, 0x18], 1),
    ("enqcmds rax, [rbx]", Family::Enqcmd, &[0xf3, 0x0f, 0x38, 0xf8, 0x03], 1),
    ("in al, 0x64", Family::In, &[0xe4, 0x64], 0),
    ("in eax, dx", Family::In, &[0xed], 0),
    ("out dx, eax", Family::Out, &[0xef], 0),
    ("rep insb", Family::Ins, &[0xf3, 0x6c], 1),
    ("outsd", Family::Outs, &[0x6f], 0),
    ("sti", Family::Sti, &[0xfb], 0),
    ("popfq", Family::Popf, &[0x9d], 0),
    ("int 0x80", Family::Int, &[0xcd, 0x80], 0),
];

/// Forms that only the patterns know.
const PLANTED_NEWER: [(&str, &[u8]); 7] = [
    ("wrmsrns imm, rax (VEX map 7)", &[0xc4, 0xe7, 0x7a, 0xf6, 0xc0, 0, 0, 0, 0]),
    ("uwrmsr imm, rax (VEX map 7)", &[0xc4, 0xe7, 0x7a, 0xf8, 0xc0, 0, 0, 0, 0]),
    ("uwrmsr rax, rbx", &[0xf3, 0x0f, 0x38, 0xf8, 0xc3]),
    ("wrmsrns imm, r16 (EVEX map 7)", &[0x62, 0xff, 0x7e, 0x08, 0xf6, 0xc0, 0, 0, 0, 0]),
    ("invpcid (EVEX map 4)", &[0x62, 0xf4, 0x7e, 0x08, 0xf2, 0x03]),
    ("mov cr0, r16 (REX2)", &[0xd5, 0x90, 0x22, 0xc0]),
    ("lgdt [r16] (REX2)", &[0xd5, 0x90, 0x01, 0x10]),
];

/// Bytes around a planted instruction that neither scanner finds anything in.
fn quiet_bytes(seed: u64, count: usize) -> Vec<u8> {
    // None begins, continues or precedes a privileged encoding.
    const QUIET: [u8; 8] = [0x01, 0x11, 0x29, 0x50, 0x58, 0x89, 0x90, 0xb8];
    Bytes(seed).take(count).map(|byte| QUIET[usize::from(byte) % QUIET.len()]).collect()
}

#[test]
fn both_scanners_find_each_planted_instruction_at_any_offset() {
    for (seed, (what, family, bytes, opcode_at)) in (1..).zip(PLANTED) {
        for before in [0, 1, 3, 7, 64, 101] {
            let mut code = quiet_bytes(seed, before);
            code.extend_from_slice(bytes);
            code.extend(quiet_bytes(seed + 1000, 9));
            let at = before + opcode_at;
            assert_eq!(decoder(&code)[at], Some(family), "decoder: {what} at {at}");
            assert_eq!(patterns(&code)[at], Some(family), "patterns: {what} at {at}");
        }
    }
}

#[test]
fn the_patterns_find_forms_that_are_newer_than_the_decoder() {
    for (seed, (what, bytes)) in (1..).zip(PLANTED_NEWER) {
        let mut code = quiet_bytes(seed, 33);
        code.extend_from_slice(bytes);
        assert!(patterns(&code)[33..].contains(&Some(Family::NewerForm)), "{what}");
    }
}

#[test]
fn quiet_bytes_are_quiet() {
    let code = quiet_bytes(5, 10_000);
    assert!(decoder(&code).iter().all(Option::is_none));
    assert!(patterns(&code).iter().all(Option::is_none));
}

#[test]
fn a_difference_is_seen() {
    let one = [None, Some(Family::Wrmsr)];
    assert_eq!(differences(&one, &one), []);
    assert_eq!(differences(&one, &[None, None]), [1]);
    assert_eq!(differences(&one, &one[..1]), [2]);
    let newer = [None, Some(Family::NewerForm)];
    assert_eq!(differences(&[None, None], &newer), []);
}
