//! The file for UEFI firmware gets the verdict of the file for the direct path.

use seal::{Unreadable, audit};

use crate::synthetic::{HEADER_BYTES, Load, RWX, Synthetic, Wrapping};
use crate::{check, failing};

#[test]
fn both_files_get_the_same_verdict_and_the_same_layouts() {
    let elf = check(&Synthetic::new().build(), &[]);
    let efi = check(&Synthetic::new().build_efi(|_| {}), &[]);
    let digests = |report: &seal::Report| -> Vec<_> {
        report.layouts.iter().map(|layout| (layout.name, layout.digest)).collect()
    };
    assert!(!digests(&elf).is_empty());
    assert_eq!(digests(&elf), digests(&efi));
    assert_eq!(elf.header, efi.header);
    let (elf_gate, efi_gate) = (elf.gate.unwrap(), efi.gate.unwrap());
    assert_eq!(elf_gate.sha256, efi_gate.sha256);
    assert_eq!((elf_gate.tail_bytes, elf_gate.bytes), (efi_gate.tail_bytes, efi_gate.bytes));
    let service = |report: &[seal::Part]| -> Vec<_> {
        report.iter().rev().take(6).map(|part| (part.address, part.rights)).collect()
    };
    assert_eq!(service(&elf.parts), service(&efi.parts));
}

#[test]
fn a_signed_file_is_the_file_that_was_signed() {
    let plain = check(&Synthetic::new().build_efi(|_| {}), &[]);
    let signed = Synthetic::new().build_efi(|wrapping| {
        wrapping.appended = vec![0x30; 1400];
        wrapping.directories[4] = (13 * 4096, 1400);
    });
    let signed = check(&signed, &[]);
    assert_eq!(plain.layouts[0].digest, signed.layouts[0].digest);
}

/// A file whose wrapping is changed.
#[track_caller]
fn check_wrapping(change: impl FnOnce(&mut Wrapping), expected: &[&str]) {
    check(&Synthetic::new().build_efi(change), expected);
}

#[test]
fn what_firmware_would_do_beyond_loading_is_found() {
    check_wrapping(|w| w.flags |= 1, &["segments"]);
    check_wrapping(|w| w.header_bytes = 8192, &["segments"]);
    check_wrapping(|w| w.section_alignment = 512, &["segments"]);
    check_wrapping(|w| w.directories[1] = (0x2000, 40), &["segments"]);
    check_wrapping(|w| w.directories[6] = (0x2000, 28), &["segments"]);
    check_wrapping(|w| w.directories[5].1 = 24, &["segments"]);
    check_wrapping(|w| w.section(".reloc").bytes[8] = 0x01, &["segments"]);
    check_wrapping(|w| w.section(".reloc").bytes[9] = 0xa0, &["segments"]);
    check_wrapping(|w| w.section(".reloc").flags |= 1 << 31, &["segments"]);
    check_wrapping(|w| w.section(".reloc").memory_bytes = 24, &["segments"]);
    check_wrapping(|w| w.entry = 0x100, &["segments"]);
    check_wrapping(|w| w.entry = 0x6010, &["segments"]);
    // No block of relocations at all is less than ours, and harms nothing.
    check_wrapping(
        |w| {
            w.directories[5] = (0, 0);
            w.sections.pop();
        },
        &[],
    );
}

#[test]
fn sections_have_the_rights_of_their_parts() {
    let rights = ["segments", "write-xor-execute"];
    check_wrapping(|w| w.section(".stext").flags |= 1 << 31, &["write-xor-execute", "manifest"]);
    check_wrapping(|w| w.section(".sdata").flags |= 1 << 29, &["write-xor-execute", "manifest"]);
    check_wrapping(|w| w.section(".text").flags |= 1 << 31, &rights[1..]);
    check_wrapping(|w| w.section(".config").flags |= 1 << 31, &["manifest"]);
    check_wrapping(|w| w.section(".srodata").flags &= !(1 << 30), &["segments", "manifest"]);
    let mut image = Synthetic::new();
    image.change_loads = |loads: &mut Vec<Load>| loads[5].flags = RWX;
    check(&image.build_efi(|_| {}), &["write-xor-execute", "manifest"]);
}

#[test]
fn sections_that_an_image_does_not_have_are_found() {
    check_wrapping(|w| w.section(".srodata").name = ".more".to_owned(), &["segments"]);
    // Whatever lies first counts as boot's first byte: then nothing is where it should be.
    let lost = ["segments", "manifest", "relocations", "configuration", "layout"];
    check_wrapping(|w| w.section(".srodata").address = 0, &lost);
    let report = audit(&Synthetic::new().build_efi(|w| {
        w.section(".gate").name = ".rgate".to_owned();
    }));
    assert!(failing(&report.unwrap()).contains(&"tail-ends-in-mov-cr3"));
    let report = audit(&Synthetic::new().build_efi(|w| {
        w.section(".rodata").bytes.truncate(HEADER_BYTES);
        w.section(".rodata").memory_bytes = HEADER_BYTES as u32;
    }));
    assert!(failing(&report.unwrap()).contains(&"manifest"));
}

#[test]
fn what_is_no_application_for_this_machine_is_refused() {
    let refused = |change: fn(&mut Wrapping)| audit(&Synthetic::new().build_efi(change)).err();
    assert_eq!(refused(|w| w.machine = 0xaa64), Some(Unreadable::Machine(0xaa64)));
    assert_eq!(refused(|w| w.subsystem = 11), Some(Unreadable::Subsystem(11)));
    for file in [&b"MZ"[..], &[b"MZ".as_slice(), &[0xff; 400]].concat(), b"MZ\0\0PE\0\0"] {
        assert!(matches!(audit(file), Err(Unreadable::Pe(_))));
    }
}

#[test]
fn no_truncation_and_no_flipped_bit_breaks_the_audit() {
    let clean = Synthetic::new().build_efi(|_| {});
    for length in (0..800).chain((800..clean.len()).step_by(509)) {
        let sealed = audit(&clean[..length]).is_ok_and(|report| report.is_sealed());
        // Behind the last byte of the relocations' block the page's zeros may be missing.
        assert!(!sealed || length > 4096 * 12, "{length} bytes");
    }
    for at in 0..800 {
        let mut file = clean.clone();
        file[at] ^= 1 << (at % 8);
        let _answer = audit(&file).map(|report| report.to_text("image"));
    }
}
