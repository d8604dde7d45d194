//! The sealed key's file, as far as ring 0 reads it: two lengths, and the TPM's structures unread.
//!
//! `BULLAKY\x01`, then the length of the TPM's part and of the payload (32 bits each, big-endian),
//! then the two. The TPM's part has three `TPM2B` (public, duplicate, seed) and, with 16 bits of
//! size before it, a `TPML_PCR_SELECTION`. The payload is for ring 3.

use crate::wire::Answer;

/// The longest file.
pub const MAX_BYTES: usize = 8192;

const MAGIC: &[u8; 8] = b"BULLAKY\x01";

/// What a file holds for the TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFile<'a> {
    /// `TPMT_PUBLIC` of the sealed object.
    pub public: &'a [u8],
    /// Its sensitive part, wrapped.
    pub duplicate: &'a [u8],
    /// The wrapping's seed, encrypted to the parent.
    pub seed: &'a [u8],
    /// The PCRs of its policy: a `TPML_PCR_SELECTION`.
    pub selection: &'a [u8],
}

impl<'a> KeyFile<'a> {
    /// Reads a file, or `None` if it is not whole.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let mut file = Answer::new(bytes);
        (file.take(MAGIC.len())? == MAGIC).then_some(())?;
        let (tpm_bytes, payload_bytes) = (file.u32()?, file.u32()?);
        let mut part = Answer::new(file.take(usize::try_from(tpm_bytes).ok()?)?);
        let _payload = file.take(usize::try_from(payload_bytes).ok()?)?;
        let (public, duplicate, seed) = (part.sized()?, part.sized()?, part.sized()?);
        let selection = part.sized()?;
        let is_whole = file.is_empty() && part.is_empty();
        is_whole.then_some(Self { public, duplicate, seed, selection })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn file() -> Vec<u8> {
        let part = b"\0\x01p\0\x02du\0\x03see\0\x01s";
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&(part.len() as u32).to_be_bytes());
        file.extend_from_slice(&3_u32.to_be_bytes());
        file.extend_from_slice(part);
        file.extend_from_slice(b"xyz");
        file
    }

    #[test]
    fn reads_the_tpms_part() {
        let expected = KeyFile { public: b"p", duplicate: b"du", seed: b"see", selection: b"s" };
        assert_eq!(KeyFile::parse(&file()), Some(expected));
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let good = file();
        for length in 0..good.len() {
            assert_eq!(KeyFile::parse(&good[..length]), None, "{length} bytes");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(KeyFile::parse(&longer), None);
        for at in 0..16 {
            let mut changed = good.clone();
            changed[at] ^= 0x40;
            assert_eq!(KeyFile::parse(&changed), None, "byte {at}");
        }
        assert_eq!(KeyFile::parse(&[0; MAX_BYTES + 1]), None);
    }
}
