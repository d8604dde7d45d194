//! The audit of the interrupt descriptor table: the doors into ring 0.

use abi::Span;
use abi::gate::{IDLE, LOG, NOTIFY, QUOTE, SPURIOUS_VECTOR, STOP, TIMER_VECTOR, TPM_READ};

use crate::bits::{field, u64_at};
use crate::segments::KERNEL_CODE;
use crate::violation::Violation;

/// Bytes of the table: 256 gates.
pub const IDT_BYTES: usize = 256 * GATE_BYTES;

/// The limit that boot loads into IDTR.
pub const IDT_LIMIT: u16 = 0xfff;

/// The interrupt stack of the non-maskable interrupt.
pub const NMI_STACK: u8 = 1;

/// The interrupt stack of the double fault.
pub const DOUBLE_FAULT_STACK: u8 = 2;

/// The interrupt stack of the machine check.
pub const MACHINE_CHECK_STACK: u8 = 3;

const GATE_BYTES: usize = 16;

/// The vectors that ring 3 may call with `int`.
const CALLS: [u8; 6] = [IDLE, LOG, STOP, NOTIFY, QUOTE, TPM_READ];

/// A 64-bit interrupt gate (Intel SDM 3A table 3-2): it clears IF on the way in.
const INTERRUPT_GATE: u64 = 0xe;

/// Facts about an audited table, for the report.
#[derive(Debug, PartialEq, Eq)]
pub struct IdtFacts {
    gates: u16,
    calls: u16,
}

impl IdtFacts {
    /// How many vectors have a gate.
    pub fn gates(&self) -> u16 {
        self.gates
    }

    /// How many of them ring 3 may call.
    pub fn calls(&self) -> u16 {
        self.calls
    }
}

/// Compares every gate with what it has to be (Intel SDM 3A, figure 6-8).
///
/// A vector with a `handler` has an interrupt gate that leads to it, into the gate's text; every
/// other vector is all zeros. Ring 3 may call the doors of [`abi::gate`] and nothing else.
///
/// # Errors
///
/// The first [`Violation`], by vector.
pub fn audit_idt(
    idt: &[u8; IDT_BYTES],
    text: Span,
    handler: impl Fn(u8) -> Option<u64>,
) -> Result<IdtFacts, Violation> {
    let mut facts = IdtFacts { gates: 0, calls: 0 };
    for (vector, gate) in (0..=u8::MAX).zip(idt.as_chunks::<GATE_BYTES>().0) {
        let handler = handler(vector);
        if handler.is_none() && is_needed(vector) {
            return Err(Violation::MissingGate { vector });
        }
        check_gate(vector, gate, text, handler)?;
        let is_open = field(u64_at(gate, 0), 45, 2) == 3;
        facts.gates = facts.gates.saturating_add(u16::from(handler.is_some()));
        facts.calls = facts.calls.saturating_add(u16::from(is_open));
    }
    Ok(facts)
}

/// Whether the machine cannot do without a gate: the CPU's own exceptions (Intel SDM 3A table 6-1),
/// the timer, interrupts that vanished, and the doors.
fn is_needed(vector: u8) -> bool {
    matches!(vector, 0..=8 | 10..=14 | 16..=21 | TIMER_VECTOR | SPURIOUS_VECTOR)
        || CALLS.contains(&vector)
}

/// What follows from the vector alone: an exception that may strike when the stack is bad has a
/// stack of its own.
fn interrupt_stack(vector: u8) -> u64 {
    u64::from(match vector {
        2 => NMI_STACK,
        8 => DOUBLE_FAULT_STACK,
        18 => MACHINE_CHECK_STACK,
        _ => 0,
    })
}

fn check_gate(
    vector: u8,
    gate: &[u8; GATE_BYTES],
    text: Span,
    handler: Option<u64>,
) -> Result<(), Violation> {
    let (low, high) = (u64_at(gate, 0), u64_at(gate, 8));
    if handler.is_none() && low | high == 0 {
        return Ok(());
    }
    let target = field(low, 0, 16) | field(low, 48, 16) << 16 | field(high, 0, 32) << 32;
    let is_present = handler.is_some();
    let promise = |value: u64| if is_present { value } else { 0 };
    let privilege = if CALLS.contains(&vector) { 3 } else { 0 };
    let fields = [
        ("present bit", field(low, 47, 1), promise(1)),
        ("selector", field(low, 16, 16), promise(u64::from(KERNEL_CODE))),
        ("interrupt stack", field(low, 32, 3), promise(interrupt_stack(vector))),
        ("reserved bits", field(low, 35, 5), 0),
        ("type", field(low, 40, 4), promise(INTERRUPT_GATE)),
        ("system bit", field(low, 44, 1), 0),
        ("privilege", field(low, 45, 2), promise(privilege)),
        ("target", target, handler.unwrap_or(0)),
        ("reserved word", field(high, 32, 32), 0),
    ];
    if let Some((field, found, promised)) = fields.into_iter().find(|(_, found, to)| found != to) {
        return Err(Violation::Gate { vector, field, found, promised });
    }
    // Asked on its own: the promised target comes from whoever wrote the gate.
    if is_present && !text.contains(target) {
        return Err(Violation::GateOutside { vector, target });
    }
    Ok(())
}
