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

/// Reserved: `notify(queue)`, for transports whose doorbell shares a page with configuration.
pub const NOTIFY: u8 = 0x83;

/// Reserved: `quote(nonce)`, the one TPM command that is left after the seal.
pub const QUOTE: u8 = 0x84;

/// Reserved: `tpm_read(offset)`, eight bytes of the TPM's answer.
pub const TPM_READ: u8 = 0x85;

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
