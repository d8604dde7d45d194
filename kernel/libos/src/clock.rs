//! Time inside the machine: microseconds since the service began, and the wall clock beside it.

use core::ops::Add;
use core::time::Duration;

/// A moment, in microseconds since the service began. It never goes backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    micros: u64,
}

impl Instant {
    /// The moment that never comes.
    pub const NEVER: Self = Self { micros: u64::MAX };

    /// The moment that many microseconds after the service began.
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// Microseconds since the service began.
    pub const fn as_micros(self) -> u64 {
        self.micros
    }

    /// How long ago `earlier` was; nothing if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// A later moment; one too far away to count is [`Instant::NEVER`].
    fn add(self, span: Duration) -> Self {
        // In 64 bits: every step of a connection adds several spans.
        let whole = span.as_secs().saturating_mul(1_000_000);
        let micros = whole.saturating_add(span.subsec_micros().into());
        Self { micros: self.micros.saturating_add(micros) }
    }
}

impl From<Instant> for smoltcp::time::Instant {
    fn from(instant: Instant) -> Self {
        Self::from_micros(i64::try_from(instant.micros).unwrap_or(i64::MAX))
    }
}

/// The time stamp counter as a clock, and the wall clock beside it.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    start_tsc: u64,
    /// Microseconds in 2^44 ticks, and ticks in 2^20 microseconds: multiply and shift, since a
    /// 128-bit division costs as much as all else a round does.
    micros_per_tick: u64,
    ticks_per_micro: u64,
    /// The wall clock when the service began, in microseconds since 1970-01-01 UTC.
    wall_micros: u64,
}

const MICRO_SHIFT: u32 = 44;
const TICK_SHIFT: u32 = 20;

impl TscClock {
    /// A clock that ran `tsc_hz` ticks a second and showed `start_tsc` when the service began.
    pub fn from_rate(tsc_hz: u64, start_tsc: u64) -> Self {
        let hz = u128::from(tsc_hz.max(1));
        Self {
            start_tsc,
            micros_per_tick: ((1_000_000_u128 << MICRO_SHIFT) / hz) as u64,
            ticks_per_micro: ((hz << TICK_SHIFT) / 1_000_000) as u64,
            wall_micros: 0,
        }
    }

    /// The moment at which the counter shows `tsc`.
    pub fn at_tsc(&self, tsc: u64) -> Instant {
        let ticks = u128::from(tsc.saturating_sub(self.start_tsc));
        Instant::from_micros(((ticks * u128::from(self.micros_per_tick)) >> MICRO_SHIFT) as u64)
    }

    /// What the counter shows at a moment; the counter's end for [`Instant::NEVER`].
    pub fn tsc_at(&self, instant: Instant) -> u64 {
        if instant == Instant::NEVER {
            return u64::MAX;
        }
        let ticks = (u128::from(instant.micros) * u128::from(self.ticks_per_micro)) >> TICK_SHIFT;
        // One more, so that the timer never comes a moment too early and the round finds nothing.
        let ticks = u64::try_from(ticks)
            .unwrap_or(u64::MAX)
            .saturating_add(self.ticks_per_micro >> TICK_SHIFT);
        self.start_tsc.saturating_add(ticks).min(u64::MAX - 1)
    }

    /// The wall clock at a moment, in seconds since 1970-01-01 UTC.
    pub fn unix_s(&self, now: Instant) -> u64 {
        self.wall_micros.saturating_add(now.micros) / 1_000_000
    }
}

#[cfg(target_os = "none")]
impl TscClock {
    pub(crate) fn new(handoff: &abi::handoff::Handoff) -> Self {
        let start = crate::arch::tsc();
        let mut clock = Self::from_rate(handoff.tsc_hz, start);
        let since = Self::from_rate(handoff.tsc_hz, handoff.wall_tsc).at_tsc(start);
        clock.wall_micros =
            handoff.wall_unix_s.saturating_mul(1_000_000).saturating_add(since.micros);
        clock
    }

    /// The time now.
    pub fn now(&self) -> Instant {
        self.at_tsc(crate::arch::tsc())
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::{Instant, TscClock};

    #[test]
    fn a_moment_too_far_away_never_comes() {
        let check = |from: u64, span, expected: Instant| {
            assert_eq!(Instant::from_micros(from) + span, expected);
        };
        check(5, Duration::new(3, 7_999), Instant::from_micros(3_000_012));
        check(1, Duration::from_micros(u64::MAX - 2), Instant::from_micros(u64::MAX - 1));
        check(3, Duration::from_micros(u64::MAX - 2), Instant::NEVER);
        check(0, Duration::from_secs(u64::MAX / 1_000_000 + 1), Instant::NEVER);
        check(0, Duration::MAX, Instant::NEVER);
    }

    #[test]
    fn a_deadline_never_comes_early() {
        for hz in [19_200_000, 999_999_937, 1_000_000_000, 3_417_600_123, 5_000_000_000] {
            let clock = TscClock::from_rate(hz, 12_345);
            for micros in [0, 1, 7, 1_000, 999_999, 86_400_000_000] {
                let instant = Instant::from_micros(micros);
                let seen = clock.at_tsc(clock.tsc_at(instant));
                // Within two microseconds and a millionth.
                let late = seen.as_micros() as i64 - micros as i64;
                let slack = 2 + micros as i64 / 1_000_000;
                assert!((-slack..=slack).contains(&late), "{hz} Hz, {micros}: {late}");
            }
            assert_eq!(clock.tsc_at(Instant::NEVER), u64::MAX);
        }
    }
}
