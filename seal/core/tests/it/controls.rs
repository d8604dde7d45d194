//! The CPU's registers: one value is right.

use seal_core::{Controls, Promised, TableRegister, Violation, audit_controls, audit_drop};

const PROMISED: Promised = Promised {
    root: 0x10_0000,
    gdt: 0xffff_ffff_8000_4000,
    idt: 0xffff_ffff_8000_3000,
    apic: 0xfee0_0000,
    has_umip: true,
    has_avx: true,
};

/// Written down as numbers, not as the bits the auditor puts together.
const GOOD: Controls = Controls {
    cr0: 0x8001_0033,
    cr3: 0x10_0000,
    cr4: 0x34_0e20,
    efer: 0xd00,
    xcr0: 7,
    rflags: 2,
    dr7: 0x400,
    sysenter_cs: 0,
    star: 0,
    lstar: 0,
    pat: 0x0007_0406_0007_0406,
    apic_base: 0xfee0_0900,
    gdtr: TableRegister { base: 0xffff_ffff_8000_4000, limit: 0x37 },
    idtr: TableRegister { base: 0xffff_ffff_8000_3000, limit: 0xfff },
    tr: 0x28,
    ldtr: 0,
    cs: 0x08,
    ss: 0x10,
};

#[test]
fn accepts_a_sealed_machine_with_and_without_the_optional_features() {
    assert_eq!(audit_controls(&GOOD, &PROMISED), Ok(()));
    let old = Promised { has_umip: false, has_avx: false, ..PROMISED };
    let seen = Controls { cr4: 0x34_0620, xcr0: 3, ..GOOD };
    assert_eq!(audit_controls(&seen, &old), Ok(()));
    assert!(audit_controls(&GOOD, &old).is_err());
    assert!(audit_controls(&seen, &PROMISED).is_err());
}

/// Flips every bit of a register, but for those that `free` names.
#[track_caller]
fn check(name: &str, bits: u32, free: u64, change: impl Fn(&mut Controls, u64)) {
    for bit in 0..bits {
        let mut seen = GOOD;
        change(&mut seen, 1 << bit);
        match audit_controls(&seen, &PROMISED) {
            Err(Violation::Register { name: found, .. }) => assert_eq!(found, name),
            other => assert!(free & 1 << bit != 0, "bit {bit} of {name}: {other:?}"),
        }
    }
}

#[test]
fn finds_every_bit_that_is_flipped() {
    check("CR0", 64, 0, |seen, bit| seen.cr0 ^= bit);
    check("CR3", 64, 0, |seen, bit| seen.cr3 ^= bit);
    check("CR4", 64, 0, |seen, bit| seen.cr4 ^= bit);
    check("EFER", 64, 0, |seen, bit| seen.efer ^= bit);
    check("XCR0", 64, 0, |seen, bit| seen.xcr0 ^= bit);
    check("DR7", 64, 0, |seen, bit| seen.dr7 ^= bit);
    check("SYSENTER_CS", 64, 0, |seen, bit| seen.sysenter_cs ^= bit);
    check("STAR", 64, 0, |seen, bit| seen.star ^= bit);
    check("LSTAR", 64, 0, |seen, bit| seen.lstar ^= bit);
    check("PAT", 64, 0, |seen, bit| seen.pat ^= bit);
    check("APIC_BASE", 64, 0, |seen, bit| seen.apic_base ^= bit);
    check("GDTR base", 64, 0, |seen, bit| seen.gdtr.base ^= bit);
    check("IDTR base", 64, 0, |seen, bit| seen.idtr.base ^= bit);
    check("GDTR limit", 16, 0, |seen, bit| seen.gdtr.limit ^= bit as u16);
    check("IDTR limit", 16, 0, |seen, bit| seen.idtr.limit ^= bit as u16);
    check("TR", 16, 0, |seen, bit| seen.tr ^= bit as u16);
    check("LDTR", 16, 0, |seen, bit| seen.ldtr ^= bit as u16);
    check("CS", 16, 0, |seen, bit| seen.cs ^= bit as u16);
    check("SS", 16, 0, |seen, bit| seen.ss ^= bit as u16);
    // CF, PF, AF, ZF, SF and OF are the last comparison's; ID is any ring's to change.
    check("RFLAGS", 64, 0x20_08d5, |seen, bit| seen.rflags ^= bit);
}

#[test]
fn says_which_register_is_wrong() {
    let seen = Controls { cr0: GOOD.cr0 & !(1 << 16), ..GOOD };
    let violation = audit_controls(&seen, &PROMISED).unwrap_err();
    assert_eq!(violation.to_string(), "CR0 is 0x80000033, promised 0x80010033");
}

#[test]
fn finds_every_bit_of_the_drop_that_is_flipped() {
    let (entry, stack) = (0x1000_0003_f123, 0x1000_0020_9ea0);
    let frame = [entry, 0x23, 2, stack, 0x1b];
    assert_eq!(audit_drop(&frame, entry, stack), Ok(()));
    for word in 0..frame.len() {
        for bit in 0..64 {
            let mut frame = frame;
            frame[word] ^= 1 << bit;
            let seen = audit_drop(&frame, entry, stack);
            assert!(matches!(seen, Err(Violation::Register { .. })), "word {word}, bit {bit}");
        }
    }
}
