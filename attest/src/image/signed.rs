//! What an Authenticode signature consists of (RFC 5652 with Microsoft's content).

use authenticode::AttributeCertificate;
use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier};
use der::asn1::{ObjectIdentifier, OctetStringRef};
use der::{Decode, Encode, SliceReader};

use super::NotEfi;

/// `id-messageDigest` (RFC 5652, section 11.2).
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");

/// The most certificates in a signature.
const MAX_CERTIFICATES: usize = 64;

/// An Authenticode signature.
#[derive(Debug)]
pub struct Signature {
    image_digest: Vec<u8>,
    signed: SignedData,
}

/// The parts that have to fit each other.
pub(crate) struct Signed {
    /// What the digest among the attributes is of.
    pub(crate) content: Vec<u8>,
    pub(crate) message_digest: Vec<u8>,
    /// What the signature is over.
    pub(crate) attributes: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    /// The signer's certificate.
    pub(crate) signer: Vec<u8>,
    /// The other certificates that came along.
    pub(crate) others: Vec<Vec<u8>>,
}

impl Signature {
    pub(super) fn parse(certificate: &AttributeCertificate<'_>) -> Result<Self, NotEfi> {
        let parsed = certificate.get_authenticode_signature().map_err(|_| NotEfi::Signature)?;
        // Behind the structure there may be bytes that fill the entry up.
        let mut reader = SliceReader::new(certificate.data).map_err(|_| NotEfi::Signature)?;
        let content = ContentInfo::decode(&mut reader).map_err(|_| NotEfi::Signature)?;
        let signed = content.content.decode_as::<SignedData>().map_err(|_| NotEfi::Signature)?;
        Ok(Self { image_digest: parsed.digest().to_vec(), signed })
    }

    /// The digest of the image that was signed.
    pub(crate) fn image_digest(&self) -> &[u8] {
        &self.image_digest
    }

    /// Its parts; nothing if one is missing.
    pub(crate) fn signed(&self) -> Option<Signed> {
        let content = self.signed.encap_content_info.econtent.as_ref()?.value().to_vec();
        let [signer] = self.signed.signer_infos.0.as_slice() else { return None };
        let attributes = signer.signed_attrs.as_ref()?;
        let digest = attributes.iter().find(|attribute| attribute.oid == MESSAGE_DIGEST)?;
        let digest = digest.values.get(0)?.decode_as::<OctetStringRef<'_>>().ok()?;
        let SignerIdentifier::IssuerAndSerialNumber(id) = &signer.sid else { return None };
        let mut found = None;
        let mut others = Vec::new();
        for choice in self.signed.certificates.as_ref()?.0.iter().take(MAX_CERTIFICATES) {
            let CertificateChoices::Certificate(certificate) = choice else { continue };
            let tbs = &certificate.tbs_certificate;
            let is_signers = tbs.issuer == id.issuer && tbs.serial_number == id.serial_number;
            let der = certificate.to_der().ok()?;
            if is_signers && found.is_none() {
                found = Some(der);
            } else {
                others.push(der);
            }
        }
        Some(Signed {
            content,
            message_digest: digest.as_bytes().to_vec(),
            attributes: attributes.to_der().ok()?,
            signature: signer.signature.as_bytes().to_vec(),
            signer: found?,
            others,
        })
    }
}
