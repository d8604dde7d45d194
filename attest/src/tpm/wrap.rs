//! Wrapping for one TPM: a seed that only its storage key can learn, and what hangs on the seed
//! (Part 1, sections 22.4 to 24: protected storage, credential protection).

use std::fmt;

use aes::{Aes128, Aes256};
use cfb_mode::Encryptor;
use cfb_mode::cipher::KeyIvInit;
use ring::agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rsa::oaep::EncryptingKey;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::RandomizedEncryptor;
use rsa::{BoxedUint, PublicKey};
use sha2::{Sha256, Sha384};
use zeroize::Zeroizing;

use super::derive::{kdfa, kdfe};
use super::public::{Curve, Hash, Key, StorageKey};
use super::wire::{Oversized, put_sized, sized};

/// Why nothing could be wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrapError {
    /// The endorsement key cannot be used: its point is not on its curve, or its modulus is none.
    Key,
    /// A part is larger than a TPM can take.
    Oversized,
    /// The system has no random numbers for us.
    Random,
}

impl fmt::Display for WrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => write!(f, "endorsement key cannot be encrypted to"),
            Self::Oversized => write!(f, "more bytes than a TPM takes"),
            Self::Random => write!(f, "the system gives no random numbers"),
        }
    }
}

impl std::error::Error for WrapError {}

impl From<Oversized> for WrapError {
    fn from(_: Oversized) -> Self {
        Self::Oversized
    }
}

/// Fills a buffer with random bytes.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, WrapError> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(&mut bytes[..]).map_err(|_| WrapError::Random)?;
    Ok(bytes)
}

/// A seed, and the same for the owner of a storage key.
pub(crate) struct Seed {
    secret: Zeroizing<Vec<u8>>,
    /// What is in a `TPM2B_ENCRYPTED_SECRET`.
    pub(crate) encrypted: Vec<u8>,
}

/// Makes a seed. `label` says for what, and ends in its NUL byte.
pub(crate) fn share_seed(parent: &StorageKey, label: &'static [u8]) -> Result<Seed, WrapError> {
    match &parent.key {
        Key::Ecc { curve, x, y } => share_by_ecdh(parent.hash, *curve, x, y, label),
        Key::Rsa { modulus, exponent } => share_by_oaep(parent.hash, modulus, *exponent, label),
    }
}

/// Part 1, section C.6.1: one pass Diffie-Hellman, both x coordinates in the derivation.
fn share_by_ecdh(
    hash: Hash,
    curve: Curve,
    x: &[u8],
    y: &[u8],
    label: &[u8],
) -> Result<Seed, WrapError> {
    let algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    };
    let own = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())
        .map_err(|_| WrapError::Random)?;
    let public = own.compute_public_key().map_err(|_| WrapError::Random)?;
    // SEC 1, section 2.3.3: 04 || x || y.
    let point = public.as_ref().get(1..).unwrap_or_default();
    let (own_x, own_y) = point.split_at_checked(curve.bytes()).ok_or(WrapError::Key)?;
    let theirs = UnparsedPublicKey::new(algorithm, [&[4], x, y].concat());
    let secret =
        agreement::agree_ephemeral(own, &theirs, |z| kdfe(hash, z, label, own_x, x, hash.bits()))
            .map_err(|_| WrapError::Key)?;
    let mut encrypted = sized(own_x)?;
    put_sized(&mut encrypted, own_y)?;
    Ok(Seed { secret, encrypted })
}

