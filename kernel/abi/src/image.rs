//! The image: boot's own bytes, then the service's segments, then the configuration.
//!
//! `xtask image` lays the parts out so that boot can use each where the loader put it: every part
//! begins on a page of its own and its last page is filled up with zeros. Boot finds them through
//! one [`Manifest`] in its own read-only data, filled in when the image is composed.

use crate::{Span, is_page_aligned, page_up, u64_at};

/// The first eight bytes of a manifest; the last one is the version.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BULLAIM\x01");

/// The section of boot's ELF file that holds the empty manifest.
pub const SECTION: &str = ".manifest";

/// How many segments a service may have.
pub const MAX_SEGMENTS: usize = 6;

/// Bytes of a manifest.
pub const BYTES: usize = 8 * WORDS;

const WORDS: usize = 8 + 4 * MAX_SEGMENTS;

/// The largest service, from its first to its last virtual byte: 64 MiB.
pub const MAX_SERVICE_BYTES: u64 = 64 << 20;

/// What the CPU may do with a segment. Writable *and* executable has no number.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentAccess {
    /// Read and execute.
    Execute = 1,
    /// Read only.
    Read = 2,
    /// Read and write.
    ReadWrite = 3,
    /// Read only once boot has relocated it.
    ReadAfterRelocation = 4,
}

/// A run of the service's pages with one right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes are, from the first byte of boot's image; page aligned.
    pub offset: u64,
    /// Where it belongs, from the service's base; page aligned.
    pub address: u64,
    /// How many of its bytes are in the image (rounded up, the last page ends in zeros).
    pub file_bytes: u64,
    /// How many bytes it has in memory; what is not in the image is zero.
    pub memory_bytes: u64,
    /// What the CPU may do with it.
    pub access: SegmentAccess,
}

impl Segment {
    /// How many bytes of whole pages it has that are not in the image, and hence zero.
    pub const fn zeroed_bytes(&self) -> u64 {
        let (Some(memory), Some(file)) = (page_up(self.memory_bytes), page_up(self.file_bytes))
        else {
            return 0;
        };
        memory.saturating_sub(file)
    }
}

/// Where boot finds the other parts of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The entry point, from the service's base.
    pub entry: u64,
    /// The service's relative relocations in RELR form (gABI draft "Relative Relocation Table"):
    /// offset from boot's first byte, and size in bytes.
    pub relocations: Span,
    /// The configuration section: offset from boot's first byte, and size in bytes.
    pub configuration: Span,
    /// The service's segments, ascending by address; the unused ones are `None`.
    pub segments: [Option<Segment>; MAX_SEGMENTS],
}

/// Why bytes are not a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A field holds a value that has no meaning.
    Field {
        /// The field's name.
        name: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The image was never composed: this is boot alone.
    Empty,
    /// It is another kind of data, or another version of this one.
    Magic(u64),
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Field { name, value } => write!(f, "image field {name} is {value:#x}"),
            Self::Empty => {
                write!(f, "this is boot without a service; compose one with `cargo xtask image`")
            }
            Self::Magic(magic) => write!(f, "image manifest begins with {magic:#018x}"),
        }
    }
}

impl core::error::Error for Malformed {}

