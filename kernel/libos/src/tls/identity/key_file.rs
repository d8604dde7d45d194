//! The key file's second half: certificates and a key, under a secret that boot got from the TPM.
//!
//! Whoever knows the machine's endorsement key can seal a file for it, so that a file opens says
//! nothing of who made it. The measured configuration does: it names the authority that must have
//! issued the certificate, and the server's names. Before that is checked nobody gets at the key.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use abi::record::Part;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use zeroize::{Zeroize, Zeroizing};

use super::cbor::Reader;
use super::{Credentials, MAX_CHAIN};

/// The longest file.
pub const KEY_FILE_BYTES: usize = Part::KeyFile.max_bytes();

/// The first eight bytes; the last one is the version.
const MAGIC: [u8; 8] = *b"BULLAKY\x01";

/// The magic and two lengths.
const HEADER_BYTES: usize = 16;

/// Bytes that the cipher adds.
const TAG_BYTES: usize = 16;

/// Why a file does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFileError {
    /// It opens, and what is in it is no chain with a key.
    Content,
    /// It does not have the parts that it says it has.
    Lengths,
    /// It begins with other bytes.
    Magic,
    /// The secret does not open it: it was changed, or is another file's.
    Sealed,
    /// It has so many bytes, too few or too many.
    Size(usize),
}

/// Why a chain is not the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// The configured issuer's certificate is none.
    Anchor,
    /// A certificate is not well-formed or not made for a server.
    Certificate,
    /// A certificate has expired.
    Expired,
    /// The configured issuer did not issue it.
    Issuer,
    /// It is not for the configured name of that number, counted from 1.
    Name(usize),
    /// A certificate is not valid yet.
    NotYetValid,
}

/// A chain and a key out of a file of which nobody knows yet who made it.
pub struct Unchecked(Credentials);

impl fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Opens a file with its secret.
///
/// # Errors
///
/// [`KeyFileError`] with the first thing that is wrong.
pub fn open(file: &[u8], secret: &[u8; 32]) -> Result<Unchecked, KeyFileError> {
    let (about, payload) = split(file)?;
    let opened = decrypt(about, payload, secret);
    // The cipher's own copies of its keys.
    scrub_stack();
    credentials(&opened?).map(Unchecked).ok_or(KeyFileError::Content)
}

/// What the cipher vouches for besides the payload, and the payload.
fn split(file: &[u8]) -> Result<(&[u8], &[u8]), KeyFileError> {
    if !(HEADER_BYTES..=KEY_FILE_BYTES).contains(&file.len()) {
        return Err(KeyFileError::Size(file.len()));
    }
    let (magic, rest) = file.split_first_chunk::<8>().ok_or(KeyFileError::Lengths)?;
    if *magic != MAGIC {
        return Err(KeyFileError::Magic);
    }
    let lengths: Option<(&[u8; 4], _)> = rest.split_first_chunk();
    let (of_tpm, rest) = lengths.ok_or(KeyFileError::Lengths)?;
    let (of_payload, _) = rest.split_first_chunk::<4>().ok_or(KeyFileError::Lengths)?;
    let [of_tpm, of_payload] =
        [of_tpm, of_payload].map(|length| u64::from(u32::from_be_bytes(*length)));
    if HEADER_BYTES as u64 + of_tpm + of_payload != file.len() as u64 {
        return Err(KeyFileError::Lengths);
    }
    let end = HEADER_BYTES + usize::try_from(of_tpm).map_err(|_| KeyFileError::Lengths)?;
    file.split_at_checked(end).ok_or(KeyFileError::Lengths)
}

#[inline(never)]
fn decrypt(
    about: &[u8],
    payload: &[u8],
    secret: &[u8; 32],
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let parts = payload.split_first_chunk::<NONCE_LEN>();
    let (nonce, sealed) = parts.ok_or(KeyFileError::Lengths)?;
    let plain_bytes = sealed.len().checked_sub(TAG_BYTES).ok_or(KeyFileError::Lengths)?;
    let key = UnboundKey::new(&AES_256_GCM, secret).map_err(|_| KeyFileError::Sealed)?;
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    LessSafeKey::new(key)
        .open_in_place(nonce, Aad::from(about), &mut bytes)
        .map_err(|_| KeyFileError::Sealed)?;
    bytes.truncate(plain_bytes);
    Ok(bytes)
}

