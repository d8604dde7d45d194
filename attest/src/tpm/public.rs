//! Public areas: endorsement keys as parents, and the names of attestation keys.

use std::fmt;

use attest_core::tpms::{Invalid, Public};
use ring::{digest, hmac};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::wire::{Reader, Short};

const TPM_ALG_RSA: u16 = 0x0001;
const TPM_ALG_AES: u16 = 0x0006;
const TPM_ALG_NULL: u16 = 0x0010;
const TPM_ALG_ECC: u16 = 0x0023;
const TPM_ALG_CFB: u16 = 0x0043;

/// What a public area may be long at most: an RSA key of 4096 bits takes some 600 bytes.
const MAX_BYTES: usize = 1024;

/// Attributes that a storage key of a TPM has: fixedTPM, fixedParent, sensitiveDataOrigin,
/// restricted, decrypt (Part 2, section 8.3).
const STORAGE_ATTRIBUTES: u32 = 0x0003_0032;

/// The sign attribute, which a storage key must not have.
const SIGN: u32 = 1 << 18;

/// A hash that a TPM uses for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Hash {
    /// Its number in the TCG's registry of algorithms.
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
        }
    }

    fn of(id: u16) -> Result<Self, Malformed> {
        [Self::Sha256, Self::Sha384]
            .into_iter()
            .find(|hash| hash.id() == id)
            .ok_or(Malformed::Unsupported { what: "hash", number: id })
    }

    pub(crate) fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
        }
    }

    pub(crate) fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
        }
    }

    /// The size of its digests in bits.
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Sha256 => 256,
            Self::Sha384 => 384,
        }
    }
}

/// A curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    const fn id(self) -> u16 {
        match self {
            Self::P256 => 0x0003,
            Self::P384 => 0x0004,
        }
    }

    /// Bytes of a coordinate.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// The key of a storage key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A point.
    Ecc { curve: Curve, x: Vec<u8>, y: Vec<u8> },
    /// A modulus and an exponent.
    Rsa { modulus: Vec<u8>, exponent: u32 },
}

/// The public part of a key that a TPM imports under: here always its endorsement key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageKey {
    pub(crate) hash: Hash,
    /// The size of its symmetric key in bits: AES in CFB mode.
    pub(crate) aes_bits: u32,
    pub(crate) key: Key,
}

/// Why bytes are not a public area that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The attributes are not those of such a key.
    Attributes(u32),
    /// A coordinate or a modulus has another size than its kind of key.
    KeySize {
        /// How many bytes it has.
        bytes: usize,
    },
    /// It ends within a field, or after its end.
    Length,
    /// It is no certificate's public key that a TPM would have.
    NotAnEndorsementKey,
    /// An RSA key whose factors can be found (CVE-2017-15361).
    Roca,
    /// Something is used that is not supported here.
    Unsupported {
        /// What.
        what: &'static str,
        /// Its number in the TCG's registry of algorithms.
        number: u16,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attributes(attributes) => {
                write!(f, "attributes {attributes:#010x} are not those of such a key in a TPM")
            }
            Self::KeySize { bytes } => write!(f, "a key of {bytes} bytes does not fit its kind"),
            Self::Length => write!(f, "public area ends too early or too late"),
            Self::NotAnEndorsementKey => {
                write!(f, "public key is neither P-256, P-384 nor RSA of 2048 bits or more")
            }
            Self::Roca => write!(f, "RSA key has factors that can be found (CVE-2017-15361)"),
            Self::Unsupported { what, number } => {
                write!(f, "{what} {number:#06x} is not supported")
            }
        }
    }
}

impl std::error::Error for Malformed {}

impl From<Short> for Malformed {
    fn from(_: Short) -> Self {
        Self::Length
    }
}