/// Part 1, section B.10.3: OAEP with the label, its NUL included.
fn share_by_oaep(
    hash: Hash,
    modulus: &[u8],
    exponent: u32,
    label: &'static [u8],
) -> Result<Seed, WrapError> {
    let bits = u32::try_from(modulus.len().saturating_mul(8)).map_err(|_| WrapError::Key)?;
    let modulus = BoxedUint::from_be_slice(modulus, bits).map_err(|_| WrapError::Key)?;
    let exponent =
        BoxedUint::from_be_slice(&exponent.to_be_bytes(), 32).map_err(|_| WrapError::Key)?;
    let key = PublicKey::new(modulus, exponent).map_err(|_| WrapError::Key)?;
    let mut secret = Zeroizing::new(vec![0; usize::try_from(hash.bits() / 8).unwrap_or(0)]);
    SystemRandom::new().fill(&mut secret).map_err(|_| WrapError::Random)?;
    let encrypted =
        match hash {
            Hash::Sha256 => EncryptingKey::<Sha256>::new_with_label(key, label)
                .encrypt_with_rng(&mut Ring, &secret),
            Hash::Sha384 => EncryptingKey::<Sha384>::new_with_label(key, label)
                .encrypt_with_rng(&mut Ring, &secret),
        };
    Ok(Seed { secret, encrypted: encrypted.map_err(|_| WrapError::Key)? })
}

/// Encrypts under a seed and authenticates: a `TPM2B_DIGEST` of the HMAC, then the ciphertext
/// (Part 1, sections 23.3.2.3 and 24.4). `name` is the object's.
pub(crate) fn protect(
    parent: &StorageKey,
    seed: &Seed,
    name: &[u8],
    mut bytes: Zeroizing<Vec<u8>>,
) -> Result<Vec<u8>, WrapError> {
    let key = kdfa(parent.hash, &seed.secret, b"STORAGE\0", name, parent.aes_bits);
    // A key is used once, so its initialisation vector may be zero, and it is.
    let iv = [0; 16];
    match key.len() {
        16 => Encryptor::<Aes128>::new_from_slices(&key, &iv)
            .map_err(|_| WrapError::Key)?
            .encrypt(&mut bytes),
        _ => Encryptor::<Aes256>::new_from_slices(&key, &iv)
            .map_err(|_| WrapError::Key)?
            .encrypt(&mut bytes),
    }
    let key = kdfa(parent.hash, &seed.secret, b"INTEGRITY\0", &[], parent.hash.bits());
    let mut mac = hmac::Context::with_key(&hmac::Key::new(parent.hash.hmac(), &key));
    mac.update(&bytes);
    mac.update(name);
    let mut protected = sized(mac.sign().as_ref())?;
    protected.extend_from_slice(&bytes);
    Ok(protected)
}

/// A challenge for one endorsement key and one attestation key.
pub struct Credential {
    /// What the TPM's `TPM2_ActivateCredential` takes: `TPM2B_ID_OBJECT`, then
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub challenge: Vec<u8>,
    /// What it answers if both keys are in it.
    pub answer: Zeroizing<[u8; 32]>,
}

/// Makes a challenge that only a TPM can answer which holds the endorsement key *and* a key of
/// this name (Part 1, section 24).
///
/// # Errors
///
/// [`WrapError`] if the keys or the random numbers cannot be used.
pub fn make_credential(parent: &StorageKey, name: &[u8]) -> Result<Credential, WrapError> {
    let answer = random::<32>()?;
    let seed = share_seed(parent, b"IDENTITY\0")?;
    let secret = Zeroizing::new(sized(&answer[..])?);
    let identity = protect(parent, &seed, name, secret)?;
    let mut challenge = sized(&identity)?;
    put_sized(&mut challenge, &seed.encrypted)?;
    Ok(Credential { challenge, answer })
}

/// The system's random numbers, as rsa takes them.
struct Ring;

impl TryRng for Ring {
    type Error = RandomFailed;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        SystemRandom::new().fill(bytes).map_err(|_| RandomFailed)
    }
}

impl TryCryptoRng for Ring {}

/// The system gave no random numbers.
#[derive(Clone, Copy, Debug)]
struct RandomFailed;

impl fmt::Display for RandomFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system gives no random numbers")
    }
}

impl std::error::Error for RandomFailed {}
