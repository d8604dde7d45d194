//! The interrupt descriptor table: every bit of every gate.

use abi::Span;
use abi::gate::{
    IDLE, LOG, NOTIFY, QUOTE, RECEIVE_VECTOR, SPURIOUS_VECTOR, STOP, TIMER_VECTOR, TPM_READ,
};
use seal_core::{IDT_BYTES, Violation, audit_idt};

const TEXT: Span = Span::new(0xffff_ffff_8000_1000, 0x1000);

/// One handler every eight bytes for the exceptions, then the machine's own.
fn handler(vector: u8) -> Option<u64> {
    let has_one = matches!(vector, 0..=31 | TIMER_VECTOR | RECEIVE_VECTOR | SPURIOUS_VECTOR)
        || [IDLE, LOG, STOP, NOTIFY, QUOTE, TPM_READ].contains(&vector);
    has_one.then_some(TEXT.start + u64::from(vector) * 8)
}

fn write() -> [u8; IDT_BYTES] {
    let mut idt = [0; IDT_BYTES];
    for vector in 0..=255 {
        let Some(target) = handler(vector) else { continue };
        let gate = &mut idt[usize::from(vector) * 16..][..16];
        gate[..2].copy_from_slice(&target.to_le_bytes()[..2]);
        gate[2..4].copy_from_slice(&[8, 0]);
        gate[4] = match vector {
            2 => 1,
            8 => 2,
            18 => 3,
            _ => 0,
        };
        gate[5] = if [0x80, 0x81, 0x82, 0x83, 0x84, 0x85].contains(&vector) { 0xee } else { 0x8e };
        gate[6..12].copy_from_slice(&target.to_le_bytes()[2..]);
    }
    idt
}

#[test]
fn accepts_what_was_promised() {
    let facts = audit_idt(&write(), TEXT, handler).unwrap();
    assert_eq!((facts.gates(), facts.calls()), (41, 6));
}

#[test]
fn finds_every_bit_that_is_flipped() {
    let mut idt = write();
    for byte in 0..IDT_BYTES {
        for bit in 0..8 {
            idt[byte] ^= 1 << bit;
            let vector = (byte / 16) as u8;
            match audit_idt(&idt, TEXT, handler) {
                Err(Violation::Gate { vector: found, .. }) => assert_eq!(found, vector),
                other => panic!("bit {bit} of byte {byte}: {other:?}"),
            }
            idt[byte] ^= 1 << bit;
        }
    }
}

#[test]
fn wants_a_gate_for_every_vector_that_the_machine_needs() {
    let needed = (0..=8).chain(10..=14).chain(16..=21).chain([
        TIMER_VECTOR,
        SPURIOUS_VECTOR,
        IDLE,
        LOG,
        STOP,
        NOTIFY,
        QUOTE,
        TPM_READ,
    ]);
    let needed: Vec<u8> = needed.collect();
    for missing in 0..=255 {
        let without = |vector: u8| handler(vector).filter(|_| vector != missing);
        let mut idt = write();
        idt[usize::from(missing) * 16..][..16].fill(0);
        let seen = audit_idt(&idt, TEXT, without);
        if needed.contains(&missing) {
            assert_eq!(seen, Err(Violation::MissingGate { vector: missing }));
        } else {
            assert!(seen.is_ok(), "{missing}");
        }
    }
}

#[test]
fn refuses_a_gate_that_leads_out_of_the_gate_even_if_promised() {
    for text in [Span::new(TEXT.start + 1, 0x1000), Span::new(TEXT.start, 0xff * 8)] {
        let seen = audit_idt(&write(), text, handler);
        assert!(matches!(seen, Err(Violation::GateOutside { .. })), "{seen:?}");
    }
    let seen = audit_idt(&write(), Span::default(), handler);
    let target = TEXT.start;
    assert_eq!(seen, Err(Violation::GateOutside { vector: 0, target }));
}

#[test]
fn says_which_gate_is_wrong() {
    let mut idt = write();
    idt[0x30 * 16 + 5] = 0xee;
    let violation = audit_idt(&idt, TEXT, handler).unwrap_err();
    assert_eq!(violation.to_string(), "IDT gate 0x30 has privilege 0x3, promised 0x0");
}
