//! Which privileged instructions the gate is meant to hold, and why. What has no reason here is
//! refused; who gives the gate a new one writes its reason down.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::ports;
use super::sweep::Sweep;
use crate::layout;

/// Where the gate stores by an address of its own: the register's offset in the local APIC (Intel
/// SDM 3A, table 11-1), and why.
const STORES: [(u64, &str); 2] = [
    (0xb0, "tells the local APIC that the interrupt was taken (EOI)"),
    (0x380, "arms or stops the one-shot timer (initial count)"),
];

/// Whether it is a return to where an exception, an interrupt or a call came from, in 64 bits.
pub(super) fn is_own_iretq(instruction: &Instruction) -> bool {
    instruction.code() == Code::Iretq
}

/// Why the gate holds its privileged instruction `number`, or nothing.
pub(super) fn reason(sweep: &Sweep, number: usize) -> Option<&'static str> {
    let instruction = sweep.instruction(number)?;
    match instruction.mnemonic() {
        Mnemonic::Iretq if is_the_drop(sweep, number) => {
            Some("the drop: boot's frame leads to ring 3, interrupts off, for ever")
        }
        Mnemonic::Iretq => Some("back to where the call or the interrupt came from"),
        Mnemonic::Sti => (follows(sweep, number) == Some([Mnemonic::Hlt, Mnemonic::Cli]))
            .then_some("takes effect after the hlt: no wake-up is lost between the two"),
        Mnemonic::Hlt if precedes(sweep, number) == Some(Mnemonic::Sti) => {
            Some("idle: sleeps until an interrupt, the only place where one is taken")
        }
        Mnemonic::Hlt
            if precedes(sweep, number) == Some(Mnemonic::Cli) && is_loop(sweep, number) =>
        {
            Some("the end: halts with interrupts off, again if anything wakes it")
        }
        Mnemonic::Cli if precedes(sweep, number) == Some(Mnemonic::Hlt) => {
            Some("idle is over: interrupts are off again before anything else")
        }
        Mnemonic::Cli if sweep.instruction(number.checked_add(1)?)?.mnemonic() == Mnemonic::Hlt => {
            Some("the end: nothing may wake it")
        }
        Mnemonic::Mov => (instruction.code() == Code::Mov_r64_cr
            && instruction.op1_register() == Register::CR2)
            .then_some("where a page fault happened, for the crash record"),
        Mnemonic::In | Mnemonic::Out => ports::reason(sweep, number),
        _ => None,
    }
}

/// Why the gate writes where this instruction writes, or nothing.
pub(super) fn store(instruction: &Instruction) -> Option<&'static str> {
    let is_fixed = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    let offset = instruction.memory_displacement64().checked_sub(layout::LOCAL_APIC)?;
    let found = STORES.into_iter().find(|(register, _)| is_fixed && *register == offset);
    found.map(|(_, reason)| reason)
}

/// Whether nothing but setting registers comes before: the stack, then zeros.
fn is_the_drop(sweep: &Sweep, number: usize) -> bool {
    let before = sweep.between(0, number);
    before.iter().all(|it| matches!(it.mnemonic(), Mnemonic::Mov | Mnemonic::Xor))
}

/// The two instructions behind one.
fn follows(sweep: &Sweep, number: usize) -> Option<[Mnemonic; 2]> {
    let next = number.checked_add(1)?;
    let [first, second] = sweep.between(next, next.checked_add(2)?) else { return None };
    Some([first.mnemonic(), second.mnemonic()])
}

/// The instruction before one.
fn precedes(sweep: &Sweep, number: usize) -> Option<Mnemonic> {
    Some(sweep.instruction(number.checked_sub(1)?)?.mnemonic())
}

/// Whether a jump back to the `cli` before follows.
fn is_loop(sweep: &Sweep, number: usize) -> bool {
    let before = number.checked_sub(1).and_then(|at| sweep.instruction(at));
    let after = number.checked_add(1).and_then(|at| sweep.instruction(at));
    match (before, after) {
        (Some(before), Some(after)) => {
            after.mnemonic() == Mnemonic::Jmp && after.near_branch_target() == before.ip()
        }
        _ => false,
    }
}
