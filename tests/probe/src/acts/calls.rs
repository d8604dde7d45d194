//! The doors of the gate, knocked at in every wrong way.

use alloc::vec;
use core::arch::asm;
use core::hint::black_box;
use core::time::Duration;

use abi::gate::WOKE_BY_TIMER;
use libos::log::plain;
use libos::machine::Machine;

use super::{Act, Effect};

pub(super) const ACTS: &[(&str, Act)] = &[
    ("int", |_, vector| interrupt(vector)),
    ("log_length", |_, _| log_with_any_length()),
    ("log_registers", |_, _| log_keeps_registers()),
    ("call_flags", |_, _| call_with_flags()),
    ("call_stack", |_, address| call_with_stack(address)),
    ("idle_past", |_, _| idle_in_the_past()),
    ("idle_far", |_, _| idle_for_long()),
    ("idle_alive", |machine, _| idle_wakes_only_for_reasons(machine)),
    ("stop_reason", |_, reason| stop_with(reason)),
    ("stack_read_only", |_, _| fault_on_a_read_only_stack()),
    ("stack_null", |_, _| fault_on_no_stack()),
    ("stack_gate", |_, _| fault_on_the_gate_stack()),
];

/// What a service is allowed to do, in one go: heap, stack, clock, sleep.
pub(crate) fn control(machine: &Machine) {
    let bytes = black_box(vec![1_u8; 100_000]);
    let before = machine.clock.now();
    machine.idle(before + Duration::from_millis(5));
    let slept = machine.clock.now().since(before);
    let nic = machine.nic.as_ref().map(|nic| nic.mac);
    plain(format_args!("PROBE control: {} bytes, slept {slept:?}, NIC {nic:02x?}", bytes.len()));
}

/// `int N` for a number that is only known at run time: the instruction is written to no memory, so
/// all 256 of them stand in text, four bytes apart.
fn interrupt(vector: u64) -> Effect {
    let vector = vector & 0xff;
    // SAFETY: it is not: this is what the machine has to stop, but for the doors, which take
    // numbers; registers they change are declared.
    unsafe {
        asm!(
            "lea {table}, [rip + 2f]",
            "lea {table}, [{table} + {vector} * 4]",
            "call {table}",
            "jmp 3f",
            ".p2align 2",
            "2:",
            ".set number, 0",
            ".rept 256",
            ".byte 0xcd, number",
            "ret",
            "nop",
            ".set number, number + 1",
            ".endr",
            "3:",
            table = out(reg) _, vector = in(reg) vector,
            in("rdi") 0_u64, in("rsi") 0_u64, inout("rdx") 0_u64 => _,
            out("rax") _, out("rcx") _,
        )
    };
    if matches!(vector, 0x80..=0x85) {
        return Effect::None("a door of the gate took zeros");
    }
    Effect::Survived
}

fn log_with_any_length() -> Effect {
    for length in [0, 1, 16, 17, 1 << 31, u64::MAX] {
        // SAFETY: LOG takes two words and a count, and writes at most sixteen bytes.
        unsafe {
            asm!("int 0x81", in("rdi") 0x2e2e_2e2e_2e2e_2e2e_u64, in("rsi") 0x2e2e_2e2e_2e2e_2e2e_u64,
                 inout("rdx") length => _, out("rax") _, out("rcx") _)
        };
    }
    plain(format_args!(""));
    Effect::None("sixteen bytes at most were written each time")
}