/// Overwrites what functions that have returned left below on the stack.
#[inline(never)]
fn scrub_stack() {
    let mut below = [0xff_u8; 4096];
    core::hint::black_box(&mut below).zeroize();
}

/// `{"key": bytes, "chain": [bytes, ..]}`, in the order of deterministic CBOR.
fn credentials(plain: &[u8]) -> Option<Credentials> {
    let mut reader = Reader(plain);
    if reader.map()? != 2 {
        return None;
    }
    reader.text("key")?;
    let key = reader.bytes()?;
    reader.text("chain")?;
    let count = reader.array()?;
    if !(1..=MAX_CHAIN).contains(&count) {
        return None;
    }
    let mut chain = Vec::with_capacity(count);
    for _ in 0..count {
        chain.push(reader.bytes()?.to_vec());
    }
    let key = Zeroizing::new(key.to_vec());
    reader.is_empty().then_some(Credentials { chain, key })
}

impl Unchecked {
    /// Checks that `issuer` issued the chain, directly or through the others in it, for a server
    /// of all these names, and that it is valid at that second since 1970-01-01 UTC.
    ///
    /// Whether the key is the certificate's is for [`ServerSettings::new`] to check.
    ///
    /// # Errors
    ///
    /// [`Distrust`] with the first thing that is wrong. The key is erased then.
    ///
    /// [`ServerSettings::new`]: crate::tls::ServerSettings::new
    pub fn check(
        self,
        issuer: &[u8],
        names: &[&str],
        unix_s: u64,
    ) -> Result<Credentials, Distrust> {
        let issuer = CertificateDer::from(issuer);
        let anchor = anchor_from_trusted_cert(&issuer).map_err(|_| Distrust::Anchor)?;
        let chain = self.0.chain.iter().map(|der| CertificateDer::from(der.as_slice()));
        let chain: Vec<CertificateDer<'_>> = chain.collect();
        let (leaf, between) = chain.split_first().ok_or(Distrust::Certificate)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| Distrust::Certificate)?;
        let algorithms = default_provider().signature_verification_algorithms.all;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(unix_s));
        let usage = KeyUsage::server_auth();
        leaf.verify_for_usage(algorithms, &[anchor], between, now, usage, None, None)
            .map_err(|error| Distrust::from(&error))?;
        for (index, name) in names.iter().enumerate() {
            let wrong = Distrust::Name(index + 1);
            let name = ServerName::try_from(*name).map_err(|_| wrong)?;
            leaf.verify_is_valid_for_subject_name(&name).map_err(|_| wrong)?;
        }
        Ok(self.0)
    }
}

impl From<&webpki::Error> for Distrust {
    fn from(error: &webpki::Error) -> Self {
        use webpki::Error;
        match error {
            Error::CertExpired { .. } => Self::Expired,
            Error::CertNotValidYet { .. } => Self::NotYetValid,
            Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Self::Issuer,
            _ => Self::Certificate,
        }
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content => f.write_str("the file holds no certificates with a key"),
            Self::Lengths => f.write_str("the file does not have the parts that it says it has"),
            Self::Magic => f.write_str("the file is no key file of this version"),
            Self::Sealed => f.write_str("the file was changed, or its secret is another file's"),
            Self::Size(bytes) => {
                write!(f, "the file has {bytes} bytes, not {HEADER_BYTES} to {KEY_FILE_BYTES}")
            }
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anchor => f.write_str("the configured issuer is no certificate"),
            Self::Certificate => f.write_str("a certificate is not fit for a server"),
            Self::Expired => f.write_str("a certificate has expired"),
            Self::Issuer => f.write_str("the configured issuer did not issue the certificate"),
            Self::Name(number) => {
                write!(f, "the certificate is not for the configured name number {number}")
            }
            Self::NotYetValid => f.write_str("a certificate is not valid yet"),
        }
    }
}

impl core::error::Error for KeyFileError {}
impl core::error::Error for Distrust {}
