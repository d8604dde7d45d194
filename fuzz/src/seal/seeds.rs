//! Seeds for the audits. Most targets write what is right themselves, so a seed only says where.

use super::image::shorten;
use crate::seeds::Seed;

const GATE: u64 = 0xffff_ffff_ffc0_0000;

pub(crate) fn all() -> Vec<Seed> {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let with = |mut bytes: Vec<u8>, rest: &[u8]| {
        bytes.extend_from_slice(rest);
        bytes
    };
    let controls: Vec<u8> = words(&[0x10_0000, GATE + 0x6000, GATE + 0x5000, 0xfee0_0000]);
    let text: Vec<u8> = words(&[GATE + 0x2000]);
    vec![
        ("seal_controls", "good", with(controls.clone(), &[1, 1])),
        ("seal_controls", "one_bit", with(controls, &[0, 1, 2, 0, 7])),
        ("seal_descriptors", "receive", with(vec![1], &[0, 0, 0x23, 0, 0, 0, 0, 0, 0, 0, 8, 0, 2])),
        (
            "seal_descriptors",
            "transmit",
            with(vec![0], &[0, 0, 0x23, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 32, 0]),
        ),
        ("seal_gdt", "good", words(&[GATE + 0x3000])),
        ("seal_gdt", "one_byte", with(words(&[GATE + 0x3000]), &[0, 9, 0, 2])),
        ("seal_idt", "good", with(text.clone(), &[0, 4, 0])),
        ("seal_idt", "one_more", with(text, &[0, 4, 1, 0x40, 1, 1, 0x20, 0xc0, 0xff])),
        ("seal_tables", "good", TABLES.to_vec()),
        ("seal_tables", "changed", [TABLES, &[2, 0, 0, 7, 3, 2, 0, 1, 5]].concat()),
        ("seal_tss", "good", vec![0]),
        ("seal_tss", "other_stack", vec![1, 0, 2, 0x80, 0, 9, 0, 1]),
    ]
}

/// Text, a heap with large pages, a stack, gate text, a gate stack, then the page tables.
const TABLES: &[u8] =
    &[5, 0, 0, 0x11, 3, 6, 0x85, 0x12, 1, 7, 0, 3, 4, 15, 0, 1, 1, 20, 1, 2, 1, 0, 0x11, 0, 1];

/// Sections whose bytes no property depends on, and that are long.
const IRRELEVANT: [&[u8]; 4] =
    [b".boot.text", b".service.text", b".service.rodata", b".boot.rela.dyn"];

/// The image with zeros where nothing depends on the bytes.
pub(crate) fn image(image: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    let word = |at: usize, bytes: usize| -> usize {
        let field = image.get(at..at + bytes).unwrap_or_default();
        field.iter().rev().fold(0, |word, byte| word << 8 | usize::from(*byte))
    };
    let (sections, count, names) = (word(40, 8), word(60, 2), word(62, 2));
    let names = word(sections + names * 64 + 24, 8);
    let is_irrelevant = |at: usize| {
        let name = image.get(names + word(at, 4)..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        IRRELEVANT.contains(&name)
    };
    let spans: Vec<_> = (0..count)
        .map(|index| sections + index * 64)
        .filter(|at| is_irrelevant(*at))
        .map(|at| (word(at + 24, 8), word(at + 32, 8)))
        .collect();
    for (start, length) in spans {
        if let Some(bytes) = image.get_mut(start..start + length) {
            bytes.fill(0);
        }
    }
    shorten(&image)
}
