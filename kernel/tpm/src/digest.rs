//! Hash functions, and one digest for each bank that is active.

use arrayvec::ArrayVec;
use sha2::Digest as _;

/// A hash function, by its `TPM_ALG_ID` (TCG algorithm registry).
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-1: extended where a TPM still has a bank of it, so that the bank is no way round.
    Sha1 = 0x0004,
    /// SHA-256.
    Sha256 = 0x000b,
    /// SHA-384.
    Sha384 = 0x000c,
    /// SHA-512.
    Sha512 = 0x000d,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The function of a number.
    pub fn parse(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u16 == id)
    }

    /// Bytes of a digest.
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut digest = Digest { algorithm: self, bytes: ArrayVec::new() };
        let mut put = |bytes: &[u8]| {
            // The longest digest is as long as the room.
            let _whole = digest.bytes.try_extend_from_slice(bytes);
        };
        match self {
            Self::Sha1 => put(&sha1::Sha1::digest(bytes)),
            Self::Sha256 => put(&sha2::Sha256::digest(bytes)),
            Self::Sha384 => put(&sha2::Sha384::digest(bytes)),
            Self::Sha512 => put(&sha2::Sha512::digest(bytes)),
        }
        digest
    }
}

/// The banks that are active, at most one of each function.
pub type Banks = ArrayVec<Algorithm, 4>;

/// A digest with its function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The function.
    pub algorithm: Algorithm,
    bytes: ArrayVec<u8, 64>,
}

impl Digest {
    /// A digest that a TPM holds, or `None` if it has the wrong length.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let bytes = ArrayVec::try_from(bytes).ok()?;
        (bytes.len() == algorithm.digest_bytes()).then_some(Self { algorithm, bytes })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The digests of one event: one for each active bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests(ArrayVec<Digest, 4>);

impl Digests {
    /// The digests of `bytes` in each bank.
    pub fn of(banks: &Banks, bytes: &[u8]) -> Self {
        Self(banks.iter().map(|bank| bank.digest(bytes)).collect())
    }

    /// One after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Digest> {
        self.0.iter()
    }
}
