//! The card whose bell the gate rings: called in every wrong way, and its registers touched.

use core::arch::asm;
use core::time::Duration;

use abi::gate::{NOTIFY_REFUSED, NOTIFY_RUNG, WOKE_BY_DEVICE};
use libos::machine::Machine;

use super::memory::{read, write};
use super::{Act, Effect};

/// Where ring 0 has the card's registers, and where QEMU's microvm has the last of them.
const REGISTERS: u64 = 0xffff_ffff_ffc1_3000;
const PHYSICAL: u64 = 0xfeb0_2e00;

/// How often a bell is rung for nothing.
const RINGS: u32 = 1_000;

/// What is no queue: neighbours, other widths' zeros and ones, places of other registers, and numbers
/// that look like addresses.
const EXTREMES: [u64; 12] = [
    2,
    3,
    0x14,
    0xffff,
    0x1_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    REGISTERS,
    1 << 63,
    1 << 63 | 1,
    u64::MAX,
];

pub(super) const ACTS: &[(&str, Act)] = &[
    ("notify_queues", |machine, _| both_queues(machine)),
    ("notify_extremes", |machine, _| extremes(machine)),
    ("notify_registers", |_, _| keeps_registers()),
    ("notify_for_nothing", |machine, _| for_nothing(machine)),
    ("write_card", |_, _| write(REGISTERS)),
    ("read_card", |_, _| read(REGISTERS)),
    ("touch_card_registers", |_, _| write(PHYSICAL)),
];

/// `notify` as it is: `rax`, and what must be zero.
pub(super) fn raw_notify(queue: u64) -> (u64, u64) {
    let (reply, left): (u64, u64);
    // SAFETY: NOTIFY takes a number and changes three registers.
    unsafe {
        asm!("int 0x83", "or rcx, rdx", in("rdi") queue, out("rax") reply, out("rcx") left,
             inout("rdx") u64::MAX => _)
    };
    (reply, left)
}

/// What the gate answers for a queue that there is.
fn answer(machine: &Machine) -> (u64, &'static str) {
    match machine.handoff().nic.receive.doorbell {
        0 => (NOTIFY_RUNG, "the gate rang both bells"),
        _ => (NOTIFY_REFUSED, "the gate rings no bell here"),
    }
}

fn both_queues(machine: &Machine) -> Effect {
    let (expected, words) = answer(machine);
    let is_right = [0, 1].into_iter().all(|queue| raw_notify(queue) == (expected, 0));
    if is_right { Effect::None(words) } else { Effect::Survived }
}

fn extremes(machine: &Machine) -> Effect {
    let is_refused = EXTREMES.into_iter().all(|queue| raw_notify(queue) == (NOTIFY_REFUSED, 0));
    if !is_refused {
        return Effect::Survived;
    }
    // And the card, if the gate rings it, is as it was.
    match both_queues(machine) {
        Effect::None(_) => Effect::None("what is no queue was refused"),
        Effect::Survived => Effect::Survived,
    }
}

/// Whether a call changes a register that it says it keeps, or leaves one of ring 0's values behind.
fn keeps_registers() -> Effect {
    let (kept, left): (u64, u64);
    // SAFETY: NOTIFY with a queue that there is; every register that it keeps is given a value of its
    // own.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "mov ebx, 3", "mov ebp, 5", "mov r8, 8", "mov r9, 9", "mov r10, 10", "mov r11, 11",
            "mov r12, 12", "mov r13, 13", "mov r14, 14", "mov r15, 15",
            "mov edi, 1", "mov esi, 17", "mov edx, 18",
            "int 0x83",
            "or rcx, rdx",
            "lea rax, [rbx + rbp]", "add rax, r8", "add rax, r9", "add rax, r10", "add rax, r11",
            "add rax, r12", "add rax, r13", "add rax, r14", "add rax, r15", "add rax, rdi",
            "add rax, rsi",
            "pop rbp", "pop rbx",
            out("rax") kept, out("rcx") left, out("rdx") _, out("rdi") _, out("rsi") _, out("r8") _,
            out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _,
            out("r15") _,
        )
    };
    match (kept, left) {
        (118, 0) => Effect::None("every register came back, and nothing else"),
        _ => Effect::Survived,
    }
}

/// Bells without anything to do, then sleeps: a line that stayed raised would wake us each time.
fn for_nothing(machine: &Machine) -> Effect {
    for _ in 0..RINGS {
        for queue in [0, 1] {
            raw_notify(queue);
        }
    }
    let mut woken = 0;
    for _ in 0..100 {
        let until = machine.clock.tsc_at(machine.clock.now() + Duration::from_millis(2));
        let reason: u64;
        // SAFETY: IDLE takes a number.
        unsafe { asm!("int 0x80", in("rdi") until, out("rax") reason, out("rcx") _, out("rdx") _) };
        woken += u32::from(reason & WOKE_BY_DEVICE != 0);
    }
    // A frame from the network may come meanwhile, and no more than a few.
    if woken < 10 { Effect::None("the card was silent") } else { Effect::Survived }
}
