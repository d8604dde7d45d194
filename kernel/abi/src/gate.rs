//! The doors of the gate: the only way from the service to ring 0.
//!
//! A call is `int N`. Arguments are values in registers, never addresses: no pointer crosses the
//! gate. Unless a call says otherwise, the gate keeps every register but `rax`, `rcx` and `rdx`.

/// `idle(rdi = TSC deadline)`: sleeps until the deadline, a device or nothing at all wakes it.
///
/// [`NO_DEADLINE`] sleeps until a device interrupts. A deadline that has passed sleeps for the
/// shortest time the timer knows. Returns in `rax` why it woke: a set of [`WOKE_BY_TIMER`] and
/// [`WOKE_BY_DEVICE`]; an empty set is a spurious wake-up.
pub const IDLE: u8 = 0x80;

/// `log(rdi, rsi, rdx = length)`: writes up to [`LOG_BYTES`] bytes to the console.
///
/// The bytes lie in `rdi` then `rsi`, the lowest byte first. A longer length means 16.
pub const LOG: u8 = 0x81;

/// `stop(rdi = reason)`: prints a record, then resets or powers off as the image says. No return.
pub const STOP: u8 = 0x82;

/// `notify(rdi = queue)`: rings a network card whose doorbell shares its page with configuration.
///
/// Returns in `rax` one of [`NOTIFY_RUNG`] and [`NOTIFY_REFUSED`]; `rcx` and `rdx` are zero.
pub const NOTIFY: u8 = 0x83;

/// The device was told.
pub const NOTIFY_RUNG: u64 = 0;

/// There is no such queue, or the service has the doorbell's page and needs no gate.
pub const NOTIFY_REFUSED: u64 = 1;

/// `quote(rdi, rsi, rdx, r8 = 32 bytes)`: starts the one TPM command that is left after the seal.
///
/// The bytes are the quote's qualifying data, the lowest byte of `rdi` first; boot wrote the rest of
/// the command. It never waits for the TPM to compute. Returns in `rax` one of [`QUOTE_STARTED`],
/// [`QUOTE_BUSY`] and [`QUOTE_ABSENT`]; `rcx` and `rdx` are zero.
pub const QUOTE: u8 = 0x84;

/// `tpm_read(rdi = offset)`: eight bytes of the TPM's answer to the last quote.
///
/// The offset is rounded down to a multiple of 8. Returns the bytes in `rax`, the first one lowest,
/// and in `rdx` one of [`ANSWER_READY`], [`ANSWER_PENDING`] and [`ANSWER_FAILED`]; beyond the
/// answer's end, and without an answer, the bytes are zero. `rcx` is zero.
pub const TPM_READ: u8 = 0x85;

/// The command was started; [`TPM_READ`] says when there is an answer.
pub const QUOTE_STARTED: u64 = 0;

/// An earlier command has not been answered, or the TPM does not take one at the moment.
pub const QUOTE_BUSY: u64 = 1;

/// The machine has no TPM.
pub const QUOTE_ABSENT: u64 = 2;

/// The answer is complete.
pub const ANSWER_READY: u64 = 0;

/// The TPM is still computing.
pub const ANSWER_PENDING: u64 = 1;

/// There is no answer: nothing was asked, the TPM failed, or there is none.
pub const ANSWER_FAILED: u64 = 2;

/// The longest answer that the gate keeps: a P-256 quote with 16 PCRs takes some 240 bytes.
pub const ANSWER_BYTES: usize = 512;

/// How many bytes one [`LOG`] call carries.
pub const LOG_BYTES: usize = 16;

/// The deadline that never comes.
pub const NO_DEADLINE: u64 = u64::MAX;

/// Woken by the one-shot timer.
pub const WOKE_BY_TIMER: u64 = 1;

/// Woken by a device.
pub const WOKE_BY_DEVICE: u64 = 2;

/// The interrupt vector of the one-shot timer.
pub const TIMER_VECTOR: u8 = 0x30;

/// The interrupt vector of a NIC's receive queue.
pub const RECEIVE_VECTOR: u8 = 0x31;

/// The interrupt vector of a NIC's transmit queue.
pub const TRANSMIT_VECTOR: u8 = 0x32;

/// The last vector that is a device's.
pub const LAST_DEVICE_VECTOR: u8 = 0x3f;

/// The interrupt vector the local APIC uses for interrupts that vanished.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Why a service stops. The number is all that crosses the gate.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The service finished what it was there for.
    Done = 0,
    /// The service panicked: a bug of ours.
    Panic = 1,
    /// Memory ran out although the budget says it cannot: a bug of ours.
    OutOfMemory = 2,
    /// A device answered nonsense.
    DeviceFault = 3,
    /// The handoff or the configuration is not what the service was built for.
    BadHandoff = 4,
    /// The platform's source of entropy failed.
    NoEntropy = 5,
    /// A probe that had to be stopped by the machine was not.
    ProbeSurvived = 6,
}

/// Every vector that may be a device's.
pub const DEVICE_RANGE: core::ops::RangeInclusive<u8> = RECEIVE_VECTOR..=LAST_DEVICE_VECTOR;