impl StorageKey {
    /// Reads a `TPM2B_PUBLIC` or `TPMT_PUBLIC` of a storage key.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(area(bytes)?);
        let kind = reader.word()?;
        let hash = Hash::of(reader.word()?)?;
        let attributes = reader.long()?;
        if attributes & STORAGE_ATTRIBUTES != STORAGE_ATTRIBUTES || attributes & SIGN != 0 {
            return Err(Malformed::Attributes(attributes));
        }
        let _policy = reader.sized()?;
        let aes_bits = symmetric(&mut reader)?;
        let scheme = reader.word()?;
        expect("scheme", scheme, TPM_ALG_NULL)?;
        let key = match kind {
            TPM_ALG_RSA => rsa(&mut reader)?,
            TPM_ALG_ECC => ecc(&mut reader)?,
            number => return Err(Malformed::Unsupported { what: "key type", number }),
        };
        if reader.is_empty() { Ok(Self { hash, aes_bits, key }) } else { Err(Malformed::Length) }
    }

    /// The endorsement key of a certificate, with the hash and the symmetric key that the TCG's
    /// template for such a key says (EK Credential Profile 2.5, sections B.3 and B.4: L-1, L-2, H-3, H-6, H-7).
    ///
    /// # Errors
    ///
    /// [`Malformed`] if no template is for such a key.
    pub fn of_certificate(spki_der: &[u8]) -> Result<Self, Malformed> {
        let (rest, spki) =
            SubjectPublicKeyInfo::from_der(spki_der).map_err(|_| Malformed::Length)?;
        let key = match spki.parsed() {
            _ if !rest.is_empty() => return Err(Malformed::Length),
            Ok(PublicKey::EC(point)) => certified_point(point.data())?,
            Ok(PublicKey::RSA(rsa)) => {
                // A DER integer has a zero byte in front if its first bit is set.
                let zeros = rsa.modulus.iter().take_while(|byte| **byte == 0).count();
                let modulus = rsa.modulus.get(zeros..).unwrap_or_default().to_vec();
                let exponent = rsa.try_exponent().ok().and_then(|it| u32::try_from(it).ok());
                let exponent = exponent.ok_or(Malformed::NotAnEndorsementKey)?;
                if modulus.len() < 256 {
                    return Err(Malformed::NotAnEndorsementKey);
                }
                strong(&modulus)?;
                Key::Rsa { modulus, exponent }
            }
            _ => return Err(Malformed::NotAnEndorsementKey),
        };
        let is_small = match &key {
            Key::Ecc { curve, .. } => *curve == Curve::P256,
            Key::Rsa { modulus, .. } => modulus.len() == 256,
        };
        let (hash, aes_bits) = if is_small { (Hash::Sha256, 128) } else { (Hash::Sha384, 256) };
        Ok(Self { hash, aes_bits, key })
    }

    /// Its kind, in words.
    pub fn describe(&self) -> String {
        match &self.key {
            Key::Ecc { curve: Curve::P256, .. } => "ECC P-256".to_owned(),
            Key::Ecc { curve: Curve::P384, .. } => "ECC P-384".to_owned(),
            Key::Rsa { modulus, .. } => format!("RSA {}", modulus.len().saturating_mul(8)),
        }
    }
}

/// An uncompressed point (SEC 1, section 2.3.3).
fn certified_point(point: &[u8]) -> Result<Key, Malformed> {
    let Some((4, coordinates)) = point.split_first() else {
        return Err(Malformed::NotAnEndorsementKey);
    };
    let curve = [Curve::P256, Curve::P384]
        .into_iter()
        .find(|curve| coordinates.len() == curve.bytes().saturating_mul(2))
        .ok_or(Malformed::NotAnEndorsementKey)?;
    let (x, y) = coordinates.split_at(curve.bytes());
    Ok(Key::Ecc { curve, x: x.to_vec(), y: y.to_vec() })
}

/// A key that signs nothing but what its TPM says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationKey {
    /// Its name: its hash's number and the hash of its public area (Part 1, section 16).
    pub name: Vec<u8>,
}

