//! Registers, descriptor tables, the task state and virtqueue descriptors of any contents.
//!
//! Each is written as it has to be, by code of our own, and then changed. What is accepted has to be
//! equal to what our own code writes.

use abi::Span;
use abi::gate::{IDLE, LOG, NOTIFY, QUOTE, SPURIOUS_VECTOR, STOP, TIMER_VECTOR, TPM_READ};
use abi::ring::{
    Descriptor, RECEIVE_DESCRIPTORS, TRANSMIT_DESCRIPTORS, receive_descriptor, transmit_descriptor,
};
use seal_core::{
    Controls, Draft, IDT_BYTES, Kind, Layout, Promised, Region, Stacks, TSS_BYTES, TableRegister,
    Violation, audit_controls, audit_descriptors, audit_gdt, audit_idt, audit_tss,
};

use crate::input::Input;

/// More changes than this say nothing new.
const MAX_EDITS: usize = 32;

/// Changes bytes where the input says.
fn edit(bytes: &mut [u8], input: &mut Input<'_>) {
    for _ in 0..MAX_EDITS {
        if input.is_empty() || bytes.is_empty() {
            return;
        }
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] ^= input.u8();
    }
}

/// Accepted is what is equal to what we write, and nothing else is.
fn check<T>(result: Result<T, Violation>, is_as_written: bool) {
    match result {
        Ok(_) => assert!(is_as_written, "the audit accepts what differs"),
        Err(violation) => assert!(!violation.to_string().is_empty()),
    }
}

/// CR0 to SS.
pub fn controls(data: &[u8]) {
    let mut input = Input::new(data);
    let promised = Promised {
        root: input.u64(),
        gdt: input.u64(),
        idt: input.u64(),
        apic: input.u64(),
        has_umip: input.is_set(),
        has_avx: input.is_set(),
    };
    let good = good_controls(&promised);
    let mut words = good;
    for _ in 0..MAX_EDITS {
        if input.is_empty() {
            break;
        }
        let at = usize::from(input.u8()) % words.len();
        words[at] ^= if input.is_set() { input.u64() } else { 1 << (input.u8() % 64) };
    }
    // The flags that any ring may change, by name: carry, parity, adjust, zero, sign, overflow, ID.
    let free = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11 | 1 << 21;
    let mut compared = words;
    compared[5] &= !free;
    let result = audit_controls(&controls_of(&words), &promised);
    assert_eq!(result.is_ok(), compared.map(narrow(&good)) == good);
    check(result, true);
}

/// Only 16 bits of a limit or selector exist.
fn narrow(_: &[u64; 20]) -> impl FnMut(u64) -> u64 {
    let mut index = 0;
    move |word| {
        index += 1;
        if matches!(index, 14 | 16..=20) { word & 0xffff } else { word }
    }
}

fn good_controls(promised: &Promised) -> [u64; 20] {
    let cr4 = 0x34_0620 | u64::from(promised.has_umip) << 11;
    let xcr0 = 3 | u64::from(promised.has_avx) << 2;
    let apic = promised.apic | 0x900;
    [
        0x8001_0033,
        promised.root,
        cr4,
        0xd00,
        xcr0,
        2,
        0x400,
        0,
        0,
        0,
        0x0007_0406_0007_0406,
        apic,
        promised.gdt,
        55,
        promised.idt,
        0xfff,
        0x28,
        0,
        8,
        0x10,
    ]
}

fn controls_of(words: &[u64; 20]) -> Controls {
    let [cr0, cr3, cr4, efer, xcr0, rflags, dr7, sysenter_cs, star, lstar, rest @ ..] = *words;
    let [pat, apic_base, gdt, gdt_limit, idt, idt_limit, tr, ldtr, cs, ss] = rest;
    Controls {
        cr0,
        cr3,
        cr4,
        efer,
        xcr0,
        rflags,
        dr7,
        sysenter_cs,
        star,
        lstar,
        pat,
        apic_base,
        gdtr: TableRegister { base: gdt, limit: gdt_limit as u16 },
        idtr: TableRegister { base: idt, limit: idt_limit as u16 },
        tr: tr as u16,
        ldtr: ldtr as u16,
        cs: cs as u16,
        ss: ss as u16,
    }
}

/// The global descriptor table.
pub fn gdt(data: &[u8]) {
    let mut input = Input::new(data);
    let tss = input.u64();
    let low = 0x67 | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56;
    let words = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        low,
        tss >> 32,
    ];
    let good: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    let mut seen = good.clone();
    if input.u8() % 16 == 15 {
        seen.resize(usize::from(input.u8()), 0);
    }
    edit(&mut seen, &mut input);
    let result = audit_gdt(&seen, tss);
    assert_eq!(result.is_ok(), seen == good);
    check(result, seen == good);
}

/// What ring 3 may call.
const CALLS: [u8; 6] = [IDLE, LOG, STOP, NOTIFY, QUOTE, TPM_READ];

/// The vectors that have to have a gate.
fn is_needed(vector: u8) -> bool {
    let is_exception = vector < 22 && vector != 9 && vector != 15;
    is_exception || [TIMER_VECTOR, SPURIOUS_VECTOR].contains(&vector) || CALLS.contains(&vector)
}

