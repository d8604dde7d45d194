//! The segments and the task state: every bit.

use seal_core::{
    GDT_BYTES, GDT_HEAD, Kind, Layout, Stacks, TSS_BYTES, Violation, audit_gdt, audit_tss,
};

use crate::machine::{GATE_BASE, layout, sample, stack_end};

const TSS: u64 = GATE_BASE + 0x5000;

fn gdt() -> [u8; GDT_BYTES] {
    let mut gdt = [0; GDT_BYTES];
    // The TSS at 0xffff_ffff_8000_5000: limit, base, busy, base; upper base.
    let words = GDT_HEAD.into_iter().chain([0x8000_8b00_5000_0067, 0xffff_ffff]);
    for (bytes, word) in gdt.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    gdt
}

#[test]
fn accepts_the_descriptors_that_boot_writes() {
    assert_eq!(audit_gdt(&gdt(), TSS), Ok(()));
    assert!(audit_gdt(&gdt(), TSS + 0x1000).is_err());
    assert!(audit_gdt(&gdt(), TSS & 0xffff_ffff).is_err());
}

#[test]
fn finds_every_bit_of_a_segment_that_is_flipped() {
    let mut gdt = gdt();
    for byte in 0..GDT_BYTES {
        for bit in 0..8 {
            gdt[byte] ^= 1 << bit;
            let selector = (byte / 8 * 8).min(0x28) as u16;
            match audit_gdt(&gdt, TSS) {
                Err(Violation::Segment { selector: found, .. }) => assert_eq!(found, selector),
                other => panic!("bit {bit} of byte {byte}: {other:?}"),
            }
            gdt[byte] ^= 1 << bit;
        }
    }
}

#[test]
fn refuses_a_table_of_another_size() {
    for bytes in [0, 8, 48, 55] {
        let seen = audit_gdt(&gdt()[..bytes], TSS);
        assert_eq!(seen, Err(Violation::SegmentTable { bytes }));
    }
    let longer = [gdt().as_slice(), &[0; 8]].concat();
    assert_eq!(audit_gdt(&longer, TSS), Err(Violation::SegmentTable { bytes: 64 }));
}

const STACKS: Stacks =
    Stacks { calls: stack_end(0), interrupts: [stack_end(1), stack_end(2), stack_end(3)] };

fn tss(stacks: &Stacks) -> [u8; TSS_BYTES] {
    let mut tss = [0; TSS_BYTES];
    tss[4..12].copy_from_slice(&stacks.calls.to_le_bytes());
    for (bytes, stack) in tss[36..60].chunks_exact_mut(8).zip(stacks.interrupts) {
        bytes.copy_from_slice(&stack.to_le_bytes());
    }
    tss[102] = 104;
    tss
}

fn audited(stacks: Stacks, layout: &Layout) -> Result<(), Violation> {
    audit_tss(&tss(&stacks), &stacks, layout)
}

#[test]
fn accepts_a_task_state_with_stacks_of_its_own() {
    assert_eq!(audited(STACKS, &layout(&sample()).unwrap()), Ok(()));
}

#[test]
fn finds_every_bit_of_the_task_state_that_is_flipped() {
    let layout = layout(&sample()).unwrap();
    let mut tss = tss(&STACKS);
    for byte in 0..TSS_BYTES {
        for bit in 0..8 {
            tss[byte] ^= 1 << bit;
            let seen = audit_tss(&tss, &STACKS, &layout);
            assert!(matches!(seen, Err(Violation::TaskState { .. })), "bit {bit} of byte {byte}");
            tss[byte] ^= 1 << bit;
        }
    }
}

#[test]
fn refuses_stacks_that_are_no_gate_stacks_even_if_promised() {
    let regions = sample();
    let layout = layout(&regions).unwrap();
    let refused = |field, top| Err(Violation::TaskStateStack { field, top });
    let calls = |top| audited(Stacks { calls: top, ..STACKS }, &layout);
    assert_eq!(calls(0), refused("RSP0", 0));
    assert_eq!(calls(stack_end(0) - 16), refused("RSP0", stack_end(0) - 16));
    assert_eq!(calls(stack_end(0) + 16), refused("RSP0", stack_end(0) + 16));
    for region in regions.iter().filter(|region| region.kind != Kind::GateStack) {
        let top = region.virt + region.length;
        assert_eq!(calls(top), refused("RSP0", top));
    }
    let [first, second, _] = STACKS.interrupts;
    let shared = Stacks { interrupts: [first, second, first], ..STACKS };
    assert_eq!(audited(shared, &layout), refused("IST3", first));
    let shared = Stacks { interrupts: [first, stack_end(0), second], ..STACKS };
    assert_eq!(audited(shared, &layout), refused("IST2", stack_end(0)));
}

#[test]
fn says_what_is_wrong() {
    let mut tss = tss(&STACKS);
    tss[102] = 0;
    let violation = audit_tss(&tss, &STACKS, &layout(&sample()).unwrap()).unwrap_err();
    assert_eq!(violation.to_string(), "TSS has I/O map base 0x0, promised 0x68");
}