impl AttestationKey {
    /// Reads a `TPM2B_PUBLIC` or `TPMT_PUBLIC` of an attestation key.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is none that [`attest_core::verify`] would take.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let public = area(bytes).map_err(|_| Invalid::Length)?;
        Ok(Self { name: Public::parse(public)?.name() })
    }
}

/// The `TPMT_PUBLIC`, whether or not its size is in front. A size is never a key's type: no
/// public area has 1 or 0x23 bytes.
fn area(bytes: &[u8]) -> Result<&[u8], Malformed> {
    if bytes.len() > MAX_BYTES {
        return Err(Malformed::Length);
    }
    let mut reader = Reader::new(bytes);
    match reader.sized() {
        Ok(area) if reader.is_empty() => Ok(area),
        _ => Ok(bytes),
    }
}

fn expect(what: &'static str, number: u16, expected: u16) -> Result<(), Malformed> {
    if number == expected { Ok(()) } else { Err(Malformed::Unsupported { what, number }) }
}

fn symmetric(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    expect("symmetric algorithm", reader.word()?, TPM_ALG_AES)?;
    let bits = reader.word()?;
    if bits != 128 && bits != 256 {
        return Err(Malformed::Unsupported { what: "AES key size", number: bits });
    }
    expect("symmetric mode", reader.word()?, TPM_ALG_CFB)?;
    Ok(u32::from(bits))
}

fn rsa(reader: &mut Reader<'_>) -> Result<Key, Malformed> {
    let bits = reader.word()?;
    let exponent = match reader.long()? {
        // Part 2, section 12.2.3.5: zero stands for the usual one.
        0 => 65537,
        exponent => exponent,
    };
    let modulus = reader.sized()?;
    let is_whole = modulus.len().saturating_mul(8) == usize::from(bits) && bits >= 2048;
    if !is_whole {
        return Err(Malformed::KeySize { bytes: modulus.len() });
    }
    strong(modulus)?;
    Ok(Key::Rsa { modulus: modulus.to_vec(), exponent })
}

/// What is wrapped for a key that others can compute is no secret, whoever certified the key.
fn strong(modulus: &[u8]) -> Result<(), Malformed> {
    if attest_core::roca::is_shaped(modulus) { Err(Malformed::Roca) } else { Ok(()) }
}

