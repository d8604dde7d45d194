//! Certificates and their key, checked before a machine is built that nobody would trust.
//!
//! `x509-parser` reads the certificates: it is the parser that keeps up with RFC 5280, hands out
//! the public key as it stands in the file, and checks signatures with ring, which is here anyway.
//! Whether a key belongs to a certificate is asked of rustls itself, the one who will use both.

use std::fmt;

use edge_config::{Certificate, Identity, PrivateKey};
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use super::units;

const DAY_S: u64 = 24 * 60 * 60;

/// A certificate that expires sooner than this is worth a warning.
const SOON_DAYS: u64 = 14;

/// The smallest RSA key that is let through, in bits.
const RSA_BITS: usize = 2048;

/// What is wrong with certificates or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There are several certificates where one belongs.
    Certificates(usize),
    /// A certificate is not followed by the one that signed it.
    Chain {
        /// Which certificate, counted from 1.
        number: usize,
    },
    /// A certificate is no longer valid.
    Expired {
        /// Which certificate, counted from 1.
        number: usize,
        /// When it expired, in seconds since 1970-01-01 UTC.
        unix_s: u64,
    },
    /// The private key is encrypted.
    KeyEncrypted,
    /// The private key is in another format.
    KeyFormat,
    /// The private key belongs to another certificate.
    KeyMismatch,
    /// The private key is not one that can be used.
    KeyUnusable,
    /// There are several private keys.
    Keys(usize),
    /// A certificate is not one.
    Malformed {
        /// Which certificate, counted from 1.
        number: usize,
    },
    /// The file has no certificate.
    NoCertificate,
    /// The file has no private key.
    NoKey,
    /// The certificate may not issue others.
    NotAuthority,
    /// The file is not well-formed PEM.
    Pem,
    /// The server's certificate has a kind of key that is not used here.
    Unsupported {
        /// What it has.
        found: String,
    },
}

/// Something that is allowed and may still be a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A certificate expires soon.
    ExpiresSoon {
        /// Which certificate, counted from 1.
        number: usize,
        /// Days from the build on.
        days: u64,
    },
    /// The private key lies readable in the image.
    KeyInImage,
    /// The server's certificate names nobody.
    NoName,
    /// The key is made at the start, and nobody may ask whose it is.
    NobodyCanTell,
    /// A certificate becomes valid only after the build.
    NotYetValid {
        /// Which certificate, counted from 1.
        number: usize,
        /// From when on, in seconds since 1970-01-01 UTC.
        unix_s: u64,
    },
    /// A certificate is signed in a way that we cannot check.
    Unchecked {
        /// Which certificate, counted from 1.
        number: usize,
    },
}

/// Which of the two files a fault is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Certificates,
    Key,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificates(count) => write!(f, "there are {count} certificates"),
            Self::Chain { number } => {
                write!(f, "certificate {number} is not signed by the one after it")
            }
            Self::Expired { number, unix_s } => {
                write!(f, "certificate {number} expired on {}", units::utc(*unix_s))
            }
            Self::KeyEncrypted => write!(f, "the private key is encrypted"),
            Self::KeyFormat => write!(f, "the private key is not in PKCS#8 form"),
            Self::KeyMismatch => write!(f, "the private key belongs to another certificate"),
            Self::KeyUnusable => write!(f, "the private key cannot be used"),
            Self::Keys(count) => write!(f, "there are {count} private keys"),
            Self::Malformed { number } => write!(f, "certificate {number} is not well-formed"),
            Self::NoCertificate => write!(f, "the file has no certificate"),
            Self::NoKey => write!(f, "the file has no private key"),
            Self::NotAuthority => write!(f, "the certificate is no authority's"),
            Self::Pem => write!(f, "the file is not well-formed PEM"),
            Self::Unsupported { found } => write!(f, "the first certificate has {found}"),
        }
    }
}

