//! A secret that a TPM imports and unseals only while its PCRs have the values foreseen.

use ring::digest::{self, SHA256};
use zeroize::Zeroizing;

use super::public::{Hash, StorageKey};
use super::wire::{Oversized, put_long, put_sized, put_word, sized};
use super::wrap::{WrapError, protect, random, share_seed};

const TPM_ALG_KEYEDHASH: u16 = 0x0008;
const TPM_ALG_NULL: u16 = 0x0010;
const TPM_CC_POLICY_PCR: u32 = 0x0000_017f;

/// noDA and adminWithPolicy; not userWithAuth: only the policy opens it. Neither fixedTPM nor
/// fixedParent, for it comes from elsewhere (Part 2, section 8.3).
const ATTRIBUTES: u32 = 0x0000_0480;

/// PCRs of the SHA-256 bank and the values that they must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The PCRs, ascending, each below 24.
    values: Vec<(u32, [u8; 32])>,
}

impl Policy {
    /// A policy over PCRs and their values; nothing if there is none, one twice, or one too large.
    pub fn new(mut values: Vec<(u32, [u8; 32])>) -> Option<Self> {
        values.sort_by_key(|(pcr, _)| *pcr);
        let is_ascending = values.iter().zip(values.iter().skip(1)).all(|((a, _), (b, _))| a < b);
        let is_small = values.last().is_some_and(|(pcr, _)| *pcr < 24);
        (is_ascending && is_small).then_some(Self { values })
    }

    /// The `TPML_PCR_SELECTION` (Part 2, section 10.9.7).
    pub fn selection(&self) -> Vec<u8> {
        let bits = self.values.iter().fold(0_u32, |bits, (pcr, _)| bits | 1_u32 << pcr);
        let [first, second, third, _] = bits.to_le_bytes();
        let mut selection = Vec::new();
        put_long(&mut selection, 1);
        put_word(&mut selection, Hash::Sha256.id());
        selection.extend_from_slice(&[3, first, second, third]);
        selection
    }

    /// The policy digest after one `TPM2_PolicyPCR` (Part 3, section 23.7).
    pub fn digest(&self) -> [u8; 32] {
        let mut pcrs = digest::Context::new(&SHA256);
        self.values.iter().for_each(|(_, value)| pcrs.update(value));
        let mut policy = digest::Context::new(&SHA256);
        policy.update(&[0; 32]);
        policy.update(&TPM_CC_POLICY_PCR.to_be_bytes());
        policy.update(&self.selection());
        policy.update(pcrs.finish().as_ref());
        policy.finish().as_ref().try_into().unwrap_or_default()
    }
}

/// What `TPM2_Import` takes: each with its size in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedObject {
    /// `TPM2B_PUBLIC`.
    pub public: Vec<u8>,
    /// `TPM2B_PRIVATE`.
    pub duplicate: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub seed: Vec<u8>,
}

/// Seals a secret to a TPM and a policy.
///
/// # Errors
///
/// [`WrapError`] if the key or the random numbers cannot be used.
pub fn seal(
    parent: &StorageKey,
    policy: &Policy,
    secret: &[u8; 32],
) -> Result<SealedObject, WrapError> {
    let salt = random::<32>()?;
    let mut unique = digest::Context::new(&SHA256);
    unique.update(&salt[..]);
    unique.update(secret);
    let area = public_area(policy, unique.finish().as_ref())?;
    let mut name = Hash::Sha256.id().to_be_bytes().to_vec();
    name.extend_from_slice(digest::digest(&SHA256, &area).as_ref());
    let seed = share_seed(parent, b"DUPLICATE\0")?;
    let duplicate = protect(parent, &seed, &name, sensitive(&salt, secret)?)?;
    Ok(SealedObject {
        public: sized(&area)?,
        duplicate: sized(&duplicate)?,
        seed: sized(&seed.encrypted)?,
    })
}

/// The `TPMT_PUBLIC` of sealed data.
fn public_area(policy: &Policy, unique: &[u8]) -> Result<Vec<u8>, Oversized> {
    let mut area = Vec::new();
    put_word(&mut area, TPM_ALG_KEYEDHASH);
    put_word(&mut area, Hash::Sha256.id());
    put_long(&mut area, ATTRIBUTES);
    put_sized(&mut area, &policy.digest())?;
    put_word(&mut area, TPM_ALG_NULL);
    put_sized(&mut area, unique)?;
    Ok(area)
}

/// The `TPM2B_SENSITIVE` of sealed data: no authorisation value, the salt, the secret.
fn sensitive(salt: &[u8; 32], secret: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, Oversized> {
    let mut fields = Zeroizing::new(Vec::with_capacity(128));
    put_word(&mut fields, TPM_ALG_KEYEDHASH);
    put_sized(&mut fields, &[])?;
    put_sized(&mut fields, salt)?;
    put_sized(&mut fields, secret)?;
    Ok(Zeroizing::new(sized(&fields)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::hex;

    #[test]
    fn a_policy_names_each_pcr_once() {
        let value = [0; 32];
        assert!(Policy::new(vec![]).is_none());
        assert!(Policy::new(vec![(4, value), (4, value)]).is_none());
        assert!(Policy::new(vec![(24, value)]).is_none());
        let policy = Policy::new(vec![(11, value), (2, value), (7, value), (4, value)]).unwrap();
        assert_eq!(hex(&policy.selection()), "00000001000b03940800");
    }

    #[test]
    fn the_policy_digest_depends_on_selection_and_values() {
        let of = |values: &[(u32, u8)]| {
            let values = values.iter().map(|(pcr, byte)| (*pcr, [*byte; 32])).collect();
            Policy::new(values).unwrap().digest()
        };
        assert_ne!(of(&[(2, 0), (4, 1)]), of(&[(2, 0), (4, 2)]));
        assert_ne!(of(&[(2, 0), (4, 1)]), of(&[(2, 0), (7, 1)]));
        assert_eq!(of(&[(4, 1), (2, 0)]), of(&[(2, 0), (4, 1)]));
    }
}
