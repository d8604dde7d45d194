//! Challenges and sealed keys, made by the administrator's tool for each kind of endorsement key.

use attest::tpm::{AttestationKey, Policy, StorageKey, make_credential, seal};
use tpm::key_file::KeyFile;
use tpm::{Algorithm, Digests, Secret, Tpm};

use crate::raw;
use crate::real::{read_public, sized, started};
use crate::swtpm::{Running, Swtpm};

/// The endorsement keys that boot looks for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// An empty password is enough.
    P384,
    /// Needs a policy session.
    P256,
    /// Likewise.
    Rsa,
}

impl Kind {
    const ALL: [Self; 3] = [Self::P384, Self::P256, Self::Rsa];

    /// Its `TPM2B_PUBLIC`.
    fn public(self, tpm: &mut Tpm<Running>) -> Vec<u8> {
        let handle = match self {
            Self::P384 => 0x8101_0016,
            Self::P256 => 0x8101_000a,
            Self::Rsa => 0x8101_0001,
        };
        read_public(tpm, handle)
    }

    fn key(self, tpm: &mut Tpm<Running>) -> StorageKey {
        StorageKey::parse(&self.public(tpm)).unwrap()
    }
}

/// Makes the P-256 endorsement key, which swtpm_setup does not, and keeps it.
fn make_p256(tpm: &mut Tpm<Running>) {
    // Template L-2 of the TCG EK Credential Profile 2.5, section B.3.4.
    let mut template = vec![0, 0x23, 0, 0x0b, 0, 3, 0, 0xb2, 0, 32];
    template.extend_from_slice(&[
        0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7,
        0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14,
        0x69, 0xaa,
    ]);
    template.extend_from_slice(&[0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10]);
    for _ in 0..2 {
        template.extend_from_slice(&sized(&[0; 32]));
    }
    let rest = [&[0, 4, 0, 0, 0, 0][..], &sized(&template), &[0; 6]].concat();
    let body = raw::done(tpm, 0x131, &[0x4000_000b], true, &rest);
    let handle = u32::from_be_bytes(body[..4].try_into().unwrap());
    let place = 0x8101_000a_u32.to_be_bytes();
    raw::done(tpm, 0x120, &[0x4000_0001, handle], true, &place);
    raw::done(tpm, 0x165, &[handle], false, &[]);
}

fn with_all_keys(swtpm: &Swtpm) -> Tpm<Running> {
    let mut tpm = started(swtpm);
    make_p256(&mut tpm);
    tpm
}

fn extend(tpm: &mut Tpm<Running>, pcr: u32, bytes: &[u8]) {
    let banks = tpm.banks().unwrap();
    tpm.extend(pcr, &Digests::of(&banks, bytes)).unwrap();
}

/// No session and no object but the `kept` ones stays in the TPM.
#[track_caller]
fn leaves(tpm: &mut Tpm<Running>, kept: u32) {
    for (handles, expected) in [(0x0200_0000_u32, 0), (0x0300_0000, 0), (0x8000_0000, kept)] {
        let rest = [1, handles, 8].map(u32::to_be_bytes);
        let body = raw::done(tpm, 0x17a, &[], false, rest.as_flattened());
        let count = u32::from_be_bytes(body[5..9].try_into().unwrap());
        assert_eq!(count, expected, "{handles:#x}");
    }
}

#[test]
fn a_challenge_is_answered_whichever_key_it_is_for() {
    let swtpm = Swtpm::make();
    let mut tpm = with_all_keys(&swtpm);
    let ak = tpm.create_ak().unwrap();
    let name = AttestationKey::parse(&sized(&ak.public)).unwrap().name;
    for kind in Kind::ALL {
        let key = kind.key(&mut tpm);
        let made = make_credential(&key, &name).unwrap();
        let answer = tpm.activate_credential(&ak, &made.challenge).unwrap();
        assert_eq!(answer.as_deref(), Some(&made.answer[..]), "{kind:?}");
        let mut other = name.clone();
        *other.last_mut().unwrap() ^= 1;
        let made = make_credential(&key, &other).unwrap();
        assert_eq!(tpm.activate_credential(&ak, &made.challenge), Ok(None), "{kind:?}");
        leaves(&mut tpm, 1);
    }
}

/// A whole file, sealed to a key for what the PCRs of the policy hold now.
fn file(tpm: &mut Tpm<Running>, key: &StorageKey, secret: &[u8; 32]) -> Vec<u8> {
    let values = tpm.read_pcrs(Algorithm::Sha256).unwrap();
    let value = |pcr: u32| (pcr, values[pcr as usize].bytes().try_into().unwrap());
    let policy = Policy::new([2, 4, 7, 11].map(value).to_vec()).unwrap();
    let object = seal(key, &policy, secret).unwrap();
    let selection = sized(&policy.selection());
    let part = [object.public, object.duplicate, object.seed, selection].concat();
    let payload = b"for ring 3";
    let mut file = b"BULLAKY\x01".to_vec();
    for bytes in [part.len(), payload.len()] {
        file.extend_from_slice(&(bytes as u32).to_be_bytes());
    }
    [&file[..], &part, payload].concat()
}

fn opened(tpm: &mut Tpm<Running>, file: &[u8]) -> Option<[u8; 32]> {
    let secret: Option<Secret> = tpm.unseal(&KeyFile::parse(file).unwrap()).unwrap();
    leaves(tpm, 1);
    secret.map(|secret| *secret)
}

#[test]
fn a_sealed_key_opens_on_its_tpm_until_the_next_extend() {
    let (swtpm, other) = (Swtpm::make(), Swtpm::make());
    let (mut tpm, mut stranger) = (with_all_keys(&swtpm), with_all_keys(&other));
    for tpm in [&mut tpm, &mut stranger] {
        // As at boot, where the attestation key takes one of three places.
        tpm.create_ak().unwrap();
    }
    for (round, kind) in Kind::ALL.into_iter().enumerate() {
        for tpm in [&mut tpm, &mut stranger] {
            extend(tpm, 11, &[round as u8]);
        }
        let key = kind.key(&mut tpm);
        let secret = [0x40 + round as u8; 32];
        let file = file(&mut tpm, &key, &secret);
        assert_eq!(opened(&mut tpm, &file), Some(secret), "{kind:?}");
        assert_eq!(opened(&mut stranger, &file), None, "{kind:?}: the PCRs are the same");
        // The policy does not look at PCR 12.
        extend(&mut tpm, 12, b"seal record");
        assert_eq!(opened(&mut tpm, &file), Some(secret), "{kind:?}");
        extend(&mut tpm, 11, b"sealed");
        assert_eq!(opened(&mut tpm, &file), None, "{kind:?}: after an extend");
    }
}

#[test]
fn a_changed_file_opens_nothing() {
    let swtpm = Swtpm::make();
    let mut tpm = started(&swtpm);
    tpm.create_ak().unwrap();
    let key = Kind::P384.key(&mut tpm);
    let good = file(&mut tpm, &key, &[9; 32]);
    let part_bytes = u32::from_be_bytes(good[8..12].try_into().unwrap()) as usize;
    // Sixteen places all over the TPM's part; where the form breaks, nobody asks the TPM.
    for at in (16..16 + part_bytes).step_by(part_bytes / 16) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        if KeyFile::parse(&changed).is_some() {
            assert_eq!(opened(&mut tpm, &changed), None, "byte {at}");
        }
    }
    assert_eq!(opened(&mut tpm, &good), Some([9; 32]));
}