impl Manifest {
    /// The manifest's bytes.
    pub fn encode(&self) -> [u8; BYTES] {
        let mut words = [0; WORDS];
        words[..6].copy_from_slice(&[
            MAGIC,
            self.entry,
            self.relocations.start,
            self.relocations.length,
            self.configuration.start,
            self.configuration.length,
        ]);
        for (to, segment) in words[8..].chunks_exact_mut(4).zip(&self.segments) {
            if let Some(segment) = segment {
                to.copy_from_slice(&[
                    segment.offset | segment.access as u64,
                    segment.address,
                    segment.file_bytes,
                    segment.memory_bytes,
                ]);
            }
        }
        let mut bytes = [0; BYTES];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the first thing that is wrong.
    pub fn parse(bytes: &[u8; BYTES]) -> Result<Self, Malformed> {
        let word = |index: usize| u64_at(bytes, index * 8).unwrap_or(0);
        match word(0) {
            MAGIC => {}
            0 => return Err(Malformed::Empty),
            other => return Err(Malformed::Magic(other)),
        }
        if let Some(value) = [word(6), word(7)].into_iter().find(|value| *value != 0) {
            return Err(Malformed::Field { name: "reserved", value });
        }
        let mut segments = [None; MAX_SEGMENTS];
        let mut next_address = 0;
        for (index, slot) in segments.iter_mut().enumerate() {
            let at = 8 + 4 * index;
            let Some(segment) =
                parse_segment([word(at), word(at + 1), word(at + 2), word(at + 3)])?
            else {
                continue;
            };
            if segment.address < next_address {
                return Err(Malformed::Field { name: "segment.address", value: segment.address });
            }
            next_address = segment.address + segment.memory_bytes;
            *slot = Some(segment);
        }
        let manifest = Self {
            entry: word(1),
            relocations: Span::new(word(2), word(3)),
            configuration: Span::new(word(4), word(5)),
            segments,
        };
        let runs = |segment: &Segment| {
            segment.access == SegmentAccess::Execute
                && Span::new(segment.address, segment.file_bytes).contains(manifest.entry)
        };
        if !manifest.segments.iter().flatten().any(runs) {
            return Err(Malformed::Field { name: "entry", value: manifest.entry });
        }
        for (name, span) in
            [("relocations", manifest.relocations), ("configuration", manifest.configuration)]
        {
            if !is_page_aligned(span.start) || span.length > MAX_SERVICE_BYTES {
                return Err(Malformed::Field { name, value: span.start });
            }
        }
        Ok(manifest)
    }
}

fn parse_segment(words: [u64; 4]) -> Result<Option<Segment>, Malformed> {
    let [place, address, file_bytes, memory_bytes] = words;
    let access = match place & 0xfff {
        0 if words == [0; 4] => return Ok(None),
        1 => SegmentAccess::Execute,
        2 => SegmentAccess::Read,
        3 => SegmentAccess::ReadWrite,
        4 => SegmentAccess::ReadAfterRelocation,
        value => return Err(Malformed::Field { name: "segment.access", value }),
    };
    let checks = [
        ("segment.address", address, is_page_aligned(address) && address <= MAX_SERVICE_BYTES),
        ("segment.memory_bytes", memory_bytes, (1..=MAX_SERVICE_BYTES).contains(&memory_bytes)),
        ("segment.file_bytes", file_bytes, file_bytes <= memory_bytes),
        ("segment.offset", place, place <= MAX_SERVICE_BYTES),
    ];
    for (name, value, is_good) in checks {
        if !is_good {
            return Err(Malformed::Field { name, value });
        }
    }
    // Only writable memory may have a part that is not in the image: the rest is measured.
    if file_bytes < memory_bytes && access != SegmentAccess::ReadWrite {
        return Err(Malformed::Field { name: "segment.file_bytes", value: file_bytes });
    }
    Ok(Some(Segment { offset: place & !0xfff, address, file_bytes, memory_bytes, access }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Manifest {
        let mut segments = [None; MAX_SEGMENTS];
        segments[0] = Some(Segment {
            offset: 0x10000,
            address: 0,
            file_bytes: 0x1234,
            memory_bytes: 0x1234,
            access: SegmentAccess::Execute,
        });
        segments[1] = Some(Segment {
            offset: 0x12000,
            address: 0x2000,
            file_bytes: 0x10,
            memory_bytes: 0x5000,
            access: SegmentAccess::ReadWrite,
        });
        Manifest {
            entry: 0x100,
            relocations: Span::new(0x13000, 64),
            configuration: Span::new(0x14000, 100),
            segments,
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        assert_eq!(Manifest::parse(&good().encode()), Ok(good()));
    }

    #[test]
    fn boot_alone_is_told_from_nonsense() {
        assert_eq!(Manifest::parse(&[0; BYTES]), Err(Malformed::Empty));
        assert_eq!(Manifest::parse(&[1; BYTES]), Err(Malformed::Magic(0x0101_0101_0101_0101)));
    }

    #[test]
    fn words_without_a_meaning_must_be_zero() {
        for word in [6, 7] {
            let mut bytes = good().encode();
            bytes[8 * word] = 1;
            let expected = Malformed::Field { name: "reserved", value: 1 };
            assert_eq!(Manifest::parse(&bytes), Err(expected));
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Manifest), name: &'static str) {
        let mut manifest = good();
        change(&mut manifest);
        match Manifest::parse(&manifest.encode()) {
            Err(Malformed::Field { name: seen, .. }) => assert_eq!(seen, name),
            other => panic!("expected a complaint about {name}, not {other:?}"),
        }
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        let segment =
            |m: &mut Manifest, change: fn(&mut Segment)| change(m.segments[0].as_mut().unwrap());
        check(|m| m.entry = 0x2000, "entry");
        check(|m| m.entry = 0x1234, "entry");
        check(|m| m.configuration.start = 1, "configuration");
        check(|m| segment(m, |s| s.address = 1), "segment.address");
        check(|m| segment(m, |s| s.memory_bytes = 0), "segment.memory_bytes");
        check(|m| segment(m, |s| s.file_bytes = 0x2000), "segment.file_bytes");
        check(|m| segment(m, |s| s.memory_bytes = 0x2000), "segment.file_bytes");
        check(|m| segment(m, |s| s.memory_bytes = MAX_SERVICE_BYTES + 1), "segment.memory_bytes");
        check(|m| m.segments[1].as_mut().unwrap().address = 0x1000, "segment.address");
    }
}
