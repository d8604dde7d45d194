//! The tables by which the CPU enters ring 0, read from memory: IDT, GDT and task state.

use super::{Finding, Memory, PAGE, Walk};

/// Ring 0's addresses (kernel/boot/src/arch/gate.s).
pub(super) const REGION: u64 = 0xffff_ffff_ffc0_0000;
pub(super) const GATE_TEXT: u64 = REGION + 0x2000;
const TASK_STATE: u64 = REGION + 0x3000;
const IDT: u64 = REGION + 0x5000;
const GDT: u64 = REGION + 0x6000;
const STACK_TOP: u64 = REGION + 0x9000;
const INTERRUPT_STACK_TOPS: [u64; 3] = [REGION + 0xb000, REGION + 0xd000, REGION + 0xf000];

/// Null; code and data of ring 0; data and code of ring 3; a task state in use. Each is marked
/// accessed, so that the CPU never writes here (Intel SDM 3A, 3.4.5.1).
const SEGMENTS: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0xff00_8bc0_3000_0067,
    0x0000_0000_ffff_ffff,
];

/// The doors that ring 3 may call: idle, log, stop, notify, quote and tpm_read.
const DOORS: [usize; 6] = [0x80, 0x81, 0x82, 0x83, 0x84, 0x85];

/// Everything in the three tables that is not as promised.
pub(super) fn findings(memory: &Memory, walk: &Walk) -> Vec<Finding> {
    let frame = |virt, what| walk.at(virt).map(|leaf| leaf.phys).ok_or(Finding::Missing(what));
    let tables = || -> Result<Vec<Finding>, Finding> {
        let text = frame(GATE_TEXT, "the gate")?;
        let mut findings = gates(memory, frame(IDT, "the IDT")?);
        findings.extend(exceptions_lead_into(memory, text, frame(IDT, "the IDT")?));
        findings.extend(segments(memory, frame(GDT, "the GDT")?));
        findings.extend(task_state(memory, frame(TASK_STATE, "the task state")?));
        Ok(findings)
    };
    tables().unwrap_or_else(|finding| vec![finding])
}

/// Whether a vector has a gate: the CPU's exceptions, what the PIC may still send, the timer and
/// the devices, the doors, the spurious interrupt.
fn has_gate(vector: usize) -> bool {
    matches!(vector, 0..=21 | 0x20..=0x3f | 0xff) || DOORS.contains(&vector)
}

fn interrupt_stack(vector: usize) -> u64 {
    match vector {
        2 => 1,
        8 => 2,
        18 => 3,
        _ => 0,
    }
}

/// The gates of 64-bit mode (Intel SDM 3A, figure 6-8).
fn gates(memory: &Memory, idt: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for index in 0..256 {
        let place = idt + 16 * index as u64;
        let (low, high) = (memory.number::<8>(place), memory.number::<8>(place + 8));
        let (Some(low), Some(high)) = (low, high) else { return vec![Finding::Missing("the IDT")] };
        let mut complain = |what| findings.push(Finding::Slot { table: "IDT", index, what });
        if !has_gate(index) {
            if low | high != 0 {
                complain("a vector that is nobody's has a gate");
            }
            continue;
        }
        let privilege = if DOORS.contains(&index) { 3 } else { 0 };
        // Selector 8, present, system, interrupt gate; the rest of the middle is zero.
        let middle = 0x8e00 | privilege << 13 | interrupt_stack(index);
        if (low >> 32 & 0xffff, low >> 16 & 0xffff) != (middle, 0x08) {
            complain("privilege, type, stack or segment is wrong");
        }
        if !(GATE_TEXT..GATE_TEXT + PAGE).contains(&target(low, high)) || high >> 32 != 0 {
            complain("it leads out of the gate");
        }
    }
    findings
}

fn target(low: u64, high: u64) -> u64 {
    low & 0xffff | (low >> 48) << 16 | high << 32
}

/// Each exception's stub pushes its own number (`6a NN`), after a zero (`6a 00`) where the CPU
/// pushes no error code.
fn exceptions_lead_into(memory: &Memory, text: u64, idt: u64) -> Vec<Finding> {
    let is_right = |index: usize| {
        let place = idt + 16 * index as u64;
        let target = target(memory.number::<8>(place)?, memory.number::<8>(place + 8)?);
        let stub = memory.bytes(text + target.checked_sub(GATE_TEXT)?, 4)?;
        let number = [0x6a, u8::try_from(index).ok()?];
        let has_error = matches!(index, 8 | 10..=14 | 17 | 21);
        Some(if has_error {
            stub.starts_with(&number)
        } else {
            stub == [[0x6a, 0], number].concat()
        })
    };
    (0..22)
        .filter(|&index| is_right(index) != Some(true))
        .map(|index| Finding::Slot { table: "IDT", index, what: "its stub is another's" })
        .collect()
}

fn segments(memory: &Memory, gdt: u64) -> Vec<Finding> {
    let differs = |(index, promised): (usize, &u64)| {
        let found = memory.number::<8>(gdt + 8 * index as u64);
        let what = "the descriptor is another";
        (found != Some(*promised)).then_some(Finding::Slot { table: "GDT", index, what })
    };
    SEGMENTS.iter().enumerate().filter_map(differs).collect()
}

/// The task state of 64-bit mode (Intel SDM 3A, figure 8-11): stacks, and no I/O map, so no port.
fn task_state(memory: &Memory, task: u64) -> Vec<Finding> {
    let [first, second, third] = INTERRUPT_STACK_TOPS;
    let fields = [(4, STACK_TOP), (36, first), (44, second), (52, third)];
    let zeros = [0_u64, 12, 20, 28, 60, 68, 76, 84, 92];
    let mut findings = Vec::new();
    let mut complain = |index, what| {
        findings.push(Finding::Slot { table: "task state", index, what });
    };
    for (offset, promised) in fields {
        if memory.number::<8>(task + offset) != Some(promised) {
            complain(offset as usize, "a stack is another");
        }
    }
    for offset in zeros {
        let bytes =
            if offset == 0 { memory.number::<4>(task) } else { memory.number::<8>(task + offset) };
        if bytes != Some(0) {
            complain(offset as usize, "an unused field is not zero");
        }
    }
    // The map begins behind the limit of 103, and every port without a bit is denied (SDM 1,
    // 19.5.2).
    if memory.number::<2>(task + 102).is_none_or(|map| map < 104) {
        complain(102, "there is an I/O map");
    }
    findings
}