/// The interrupt descriptor table.
pub fn idt(data: &[u8]) {
    let mut input = Input::new(data);
    let text = Span::new(input.u64(), u64::from(input.u16()));
    let mut handlers = [None; 256];
    for vector in 0..=u8::MAX {
        if is_needed(vector) {
            handlers[usize::from(vector)] = Some(text.start.wrapping_add(u64::from(vector)));
        }
    }
    for _ in 0..input.u8() % 8 {
        let vector = usize::from(input.u8());
        handlers[vector] = if input.is_set() { Some(input.u64()) } else { None };
    }
    let mut good = [0; IDT_BYTES];
    for (vector, gate) in (0..=u8::MAX).zip(good.as_chunks_mut::<16>().0) {
        if let Some(target) = handlers[usize::from(vector)] {
            *gate = interrupt_gate(vector, target);
        }
    }
    let mut seen = good;
    edit(&mut seen, &mut input);
    let is_sound = (0..=u8::MAX).all(|vector| match handlers[usize::from(vector)] {
        Some(target) => target.wrapping_sub(text.start) < text.length && target >= text.start,
        None => !is_needed(vector),
    });
    let result = audit_idt(&seen, text, |vector| handlers[usize::from(vector)]);
    assert_eq!(result.is_ok(), is_sound && seen == good);
    check(result, is_sound && seen == good);
}

/// An interrupt gate (Intel SDM 3A, figure 6-8).
fn interrupt_gate(vector: u8, target: u64) -> [u8; 16] {
    let stack = match vector {
        2 => 1,
        8 => 2,
        18 => 3,
        _ => 0,
    };
    let rights = if CALLS.contains(&vector) { 0xee } else { 0x8e };
    let [t0, t1, t2, t3, t4, t5, t6, t7] = target.to_le_bytes();
    [t0, t1, 8, 0, stack, rights, t2, t3, t4, t5, t6, t7, 0, 0, 0, 0]
}

const STACKS: u64 = 0xffff_ffff_ffc0_8000;

/// A layout with gate stacks of one page, every other page, and a doorbell's worth besides.
fn stacks_layout() -> Layout {
    let mut draft = Draft::new(40);
    let mut push = |kind, virt, phys| {
        let region = Region { kind, virt, phys, length: 4096 };
        draft.push(region).expect("a region that may be");
    };
    push(Kind::PageTables, STACKS - 0x10000, 0x1000);
    push(Kind::CrashRecord, STACKS - 0x20000, 0x2000);
    for number in 0..6 {
        push(Kind::GateStack, STACKS + number * 0x2000, 0x3000 + number * 0x1000);
    }
    draft.finish().expect("a layout that can be sealed")
}

/// The task state segment.
pub fn tss(data: &[u8]) {
    let mut input = Input::new(data);
    let mut tops: [u64; 4] = std::array::from_fn(|number| STACKS + 0x1000 + number as u64 * 0x2000);
    for _ in 0..input.u8() % 4 {
        let at = usize::from(input.u8()) % tops.len();
        tops[at] = match input.u8() % 4 {
            0 => input.u64(),
            1 => tops[usize::from(input.u8()) % tops.len()],
            _ => tops[at].wrapping_add(u64::from(input.u16()) << 8),
        };
    }
    let mut good = [0; TSS_BYTES];
    for (top, at) in tops.into_iter().zip([4, 36, 44, 52]) {
        good[at..at + 8].copy_from_slice(&top.to_le_bytes());
    }
    good[102] = 104;
    let mut seen = good;
    edit(&mut seen, &mut input);
    let is_end = |top: &u64| (0..6).any(|number| STACKS + 0x1000 + number * 0x2000 == *top);
    let is_distinct = (1..4).all(|at| !tops[..at].contains(&tops[at]));
    let is_sound = is_distinct && tops.iter().all(is_end);
    let [calls, interrupts @ ..] = tops;
    let result = audit_tss(&seen, &Stacks { calls, interrupts }, &stacks_layout());
    assert_eq!(result.is_ok(), is_sound && seen == good);
    check(result, is_sound && seen == good);
}

/// A virtqueue's descriptors.
pub fn descriptors(data: &[u8]) {
    let mut input = Input::new(data);
    let geometry: (u16, fn(u16) -> Option<Descriptor>) = if input.is_set() {
        (RECEIVE_DESCRIPTORS, receive_descriptor)
    } else {
        (TRANSMIT_DESCRIPTORS, transmit_descriptor)
    };
    let (count, expected) = geometry;
    let buffers = Span::new(input.u64(), u64::from(input.u32()));
    let mut good = Vec::new();
    let mut is_inside = buffers.end().is_some();
    for descriptor in (0..count).filter_map(expected) {
        let address = buffers.start.wrapping_add(descriptor.offset);
        good.extend_from_slice(&address.to_le_bytes());
        good.extend_from_slice(&descriptor.length.to_le_bytes());
        good.extend_from_slice(&descriptor.flags.to_le_bytes());
        good.extend_from_slice(&[0; 2]);
        is_inside &= descriptor.offset + u64::from(descriptor.length) <= buffers.length;
    }
    let mut seen = good.clone();
    let is_whole = match input.u8() % 8 {
        0 => {
            seen.truncate(usize::from(input.u16()));
            seen.len() == good.len()
        }
        1 => {
            // Zeros that the geometry does not know: the rest of a page, say.
            seen.resize(good.len() + usize::from(input.u16()), 0);
            seen.len().is_multiple_of(16) && seen.len() / 16 <= 1 << 15
        }
        _ => true,
    };
    edit(&mut seen, &mut input);
    good.resize(seen.len(), 0);
    let result = audit_descriptors(&seen, buffers, expected);
    assert_eq!(result.is_ok(), is_whole && is_inside && seen == good);
    check(result, is_whole && is_inside && seen == good);
}
