//! Endorsement keys: their certificates, and who vouches for them.

use std::fmt;
use std::path::{Path, PathBuf};

use attest_core::policy::PlatformTrust;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use crate::error::{Class, Error};
use crate::input;
use crate::tpm::{Malformed, StorageKey};

/// `tcg-kp-EKCertificate` (EK Credential Profile 2.5, section 3.2.16).
const EK_PURPOSE: &str = "2.23.133.8.1";

/// `tcg-at-tpmManufacturer`.
const MAKER: &str = "2.23.133.2.1";

/// Makers of TPMs that are programs on somebody's host (TCG Vendor ID Registry): libtpms as swtpm
/// certifies it and as IBM's number, Microsoft, Google, VMware.
const VIRTUAL_MAKERS: [&str; 5] =
    ["ID:00001014", "ID:49424D00", "ID:4D534654", "ID:474F4F47", "ID:564D5700"];

/// A certificate of an endorsement key.
#[derive(Clone, Debug)]
pub struct EkCertificate {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its key.
    pub key: StorageKey,
    /// Who issued it, as it says itself.
    pub issuer: String,
    /// Who made the TPM, as the certificate says.
    pub maker: Option<String>,
}

/// Why a certificate is not one of an endorsement key that we trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// Its key is none of a TPM.
    Key(Malformed),
    /// It cannot be read.
    Malformed,
    /// No root leads to it.
    Path(webpki::Error),
    /// It does not say that it is for an endorsement key.
    Purpose,
    /// It vouches for itself.
    SelfIssued,
    /// Its key is for something else, such as signing.
    Usage,
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(malformed) => write!(f, "endorsement certificate: {malformed}"),
            Self::Malformed => write!(f, "endorsement certificate is not well-formed"),
            Self::Path(error) => write!(f, "no root vouches for the endorsement key: {error:?}"),
            Self::Purpose => write!(f, "certificate is not one of an endorsement key"),
            Self::SelfIssued => write!(f, "endorsement certificate vouches for itself"),
            Self::Usage => write!(f, "certificate is for a key that does not decrypt or agree"),
        }
    }
}

impl std::error::Error for Untrusted {}

impl EkCertificate {
    /// Reads a certificate: what it says, not whether it is true.
    ///
    /// # Errors
    ///
    /// [`Untrusted`] if it is not of an endorsement key.
    pub fn parse(der: CertificateDer<'static>) -> Result<Self, Untrusted> {
        let (key, issuer, maker) = {
            let Ok(([], certificate)) = X509Certificate::from_der(&der) else {
                return Err(Untrusted::Malformed);
            };
            check_purpose(&certificate)?;
            let spki = certificate.public_key().raw;
            let key = StorageKey::of_certificate(spki).map_err(Untrusted::Key)?;
            (key, certificate.issuer().to_string(), maker(&certificate))
        };
        Ok(Self { der, key, issuer, maker })
    }

    /// Whether one of the roots vouches for it at a time.
    ///
    /// # Errors
    ///
    /// [`Untrusted::Path`] with the reason.
    pub fn verify(&self, roots: &Roots, at: UnixTime) -> Result<(), Untrusted> {
        let end = EndEntityCert::try_from(&self.der).map_err(Untrusted::Path)?;
        let anchors = roots.anchors.iter().map(webpki::anchor_from_trusted_cert);
        let anchors = anchors.collect::<Result<Vec<_>, _>>().map_err(Untrusted::Path)?;
        let algorithms = ALL_VERIFICATION_ALGS;
        end.verify_for_usage(algorithms, &anchors, &roots.intermediates, at, AnyPurpose, None, None)
            .map(|_| ())
            .map_err(Untrusted::Path)
    }
}

impl EkCertificate {
    /// Who has to be trusted if this TPM's word is: its host, for a TPM that is a program, or whoever
    /// made the chip. It is the maker's own word, and the roots decide which makers may speak.
    pub fn platform_trust(&self) -> PlatformTrust {
        match &self.maker {
            None => PlatformTrust::Unknown,
            Some(maker) if VIRTUAL_MAKERS.contains(&maker.as_str()) => PlatformTrust::VtpmHost,
            Some(_) => PlatformTrust::Tpm,
        }
    }
}

