//! What a PCR of the SHA-256 bank holds after a row of events.

use ring::digest::{SHA256, digest};

/// A digest of the SHA-256 bank.
pub type Digest = [u8; 32];

/// The SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    digest(&SHA256, bytes).as_ref().try_into().unwrap_or_default()
}

/// A PCR, from zero on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcr(Digest);

impl Pcr {
    /// One that nothing has been extended into.
    pub const ZERO: Self = Self([0; 32]);

    /// Extends a digest.
    #[must_use]
    pub fn extend(self, measured: Digest) -> Self {
        Self(sha256(&[self.0, measured].concat()))
    }

    /// Extends the digest of some bytes.
    #[must_use]
    pub fn measure(self, bytes: &[u8]) -> Self {
        self.extend(sha256(bytes))
    }

    /// What it holds.
    pub const fn value(self) -> Digest {
        self.0
    }
}
