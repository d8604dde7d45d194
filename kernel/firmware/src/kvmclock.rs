//! KVM's paravirtual clock: two structures that the host fills in when it is told where.
//!
//! Source: Linux, `Documentation/virt/kvm/x86/msr.rst`, `MSR_KVM_WALL_CLOCK_NEW` and
//! `MSR_KVM_SYSTEM_TIME_NEW`. All fields are little-endian.

use crate::{u8_at, u32_at, u64_at};

/// Bytes of the wall clock's structure: version, seconds, nanoseconds.
pub const WALL_CLOCK_BYTES: usize = 12;

/// Bytes of the system time's structure.
pub const SYSTEM_TIME_BYTES: usize = 32;

const NANOSECONDS: u128 = 1_000_000_000;

/// The hosts' clocks are later than this, and earlier than the year 3000.
const LAST_UNIX_S: u64 = 32_503_680_000;

/// The wall clock in seconds since 1970-01-01 UTC when the time stamp counter was `tsc`.
///
/// `None` while the host writes (an odd version), if it has never written (version 0), or if what
/// it wrote is no time.
pub fn unix_seconds(
    wall_clock: &[u8; WALL_CLOCK_BYTES],
    system_time: &[u8; SYSTEM_TIME_BYTES],
    tsc: u64,
) -> Option<u64> {
    let is_whole = |version: u32| version != 0 && version.is_multiple_of(2);
    let versions = [u32_at(wall_clock, 0)?, u32_at(system_time, 0)?];
    if !versions.into_iter().all(is_whole) {
        return None;
    }
    let boot_s = u32_at(wall_clock, 4)?;
    let boot_ns = u32_at(wall_clock, 8)?;
    let stamp = u64_at(system_time, 8)?;
    let since_boot_ns = u64_at(system_time, 16)?;
    let multiplier = u32_at(system_time, 24)?;
    let shift = u8_at(system_time, 28)?.cast_signed();
    let ticks = u128::from(tsc.checked_sub(stamp)?);
    let scaled = match shift {
        0..=31 => ticks << shift,
        -31..=-1 => ticks >> shift.unsigned_abs(),
        _ => return None,
    };
    let since_stamp_ns = scaled.checked_mul(multiplier.into())? >> 32;
    let ns = u128::from(boot_s) * NANOSECONDS
        + u128::from(boot_ns)
        + u128::from(since_boot_ns)
        + since_stamp_ns;
    u64::try_from(ns / NANOSECONDS).ok().filter(|seconds| *seconds < LAST_UNIX_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(version: u32, s: u32, ns: u32) -> [u8; WALL_CLOCK_BYTES] {
        let mut bytes = [0; WALL_CLOCK_BYTES];
        for (to, word) in bytes.chunks_exact_mut(4).zip([version, s, ns]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn system(version: u32, stamp: u64, ns: u64, mul: u32, shift: i8) -> [u8; SYSTEM_TIME_BYTES] {
        let mut bytes = [0; SYSTEM_TIME_BYTES];
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        bytes[8..16].copy_from_slice(&stamp.to_le_bytes());
        bytes[16..24].copy_from_slice(&ns.to_le_bytes());
        bytes[24..28].copy_from_slice(&mul.to_le_bytes());
        bytes[28] = shift.to_le_bytes()[0];
        bytes
    }

    /// 2 GHz: half a nanosecond a tick, as a fraction of 2^32.
    const HALF: u32 = 1 << 31;

    #[test]
    fn adds_boot_host_and_ticks() {
        let second = 1_000_000_000;
        // Booted at 1,000.5 s; 20.25 s on the host; half a second of ticks since.
        let now = unix_seconds(
            &wall(2, 1000, 500_000_000),
            &system(4, 7, 20 * second + 250_000_000, HALF, 0),
            7 + second,
        );
        assert_eq!(now, Some(1021));
        // The same rate, said with a shift either way.
        for (mul, shift) in [(HALF >> 3, 3), (HALF, 0)] {
            let system = system(4, 0, 0, mul, shift);
            assert_eq!(unix_seconds(&wall(2, 5, 0), &system, 6 * second), Some(8));
        }
        let slow = system(2, 0, 0, u32::MAX, -1);
        assert_eq!(unix_seconds(&wall(2, 5, 0), &slow, 6 * second), Some(7));
    }

    #[track_caller]
    fn refused(wall: [u8; WALL_CLOCK_BYTES], system: [u8; SYSTEM_TIME_BYTES], tsc: u64) {
        assert_eq!(unix_seconds(&wall, &system, tsc), None);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let (good_wall, good_system) = (wall(2, 5, 0), system(2, 10, 0, HALF, 0));
        assert!(unix_seconds(&good_wall, &good_system, 10).is_some());
        refused(wall(0, 5, 0), good_system, 10);
        refused(wall(3, 5, 0), good_system, 10);
        refused(good_wall, system(0, 10, 0, HALF, 0), 10);
        refused(good_wall, system(1, 10, 0, HALF, 0), 10);
        // A counter that was stamped in the future, a shift no host has, more time than there is.
        refused(good_wall, good_system, 9);
        refused(good_wall, system(2, 10, 0, HALF, 32), 10);
        refused(good_wall, system(2, 10, 0, HALF, -128), 10);
        refused(good_wall, system(2, 0, 0, u32::MAX, 31), u64::MAX);
    }
}
