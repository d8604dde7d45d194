//! With Secure Boot on: who lets an image start, as firmware finds out and measures into PCR 7.
//!
//! Written after edk2's SecurityPkg/Library/DxeImageVerificationLib: signatures in their order, for each
//! the certificates of db in theirs; then the hashes in db.

use std::fmt;

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::pcr::{Digest, sha256};
use super::variables::{Guid, Variables};
use crate::image::{Efi, Signature};
use crate::units::index;

/// `EFI_CERT_X509_GUID`: a certificate (UEFI 2.10, section 32.4.1).
const X509: Guid = [
    0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72,
];

/// `EFI_CERT_SHA256_GUID`: a hash.
const SHA256: Guid = [
    0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28,
];

/// Bytes of `EFI_SIGNATURE_LIST` in front of its header and entries.
const LIST_BYTES: usize = 28;

/// Bytes of an entry's owner.
const OWNER_BYTES: usize = 16;

/// The most entries of a database that are looked at.
const MAX_ENTRIES: usize = 8192;

/// The longest path from a signer to a certificate in a database.
const MAX_PATH: usize = 8;

/// Why firmware would not start an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A database cannot be read.
    Database {
        /// Which.
        name: &'static str,
        /// Where its first list that makes no sense begins.
        at: usize,
    },
    /// It is in dbx, or its signer is.
    Forbidden,
    /// Neither it nor its signer is in db.
    Unknown,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database { name, at } => write!(f, "{name} cannot be read from byte {at} on"),
            Self::Forbidden => write!(f, "dbx forbids this image, so firmware would not start it"),
            Self::Unknown => {
                write!(f, "nobody in db vouches for this image, so firmware would not start it")
            }
        }
    }
}

impl std::error::Error for Refused {}

/// An entry of a database.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    kind: Guid,
    /// `EFI_SIGNATURE_DATA`: the owner, then the value.
    data: &'a [u8],
}

impl<'a> Entry<'a> {
    fn value(&self) -> &'a [u8] {
        self.data.get(OWNER_BYTES..).unwrap_or_default()
    }
}

/// The entry of db by which an image may start: its `EFI_SIGNATURE_DATA`, which is measured.
///
/// Entries of dbx that name a certificate by its hash are not looked at.
///
/// # Errors
///
/// [`Refused`] if firmware would not start it.
pub(crate) fn authority(efi: &Efi, variables: &Variables) -> Result<Vec<u8>, Refused> {
    let allowed = entries("db", &variables.allowed)?;
    let forbidden = entries("dbx", &variables.forbidden)?;
    let chains: Vec<_> =
        efi.signatures.iter().filter_map(|it| Chain::of(it, &efi.digest)).collect();
    let names_image = |entry: &&Entry<'_>| entry.kind == SHA256 && entry.value() == efi.digest;
    let names_signer = |entry: &&Entry<'_>| {
        entry.kind == X509 && chains.iter().any(|chain| chain.leads_to(entry.value()))
    };
    if forbidden.iter().any(|entry| names_image(&entry) || names_signer(&entry)) {
        return Err(Refused::Forbidden);
    }
    for chain in &chains {
        let leads = |entry: &&Entry<'_>| entry.kind == X509 && chain.leads_to(entry.value());
        if let Some(entry) = allowed.iter().find(leads) {
            return Ok(entry.data.to_vec());
        }
    }
    let entry = allowed.iter().find(names_image).ok_or(Refused::Unknown)?;
    Ok(entry.data.to_vec())
}

/// The entries of all lists in a database (UEFI 2.10, section 32.4.1).
fn entries<'a>(name: &'static str, database: &'a [u8]) -> Result<Vec<Entry<'a>>, Refused> {
    let mut found = Vec::new();
    let mut rest = database;
    while !rest.is_empty() {
        let at = database.len().saturating_sub(rest.len());
        let (list, behind) = list(rest).ok_or(Refused::Database { name, at })?;
        found.extend(list);
        // Each list has at least one byte of header, and each turn takes one.
        if found.len() > MAX_ENTRIES {
            return Err(Refused::Database { name, at });
        }
        rest = behind;
    }
    Ok(found)
}

fn list(bytes: &[u8]) -> Option<(Vec<Entry<'_>>, &[u8])> {
    let long = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(index(u64::from(u32::from_le_bytes(*bytes))))
    };
    let kind = *bytes.first_chunk()?;
    let (list_bytes, header_bytes, entry_bytes) = (long(16)?, long(20)?, long(24)?);
    let start = LIST_BYTES.checked_add(header_bytes)?;
    let (list, behind) = bytes.split_at_checked(list_bytes)?;
    let data = list.get(start..)?;
    if entry_bytes <= OWNER_BYTES || data.len().checked_rem(entry_bytes)? != 0 {
        return None;
    }
    let all = data.chunks_exact(entry_bytes).map(|data| Entry { kind, data });
    Some((all.collect(), behind))
}

