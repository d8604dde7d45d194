//! The boot record: what boot measured and what the TPM said, for the service to hand to a verifier.
//!
//! It lies in a region that the service may only read, of one size whatever is in it, so that the
//! layout depends on nothing that was measured. Each part has a place of its own, which boot fills
//! as it goes; a record with a part elsewhere is no record. Only a machine with a TPM has one.

use core::fmt;

use crate::u64_at;

/// The first eight bytes of a record; the last one is the version.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BULLARE\x01");

/// Bytes of a record, and of the region that holds it.
pub const BYTES: u64 = 96 << 10;

/// Bytes before the first part: the magic, then each part's offset and length.
pub const HEADER_BYTES: usize = 8 + 16 * Part::ALL.len();

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The TCG crypto-agile event log: firmware's, if it has one, then boot's own events.
    EventLog,
    /// The attestation key's public area (`TPMT_PUBLIC`).
    AkPublic,
    /// For each active bank its algorithm and digest size (`u16`, little endian), then the digests
    /// of PCR 0 to 15, read after boot's last extend.
    PcrValues,
    /// What boot sealed.
    SealRecord,
    /// The file with the service's sealed key, as it was found.
    KeyFile,
    /// The endorsement key's certificate.
    EkCertificate,
    /// What the TPM made of a credential challenge.
    CredentialAnswer,
}

impl Part {
    /// Every part, in the order of the record.
    pub const ALL: [Self; 7] = [
        Self::EventLog,
        Self::AkPublic,
        Self::PcrValues,
        Self::SealRecord,
        Self::KeyFile,
        Self::EkCertificate,
        Self::CredentialAnswer,
    ];

    /// The most bytes it may have.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::EventLog => 64 << 10,
            Self::AkPublic => 512,
            // Four banks, the largest with 64 bytes a digest, have 2640.
            Self::PcrValues => 4 << 10,
            Self::SealRecord => 256,
            Self::KeyFile => 8 << 10,
            // No TPM's index holds more than some 2 KiB.
            Self::EkCertificate => 4 << 10,
            Self::CredentialAnswer => 1 << 10,
        }
    }

    /// Where it begins, in bytes from the record's first.
    pub const fn offset(self) -> usize {
        let mut offset = HEADER_BYTES;
        let mut index = 0;
        while index < self as usize {
            offset += Self::ALL[index].max_bytes();
            index += 1;
        }
        offset
    }

    /// The part in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EventLog => "event log",
            Self::AkPublic => "attestation key",
            Self::PcrValues => "PCR values",
            Self::SealRecord => "seal record",
            Self::KeyFile => "key file",
            Self::EkCertificate => "EK certificate",
            Self::CredentialAnswer => "credential answer",
        }
    }

    /// Where its offset stands in the header; its length follows.
    const fn slot(self) -> usize {
        8 + 16 * self as usize
    }
}

const _: () = {
    let last = Part::CredentialAnswer;
    assert!(last as usize + 1 == Part::ALL.len());
    assert!(last.offset() + last.max_bytes() <= BYTES as usize);
};

/// Why bytes are not a record, or why they cannot become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A part is longer than it may be.
    Long {
        /// Which part.
        part: Part,
        /// How long it is or would be.
        bytes: u64,
    },
    /// It is another kind of data, or another version of this one.
    Magic(u64),
    /// A part is not in its place.
    Place {
        /// Which part.
        part: Part,
        /// Where it is said to be.
        offset: u64,
    },
    /// It does not have the size of a record.
    Size(usize),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Long { part, bytes } => {
                let (name, limit) = (part.name(), part.max_bytes());
                write!(f, "boot record: {name} of {bytes} bytes, more than {limit}")
            }
            Self::Magic(magic) => write!(f, "boot record begins with {magic:#018x}"),
            Self::Place { part, offset } => {
                write!(f, "boot record: {} at {offset:#x}, not in its place", part.name())
            }
            Self::Size(bytes) => write!(f, "boot record of {bytes} bytes, not {BYTES}"),
        }
    }
}

impl core::error::Error for Malformed {}

/// A record, taken apart. A part that is not there is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// [`Part::EventLog`].
    pub event_log: &'a [u8],
    /// [`Part::AkPublic`].
    pub ak_public: &'a [u8],
    /// [`Part::PcrValues`].
    pub pcr_values: &'a [u8],
    /// [`Part::SealRecord`].
    pub seal_record: &'a [u8],
    /// [`Part::KeyFile`].
    pub key_file: &'a [u8],
    /// [`Part::EkCertificate`].
    pub ek_certificate: &'a [u8],
    /// [`Part::CredentialAnswer`].
    pub credential_answer: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads and checks a record.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let part = |part| part_of(bytes, part);
        check(bytes)?;
        Ok(Self {
            event_log: part(Part::EventLog)?,
            ak_public: part(Part::AkPublic)?,
            pcr_values: part(Part::PcrValues)?,
            seal_record: part(Part::SealRecord)?,
            key_file: part(Part::KeyFile)?,
            ek_certificate: part(Part::EkCertificate)?,
            credential_answer: part(Part::CredentialAnswer)?,
        })
    }
}

/// Begins a record: every part is there and empty.
///
/// # Errors
///
/// [`Malformed::Size`] if the bytes are not a record's.
pub fn begin(bytes: &mut [u8]) -> Result<(), Malformed> {
    let size = bytes.len();
    if size as u64 != BYTES {
        return Err(Malformed::Size(size));
    }
    let mut put = |at: usize, word: u64| {
        if let Some(field) = bytes.get_mut(at..at + 8) {
            field.copy_from_slice(&word.to_le_bytes());
        }
    };
    put(0, MAGIC);
    for part in Part::ALL {
        put(part.slot(), part.offset() as u64);
        put(part.slot() + 8, 0);
    }
    Ok(())
}

