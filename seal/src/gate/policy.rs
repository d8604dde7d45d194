//! Which privileged instructions the gate is meant to hold, and why. What has no reason here is
//! refused; who gives the gate a new one writes its reason down.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::ports;
use super::sweep::Sweep;
use crate::layout;

/// Where the gate stores by an address of its own, with how many bytes at most, and why: registers
/// of the local APIC (Intel SDM 3A, table 11-1), of a TPM (TCG PC Client Platform TPM Profile 1.06,
/// sections 6.5.2 and 6.5.3), and its one note of what the TPM is doing.
const STORES: [(u64, u64, &str); 7] = [
    (layout::LOCAL_APIC + 0xb0, 4, "tells the local APIC that the interrupt was taken (EOI)"),
    (layout::LOCAL_APIC + 0x380, 4, "arms or stops the one-shot timer (initial count)"),
    (TPM + 0x18, 1, "tells a TIS to take a command, to run it, or to forget it (status)"),
    (TPM + 0x24, 1, "hands a TIS a byte of the one command (data FIFO)"),
    (TPM + 0x40, 4, "makes a CRB ready or idle (control area request)"),
    (TPM + 0x4c, 4, "starts a CRB's one command (control area start)"),
    (ANSWER, 1, "remembers whether the TPM computes or its answer is here"),
];

/// Where the gate stores at an index that the instruction before keeps in bounds: the first byte,
/// how many bytes from there on, and why.
const BUFFERS: [(u64, u64, &str); 4] = [
    (TPM + 0x80, 128, "writes a byte of the one command into a CRB's buffer"),
    (ANSWER + 512, 512, "keeps the TPM's answer"),
    (DEVICE + 0x50, UNITS + 4, "rings the doorbell of a card on no bus (QueueNotify)"),
    (
        DEVICE + 0x64,
        UNITS + 4,
        "tells a card on no bus that its interrupt was taken (InterruptACK)",
    ),
];

/// The indices of a device's registers in their page (virtio 1.2, section 4.2.2): multiples of 512, so
/// that one register is never another.
const UNITS: u64 = 0xe00;

/// The registers that may be an index, each with its lower half.
const INDICES: [(Register, Register); 3] = [
    (Register::RAX, Register::EAX),
    (Register::RBX, Register::EBX),
    (Register::RCX, Register::ECX),
];

const TPM: u64 = layout::TPM.start;
const ANSWER: u64 = layout::TPM_ANSWER.start;
const DEVICE: u64 = layout::DEVICE.start;

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

/// Why the gate writes where its instruction `number` writes, or nothing.
pub(super) fn store(sweep: &Sweep, number: usize) -> Option<&'static str> {
    let instruction = sweep.instruction(number)?;
    let is_plain = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    if !is_plain {
        return None;
    }
    let start = instruction.memory_displacement64();
    let bytes = bytes_of(instruction)?;
    if instruction.memory_base() == Register::None {
        let found = STORES.into_iter().find(|it| it.0 == start && bytes <= it.1)?;
        return Some(found.2);
    }
    let last = index_bound(sweep, number)?;
    let reach = last.checked_add(bytes)?;
    let found = BUFFERS.into_iter().find(|it| it.0 == start && reach <= it.1)?;
    let is_unit = last & !UNITS == 0;
    (is_unit || !layout::DEVICE.contains(start)).then_some(found.2)
}

/// How many bytes a store writes.
fn bytes_of(instruction: &Instruction) -> Option<u64> {
    match instruction.memory_size() {
        MemorySize::UInt8 => Some(1),
        MemorySize::UInt16 => Some(2),
        MemorySize::UInt32 | MemorySize::Int32 => Some(4),
        MemorySize::UInt64 => Some(8),
        _ => None,
    }
}

/// The largest index that the store `number` can have: the instruction before is an `and` of the
/// same register with a constant, of 32 bits so that the upper half becomes zero, and no branch
/// comes in between the two.
fn index_bound(sweep: &Sweep, number: usize) -> Option<u64> {
    let (store, before) = (sweep.instruction(number)?, sweep.instruction(number.checked_sub(1)?)?);
    let masks = before.mnemonic() == Mnemonic::And
        && before.op0_kind() == OpKind::Register
        && INDICES.contains(&(store.memory_base(), before.op0_register()))
        && matches!(before.op1_kind(), OpKind::Immediate32 | OpKind::Immediate8to32);
    let is_entered = sweep.branches().any(|branch| branch.near_branch_target() == store.ip());
    // A negative constant clears nothing at the top: such a bound is none.
    let mask = masks.then(|| before.immediate(1)).filter(|mask| *mask <= 0xfff)?;
    (!is_entered).then_some(mask)
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
