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
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self { micros: self.micros.saturating_add(micros) }
    }
}

impl From<Instant> for smoltcp::time::Instant {
    fn from(instant: Instant) -> Self {
        Self::from_micros(i64::try_from(instant.micros).unwrap_or(i64::MAX))
    }
}
