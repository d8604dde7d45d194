//! The TPM's structures that a verifier reads (TPM 2.0 library, part 2): attestation, key, signature.
//!
//! A restricted key signs whatever its TPM makes, and anything else that does not begin like it. So
//! the magic number is what makes a quote a quote, and the type is what makes it this kind.

use alloc::vec::Vec;
use core::fmt;

use ring::signature;

use crate::cursor::Cursor;
use crate::hash::Algorithm;
use crate::roca;

/// `TPM_GENERATED_VALUE`: the TPM made what follows.
const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const QUOTE: u16 = 0x8018;
/// `TPM_ALG_NULL`.
const NULL: u16 = 0x0010;

const RSA: u16 = 0x0001;
const RSASSA: u16 = 0x0014;
const RSAPSS: u16 = 0x0016;
const ECDSA: u16 = 0x0018;
const ECC: u16 = 0x0023;
const P256: u16 = 0x0003;
const P384: u16 = 0x0004;

/// The most selections a quote may have: one a bank.
const MAX_SELECTIONS: u32 = 8;

/// Attributes of a key (part 2, section 8.3).
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// Why a structure is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// It ends too early, too late, or a length in it does.
    Length,
    /// It does not begin as what a TPM makes: somebody had it signed.
    Magic(u32),
    /// It is an attestation of another kind.
    Type(u16),
    /// A truth value is neither yes nor no.
    YesNo(u8),
    /// A hash function, a scheme, a curve or a kind of key that is not accepted here.
    Algorithm(u16),
    /// A key's attributes are not those of an attestation key.
    Attributes(u32),
    /// An RSA key of fewer than 2,048 or more than 4,096 bits, with an exponent that is none, or with
    /// factors that can be found.
    Rsa,
    /// A bank is selected twice, or a PCR beyond 23.
    Selection,
    /// The signature's scheme is not the key's.
    Scheme,
    /// The signature is not one by this key over these bytes.
    Signature,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "a length in it is wrong"),
            Self::Magic(magic) => write!(f, "it begins with {magic:#010x}: no TPM made it"),
            Self::Type(kind) => write!(f, "its type is {kind:#06x}, a quote is {QUOTE:#06x}"),
            Self::YesNo(value) => write!(f, "a truth value in it is {value}"),
            Self::Algorithm(id) => write!(f, "algorithm {id:#06x} is not accepted"),
            Self::Attributes(bits) => {
                write!(f, "attributes {bits:#010x} are not those of an attestation key")
            }
            Self::Rsa => {
                write!(f, "the RSA key has a size, an exponent or a shape that is not accepted")
            }
            Self::Selection => write!(f, "a bank is selected twice, or a PCR that is none"),
            Self::Scheme => write!(f, "the signature's scheme is not the key's"),
            Self::Signature => write!(f, "the signature is not by this key over these bytes"),
        }
    }
}

impl core::error::Error for Invalid {}

/// PCRs of one bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The bank.
    pub bank: Algorithm,
    /// Bit n selects PCR n.
    pub pcrs: u32,
}

impl Selection {
    /// The PCRs, ascending.
    pub fn indices(self) -> impl Iterator<Item = u8> {
        (0..24).filter(move |index| self.pcrs >> index & 1 != 0)
    }
}

/// How often the machine was reset, and whether the clock can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// TPM resets since the owner was last cleared.
    pub reset_count: u32,
    /// Resumes since the last reset.
    pub restart_count: u32,
    /// Whether the clock did not go back since the last orderly shutdown.
    pub is_safe: bool,
}

/// A quote: `TPMS_ATTEST` of type `TPM_ST_ATTEST_QUOTE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote<'a> {
    /// The qualified name of the key that signed.
    pub qualified_signer: &'a [u8],
    /// What the TPM was asked to sign along.
    pub extra_data: &'a [u8],
    /// The clock.
    pub clock: Clock,
    /// The TPM's firmware, as its maker counts.
    pub firmware_version: u64,
    /// Which PCRs.
    pub selections: Vec<Selection>,
    /// The hash of their values, by the signing scheme's function.
    pub pcr_digest: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Reads a quote and nothing else.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.u32().ok_or(Invalid::Length)?;
        if magic != GENERATED {
            return Err(Invalid::Magic(magic));
        }
        let kind = cursor.u16().ok_or(Invalid::Length)?;
        if kind != QUOTE {
            return Err(Invalid::Type(kind));
        }
        Self::body(&mut cursor)?.ok_or(Invalid::Length)
    }

    /// Everything behind magic and type; nothing if a length is wrong.
    fn body(cursor: &mut Cursor<'a>) -> Result<Option<Self>, Invalid> {
        let Some(head) = Head::read(cursor) else { return Ok(None) };
        let is_safe = match head.safe {
            0 => false,
            1 => true,
            value => return Err(Invalid::YesNo(value)),
        };
        let mut selections = Vec::new();
        if head.count > MAX_SELECTIONS {
            return Err(Invalid::Selection);
        }
        for _ in 0..head.count {
            let Some((id, pcrs)) = select(cursor) else { return Ok(None) };
            let bank = Algorithm::parse(id).ok_or(Invalid::Algorithm(id))?;
            let pcrs = pcrs.ok_or(Invalid::Selection)?;
            if selections.iter().any(|other: &Selection| other.bank == bank) {
                return Err(Invalid::Selection);
            }
            selections.push(Selection { bank, pcrs });
        }
        let Some(pcr_digest) = cursor.sized() else { return Ok(None) };
        if !cursor.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            qualified_signer: head.qualified_signer,
            extra_data: head.extra_data,
            clock: Clock {
                reset_count: head.reset_count,
                restart_count: head.restart_count,
                is_safe,
            },
            firmware_version: head.firmware_version,
            selections,
            pcr_digest,
        }))
    }
}

