//! Ring 3's side of the CPU: the entry stub, the calls through the gate, the clock and RDRAND.
//!
//! Why assembly here is sound, said once: the service is one thread on one CPU, interrupts are off
//! in ring 3 for ever, and the gate keeps every register but `rax`, `rcx` and `rdx`, never takes an
//! address and never touches the service's memory.

mod entry;

pub(crate) use entry::is_known;

use core::arch::asm;

use abi::gate::{IDLE, LOG, LOG_BYTES, NOTIFY, QUOTE, STOP, Stop, TPM_READ};

use crate::attest::gate::Doors;

/// Sleeps until the time stamp counter reaches a value, a device interrupts, or nothing at all.
pub(crate) fn idle(until_tsc: u64) {
    // SAFETY: see the module; IDLE takes a number and changes three registers.
    unsafe {
        asm!("int {call}", call = const IDLE, in("rdi") until_tsc,
             out("rax") _, out("rcx") _, out("rdx") _);
    }
}

/// Writes bytes to the console, sixteen a call.
pub(crate) fn log(bytes: &[u8]) {
    for chunk in bytes.chunks(LOG_BYTES) {
        let mut words = [0_u8; LOG_BYTES];
        for (to, from) in words.iter_mut().zip(chunk) {
            *to = *from;
        }
        let [low, high] = [0, 8].map(|at| {
            words
                .get(at..)
                .and_then(<[u8]>::first_chunk)
                .map_or(0, |word| u64::from_le_bytes(*word))
        });
        // SAFETY: see the module; LOG takes two words and a count.
        unsafe {
            asm!("int {call}", call = const LOG, in("rdi") low, in("rsi") high,
                 inout("rdx") chunk.len() => _, out("rax") _, out("rcx") _,
                 options(nostack));
        }
    }
}

/// Rings the bell of a card that only the gate reaches.
pub(crate) fn notify(queue: u16) {
    // SAFETY: see the module; NOTIFY takes a number. It says whether there is such a bell, which is
    // asked only where the handoff said so.
    unsafe {
        asm!("int {call}", call = const NOTIFY, in("rdi") u64::from(queue),
             out("rax") _, out("rcx") _, out("rdx") _);
    }
}

/// The gate's two calls that reach the TPM.
#[derive(Debug)]
pub(crate) struct TpmDoors;

impl Doors for TpmDoors {
    fn quote(&mut self, [first, second, third, fourth]: [u64; 4]) -> u64 {
        let reply;
        // SAFETY: see the module; QUOTE takes four words.
        unsafe {
            asm!("int {call}", call = const QUOTE, in("rdi") first, in("rsi") second,
                 inout("rdx") third => _, in("r8") fourth, out("rax") reply, out("rcx") _,
                 options(nostack));
        }
        reply
    }

    fn tpm_read(&mut self, offset: u64) -> (u64, u64) {
        let (word, state);
        // SAFETY: see the module; TPM_READ takes a number.
        unsafe {
            asm!("int {call}", call = const TPM_READ, in("rdi") offset, out("rax") word,
                 out("rdx") state, out("rcx") _, options(nostack));
        }
        (word, state)
    }
}

/// Ends the machine.
pub(crate) fn stop(reason: Stop) -> ! {
    // SAFETY: see the module; STOP does not return.
    unsafe { asm!("int {call}", call = const STOP, in("rdi") reason as u64, options(noreturn)) }
}

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: every x86_64 CPU has RDTSC, and CR4.TSD is 0, so ring 3 may use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// One random word from the CPU, or `None` when it has none at the moment.
pub(crate) fn rdrand() -> Option<u64> {
    let value: u64;
    let carry: u8;
    // SAFETY: boot refuses a CPU without RDRAND; the instruction writes a register and flags.
    unsafe {
        asm!("rdrand {value}", "setc {carry}", value = out(reg) value, carry = out(reg_byte) carry,
             options(nomem, nostack));
    }
    // All ones with carry set is how a broken generator was seen to fail (AMD, 2019).
    (carry == 1 && value != u64::MAX).then_some(value)
}

/// The current privilege level, from the code segment's selector.
fn privilege() -> u16 {
    let selector: u16;
    // SAFETY: reading CS has no effect.
    unsafe { asm!("mov {0:x}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector & 3
}
