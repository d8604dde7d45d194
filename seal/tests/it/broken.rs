//! Whatever a file holds, the audit ends with an answer, and text and JSON give the same one.

use seal::audit;

use crate::synthetic::Synthetic;

/// A generator of numbers that look random and are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// Audits and says whether the file is sealed; a file that is no image is not.
#[track_caller]
fn is_sealed(file: &[u8]) -> bool {
    let Ok(report) = audit(file) else { return false };
    let text = report.to_text("image");
    let json = report.to_json("image").to_string();
    let verdict = report.verdict();
    assert!(text.ends_with(&format!("\nverdict: {verdict}\n")), "{text}");
    assert!(json.ends_with(&format!(",\"verdict\":\"{verdict}\"}}")), "{json}");
    let fails = text.lines().filter(|line| line.starts_with("FAIL")).count();
    assert_eq!(json.matches("\"holds\":false").count(), fails);
    assert_eq!(report.properties.len(), seal::Name::ALL.len());
    report.is_sealed()
}

#[test]
fn no_truncation_is_sealed() {
    let file = Synthetic::new().build();
    assert!(is_sealed(&file));
    let headers = (0..1024).step_by(5);
    let rest = (1024..file.len()).step_by(509);
    for length in headers.chain(rest).chain([file.len() - 1]) {
        assert!(!is_sealed(&file[..length]), "{length} bytes");
    }
}

#[test]
fn no_flipped_bit_of_a_header_breaks_the_audit() {
    let file = Synthetic::new().build();
    let table_at = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
    let mut numbers = Numbers(1);
    for at in (0..0x300).chain(table_at..file.len()).step_by(2) {
        let mut file = file.clone();
        file[at] ^= 1 << numbers.below(8);
        is_sealed(&file);
    }
}

#[test]
fn every_flipped_bit_of_the_manifest_that_matters_is_found() {
    let file = Synthetic::new().build();
    let at = file.windows(8).position(|bytes| bytes == b"BULLAIM\x01").unwrap();
    // The magic, the places of relocations and configuration, each segment's place, right and
    // address. A longer or shorter segment may be another image that is no weaker.
    let segments = (64..64 + 4 * 32).filter(|byte| byte % 32 < 16);
    for byte in (0..8).chain(16..48).chain(segments) {
        for bit in 0..8 {
            let mut file = file.clone();
            file[at + byte] ^= 1 << bit;
            assert!(!is_sealed(&file), "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn every_flipped_bit_of_the_tail_and_of_mov_cr3_is_found() {
    let file = Synthetic::new().build();
    let at = file.windows(3).position(|bytes| bytes == [0x0f, 0x22, 0xd8]).unwrap();
    for byte in 0..3 {
        for bit in 0..8 {
            let mut file = file.clone();
            file[at + byte] ^= 1 << bit;
            assert!(!is_sealed(&file), "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn random_damage_gets_an_answer() {
    let clean = Synthetic::new().build();
    let mut numbers = Numbers(2);
    for _ in 0..300 {
        let mut file = clean.clone();
        for _ in 0..=numbers.below(8) {
            // Mostly where headers, gate, manifest, relocations and configuration are.
            let starts = [0, 0x2000, 0xa000, 0xb000, numbers.below(file.len())];
            let at = (starts[numbers.below(5)] + numbers.below(0x300)).min(file.len() - 1);
            let values = [0, 0xff, 0x7f, 0x80, 0x0f, 0x22, numbers.below(256) as u8];
            file[at] = values[numbers.below(values.len())];
        }
        is_sealed(&file);
    }
}

#[test]
fn what_is_no_elf_file_is_refused() {
    for file in [&b""[..], b"\x7fELF", &[0; 64], b"#!/bin/sh\n", &[0xff; 4096]] {
        assert!(audit(file).is_err());
    }
    let mut other = Synthetic::new().build();
    other[18] = 183; // EM_AARCH64
    let error = audit(&other).unwrap_err();
    assert_eq!(error.to_string(), "file for machine 183, not for x86-64");
}

#[test]
fn a_file_full_of_privileged_opcodes_ends_in_bounded_time() {
    for filler in [0xcf, 0xcc, 0x66, 0x0f, 0xec, 0x74] {
        let mut image = Synthetic::new();
        image.add_code(&[filler; 12 << 10]);
        assert!(!is_sealed(&image.build()));
    }
}