/// The fields of every attestation, and how many selections follow in a quote.
struct Head<'a> {
    qualified_signer: &'a [u8],
    extra_data: &'a [u8],
    reset_count: u32,
    restart_count: u32,
    safe: u8,
    firmware_version: u64,
    count: u32,
}

impl<'a> Head<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Option<Self> {
        let qualified_signer = cursor.sized()?;
        let extra_data = cursor.sized()?;
        let _clock_ms = cursor.u64()?;
        Some(Self {
            qualified_signer,
            extra_data,
            reset_count: cursor.u32()?,
            restart_count: cursor.u32()?,
            safe: cursor.u8()?,
            firmware_version: cursor.u64()?,
            count: cursor.u32()?,
        })
    }
}

/// One `TPMS_PCR_SELECTION`: bank, and the PCRs unless there are more than 24.
fn select(cursor: &mut Cursor<'_>) -> Option<(u16, Option<u32>)> {
    let bank = cursor.u16()?;
    let count = cursor.u8()?;
    let bytes = cursor.take(count.into())?;
    let is_short = bytes.len() <= 3;
    let pcrs = bytes.iter().rev().fold(0_u32, |pcrs, byte| pcrs << 8 | u32::from(*byte));
    Some((bank, is_short.then_some(pcrs)))
}

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// `TPM_ALG_RSASSA`, `TPM_ALG_RSAPSS` or `TPM_ALG_ECDSA`.
    id: u16,
    /// The hash function of signature and PCR digest.
    pub hash: Algorithm,
}

/// The key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key<'a> {
    Rsa { modulus: &'a [u8], exponent: u32 },
    Ecc { curve: u16, x: &'a [u8], y: &'a [u8] },
}

/// A public key that may sign quotes: `TPMT_PUBLIC` of an attestation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Public<'a> {
    bytes: &'a [u8],
    name_algorithm: Algorithm,
    /// How it signs.
    pub scheme: Scheme,
    key: Key<'a>,
}