/// `tcg-at-tpmManufacturer` in the certificate's alternative name (EK Credential Profile 2.5, section
/// 3.2.9): `id:` and eight digits.
fn maker(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    let directories = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    });
    let mut attributes = directories.flat_map(X509Name::iter_attributes);
    let maker = attributes.find(|it| it.attr_type().to_id_string() == MAKER)?;
    maker.as_str().ok().map(str::to_uppercase)
}

/// The purpose is looked at in the certificate itself: webpki would ask it of those above, too, and
/// they have none.
fn check_purpose(certificate: &X509Certificate<'_>) -> Result<(), Untrusted> {
    if certificate.issuer().as_raw() == certificate.subject().as_raw() && !is_nameless(certificate)
    {
        return Err(Untrusted::SelfIssued);
    }
    let purposes = certificate.extended_key_usage().ok().flatten().ok_or(Untrusted::Purpose)?;
    if !purposes.value.other.iter().any(|oid| oid.to_id_string() == EK_PURPOSE) {
        return Err(Untrusted::Purpose);
    }
    let usage = certificate.key_usage().ok().flatten().ok_or(Untrusted::Usage)?.value;
    let is_for_us = match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(_)) => usage.key_encipherment(),
        _ => usage.key_agreement(),
    };
    let signs = usage.digital_signature() || usage.key_cert_sign();
    if is_for_us && !signs { Ok(()) } else { Err(Untrusted::Usage) }
}

/// An endorsement certificate's subject may be empty: a TPM is named in its subjectAltName.
fn is_nameless(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().iter().next().is_none()
}

/// Asks for no purpose.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Whom we trust to vouch for endorsement keys.
#[derive(Clone, Debug)]
pub struct Roots {
    anchors: Vec<CertificateDer<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads a folder, or one file. A certificate that vouches for itself is a root; the others help to get
    /// from a root to an endorsement key, and are believed only if a root vouches for them.
    ///
    /// # Errors
    ///
    /// [`Error`] if a file cannot be read or there is no root.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (mut anchors, mut intermediates) = (Vec::new(), Vec::new());
        for der in input::certificates_in(path)? {
            let is_root = match X509Certificate::from_der(&der) {
                Ok((_, it)) => it.issuer().as_raw() == it.subject().as_raw(),
                Err(_) => {
                    let hint = "check them: openssl x509 -noout -text -in FILE";
                    let what = "a certificate is not well-formed".to_owned();
                    return Err(Error::Format { path: path.to_owned(), what, hint });
                }
            };
            if is_root { anchors.push(der) } else { intermediates.push(der) }
        }
        if anchors.is_empty() {
            let hint = "put the certificate that vouches for itself there";
            let what = "no root among these certificates".to_owned();
            return Err(Error::Format { path: path.to_owned(), what, hint });
        }
        Ok(Self { anchors, intermediates })
    }
}

/// Reads the one certificate in a file.
pub(crate) fn read_certificate(path: &Path) -> Result<EkCertificate, Error> {
    let certificates = input::certificates(path)?;
    let [der] = certificates.as_slice() else {
        let what = format!("{} certificates where one is expected", certificates.len());
        let hint = "name the file with the endorsement key's certificate alone";
        return Err(Error::Format { path: path.to_owned(), what, hint });
    };
    EkCertificate::parse(der.clone()).map_err(|error| untrusted(path, &error))
}

/// Reads an endorsement key: a certificate, `TPM2B_PUBLIC` or `TPMT_PUBLIC`.
pub(crate) fn read_key(path: &Path) -> Result<StorageKey, Error> {
    let bytes = input::read(path, input::MAX_SMALL_BYTES)?;
    let is_certificate = bytes.first() == Some(&0x30) || bytes.starts_with(b"-----BEGIN");
    if is_certificate {
        return read_certificate(path).map(|certificate| certificate.key);
    }
    StorageKey::parse(&bytes).map_err(|error| Error::Format {
        path: path.to_owned(),
        what: error.to_string(),
        hint: "an endorsement key is its certificate, or what `tpm2_readpublic -o` writes",
    })
}

pub(crate) fn untrusted(path: impl Into<PathBuf>, error: &Untrusted) -> Error {
    let path = path.into();
    Error::Failed {
        class: Class::Key,
        what: format!("{}: {error}", path.display()),
        hint: "name the TPM's own certificate, and the roots of who made the TPM",
    }
}
