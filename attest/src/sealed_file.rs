//! The sealed key file: what boot hands to the TPM, and what only the service can read then.

use std::fmt;

use abi::record::Part;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::tpm::{Oversized, Policy, SealedObject, StorageKey, WrapError, put_sized, random, seal};

/// The first eight bytes; the last one is the version.
const MAGIC: &[u8; 8] = b"BULLAKY\x01";

/// The largest file that boot reads.
pub const MAX_BYTES: usize = Part::KeyFile.max_bytes();

/// Bytes of a GCM tag.
const TAG_BYTES: usize = 16;

/// Why no file could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSealed {
    /// It would be larger than boot reads.
    TooLarge {
        /// How large.
        bytes: usize,
    },
    /// The TPM's part could not be made.
    Wrap(WrapError),
}

impl fmt::Display for NotSealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => {
                write!(f, "the sealed file would have {bytes} bytes, more than {MAX_BYTES}")
            }
            Self::Wrap(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for NotSealed {}

impl From<WrapError> for NotSealed {
    fn from(error: WrapError) -> Self {
        Self::Wrap(error)
    }
}

impl From<Oversized> for NotSealed {
    fn from(error: Oversized) -> Self {
        Self::Wrap(error.into())
    }
}

/// Seals a chain of certificates and a PKCS #8 key.
///
/// # Errors
///
/// [`NotSealed`] if the file would be too large, or the TPM's key cannot be used.
pub fn make(
    parent: &StorageKey,
    policy: &Policy,
    chain: &[Vec<u8>],
    key: &[u8],
) -> Result<Vec<u8>, NotSealed> {
    let secret = random::<32>()?;
    let tpm_part = tpm_part(&seal(parent, policy, &secret)?, policy)?;
    let mut payload = plaintext(chain, key);
    let nonce = random::<12>()?;
    let payload_bytes = nonce.len().saturating_add(payload.len()).saturating_add(TAG_BYTES);
    let mut file = header(&tpm_part, payload_bytes)?;
    file.extend_from_slice(&tpm_part);
    let sealing = UnboundKey::new(&AES_256_GCM, &secret[..]).map_err(|_| WrapError::Random)?;
    let tag = LessSafeKey::new(sealing)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(&file),
            &mut payload,
        )
        .map_err(|_| WrapError::Oversized)?;
    file.extend_from_slice(&nonce[..]);
    file.extend_from_slice(&payload);
    file.extend_from_slice(tag.as_ref());
    Ok(file)
}

fn header(tpm_part: &[u8], payload_bytes: usize) -> Result<Vec<u8>, NotSealed> {
    let bytes = MAGIC.len().saturating_add(8).saturating_add(tpm_part.len());
    let bytes = bytes.saturating_add(payload_bytes);
    let long = |number: usize| u32::try_from(number).map(u32::to_be_bytes).ok();
    match (long(tpm_part.len()), long(payload_bytes)) {
        (Some(tpm), Some(payload)) if bytes <= MAX_BYTES => {
            Ok([&MAGIC[..], &tpm, &payload].concat())
        }
        _ => Err(NotSealed::TooLarge { bytes }),
    }
}

/// What boot hands to the TPM: the object, then which PCRs its policy names.
fn tpm_part(object: &SealedObject, policy: &Policy) -> Result<Vec<u8>, Oversized> {
    let mut part = [&object.public[..], &object.duplicate, &object.seed].concat();
    put_sized(&mut part, &policy.selection())?;
    Ok(part)
}

/// Deterministic CBOR (RFC 8949, section 4.2.1): a map of "key" and "chain", in this order since the
/// shorter key sorts first.
fn plaintext(chain: &[Vec<u8>], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let bytes = chain.iter().map(Vec::len).sum::<usize>();
    let room = bytes.saturating_add(key.len()).saturating_add(1024);
    // Room for all of it, so that no copy of the key is left behind by a vector that grew.
    let mut map = Zeroizing::new(Vec::with_capacity(room));
    head(&mut map, 5, 2);
    text(&mut map, "key");
    head(&mut map, 2, key.len());
    map.extend_from_slice(key);
    text(&mut map, "chain");
    head(&mut map, 4, chain.len());
    for certificate in chain {
        head(&mut map, 2, certificate.len());
        map.extend_from_slice(certificate);
    }
    map
}

fn text(to: &mut Vec<u8>, text: &str) {
    head(to, 3, text.len());
    to.extend_from_slice(text.as_bytes());
}

/// The shortest head of a major type. Nothing here is longer than 65,535: a longer file is refused.
fn head(to: &mut Vec<u8>, major: u8, length: usize) {
    let major = major << 5;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..24), _) => to.push(major | short),
        (Ok(byte), _) => to.extend_from_slice(&[major | 24, byte]),
        (_, Ok(word)) => {
            to.push(major | 25);
            to.extend_from_slice(&word.to_be_bytes());
        }
        _ => {
            to.push(major | 27);
            to.extend_from_slice(&crate::units::wide(length).to_be_bytes());
        }
    }
}