impl Fault {
    pub(crate) fn write_remedy(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificates(_) => "leave the one that issues the server's certificate",
            Self::Chain { .. } => "put the server's certificate first, then each one's signer",
            Self::Expired { .. } => "renew it and compose the image again",
            Self::KeyEncrypted => "write it unencrypted: openssl pkcs8 -topk8 -nocrypt -in KEY",
            Self::KeyFormat => "convert it: openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW",
            Self::KeyMismatch => "name the key that the certificate was requested with",
            Self::KeyUnusable | Self::Unsupported { .. } => {
                "use P-256, P-384, Ed25519, or RSA of at least 2048 bits"
            }
            Self::Keys(_) => "leave one private key in the file",
            Self::Malformed { .. } => "check it: openssl x509 -noout -text -in FILE",
            Self::NoCertificate => "name a PEM file with -----BEGIN CERTIFICATE-----",
            Self::NoKey => "name a PEM file with -----BEGIN PRIVATE KEY-----",
            Self::NotAuthority => "name a certificate with basicConstraints CA:TRUE",
            Self::Pem => "check that every BEGIN has its END and the lines between are base64",
        })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExpiresSoon { number, days } => {
                write!(f, "certificate {number} expires in {days} days")
            }
            Self::KeyInImage => {
                write!(f, "the private key lies readable in the image: whoever can read")?;
                write!(f, " the file can be this server; keep it as you would keep the key")
            }
            Self::NoName => {
                write!(f, "the first certificate has no subjectAltName: no client will accept it")
            }
            Self::NobodyCanTell => {
                write!(f, "the private key is made at each start and attestation.allow names no")?;
                write!(f, " network: no client can find out whose it is")
            }
            Self::NotYetValid { number, unix_s } => {
                write!(f, "certificate {number} is valid only from {} on", units::utc(*unix_s))
            }
            Self::Unchecked { number } => {
                write!(f, "the signature of certificate {number} is of a kind not checked here")
            }
        }
    }
}

/// Reads the two PEM files' contents and checks that a server can live on them.
pub(crate) fn read(
    certificates_pem: &[u8],
    key_pem: &[u8],
    build_unix_s: u64,
) -> Result<(Identity, Vec<Warning>), (Which, Fault)> {
    let in_chain = |fault| (Which::Certificates, fault);
    let in_key = |fault| (Which::Key, fault);
    let chain = read_chain(certificates_pem).map_err(in_chain)?;
    let parsed = chain.iter().enumerate().map(|(index, der)| parse(index + 1, der));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(in_chain)?;
    let leaf = parsed.first().ok_or(in_chain(Fault::NoCertificate))?;
    check_key_kind(leaf).map_err(in_chain)?;
    let mut warnings = vec![Warning::KeyInImage];
    check_names(leaf, &mut warnings);
    check_dates(&parsed, build_unix_s, &mut warnings).map_err(in_chain)?;
    check_order(&parsed, &mut warnings).map_err(in_chain)?;

    let mut key = read_key(key_pem).map_err(in_key)?;
    check_match(&key, leaf).map_err(in_key)?;
    let chain = chain.iter().map(|der| Certificate::new(der.clone())).collect();
    let key = PrivateKey::new(std::mem::take(&mut *key));
    Ok((Identity::Image { chain, key }, warnings))
}

/// Reads the PEM file's contents and checks that it is one authority's certificate.
pub(crate) fn read_issuer(
    pem: &[u8],
    build_unix_s: u64,
) -> Result<(Certificate, Vec<Warning>), Fault> {
    let mut chain = read_chain(pem)?;
    let (count, der) = (chain.len(), chain.pop().ok_or(Fault::NoCertificate)?);
    if count > 1 {
        return Err(Fault::Certificates(count));
    }
    let issuer = parse(1, &der)?;
    let constraints = issuer.basic_constraints().ok().flatten();
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Fault::NotAuthority);
    }
    check_key_kind(&issuer)?;
    let mut warnings = Vec::new();
    check_dates(std::slice::from_ref(&issuer), build_unix_s, &mut warnings)?;
    Ok((Certificate::new(der), warnings))
}

type Section = (SectionKind, Vec<u8>);

fn read_chain(pem: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut chain = Vec::new();
    for section in Section::pem_slice_iter(pem) {
        match section.map_err(fault_of)? {
            (SectionKind::Certificate, der) => chain.push(der),
            // A key in the same file is erased as it is passed over.
            (_, other) => drop(Zeroizing::new(other)),
        }
    }
    if chain.is_empty() { Err(Fault::NoCertificate) } else { Ok(chain) }
}

