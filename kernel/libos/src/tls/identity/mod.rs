//! Certificates and keys that are not in the image: made at the start, or sealed in a file.

mod cbor;
mod der;
mod ephemeral;
mod key_file;

use alloc::vec::Vec;

use zeroize::Zeroizing;

pub use self::ephemeral::{EphemeralError, make};
pub use self::key_file::{Distrust, KEY_FILE_BYTES, KeyFileError, Unchecked, open};

/// The most certificates a chain may have.
pub(super) const MAX_CHAIN: usize = 8;

/// A certificate chain in DER, the server's own first, and the private key of that one.
pub struct Credentials {
    chain: Vec<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

impl Credentials {
    /// The certificates.
    pub fn chain(&self) -> Vec<&[u8]> {
        self.chain.iter().map(Vec::as_slice).collect()
    }

    /// The key in PKCS#8. It is erased when this is dropped.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

impl core::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Credentials({} certificates, ..)", self.chain.len())
    }
}

#[cfg(test)]
mod tests;