/// Whether a call changes a register that it says it keeps, or leaves one of ring 0's values behind.
fn log_keeps_registers() -> Effect {
    let (kept, left): (u64, u64);
    // SAFETY: LOG with one byte, a line feed, so that every part of it runs.
    unsafe {
        asm!(
            "mov r8, 8", "mov r9, 9", "mov r10, 10", "mov r11, 11", "mov r12, 12", "mov r13, 13",
            "mov edi, 0x0a", "mov esi, 14", "mov edx, 1",
            "int 0x81",
            "or rcx, rax", "or rcx, rdx",
            "lea rax, [r8 + r9]", "add rax, r10", "add rax, r11", "add rax, r12", "add rax, r13",
            "add rax, rdi", "add rax, rsi",
            out("rax") kept, out("rcx") left, out("rdx") _, out("rdi") _, out("rsi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _,
        )
    };
    match (kept, left) {
        (87, 0) => Effect::None("every register came back, and nothing else"),
        _ => Effect::Survived,
    }
}

/// Every flag that ring 3 may set: direction, nested task, alignment check (which lifts SMAP).
fn call_with_flags() -> Effect {
    // SAFETY: LOG with no bytes, then IDLE with a deadline that has passed. The stack is as it was
    // and the flags are put back.
    unsafe {
        asm!(
            "pushfq", "push 0x244402", "popfq",
            "xor edx, edx", "int 0x81",
            "push 0x244402", "popfq",
            "xor edi, edi", "int 0x80",
            "popfq",
            out("rax") _, out("rcx") _, out("rdx") _, out("rdi") _,
        )
    };
    Effect::None("two calls came back")
}

/// A call needs no stack of ours.
fn call_with_stack(address: u64) -> Effect {
    // SAFETY: LOG with no bytes; nothing touches our stack while it is out of reach.
    unsafe {
        asm!(
            "mov r12, rsp", "mov rsp, {}",
            "xor edx, edx", "int 0x81",
            "mov rsp, r12",
            in(reg) address, out("r12") _, out("rax") _, out("rcx") _, out("rdx") _,
        )
    };
    Effect::None("the call came back")
}

/// A deadline in centuries: the timer has 32 bits, and the longest sleep is a sleep all the same.
fn idle_for_long() -> Effect {
    let reason: u64;
    // SAFETY: IDLE takes a number.
    unsafe {
        asm!("int 0x80", in("rdi") u64::MAX - 1, out("rax") reason, out("rcx") _, out("rdx") _)
    };
    if reason == WOKE_BY_TIMER { Effect::None("the longest sleep ended") } else { Effect::Survived }
}

fn idle_in_the_past() -> Effect {
    for deadline in [0_u64, 1] {
        // SAFETY: IDLE takes a number.
        unsafe { asm!("int 0x80", in("rdi") deadline, out("rax") _, out("rcx") _, out("rdx") _) };
    }
    Effect::None("a deadline that has passed ends the sleep at once")
}

/// Sleeps a hundred times: an interrupt that firmware left alive would reach a vector without gate
/// and end the machine, or wake us for no reason.
fn idle_wakes_only_for_reasons(machine: &Machine) -> Effect {
    for _ in 0..100 {
        let until = machine.clock.tsc_at(machine.clock.now() + Duration::from_millis(2));
        let reason: u64;
        // SAFETY: IDLE takes a number.
        unsafe { asm!("int 0x80", in("rdi") until, out("rax") reason, out("rcx") _, out("rdx") _) };
        if reason != WOKE_BY_TIMER {
            return Effect::Survived;
        }
    }
    Effect::None("only the timer woke us")
}

fn stop_with(reason: u64) -> Effect {
    // SAFETY: STOP does not return.
    unsafe { asm!("int 0x82", in("rdi") reason, options(noreturn)) }
}

/// Faults while the stack pointer points to `address`: the CPU must switch to the gate's stack.
fn fault_with_stack(address: u64) -> Effect {
    // SAFETY: it does not come back.
    unsafe { asm!("mov rsp, {}", "ud2", in(reg) address, options(noreturn)) }
}

fn fault_on_a_read_only_stack() -> Effect {
    static CONSTANT: [u64; 8] = [1; 8];
    fault_with_stack(CONSTANT.as_ptr() as u64 + 32)
}

fn fault_on_no_stack() -> Effect {
    fault_with_stack(0)
}

fn fault_on_the_gate_stack() -> Effect {
    fault_with_stack(0xffff_ffff_ffc0_8800)
}