/// Adds bytes to the end of a part.
///
/// # Errors
///
/// [`Malformed`] if there is no record, or the part would be too long; then nothing was changed.
pub fn append(bytes: &mut [u8], part: Part, more: &[u8]) -> Result<(), Malformed> {
    check(bytes)?;
    let length = part_of(bytes, part)?.len();
    let longer = length.saturating_add(more.len());
    let long = Malformed::Long { part, bytes: longer as u64 };
    if longer > part.max_bytes() {
        return Err(long);
    }
    let start = part.offset() + length;
    bytes.get_mut(start..start + more.len()).ok_or(long)?.copy_from_slice(more);
    let field = part.slot() + 8;
    bytes.get_mut(field..field + 8).ok_or(long)?.copy_from_slice(&(longer as u64).to_le_bytes());
    Ok(())
}

fn check(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.len() as u64 != BYTES {
        return Err(Malformed::Size(bytes.len()));
    }
    match u64_at(bytes, 0) {
        Some(MAGIC) => Ok(()),
        other => Err(Malformed::Magic(other.unwrap_or(0))),
    }
}

fn part_of(bytes: &[u8], part: Part) -> Result<&[u8], Malformed> {
    let word = |at| u64_at(bytes, at).ok_or(Malformed::Size(bytes.len()));
    let (offset, length) = (word(part.slot())?, word(part.slot() + 8)?);
    if offset != part.offset() as u64 {
        return Err(Malformed::Place { part, offset });
    }
    if length > part.max_bytes() as u64 {
        return Err(Malformed::Long { part, bytes: length });
    }
    let start = part.offset();
    bytes.get(start..start + length as usize).ok_or(Malformed::Size(bytes.len()))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn filled() -> Vec<u8> {
        let mut bytes = vec![0; BYTES as usize];
        begin(&mut bytes).unwrap();
        for part in Part::ALL {
            append(&mut bytes, part, &[part as u8; 3]).unwrap();
        }
        append(&mut bytes, Part::EventLog, b"more").unwrap();
        bytes
    }

    #[test]
    fn reads_back_what_was_appended() {
        let bytes = filled();
        let record = Record::parse(&bytes).unwrap();
        assert_eq!(record.event_log, b"\0\0\0more");
        assert_eq!(record.ak_public, [1; 3]);
        assert_eq!(record.pcr_values, [2; 3]);
        assert_eq!(record.seal_record, [3; 3]);
        assert_eq!(record.key_file, [4; 3]);
        assert_eq!(record.ek_certificate, [5; 3]);
        assert_eq!(record.credential_answer, [6; 3]);
    }

    #[test]
    fn the_header_is_the_contract_word_by_word() {
        let bytes = filled();
        assert_eq!(bytes[..8], *b"BULLARE\x01");
        assert_eq!(HEADER_BYTES, 120);
        assert_eq!(u64_at(&bytes, 8), Some(120), "the log begins behind the header");
        assert_eq!(u64_at(&bytes, 16), Some(7));
        assert_eq!(u64_at(&bytes, 24), Some(120 + (64 << 10)));
        assert_eq!(u64_at(&bytes, 112), Some(3), "the last part's length ends the header");
    }

    #[test]
    fn a_part_ends_at_its_limit() {
        for part in Part::ALL {
            let mut bytes = vec![0; BYTES as usize];
            begin(&mut bytes).unwrap();
            append(&mut bytes, part, &vec![7; part.max_bytes()]).unwrap();
            let before = bytes.clone();
            let long = part.max_bytes() as u64 + 1;
            assert_eq!(append(&mut bytes, part, &[7]), Err(Malformed::Long { part, bytes: long }));
            assert!(bytes == before, "nothing was changed");
            assert!(Record::parse(&bytes).is_ok());
        }
    }

    #[test]
    fn nobody_appends_to_what_is_no_record() {
        let mut none = vec![0; BYTES as usize];
        assert_eq!(append(&mut none, Part::KeyFile, b"x"), Err(Malformed::Magic(0)));
        let mut short = vec![0; BYTES as usize - 1];
        assert_eq!(begin(&mut short), Err(Malformed::Size(short.len())));
        assert_eq!(append(&mut [], Part::KeyFile, b"x"), Err(Malformed::Size(0)));
    }

    #[track_caller]
    fn check_refused(at: usize, word: u64, expected: Malformed) {
        let mut bytes = filled();
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        assert_eq!(Record::parse(&bytes), Err(expected));
    }

    #[test]
    fn refuses_what_has_no_meaning() {
        let next = u64::from_le_bytes(*b"BULLARE\x02");
        check_refused(0, next, Malformed::Magic(next));
        let (log, ak, answer) = (Part::EventLog, Part::AkPublic, Part::CredentialAnswer);
        check_refused(8, 121, Malformed::Place { part: log, offset: 121 });
        check_refused(8, u64::MAX, Malformed::Place { part: log, offset: u64::MAX });
        check_refused(24, 120, Malformed::Place { part: ak, offset: 120 });
        check_refused(16, 65_537, Malformed::Long { part: log, bytes: 65_537 });
        check_refused(112, u64::MAX, Malformed::Long { part: answer, bytes: u64::MAX });
        let bytes = filled();
        assert_eq!(Record::parse(&bytes[1..]), Err(Malformed::Size(bytes.len() - 1)));
        assert_eq!(Record::parse(&[]), Err(Malformed::Size(0)));
    }
}
