//! The seal record: what was sealed, in a few hashes and registers.
//!
//! Boot writes one when its audit has passed, extends it into PCR 12 and hands it to the service;
//! a verifier compares it with what `seal audit` says of the image.

use core::fmt;

use crate::bits::u64_at;
use crate::controls::Controls;
use crate::tables::Audited;

/// Bytes of a seal record.
pub const SEAL_RECORD_BYTES: usize = 120;

/// The first eight bytes; the last one is the version.
const MAGIC: u64 = u64::from_le_bytes(*b"BULLASR\x01");

/// The only flag: the audit passed. There is no record without it.
const AUDITED: u64 = 1;

/// What was sealed.
///
/// Only [`SealRecord::new`], which takes the proof of an audit, and [`SealRecord::parse`] make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealRecord {
    /// The SHA-256 of the layout's canonical rows ([`crate::write_canonical`]).
    pub layout_digest: [u8; 32],
    /// The SHA-256 of the gate's text.
    pub gate_sha256: [u8; 32],
    /// CR0, read from the CPU.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
}

/// Why bytes are not a seal record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The flags are not those of an audit that passed.
    Flags(u64),
    /// It is another kind of data, or another version of this one.
    Magic(u64),
    /// The reserved word is not zero.
    Reserved(u64),
    /// It does not have the size of a seal record.
    Size(usize),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(flags) => write!(f, "seal record has flags {flags:#x}, not {AUDITED:#x}"),
            Self::Magic(magic) => write!(f, "seal record begins with {magic:#018x}"),
            Self::Reserved(word) => write!(f, "seal record ends with {word:#x}, not zero"),
            Self::Size(bytes) => {
                write!(f, "seal record of {bytes} bytes, not {SEAL_RECORD_BYTES}")
            }
        }
    }
}

impl core::error::Error for Malformed {}

impl SealRecord {
    /// The record of a machine whose tables were audited and whose registers are `controls`.
    pub const fn new(
        _proof: &Audited,
        controls: &Controls,
        layout_digest: [u8; 32],
        gate_sha256: [u8; 32],
    ) -> Self {
        let Controls { cr0, cr4, efer, xcr0, .. } = *controls;
        Self { layout_digest, gate_sha256, cr0, cr4, efer, xcr0 }
    }

    /// The record's bytes: little-endian words, the two hashes as they are.
    pub fn encode(&self) -> [u8; SEAL_RECORD_BYTES] {
        let mut bytes = [0; SEAL_RECORD_BYTES];
        let words = [MAGIC, AUDITED].map(u64::to_le_bytes);
        let registers = [self.cr0, self.cr4, self.efer, self.xcr0].map(u64::to_le_bytes);
        let digests = self.layout_digest.iter().chain(&self.gate_sha256);
        let all = words.as_flattened().iter().chain(digests).chain(registers.as_flattened());
        for (to, from) in bytes.iter_mut().zip(all) {
            *to = *from;
        }
        bytes
    }

    /// Reads and checks a record.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let size = Malformed::Size(bytes.len());
        if bytes.len() != SEAL_RECORD_BYTES {
            return Err(size);
        }
        match (u64_at(bytes, 0), u64_at(bytes, 8), u64_at(bytes, 112)) {
            (MAGIC, AUDITED, 0) => {}
            (MAGIC, AUDITED, word) => return Err(Malformed::Reserved(word)),
            (MAGIC, flags, _) => return Err(Malformed::Flags(flags)),
            (magic, ..) => return Err(Malformed::Magic(magic)),
        }
        let digest = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).copied();
        Ok(Self {
            layout_digest: digest(16).ok_or(size)?,
            gate_sha256: digest(48).ok_or(size)?,
            cr0: u64_at(bytes, 80),
            cr4: u64_at(bytes, 88),
            efer: u64_at(bytes, 96),
            xcr0: u64_at(bytes, 104),
        })
    }
}