fn ecc(reader: &mut Reader<'_>) -> Result<Key, Malformed> {
    let number = reader.word()?;
    let curve = [Curve::P256, Curve::P384].into_iter().find(|curve| curve.id() == number);
    let curve = curve.ok_or(Malformed::Unsupported { what: "curve", number })?;
    expect("key derivation scheme", reader.word()?, TPM_ALG_NULL)?;
    let mut coordinate = || -> Result<Vec<u8>, Malformed> {
        let bytes = reader.sized()?;
        let zeros = curve.bytes().checked_sub(bytes.len());
        let zeros = zeros.ok_or(Malformed::KeySize { bytes: bytes.len() })?;
        // A TPM may leave leading zeros out; what is derived from a coordinate has all of them.
        Ok([&vec![0; zeros], bytes].concat())
    };
    Ok(Key::Ecc { curve, x: coordinate()?, y: coordinate()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const P384: &[u8] = include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/ek_pub.bin");
    const RSA: &[u8] =
        include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/ekrsa_pub.bin");
    const P384_CERTIFICATE: &[u8] =
        include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/ekcert_p384.bin");
    const RSA_CERTIFICATE: &[u8] =
        include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/ekcert_rsa.bin");
    const AK: &[u8] =
        include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/ak_endorsement_pub.bin");

    #[test]
    fn a_certificate_tells_the_same_key_as_the_public_area() {
        for (public, certificate) in [(P384, P384_CERTIFICATE), (RSA, RSA_CERTIFICATE)] {
            let (_, parsed) =
                x509_parser::certificate::X509Certificate::from_der(certificate).unwrap();
            let certified = StorageKey::of_certificate(parsed.public_key().raw).unwrap();
            assert_eq!(StorageKey::parse(public), Ok(certified.clone()));
            // Without its size in front.
            assert_eq!(StorageKey::parse(&public[2..]), Ok(certified));
        }
    }

    #[test]
    fn keys_are_not_mistaken_for_each_other() {
        assert!(AttestationKey::parse(AK).is_ok());
        assert_eq!(StorageKey::parse(AK), Err(Malformed::Attributes(0x0005_0472)));
        assert_eq!(AttestationKey::parse(P384), Err(Invalid::Attributes(0x0003_00f2)));
        // Nor is one taken that the verifier would refuse later.
        let longer = [&AK[2..], &[0]].concat();
        assert_eq!(AttestationKey::parse(&longer), Err(Invalid::Length));
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<u8>), expected: Malformed) {
        let mut public = P384[2..].to_vec();
        change(&mut public);
        assert_eq!(StorageKey::parse(&public), Err(expected));
    }

    #[test]
    fn refuses_what_is_no_storage_key() {
        let unsupported = |what, number| Malformed::Unsupported { what, number };
        check(|it| it[1] = 0x08, unsupported("key type", 0x0008));
        check(|it| it[3] = 0x04, unsupported("hash", 0x0004));
        check(|it| it[7] &= !2, Malformed::Attributes(0x0003_00f0));
        check(|it| it[5] |= 4, Malformed::Attributes(0x0007_00f2));
        check(|it| it[9] = 0xff, Malformed::Length);
        let symmetric = P384.len() - 2 - (2 + 48) * 2 - 4 - 2 - 6;
        check(|it| it[symmetric + 1] = 0x26, unsupported("symmetric algorithm", 0x0026));
        check(|it| it[symmetric + 3] = 192, unsupported("AES key size", 0x01c0));
        check(|it| it[symmetric + 5] = 0x44, unsupported("symmetric mode", 0x0044));
        check(|it| it[symmetric + 7] = 0x14, unsupported("scheme", 0x0014));
        check(|it| it[symmetric + 9] = 0x05, unsupported("curve", 0x0005));
        check(|it| it.push(0), Malformed::Length);
        check(|it| it.resize(2000, 0), Malformed::Length);
        for length in 0..P384.len() {
            assert!(StorageKey::parse(&P384[..length]).is_err(), "{length} bytes");
        }
        let mut short = RSA[2..].to_vec();
        let modulus = short.len() - 258;
        short.truncate(modulus);
        short.extend_from_slice(&[0, 1, 0xff]);
        assert_eq!(StorageKey::parse(&short), Err(Malformed::KeySize { bytes: 1 }));
    }

    #[test]
    fn refuses_a_key_whose_factors_can_be_found() {
        let text = include_str!("../../../tests/vectors/roca/mod03.txt").trim();
        let modulus = attest_core::policy::Hex::parse(text.strip_prefix("0x").unwrap()).unwrap().0;
        let mut public = RSA[2..].to_vec();
        let at = public.len() - modulus.len();
        public[at..].copy_from_slice(&modulus);
        assert_eq!(StorageKey::parse(&public), Err(Malformed::Roca));
        // And in a certificate, whoever signed it.
        let (_, parsed) =
            x509_parser::certificate::X509Certificate::from_der(RSA_CERTIFICATE).unwrap();
        let mut spki = parsed.public_key().raw.to_vec();
        let own = &RSA[RSA.len() - modulus.len()..];
        let at = spki.windows(own.len()).position(|it| it == own).unwrap();
        spki[at..at + modulus.len()].copy_from_slice(&modulus);
        assert_eq!(StorageKey::of_certificate(&spki), Err(Malformed::Roca));
    }

    #[test]
    fn survives_any_change() {
        for public in [P384, RSA, AK] {
            for at in 0..public.len() {
                for bit in 0..8 {
                    let mut changed = public.to_vec();
                    changed[at] ^= 1 << bit;
                    let _refused = (StorageKey::parse(&changed), AttestationKey::parse(&changed));
                }
            }
        }
    }
}
