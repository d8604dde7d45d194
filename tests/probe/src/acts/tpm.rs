//! The TPM: what boot left of it, and its two doors, knocked at in every wrong way.

use core::arch::asm;
use core::time::Duration;

use abi::PAGE_BYTES;
use abi::gate::{
    ANSWER_FAILED, ANSWER_PENDING, ANSWER_READY, QUOTE_ABSENT, QUOTE_BUSY, QUOTE_STARTED,
};
use libos::attest::{Answer, Begin, Quoter};
use libos::log::plain;
use libos::machine::Machine;

use super::{Act, Effect};

/// Ring 0's addresses of the registers and of the answer (kernel/boot/src/arch/gate.rs).
const TPM: u64 = 0xffff_ffff_ffc1_1000;
const ANSWER: u64 = TPM + PAGE_BYTES;

/// Where a PC's TPM has its registers.
const REGISTERS: u64 = 0xfed4_0000;

/// A CRB's control area: the register that starts a command.
const START: u64 = 0x4c;

/// How often we look for an answer, 10 ms apart.
const PATIENCE: usize = 1000;

/// Bytes of a line in hexadecimal.
const LINE_BYTES: usize = 64;

pub(super) const ACTS: &[(&str, Act)] = &[
    ("write_tpm", |_, _| super::memory::write(TPM + START)),
    ("read_tpm", |_, _| super::memory::read(TPM)),
    ("write_tpm_answer", |_, _| super::memory::write(ANSWER)),
    ("read_tpm_answer", |_, _| super::memory::read(ANSWER + 512)),
    ("touch_tpm_registers", |_, _| super::memory::write(REGISTERS + START)),
    ("write_record", |machine, _| super::memory::write(machine.handoff().record.start)),
    ("quote", |machine, number| quote(machine, number as u8)),
    ("quote_twice", |machine, _| quote_twice(machine)),
    ("quote_extremes", |machine, _| quote_extremes(machine)),
    ("quote_registers", |_, _| quote_keeps_registers()),
    ("tpm_read_anything", |machine, _| read_anything(machine)),
    ("secret_is_taken", |machine, _| secret_is_taken(machine)),
];

/// Says what boot recorded and what the TPM answers about 32 bytes `number`.
fn quote(machine: &mut Machine, number: u8) -> Effect {
    let Some(record) = machine.record() else { return Effect::None("there is no TPM") };
    say("event_log", record.event_log);
    say("ak_public", record.ak_public);
    say("pcr_values", record.pcr_values);
    say("seal_record", record.seal_record);
    say("key_file", record.key_file);
    say("ek_certificate", record.ek_certificate);
    say("credential_answer", record.credential_answer);
    let Some(mut quoter) = machine.take_quoter() else { return Effect::Survived };
    if machine.take_quoter().is_some() || quoter.begin(&[number; 32]) != Begin::Started {
        return Effect::Survived;
    }
    for _ in 0..PATIENCE {
        match quoter.poll() {
            Answer::Pending => sleep(machine),
            Answer::Ready(response) => {
                say("response", &response);
                return Effect::None("the TPM answered");
            }
            Answer::Failed => return Effect::Survived,
        }
    }
    Effect::Survived
}

/// Bytes in hexadecimal, a few a line.
fn say(name: &str, bytes: &[u8]) {
    struct Hex<'a>(&'a [u8]);
    impl core::fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }
    for line in bytes.chunks(LINE_BYTES) {
        plain(format_args!("TPM {name} {}", Hex(line)));
    }
}

fn sleep(machine: &Machine) {
    machine.idle(machine.clock.now() + Duration::from_millis(10));
}

/// `quote` as it is: `rax`, and what must be zero.
fn raw_quote(words: [u64; 4]) -> (u64, u64) {
    let (reply, left): (u64, u64);
    // SAFETY: QUOTE takes four words and changes three registers.
    unsafe {
        asm!("int 0x84", "or rcx, rdx", in("rdi") words[0], in("rsi") words[1],
             inout("rdx") words[2] => _, in("r8") words[3], out("rax") reply, out("rcx") left)
    };
    (reply, left)
}

/// `tpm_read` as it is: `rax` and `rdx`.
fn raw_read(offset: u64) -> (u64, u64) {
    let (word, state): (u64, u64);
    // SAFETY: TPM_READ takes a number and changes three registers.
    unsafe { asm!("int 0x85", in("rdi") offset, out("rax") word, out("rdx") state, out("rcx") _) };
    (word, state)
}

/// Reads until there is an answer; whether there is one.
fn settle(machine: &Machine) -> bool {
    for _ in 0..PATIENCE {
        match raw_read(0) {
            (_, ANSWER_READY) => return true,
            (0, ANSWER_PENDING) => sleep(machine),
            _ => return false,
        }
    }
    false
}

