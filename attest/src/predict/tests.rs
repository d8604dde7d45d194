//! What is foretold, against what machines measured.

use super::*;
use crate::units::hex;

const CRB: &str = include_str!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/serial.txt");
const AARCH64: &str = include_str!("../../../tests/vectors/ovmf-swtpm/aavmf-tis/serial.txt");
const PROGRAM: &[u8] = include_bytes!("../../../tests/vectors/ovmf-swtpm/aavmf-tis/mbarm.efi");
const DISK: &[u8] = include_bytes!("../../../tests/vectors/ovmf-swtpm/disk-gpt-34-sectors.bin");
const TINY: &[u8] = include_bytes!("../../../tests/vectors/authenticode/tiny64.efi");
const SIGNED: &[u8] = include_bytes!("../../../tests/vectors/authenticode/tiny64.signed.efi");

/// What a machine read of a PCR.
fn read(serial: &str, name: &str) -> String {
    let line = serial.lines().find(|line| line.starts_with(name)).unwrap();
    line.split(' ').next_back().unwrap().trim().to_owned()
}

fn foretold(program: &[u8], disk: Option<&[u8]>) -> Vec<Foretold> {
    by_firmware(&Efi::parse(program).unwrap(), disk, &SecureBoot::Off).unwrap()
}

#[track_caller]
fn check(foretold: &[Foretold], pcr: u32, expected: &str) {
    let found = foretold.iter().find(|it| it.pcr == pcr).unwrap();
    assert_eq!(hex(&found.value), expected, "PCR {pcr}");
}

#[test]
fn what_is_foretold_is_what_machines_read() {
    let seen = foretold(PROGRAM, None);
    for (pcr, name) in [(2, "PCR02"), (3, "PCR03"), (4, "PCR04"), (7, "PCR07")] {
        check(&seen, pcr, &read(AARCH64, name));
    }
    assert!(seen.iter().all(|it| it.pcr != 5));
    let seen = foretold(TINY, Some(DISK));
    for (pcr, name) in [(2, "PCR02"), (3, "PCR03"), (7, "PCR07"), (5, "MMIO PCR05")] {
        check(&seen, pcr, &read(CRB, name));
    }
}

#[test]
fn a_signature_does_not_change_what_is_measured() {
    let (plain, signed) = (Efi::parse(TINY).unwrap(), Efi::parse(SIGNED).unwrap());
    assert_eq!(plain.digest, signed.digest);
    assert!(hex(&plain.digest).starts_with("a82d7e4f"));
    assert_eq!((plain.signatures.len(), signed.signatures.len()), (0, 1));
    assert_eq!(signed.signatures[0].image_digest(), signed.digest);
}

#[test]
fn any_other_byte_of_the_file_does() {
    let digest = Efi::parse(PROGRAM).unwrap().digest;
    let mut changed = PROGRAM.to_vec();
    for at in [0x400, PROGRAM.len() / 2, PROGRAM.len() - 1] {
        changed[at] ^= 1;
        assert_ne!(Efi::parse(&changed).unwrap().digest, digest, "{at:#x}");
        changed[at] ^= 1;
    }
}

#[test]
fn survives_any_bytes_where_a_program_should_be() {
    for length in 0..TINY.len() {
        let _refused = Efi::parse(&TINY[..length]);
        let _refused = image::parts(&TINY[..length]);
    }
    for at in 0..SIGNED.len() {
        for bit in [1, 0x80] {
            let mut changed = SIGNED.to_vec();
            changed[at] ^= bit;
            if let Ok(efi) = Efi::parse(&changed) {
                let variables = Variables { platform_key: vec![1], ..Variables::default() };
                assert_eq!(authority::authority(&efi, &variables), Err(Refused::Unknown));
            }
        }
    }
}

#[track_caller]
fn check_disk(change: impl FnOnce(&mut Vec<u8>), expected: NoTable) {
    let mut disk = DISK.to_vec();
    change(&mut disk);
    assert_eq!(gpt::digest(&disk), Err(expected));
}

#[test]
fn a_disk_without_a_good_table_is_refused() {
    check_disk(|disk| disk.truncate(512), NoTable::Absent);
    check_disk(|disk| disk[512] ^= 1, NoTable::Absent);
    check_disk(|disk| disk.truncate(600), NoTable::Truncated);
    check_disk(|disk| disk.truncate(17_407), NoTable::Truncated);
    let field = |name, value| NoTable::Field { name, value };
    check_disk(|disk| disk[512 + 84] = 127, field("size of an entry", 127));
    check_disk(|disk| disk[512 + 84..512 + 88].fill(0), field("size of an entry", 0));
    check_disk(|disk| disk[512 + 83] = 255, field("number of entries", 128 + (255 << 24)));
    check_disk(|disk| disk[512 + 79] = 255, field("first sector of entries", 2 + (255 << 56)));
}

#[test]
fn every_partition_counts_and_its_absence_too() {
    let digest = gpt::digest(DISK).unwrap();
    let mut changed = DISK.to_vec();
    changed[1024 + 40] ^= 1;
    assert_ne!(gpt::digest(&changed).unwrap(), digest);
    // Bytes of an entry that is no partition are not measured.
    let mut changed = DISK.to_vec();
    changed[1024 + 128 + 40] ^= 1;
    assert_eq!(gpt::digest(&changed).unwrap(), digest);
    changed[1024 + 128] ^= 1;
    assert_ne!(gpt::digest(&changed).unwrap(), digest);
}
