//! The seal record and the canonical rows: what a verifier compares.

use seal_core::{
    Controls, Kind, Malformed, Place, Row, SEAL_RECORD_BYTES, SealRecord, audit, write_canonical,
};

use crate::machine::{GATE_BASE, Memory, PAGE, SERVICE_BASE, layout, region, sample};

fn record() -> SealRecord {
    let layout = layout(&sample()).unwrap();
    let memory = Memory::write(&layout);
    let proof = audit(&memory, memory.root, &layout).unwrap();
    let controls = Controls { cr0: 1, cr4: 2, efer: 3, xcr0: 4, ..Controls::default() };
    SealRecord::new(&proof, &controls, [0xaa; 32], [0xbb; 32])
}

#[test]
fn the_record_is_the_contract_byte_by_byte() {
    let mut expected = b"BULLASR\x01".to_vec();
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0xaa; 32]);
    expected.extend([0xbb; 32]);
    for register in [1, 2, 3, 4, 0_u64] {
        expected.extend(register.to_le_bytes());
    }
    assert_eq!(expected.len(), SEAL_RECORD_BYTES);
    assert_eq!(record().encode(), *expected);
    assert_eq!(SealRecord::parse(&expected), Ok(record()));
}

#[track_caller]
fn check(at: usize, value: u8, expected: Malformed) {
    let mut bytes = record().encode();
    bytes[at] = value;
    assert_eq!(SealRecord::parse(&bytes), Err(expected));
}

#[test]
fn refuses_what_has_no_meaning() {
    check(7, 2, Malformed::Magic(u64::from_le_bytes(*b"BULLASR\x02")));
    check(8, 0, Malformed::Flags(0));
    check(8, 3, Malformed::Flags(3));
    check(15, 1, Malformed::Flags(1 << 56 | 1));
    check(112, 1, Malformed::Reserved(1));
    check(119, 1, Malformed::Reserved(1 << 56));
    let bytes = record().encode();
    assert_eq!(SealRecord::parse(&bytes[..119]), Err(Malformed::Size(119)));
    assert_eq!(SealRecord::parse(&[bytes.as_slice(), &[0]].concat()), Err(Malformed::Size(121)));
    assert_eq!(SealRecord::parse(&[]), Err(Malformed::Size(0)));
}

#[test]
fn rows_say_nothing_of_frames_and_of_the_base() {
    let text = |base: u64, frame: u64| {
        let heap = region(Kind::Heap, base + 0x5000, frame, 3);
        let stack = region(Kind::GateStack, GATE_BASE, frame + 0x1_0000, 1);
        let mut text = String::new();
        write_canonical([heap, stack].map(|it| Row::of(&it, base)), &mut text).unwrap();
        text
    };
    let expected = "bulla layout 1\n\
        heap|+0x5000|0x3000|ring 3 rw- write-back\n\
        gate stack|0xffffffff80000000|0x1000|ring 0 rw- write-back\n";
    assert_eq!(text(SERVICE_BASE, 0x10_0000), expected);
    assert_eq!(text(SERVICE_BASE + 77 * PAGE, 0x20_0000), expected);
    assert_eq!(Place::Service(0).to_string(), "+0x0");
}