/// One after the other, and one while the other is under way.
fn quote_twice(machine: &Machine) -> Effect {
    if raw_quote([1; 4]) == (QUOTE_ABSENT, 0) {
        return Effect::None("there is no TPM");
    }
    let second = raw_quote([2; 4]);
    if second != (QUOTE_BUSY, 0) || !settle(machine) {
        return Effect::Survived;
    }
    let (first, _) = raw_read(0);
    for _ in 0..3 {
        if raw_quote([3; 4]) != (QUOTE_STARTED, 0) || !settle(machine) || raw_read(0).0 != first {
            return Effect::Survived;
        }
    }
    Effect::None("each got its answer, and the second had to wait")
}

/// Words that no bytes would be, and calls before, while and after.
fn quote_extremes(machine: &Machine) -> Effect {
    if raw_quote([u64::MAX; 4]).0 == QUOTE_ABSENT {
        return Effect::None("there is no TPM");
    }
    let kernel = 0xffff_ffff_ffc0_8000;
    for words in [[0; 4], [u64::MAX; 4], [kernel; 4], [1 << 63, 0x10_0000, 0x8000_0000, TPM]] {
        let _whatever = raw_quote(words);
        if !settle(machine) || raw_quote(words).0 != QUOTE_STARTED || !settle(machine) {
            return Effect::Survived;
        }
    }
    Effect::None("the TPM answers as before")
}

/// Offsets of every kind at every time: none reaches anything but the answer.
fn read_anything(machine: &Machine) -> Effect {
    let offsets = [
        0,
        1,
        7,
        8,
        504,
        505,
        511,
        512,
        513,
        520,
        4095,
        4096,
        1 << 31,
        1 << 32,
        1 << 47,
        1 << 63,
        u64::MAX,
        u64::MAX - 511,
        0_u64.wrapping_sub(512),
        0_u64.wrapping_sub(8),
        ANSWER,
        TPM,
    ];
    if offsets.iter().any(|offset| raw_read(*offset) != (0, ANSWER_FAILED)) {
        return Effect::Survived;
    }
    if raw_quote([7; 4]).0 == QUOTE_ABSENT {
        return Effect::None("there is no TPM");
    }
    // While it computes: nothing, or the beginning of an answer.
    let early = offsets.map(raw_read);
    if !settle(machine) {
        return Effect::Survived;
    }
    let word = |offset| raw_read(offset).0;
    let [_, _, a, b, c, d, ..] = word(0).to_le_bytes();
    let end = u64::from(u32::from_be_bytes([a, b, c, d]));
    let is_answer = |offset: u64, (seen, state): (u64, u64)| {
        let within = offset < end.next_multiple_of(8);
        state == ANSWER_READY && seen == if within { word(offset & !7) } else { 0 }
    };
    let good = offsets.iter().all(|offset| is_answer(*offset, raw_read(*offset)));
    let early_good = offsets
        .iter()
        .zip(early)
        .all(|(offset, seen)| seen == (0, ANSWER_PENDING) || is_answer(*offset, seen));
    // Behind the answer's last byte everything is zero.
    let tail = word(end & !7) >> (8 * (end & 7));
    if good && early_good && (end.is_multiple_of(8) || tail == 0) {
        return Effect::None("nothing but the answer was read");
    }
    Effect::Survived
}

/// Whether a call changes a register that it says it keeps, or leaves one of ring 0's values behind.
fn quote_keeps_registers() -> Effect {
    let (kept, left): (u64, u64);
    // SAFETY: QUOTE, then TPM_READ until it has fetched the answer or says that there is none; every
    // register that they keep is given a value of its own.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "mov ebx, 3", "mov ebp, 5", "mov r8, 8", "mov r9, 9", "mov r10, 10", "mov r11, 11",
            "mov r12, 12", "mov r13, 13", "mov r14, 14", "mov r15, 15",
            "mov edi, 16", "mov esi, 17", "mov edx, 18",
            "int 0x84",
            "mov r14, rcx", "or r14, rdx",
            "2:", "int 0x85",
            "or r14, rcx",
            "cmp edx, 1", "je 2b",
            "lea rax, [rbx + rbp]", "add rax, r8", "add rax, r9", "add rax, r10", "add rax, r11",
            "add rax, r12", "add rax, r13", "add rax, r15", "add rax, rdi", "add rax, rsi",
            "pop rbp", "pop rbx",
            out("rax") kept, out("r14") left, out("rcx") _, out("rdx") _, out("rdi") _,
            out("rsi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("r13") _, out("r15") _,
        )
    };
    match (kept, left) {
        (119, 0) => Effect::None("every register came back, and nothing else"),
        _ => Effect::Survived,
    }
}

/// The secret was erased where boot left it, and comes out once at most.
fn secret_is_taken(machine: &mut Machine) -> Effect {
    let handoff = machine.handoff();
    let is_erased = handoff.sealed_secret == [0; 4] && handoff.has_sealed_secret == 0;
    let first = machine.take_sealed_secret();
    if !is_erased || machine.take_sealed_secret().is_some() {
        return Effect::Survived;
    }
    match first {
        Some(_) => Effect::None("there was a secret"),
        None => Effect::None("there is no secret"),
    }
}
