//! The hash functions of TPM banks and schemes.

use alloc::vec::Vec;

use ring::digest;

/// A hash function, by its `TPM_ALG_ID` (TCG algorithm registry).
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-1: replayed where a log has it, trusted nowhere.
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

    /// The name that policies and `tpm2-tools` use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of all parts, one behind the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let function = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        let mut context = digest::Context::new(function);
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    /// A PCR extended by a digest (TPM 2.0 library, part 1, section 17.2).
    pub fn extend(self, value: &[u8], digest: &[u8]) -> Vec<u8> {
        self.digest(&[value, digest])
    }
}
