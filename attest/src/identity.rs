//! A server's key and its chain of certificates, checked against each other before they are sealed.
//!
//! The certificates' dates are not looked at: what is sealed today may be used tomorrow.

use std::fmt;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// The most certificates in a chain.
const MAX_CHAIN: usize = 8;

/// What is wrong with a key or a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// A certificate is not followed by the one that signed it.
    Chain {
        /// Which, counted from 1.
        number: usize,
    },
    /// The key is not in a form that the service reads.
    KeyFormat,
    /// The key belongs to another certificate.
    KeyMismatch,
    /// The key is of a kind that the service does not use.
    KeyUnusable,
    /// There is not exactly one key.
    Keys(usize),
    /// A certificate is not well-formed.
    Malformed {
        /// Which, counted from 1.
        number: usize,
    },
    /// There is no certificate, or there are too many.
    Certificates(usize),
    /// A file is not well-formed PEM.
    Pem,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { number } => {
                write!(f, "certificate {number} is not signed by the one after it")
            }
            Self::KeyFormat => write!(f, "the private key is not in unencrypted PKCS #8 form"),
            Self::KeyMismatch => write!(f, "the private key belongs to another certificate"),
            Self::KeyUnusable => write!(f, "the private key is of a kind that is not used"),
            Self::Keys(count) => write!(f, "{count} private keys where one is expected"),
            Self::Malformed { number } => write!(f, "certificate {number} is not well-formed"),
            Self::Certificates(count) => {
                write!(f, "{count} certificates where 1 to {MAX_CHAIN} are expected")
            }
            Self::Pem => write!(f, "not well-formed PEM"),
        }
    }
}

impl std::error::Error for Unfit {}

impl Unfit {
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Chain { .. } => "put the server's certificate first, then each one's signer",
            Self::KeyFormat => "convert it: openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW",
            Self::KeyMismatch => "name the key that the certificate was requested with",
            Self::KeyUnusable => "use P-256, P-384, Ed25519, or RSA of at least 2048 bits",
            Self::Keys(_) => "name a PEM file with one -----BEGIN PRIVATE KEY-----",
            Self::Malformed { .. } => "check it: openssl x509 -noout -text -in FILE",
            Self::Certificates(_) => {
                "name a PEM file with the server's certificate and its signers"
            }
            Self::Pem => "check that every BEGIN has its END and the lines between are base64",
        }
    }
}

type Section = (SectionKind, Vec<u8>);

/// Reads a chain, the server's certificate first.
pub(crate) fn chain(pem: &[u8]) -> Result<Vec<Vec<u8>>, Unfit> {
    let mut chain = Vec::new();
    for section in Section::pem_slice_iter(pem).take(MAX_CHAIN.saturating_mul(4)) {
        match section.map_err(|_| Unfit::Pem)? {
            (SectionKind::Certificate, der) => chain.push(der),
            // A key in the same file is erased as it is passed over.
            (_, other) => drop(Zeroizing::new(other)),
        }
    }
    if !(1..=MAX_CHAIN).contains(&chain.len()) {
        return Err(Unfit::Certificates(chain.len()));
    }
    let parse = |(index, der): (usize, &Vec<u8>)| match X509Certificate::from_der(der) {
        Ok(([], _)) => Ok(()),
        _ => Err(Unfit::Malformed { number: index.saturating_add(1) }),
    };
    chain.iter().enumerate().try_for_each(parse)?;
    for (index, (der, signer)) in chain.iter().zip(chain.iter().skip(1)).enumerate() {
        if !is_signed_by(der, signer) {
            return Err(Unfit::Chain { number: index.saturating_add(1) });
        }
    }
    Ok(chain)
}

/// Whether a certificate is signed by another, as far as its kind of signature can be checked here.
fn is_signed_by(certificate: &[u8], signer: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, signer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(signer))
    else {
        return false;
    };
    let signature = certificate.verify_signature(Some(signer.public_key()));
    certificate.issuer().as_raw() == signer.subject().as_raw()
        && matches!(signature, Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm))
}

/// Reads the key and checks that it is the first certificate's.
pub(crate) fn key(pem: &[u8], chain: &[Vec<u8>]) -> Result<Zeroizing<Vec<u8>>, Unfit> {
    let mut keys = Vec::new();
    let mut is_other_format = false;
    for section in Section::pem_slice_iter(pem) {
        // The error's own text may hold a line of the file, and that line may be of a key.
        let (kind, bytes) = section.map_err(|_| Unfit::Pem)?;
        let bytes = Zeroizing::new(bytes);
        match kind {
            SectionKind::PrivateKey => keys.push(bytes),
            SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => is_other_format = true,
            _ => {}
        }
    }
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    is_other_format |= pem.windows(encrypted.len()).any(|seen| seen == encrypted);
    let key = match (keys.len(), keys.pop()) {
        (1, Some(key)) => key,
        (0, _) if is_other_format => return Err(Unfit::KeyFormat),
        (count, _) => return Err(Unfit::Keys(count)),
    };
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_slice()));
    let signing = rustls::crypto::ring::sign::any_supported_type(&der);
    let public = signing.ok().and_then(|it| it.public_key().map(|it| it.as_ref().to_vec()));
    let public = public.ok_or(Unfit::KeyUnusable)?;
    let leaf = chain.first().ok_or(Unfit::Certificates(0))?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| Unfit::Malformed { number: 1 })?;
    if public == leaf.public_key().raw { Ok(key) } else { Err(Unfit::KeyMismatch) }
}
