//! The configuration section: a fixed header that boot reads, then bytes only the service reads.
//!
//! The header is all that boot takes from a configuration, and it is a handful of numbers: nothing
//! is parsed in ring 0 that a person wrote.

use crate::{PAGE_BYTES, Span, u64_at};

/// The first eight bytes; the last one is the version.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BULLACF\x01");

/// Bytes of the header; the service's payload follows it.
pub const HEADER_BYTES: usize = 64;

/// The largest heap an image may ask for: 64 GiB.
pub const MAX_HEAP_BYTES: u64 = 64 << 30;

/// The largest service stack an image may ask for: 16 MiB.
pub const MAX_STACK_BYTES: u64 = 16 << 20;

/// The largest payload: 16 MiB.
pub const MAX_PAYLOAD_BYTES: u64 = 16 << 20;

/// What happens after the record of a crash or a stop.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// Reset: the machine boots again from the same sealed image.
    Reset = 0,
    /// Power off.
    PowerOff = 1,
    /// Halt the CPU for good, with the record on the console.
    Halt = 2,
}

/// The header of the configuration section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the heap, whole pages.
    pub heap_bytes: u64,
    /// Bytes of the service's stack, whole pages.
    pub stack_bytes: u64,
    /// What happens after a stop.
    pub on_stop: OnStop,
    /// Whether the service needs a NIC.
    pub needs_nic: bool,
    /// When the image was built, in seconds since 1970-01-01 UTC: the wall clock's floor.
    pub build_unix_s: u64,
    /// Bytes of the service's payload, which begins right after the header.
    pub payload_bytes: u64,
}

/// Why bytes are not a configuration section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A field holds a value that has no meaning.
    Field {
        /// The field's name.
        name: &'static str,
        /// What it holds.
        value: u64,
    },
    /// It is another kind of file, or another version of this one.
    Magic(u64),
    /// It ends before its own end.
    Truncated {
        /// Bytes that it says it has.
        needed: u64,
        /// Bytes that are there.
        actual: u64,
    },
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Field { name, value } => write!(f, "configuration field {name} is {value}"),
            Self::Magic(magic) => write!(f, "configuration begins with {magic:#018x}"),
            Self::Truncated { needed, actual } => {
                write!(f, "configuration needs {needed} bytes but has {actual}")
            }
        }
    }
}

impl core::error::Error for Malformed {}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let words = [
            MAGIC,
            self.heap_bytes,
            self.stack_bytes,
            self.on_stop as u64,
            u64::from(self.needs_nic),
            self.build_unix_s,
            self.payload_bytes,
            0,
        ];
        let mut bytes = [0; HEADER_BYTES];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads and checks a header at the start of `section`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the first thing that is wrong. Every bit pattern is either understood
    /// whole or refused.
    pub fn parse(section: &[u8]) -> Result<Self, Malformed> {
        let actual = section.len() as u64;
        let truncated = Malformed::Truncated { needed: HEADER_BYTES as u64, actual };
        let word = |index: usize| u64_at(section, index * 8).ok_or(truncated);
        let magic = word(0)?;
        if magic != MAGIC {
            return Err(Malformed::Magic(magic));
        }
        let pages = |name, value: u64, max: u64| {
            let is_whole = value > 0 && value.is_multiple_of(PAGE_BYTES) && value <= max;
            is_whole.then_some(value).ok_or(Malformed::Field { name, value })
        };
        let header = Self {
            heap_bytes: pages("heap_bytes", word(1)?, MAX_HEAP_BYTES)?,
            stack_bytes: pages("stack_bytes", word(2)?, MAX_STACK_BYTES)?,
            on_stop: match word(3)? {
                0 => OnStop::Reset,
                1 => OnStop::PowerOff,
                2 => OnStop::Halt,
                value => return Err(Malformed::Field { name: "on_stop", value }),
            },
            needs_nic: match word(4)? {
                0 => false,
                1 => true,
                value => return Err(Malformed::Field { name: "needs_nic", value }),
            },
            build_unix_s: word(5)?,
            payload_bytes: word(6)?,
        };
        if header.payload_bytes > MAX_PAYLOAD_BYTES {
            let value = header.payload_bytes;
            return Err(Malformed::Field { name: "payload_bytes", value });
        }
        if word(7)? != 0 {
            return Err(Malformed::Field { name: "reserved", value: word(7)? });
        }
        let needed = HEADER_BYTES as u64 + header.payload_bytes;
        if needed > actual {
            return Err(Malformed::Truncated { needed, actual });
        }
        Ok(header)
    }

    /// The payload's place in a section of this header.
    pub fn payload(&self) -> Span {
        Span::new(HEADER_BYTES as u64, self.payload_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Header = Header {
        heap_bytes: 8 << 20,
        stack_bytes: 256 << 10,
        on_stop: OnStop::Reset,
        needs_nic: true,
        build_unix_s: 1_700_000_000,
        payload_bytes: 3,
    };

    #[track_caller]
    fn check(change: impl FnOnce(&mut [u8]), expected: Malformed) {
        let mut section = [0; HEADER_BYTES + 3];
        section[..HEADER_BYTES].copy_from_slice(&GOOD.encode());
        change(&mut section);
        assert_eq!(Header::parse(&section), Err(expected));
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let mut section = [7; HEADER_BYTES + 3];
        section[..HEADER_BYTES].copy_from_slice(&GOOD.encode());
        assert_eq!(Header::parse(&section), Ok(GOOD));
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        check(|s| s[0] = b'X', Malformed::Magic(MAGIC + 22));
        check(|s| s[8] = 1, Malformed::Field { name: "heap_bytes", value: (8 << 20) + 1 });
        check(|s| s[8..16].fill(0), Malformed::Field { name: "heap_bytes", value: 0 });
        check(
            |s| s[22] = 0x20,
            Malformed::Field { name: "stack_bytes", value: (256 << 10) + (0x20 << 48) },
        );
        check(|s| s[24] = 3, Malformed::Field { name: "on_stop", value: 3 });
        check(|s| s[32] = 2, Malformed::Field { name: "needs_nic", value: 2 });
        check(|s| s[48] = 4, Malformed::Truncated { needed: 68, actual: 67 });
        check(|s| s[55] = 1, Malformed::Field { name: "payload_bytes", value: (1 << 56) + 3 });
        check(|s| s[63] = 1, Malformed::Field { name: "reserved", value: 1 << 56 });
        let expected = Malformed::Truncated { needed: 64, actual: 10 };
        assert_eq!(Header::parse(&GOOD.encode()[..10]), Err(expected));
    }
}