fn read_key(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut keys = Vec::new();
    let mut is_other_format = false;
    for section in Section::pem_slice_iter(pem) {
        let (kind, bytes) = section.map_err(fault_of)?;
        let bytes = Zeroizing::new(bytes);
        match kind {
            SectionKind::PrivateKey => keys.push(bytes),
            SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => is_other_format = true,
            _ => {}
        }
    }
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    match (keys.len(), keys.pop()) {
        (1, Some(key)) => Ok(key),
        (0, _) if is_other_format => Err(Fault::KeyFormat),
        (0, _) if pem.windows(encrypted.len()).any(|seen| seen == encrypted) => {
            Err(Fault::KeyEncrypted)
        }
        (0, _) => Err(Fault::NoKey),
        (count, _) => Err(Fault::Keys(count)),
    }
}

/// The error's own text may hold a line of the file, and that line may be of a key.
fn fault_of(_: pem::Error) -> Fault {
    Fault::Pem
}

fn parse(number: usize, der: &[u8]) -> Result<X509Certificate<'_>, Fault> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Fault::Malformed { number }),
    }
}

fn check_key_kind(leaf: &X509Certificate) -> Result<(), Fault> {
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    const ED25519: &str = "1.3.101.112";
    let key = leaf.public_key();
    let parameters = key.algorithm.parameters.as_ref();
    let unsupported = |found: String| Err(Fault::Unsupported { found });
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= RSA_BITS => Ok(()),
        Ok(PublicKey::RSA(rsa)) => unsupported(format!("an RSA key of {} bits", rsa.key_size())),
        Ok(PublicKey::EC(_)) => match parameters.and_then(|any| any.as_oid().ok()) {
            Some(curve) if [P256, P384].contains(&&*curve.to_id_string()) => Ok(()),
            Some(curve) => unsupported(format!("a key on curve {curve}")),
            None => unsupported("a key on a curve without a name".to_owned()),
        },
        _ if key.algorithm.algorithm.to_id_string() == ED25519 => Ok(()),
        _ => unsupported(format!("a key of algorithm {}", key.algorithm.algorithm)),
    }
}

fn check_names(leaf: &X509Certificate, warnings: &mut Vec<Warning>) {
    let names = leaf.subject_alternative_name().ok().flatten();
    if names.is_none_or(|names| names.value.general_names.is_empty()) {
        warnings.push(Warning::NoName);
    }
}

fn check_dates(
    chain: &[X509Certificate],
    build_unix_s: u64,
    warnings: &mut Vec<Warning>,
) -> Result<(), Fault> {
    for (index, certificate) in chain.iter().enumerate() {
        let number = index + 1;
        let validity = certificate.validity();
        let end = u64::try_from(validity.not_after.timestamp()).unwrap_or(0);
        let start = u64::try_from(validity.not_before.timestamp()).unwrap_or(0);
        if end < build_unix_s {
            return Err(Fault::Expired { number, unix_s: end });
        }
        let days = (end - build_unix_s) / DAY_S;
        if days < SOON_DAYS {
            warnings.push(Warning::ExpiresSoon { number, days });
        }
        if start > build_unix_s {
            warnings.push(Warning::NotYetValid { number, unix_s: start });
        }
    }
    Ok(())
}

fn check_order(chain: &[X509Certificate], warnings: &mut Vec<Warning>) -> Result<(), Fault> {
    for (index, (certificate, signer)) in chain.iter().zip(chain.iter().skip(1)).enumerate() {
        let number = index + 1;
        if certificate.issuer().as_raw() != signer.subject().as_raw() {
            return Err(Fault::Chain { number });
        }
        match certificate.verify_signature(Some(signer.public_key())) {
            Ok(()) => {}
            Err(X509Error::SignatureUnsupportedAlgorithm) => {
                warnings.push(Warning::Unchecked { number });
            }
            Err(_) => return Err(Fault::Chain { number }),
        }
    }
    Ok(())
}

fn check_match(pkcs8: &[u8], leaf: &X509Certificate) -> Result<(), Fault> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    let key = rustls::crypto::ring::sign::any_supported_type(&der);
    let key = key.map_err(|_| Fault::KeyUnusable)?;
    let public = key.public_key().ok_or(Fault::KeyUnusable)?;
    if public.as_ref() == leaf.public_key().raw { Ok(()) } else { Err(Fault::KeyMismatch) }
}
