//! Which port an `in` or `out` of the gate reaches: read off the code, not believed.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::sweep::{Sweep, is_near_branch};
use crate::layout;

/// How far back the port number may come from.
const MAX_STEPS: usize = 16;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Ports whose number boot wrote into the gate's data, which nobody can change: the word's offset
/// there, what the gate adds, and why.
const PORTS: [(Way, u64, u64, &str); 4] = [
    (Way::In, 0, 5, "looks whether the console takes a byte (line status)"),
    (Way::Out, 0, 0, "writes a byte to the console"),
    (Way::Out, 8, 0, "powers the machine off (ACPI PM1a control)"),
    (Way::Out, 24, 0, "resets the machine (ACPI's reset register, or the chipset's)"),
];

/// The one port whose number is in the instruction.
const KEYBOARD_CONTROLLER: u64 = 0x64;

/// Why the gate holds the `in` or `out` with this number, or nothing.
pub(super) fn reason(sweep: &Sweep, number: usize) -> Option<&'static str> {
    let instruction = sweep.instruction(number)?;
    let (way, port) = match instruction.mnemonic() {
        Mnemonic::In => (Way::In, 1),
        Mnemonic::Out => (Way::Out, 0),
        _ => return None,
    };
    if instruction.op_kind(port) == OpKind::Immediate8 {
        let is_reset = way == Way::Out && instruction.immediate(port) == KEYBOARD_CONTROLLER;
        return is_reset.then_some("resets the machine (the keyboard controller's line)");
    }
    let (word, added) = port_of(sweep, number)?;
    let found = PORTS.into_iter().find(|it| (it.0, it.1, it.2) == (way, word, added));
    found.map(|(_, _, _, reason)| reason)
}

/// Where dx comes from: the word of the gate's data that was loaded, and what was added since.
///
/// Walks back in a straight line over instructions that are known to leave dx alone. That is the
/// whole truth only if no branch comes in from elsewhere, which is checked.
fn port_of(sweep: &Sweep, number: usize) -> Option<(u64, u64)> {
    let mut added: u64 = 0;
    for steps in 1..=MAX_STEPS {
        let at = number.checked_sub(steps)?;
        let instruction = sweep.instruction(at)?;
        if !writes_dx(instruction) {
            if leaves_dx_alone(instruction) {
                continue;
            }
            return None;
        }
        match (instruction.mnemonic(), instruction.op1_kind()) {
            (Mnemonic::Mov, OpKind::Memory) => {
                let is_ours = is_closed(sweep, at, number);
                return Some((data_word(instruction).filter(|_| is_ours)?, added));
            }
            (Mnemonic::Add, OpKind::Immediate8to16) => {
                added = added.wrapping_add(instruction.immediate(1));
            }
            (Mnemonic::Sub, OpKind::Immediate8to16) => {
                added = added.wrapping_sub(instruction.immediate(1));
            }
            _ => return None,
        }
    }
    None
}

/// The offset in the gate's data of the word that is loaded into dx.
fn data_word(instruction: &Instruction) -> Option<u64> {
    let is_fixed = instruction.op0_register() == Register::DX
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    let address = instruction.memory_displacement64();
    let offset = address.checked_sub(layout::GATE_DATA.start)?;
    (is_fixed && layout::GATE_DATA.contains(address)).then_some(offset)
}

fn writes_dx(instruction: &Instruction) -> bool {
    let is_dx = matches!(
        instruction.op0_register(),
        Register::DL | Register::DH | Register::DX | Register::EDX | Register::RDX
    );
    let only_reads =
        matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Out);
    is_dx && !only_reads
}

/// Whether an instruction that does not name dx as its target leaves it alone.
fn leaves_dx_alone(instruction: &Instruction) -> bool {
    let is_plain = matches!(
        instruction.mnemonic(),
        Mnemonic::Add
            | Mnemonic::And
            | Mnemonic::Cmp
            | Mnemonic::Dec
            | Mnemonic::In
            | Mnemonic::Inc
            | Mnemonic::Mov
            | Mnemonic::Or
            | Mnemonic::Out
            | Mnemonic::Sub
            | Mnemonic::Test
            | Mnemonic::Xor
    );
    let goes_on = !matches!(instruction.mnemonic(), Mnemonic::Jmp | Mnemonic::Call);
    is_plain || (is_near_branch(instruction) && goes_on)
}

/// Whether control comes to the instructions behind `from`, up to `to`, only through `from`, with
/// dx as it was then. A loop may lead back in from behind `to`, as long as it leaves dx alone.
fn is_closed(sweep: &Sweep, from: usize, to: usize) -> bool {
    let mut end = to;
    for _round in 0..MAX_STEPS {
        let enters = |branch: &&Instruction| {
            let target = sweep.number_at(branch.near_branch_target());
            let source = sweep.number_at(branch.ip());
            let is_inside = |number: usize| number > from && number <= end;
            target.is_some_and(is_inside) && !source.is_some_and(is_inside)
        };
        let Some(back) = sweep.branches().find(enters) else { return true };
        let source = sweep.number_at(back.ip()).filter(|source| *source > end);
        let Some(source) = source else { return false };
        let loop_body = sweep.between(end.saturating_add(1), source);
        if !loop_body.iter().all(|it| !writes_dx(it) && leaves_dx_alone(it)) {
            return false;
        }
        end = source;
    }
    false
}