impl<'a> Public<'a> {
    /// Reads an attestation key.
    ///
    /// # Errors
    ///
    /// [`Invalid`] unless it is a restricted signing key that cannot leave its TPM, with a scheme
    /// and a size that are accepted.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let mut cursor = Cursor::new(bytes);
        let (kind, name_id, attributes) = (|| {
            let head = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
            let _policy = cursor.sized()?;
            Some(head)
        })()
        .ok_or(Invalid::Length)?;
        let name_algorithm = accepted(name_id)?;
        let must = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN;
        if attributes & must != must || attributes & DECRYPT != 0 {
            return Err(Invalid::Attributes(attributes));
        }
        let symmetric = cursor.u16().ok_or(Invalid::Length)?;
        if symmetric != NULL {
            return Err(Invalid::Algorithm(symmetric));
        }
        let scheme_id = cursor.u16().ok_or(Invalid::Length)?;
        let is_its_own = match kind {
            RSA => matches!(scheme_id, RSASSA | RSAPSS),
            ECC => scheme_id == ECDSA,
            other => return Err(Invalid::Algorithm(other)),
        };
        if !is_its_own {
            return Err(Invalid::Algorithm(scheme_id));
        }
        let hash = accepted(cursor.u16().ok_or(Invalid::Length)?)?;
        let scheme = Scheme { id: scheme_id, hash };
        let key = if kind == RSA { rsa(&mut cursor)? } else { ecc(&mut cursor)? };
        if !cursor.is_empty() {
            return Err(Invalid::Length);
        }
        Ok(Self { bytes, name_algorithm, scheme, key })
    }

    /// The key's name: the name algorithm, then the hash of the structure (part 1, section 16).
    pub fn name(&self) -> Vec<u8> {
        let mut name = (self.name_algorithm as u16).to_be_bytes().to_vec();
        name.extend_from_slice(&self.name_algorithm.digest(&[self.bytes]));
        name
    }

    /// The qualified name as a primary key of the endorsement hierarchy (part 1, section 26.5).
    pub fn qualified_name_under_endorsement(&self) -> Vec<u8> {
        const ENDORSEMENT: [u8; 4] = 0x4000_000b_u32.to_be_bytes();
        let mut name = (self.name_algorithm as u16).to_be_bytes().to_vec();
        name.extend_from_slice(&self.name_algorithm.digest(&[&ENDORSEMENT, &self.name()]));
        name
    }

    /// Checks a `TPMT_SIGNATURE` over `message`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] unless it is one by this key, in this key's own scheme.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Invalid> {
        let mut cursor = Cursor::new(signature);
        let id = cursor.u16().ok_or(Invalid::Length)?;
        let hash = cursor.u16().ok_or(Invalid::Length)?;
        if id != self.scheme.id || hash != self.scheme.hash as u16 {
            return Err(Invalid::Scheme);
        }
        match self.key {
            Key::Rsa { modulus, exponent } => {
                let raw = cursor.sized().ok_or(Invalid::Length)?;
                if !cursor.is_empty() {
                    return Err(Invalid::Length);
                }
                let parameters = self.rsa_parameters()?;
                let exponent = exponent.to_be_bytes();
                let (n, e) = (strip_zeros(modulus), strip_zeros(&exponent));
                signature::RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, raw)
                    .map_err(|_| Invalid::Signature)
            }
            Key::Ecc { curve, x, y } => {
                let (r, s) = (cursor.sized(), cursor.sized());
                let (Some(r), Some(s), true) = (r, s, cursor.is_empty()) else {
                    return Err(Invalid::Length);
                };
                let (algorithm, width): (&dyn signature::VerificationAlgorithm, usize) =
                    match (curve, self.scheme.hash) {
                        (P256, Algorithm::Sha256) => (&signature::ECDSA_P256_SHA256_FIXED, 32),
                        (P384, Algorithm::Sha384) => (&signature::ECDSA_P384_SHA384_FIXED, 48),
                        (_, hash) => return Err(Invalid::Algorithm(hash as u16)),
                    };
                let point = [&[4][..], &padded(x, width)?, &padded(y, width)?].concat();
                let fixed = [padded(r, width)?, padded(s, width)?].concat();
                signature::UnparsedPublicKey::new(algorithm, point)
                    .verify(message, &fixed)
                    .map_err(|_| Invalid::Signature)
            }
        }
    }

    fn rsa_parameters(&self) -> Result<&'static signature::RsaParameters, Invalid> {
        Ok(match (self.scheme.id, self.scheme.hash) {
            (RSASSA, Algorithm::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (RSASSA, Algorithm::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (RSASSA, Algorithm::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (RSAPSS, Algorithm::Sha256) => &signature::RSA_PSS_2048_8192_SHA256,
            (RSAPSS, Algorithm::Sha384) => &signature::RSA_PSS_2048_8192_SHA384,
            (RSAPSS, Algorithm::Sha512) => &signature::RSA_PSS_2048_8192_SHA512,
            (_, hash) => return Err(Invalid::Algorithm(hash as u16)),
        })
    }
}

/// A hash function that may vouch for anything: SHA-1 may not.
fn accepted(id: u16) -> Result<Algorithm, Invalid> {
    let is_strong = |algorithm: &Algorithm| *algorithm != Algorithm::Sha1;
    Algorithm::parse(id).filter(is_strong).ok_or(Invalid::Algorithm(id))
}

fn rsa<'a>(cursor: &mut Cursor<'a>) -> Result<Key<'a>, Invalid> {
    let (bits, exponent, modulus) =
        (|| Some((cursor.u16()?, cursor.u32()?, cursor.sized()?)))().ok_or(Invalid::Length)?;
    // Zero means the usual exponent (part 2, section 12.2.3.5).
    let exponent = if exponent == 0 { 65_537 } else { exponent };
    let is_odd = exponent & 1 == 1 && modulus.last().is_some_and(|last| last & 1 == 1);
    let is_full =
        modulus.len() * 8 == usize::from(bits) && modulus.first().is_some_and(|it| *it >= 0x80);
    if !matches!(bits, 2048 | 3072 | 4096) || exponent < 3 || !is_odd || !is_full {
        return Err(Invalid::Rsa);
    }
    if roca::is_shaped(modulus) {
        return Err(Invalid::Rsa);
    }
    Ok(Key::Rsa { modulus, exponent })
}

fn ecc<'a>(cursor: &mut Cursor<'a>) -> Result<Key<'a>, Invalid> {
    let curve = cursor.u16().ok_or(Invalid::Length)?;
    if !matches!(curve, P256 | P384) {
        return Err(Invalid::Algorithm(curve));
    }
    let derivation = cursor.u16().ok_or(Invalid::Length)?;
    if derivation != NULL {
        return Err(Invalid::Algorithm(derivation));
    }
    let (x, y) = (|| Some((cursor.sized()?, cursor.sized()?)))().ok_or(Invalid::Length)?;
    Ok(Key::Ecc { curve, x, y })
}

fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// A number in exactly `width` bytes.
fn padded(number: &[u8], width: usize) -> Result<Vec<u8>, Invalid> {
    let number = strip_zeros(number);
    let zeros = width.checked_sub(number.len()).ok_or(Invalid::Length)?;
    let mut padded = alloc::vec![0; zeros];
    padded.extend_from_slice(number);
    Ok(padded)
}