/// The certificates of a signature that is genuine, its signer's first.
struct Chain {
    certificates: Vec<Vec<u8>>,
}

impl Chain {
    /// Nothing if it is not a signature over this image, or of a kind that is not followed here:
    /// SHA-256 with RSA or P-256.
    fn of(signature: &Signature, image: &Digest) -> Option<Self> {
        if signature.image_digest() != image {
            return None;
        }
        let signed = signature.signed()?;
        // RFC 5652, section 5.4: the signature is over the attributes, of which one is the
        // content's digest.
        if signed.message_digest != sha256(&signed.content) {
            return None;
        }
        let (_, signer) = X509Certificate::from_der(&signed.signer).ok()?;
        let key = &signer.public_key().subject_public_key.data;
        let algorithm: &dyn VerificationAlgorithm = match signer.public_key().parsed().ok()? {
            PublicKey::RSA(_) => &RSA_PKCS1_2048_8192_SHA256,
            PublicKey::EC(_) => &ECDSA_P256_SHA256_ASN1,
            _ => return None,
        };
        let key = UnparsedPublicKey::new(algorithm, key);
        key.verify(&signed.attributes, &signed.signature).ok()?;
        Some(Self { certificates: [vec![signed.signer], signed.others].concat() })
    }

    /// Whether a certificate in a database is the signer's, or signed it, or signed who signed it.
    fn leads_to(&self, authority: &[u8]) -> bool {
        let mut current = self.certificates.first();
        for _ in 0..MAX_PATH {
            let Some(der) = current else { return false };
            if der == authority || is_signed_by(der, authority) {
                return true;
            }
            let is_next = |next: &&Vec<u8>| *next != der && is_signed_by(der, next);
            current = self.certificates.iter().find(is_next);
        }
        false
    }
}

fn is_signed_by(certificate: &[u8], signer: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, signer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(signer))
    else {
        return false;
    };
    certificate.issuer().as_raw() == signer.subject().as_raw()
        && certificate.verify_signature(Some(signer.public_key())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_of(kind: Guid, entry_bytes: u32, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(LIST_BYTES.saturating_add(data.len())).unwrap();
        let fields = [length.to_le_bytes(), [0; 4], entry_bytes.to_le_bytes()].concat();
        [&kind[..], &fields, data].concat()
    }

    fn efi(byte: u8) -> Efi {
        Efi { digest: [byte; 32], signatures: Vec::new() }
    }

    fn variables(allowed: &[u8], forbidden: &[u8]) -> Variables {
        let (allowed, forbidden) = (allowed.to_vec(), forbidden.to_vec());
        Variables { allowed, forbidden, ..Variables::default() }
    }

    #[track_caller]
    fn check(allowed: &[u8], forbidden: &[u8], expected: Result<Vec<u8>, Refused>) {
        assert_eq!(authority(&efi(1), &variables(allowed, forbidden)), expected);
    }

    #[test]
    fn an_unsigned_image_starts_by_its_hash_only() {
        let entry = |byte| [[9; 16].as_slice(), &[byte; 32]].concat();
        let list = |bytes: &[u8]| {
            list_of(SHA256, 48, &bytes.iter().flat_map(|it| entry(*it)).collect::<Vec<_>>())
        };
        check(&list(&[2, 1]), &[], Ok(entry(1)));
        check(&[list(&[2]), list(&[1])].concat(), &[], Ok(entry(1)));
        check(&list(&[2]), &[], Err(Refused::Unknown));
        check(&[], &[], Err(Refused::Unknown));
        check(&list(&[1]), &list(&[1]), Err(Refused::Forbidden));
        // The right bytes under another kind are not a hash.
        check(&list_of(X509, 48, &entry(1)), &[], Err(Refused::Unknown));
    }

    #[test]
    fn a_database_that_contradicts_itself_is_refused() {
        let broken = |name, at| Err(Refused::Database { name, at });
        check(&[0], &[], broken("db", 0));
        check(&[], &[0; 27], broken("dbx", 0));
        // A list shorter than its own header; entries smaller than their owner; half an entry.
        check(&[&[0; 16][..], &[27, 0, 0, 0], &[0; 8]].concat(), &[], broken("db", 0));
        check(&list_of(SHA256, 16, &[0; 16]), &[], broken("db", 0));
        check(&list_of(SHA256, 48, &[0; 47]), &[], broken("db", 0));
        let good = list_of(SHA256, 48, &[0; 48]);
        check(&[&good[..], &[1]].concat(), &[], broken("db", 76));
    }
}
