//! A machine made of nothing but its evidence: a software key, and a log that says what we want.

use attest_core::binding::{Bound, Leaves};
use attest_core::claims::{Claims, KeyOrigin};
use attest_core::evidence::Evidence;
use attest_core::hash::Algorithm;
use attest_core::measured::{self, BANK};
use attest_core::pcrs::{Bank, Pcrs};
use attest_core::policy::{
    Hex, IDENTITY_SCHEMA, Identity, Image, PlatformTrust, Policy, Require, Rule, Rules, SCHEMA,
    Seal, Source,
};
use attest_core::sha256;
use attest_core::tpms::Public;
use attest_core::verdict::Verdict;
use attest_core::verify::{Connection, verify};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

/// A key that signs like a TPM's, and would sign anything.
pub(crate) struct SoftKey(EcdsaKeyPair);

impl SoftKey {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    /// `TPMT_PUBLIC` with these attributes.
    pub(crate) fn public_with(&self, name_algorithm: u16, attributes: u32) -> Vec<u8> {
        let point = self.0.public_key().as_ref();
        let mut public = Vec::new();
        for word in [0x0023, name_algorithm] {
            public.extend_from_slice(&u16::to_be_bytes(word));
        }
        public.extend_from_slice(&attributes.to_be_bytes());
        // No policy, no symmetric cipher, ECDSA with SHA-256, P-256, no key derivation.
        for word in [0_u16, 0x0010, 0x0018, 0x000b, 0x0003, 0x0010] {
            public.extend_from_slice(&word.to_be_bytes());
        }
        for half in point[1..].chunks(32) {
            public.extend_from_slice(&[0, 32]);
            public.extend_from_slice(half);
        }
        public
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        self.public_with(0x000b, 0x0005_0472)
    }

    /// `TPMT_SIGNATURE`.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        let mut bytes = vec![0, 0x18, 0, 0x0b];
        for half in signature.as_ref().chunks(32) {
            bytes.extend_from_slice(&[0, 32]);
            bytes.extend_from_slice(half);
        }
        bytes
    }
}

/// `TCG_EfiSpecIDEvent` in an event of the old form.
pub(crate) fn spec_id(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend_from_slice(&(algorithms.len() as u32).to_le_bytes());
    for (id, size) in algorithms {
        data.extend_from_slice(&id.to_le_bytes());
        data.extend_from_slice(&size.to_le_bytes());
    }
    data.push(0);
    let mut event = vec![0, 0, 0, 0, 3, 0, 0, 0];
    event.extend_from_slice(&[0; 20]);
    event.extend_from_slice(&(data.len() as u32).to_le_bytes());
    event.extend_from_slice(&data);
    event
}

pub(crate) fn event_with(pcr: u32, kind: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut event = [pcr.to_le_bytes(), kind.to_le_bytes()].concat();
    event.extend_from_slice(&(digests.len() as u32).to_le_bytes());
    for (id, digest) in digests {
        event.extend_from_slice(&id.to_le_bytes());
        event.extend_from_slice(digest);
    }
    event.extend_from_slice(&(data.len() as u32).to_le_bytes());
    event.extend_from_slice(data);
    event
}

/// An event with a SHA-256 digest.
pub(crate) fn event(pcr: u32, kind: u32, digest: &[u8], data: &[u8]) -> Vec<u8> {
    event_with(pcr, kind, &[(0x0b, digest)], data)
}

/// An event whose digest is the hash of its data.
pub(crate) fn hashed(pcr: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    event(pcr, kind, &BANK.digest(&[data]), data)
}

/// A machine, in what it measured.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) firmware: Vec<Vec<u8>>,
    pub(crate) program: [u8; 32],
    pub(crate) service: Vec<u8>,
    pub(crate) configuration: Vec<u8>,
    pub(crate) record: Vec<u8>,
    pub(crate) has_record: bool,
    pub(crate) is_sealed: bool,
    pub(crate) key_origin: KeyOrigin,
}

const SEPARATOR: u32 = 4;
const IPL: u32 = 0xd;

impl Machine {
    pub(crate) fn new() -> Self {
        let separators = [0, 1, 2, 3, 5, 6, 7].map(|pcr| hashed(pcr, SEPARATOR, &[0; 4]));
        Self {
            firmware: separators.to_vec(),
            program: [0x11; 32],
            service: b"service".to_vec(),
            configuration: b"configuration".to_vec(),
            record: record(),
            has_record: true,
            is_sealed: true,
            key_origin: KeyOrigin::Ephemeral,
        }
    }

    pub(crate) fn log(&self) -> Vec<u8> {
        let mut log = spec_id(&[(0x0b, 32)]);
        log.extend(self.firmware.concat());
        log.extend(hashed(4, 0x8000_0007, measured::CALLING));
        log.extend(hashed(4, SEPARATOR, &[0; 4]));
        log.extend(event(4, 0x8000_0003, &self.program, b"path"));
        log.extend(self.own_events());
        log
    }

    fn own_events(&self) -> Vec<u8> {
        let mut events = hashed(11, IPL, measured::SERVICE_NAME);
        events.extend(event(11, IPL, &sha256(&self.service), b"linux"));
        events.extend(hashed(11, IPL, measured::CONFIGURATION_NAME));
        events.extend(event(11, IPL, &sha256(&self.configuration), b"cmdline"));
        events.extend(event(12, IPL, &sha256(&self.configuration), b"cmdline"));
        if self.has_record {
            events.extend(hashed(12, IPL, &self.record));
        }
        if self.is_sealed {
            events.extend(hashed(11, IPL, measured::SEALED));
        }
        events
    }

    /// The values of PCR 0 to 15 that the log leads to.
    pub(crate) fn pcrs(&self) -> Vec<Vec<u8>> {
        let log = self.log();
        let replayed = attest_core::event_log::EventLog::parse(&log).unwrap().replay(BANK).unwrap();
        (0..16).map(|pcr| replayed.get(&pcr).cloned().unwrap_or(vec![0; 32])).collect()
    }

    pub(crate) fn claims(&self) -> Vec<u8> {
        Claims { app: "edge-proxy".into(), key_origin: self.key_origin, version: "0".into() }
            .encode()
    }
}

/// The seal record of a machine that is as it should be.
pub(crate) fn record() -> Vec<u8> {
    let mut record = b"BULLASR\x01".to_vec();
    record.extend_from_slice(&1_u64.to_le_bytes());
    record.extend_from_slice(&[0x22; 32]);
    record.extend_from_slice(&[0x33; 32]);
    for register in [0x8001_0033_u64, 0x34_0e20, 0xd00, 7, 0] {
        record.extend_from_slice(&register.to_le_bytes());
    }
    record
}

/// The parts of a `TPMS_ATTEST`.
#[derive(Clone)]
pub(crate) struct Attest {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) signer: Vec<u8>,
    pub(crate) extra: Vec<u8>,
    pub(crate) reset_count: u32,
    pub(crate) safe: u8,
    pub(crate) selections: Vec<(u16, Vec<u8>)>,
    pub(crate) digest: Vec<u8>,
}

impl Attest {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        for sized in [&self.signer, &self.extra] {
            bytes.extend_from_slice(&(sized.len() as u16).to_be_bytes());
            bytes.extend_from_slice(sized);
        }
        bytes.extend_from_slice(&1_u64.to_be_bytes());
        bytes.extend_from_slice(&self.reset_count.to_be_bytes());
        bytes.extend_from_slice(&0_u32.to_be_bytes());
        bytes.push(self.safe);
        bytes.extend_from_slice(&0x2019_1023_u64.to_be_bytes());
        bytes.extend_from_slice(&(self.selections.len() as u32).to_be_bytes());
        for (bank, pcrs) in &self.selections {
            bytes.extend_from_slice(&bank.to_be_bytes());
            bytes.push(pcrs.len() as u8);
            bytes.extend_from_slice(pcrs);
        }
        bytes.extend_from_slice(&(self.digest.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&self.digest);
        bytes
    }
}

/// Evidence whose parts can be changed, and what its verifier holds.
pub(crate) struct Scene {
    pub(crate) key: SoftKey,
    pub(crate) machine: Machine,
    pub(crate) connection: Connection,
    pub(crate) ak: Vec<u8>,
    pub(crate) ek: Option<Vec<u8>>,
    pub(crate) aux: Vec<u8>,
    pub(crate) log: Vec<u8>,
    pub(crate) pcrs: Vec<u8>,
    pub(crate) seal: Vec<u8>,
    pub(crate) leaves: Vec<u8>,
    pub(crate) attest: Attest,
    /// Instead of what the key would sign.
    pub(crate) signature: Option<Vec<u8>>,
    pub(crate) identity: Identity,
    pub(crate) policy: Policy,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::of(Machine::new())
    }

    /// A good machine's evidence, judged by the policy of [`Machine::new`].
    pub(crate) fn of(machine: Machine) -> Self {
        let key = SoftKey::new();
        let ak = key.public();
        let public = Public::parse(&ak).unwrap();
        let connection = Connection { nonce: [1; 32], exporter: [2; 32], spki_sha256: [3; 32] };
        let aux = machine.claims();
        let bound = Bound {
            nonce: connection.nonce,
            exporter: connection.exporter,
            spki_sha256: connection.spki_sha256,
            claims_sha256: sha256(&aux),
        };
        let leaves = Leaves::new(vec![bound.leaf(), [0x77; 32]]).unwrap();
        let values = machine.pcrs();
        let attest = Attest {
            magic: 0xff54_4347,
            kind: 0x8018,
            signer: public.qualified_name_under_endorsement(),
            extra: leaves.qualifying_data().to_vec(),
            reset_count: 9,
            safe: 1,
            selections: vec![(0x0b, vec![0xff, 0xff, 0])],
            digest: BANK.digest(&values.iter().map(|it| &it[..]).collect::<Vec<_>>()),
        };
        let identity = Identity {
            schema: IDENTITY_SCHEMA.into(),
            ak_name: Hex(public.name()),
            ek_sha256: None,
            platform_trust: PlatformTrust::VtpmHost,
            source: Source::Pinned,
        };
        let pcrs = Pcrs::new(vec![Bank { algorithm: Algorithm::Sha256, values }]).to_bytes();
        Self {
            ak,
            ek: None,
            aux,
            log: machine.log(),
            pcrs,
            seal: machine.record.clone(),
            leaves: leaves.to_bytes(),
            attest,
            signature: None,
            identity,
            policy: policy(),
            key,
            machine,
            connection,
        }
    }

    pub(crate) fn judge(&self) -> Verdict {
        let quote = self.attest.bytes();
        self.judge_quote(&quote)
    }

    pub(crate) fn judge_quote(&self, quote: &[u8]) -> Verdict {
        let signature = self.signature.clone().unwrap_or_else(|| self.key.sign(quote));
        let evidence = Evidence {
            ak: &self.ak,
            ek: self.ek.as_deref(),
            aux: &self.aux,
            log: &self.log,
            pcrs: &self.pcrs,
            seal: &self.seal,
            quote,
            answer: None,
            leaves: &self.leaves,
            signature: &signature,
        };
        // What goes over the wire is what is judged.
        let bytes = evidence.encode();
        let evidence = Evidence::decode(&bytes).unwrap();
        verify(&evidence, &self.connection, &self.identity, &self.policy)
    }
}

/// The policy for [`Machine::new`].
pub(crate) fn policy() -> Policy {
    let machine = Machine::new();
    let hex = |digest: [u8; 32]| Hex(digest.to_vec());
    let separator = || Rule::ExpectedAny(vec![Hex(measured::separator_pcr())]);
    let mut rules = Rules::default();
    for pcr in [2, 3, 5, 7] {
        rules.0.insert(pcr, separator());
    }
    for pcr in [0, 1, 6] {
        rules.0.insert(pcr, Rule::Skip("depends on the machine's shape".into()));
    }
    for pcr in [4, 11, 12] {
        rules.0.insert(pcr, Rule::FromImage(true));
    }
    Policy {
        schema: SCHEMA.into(),
        image: Image {
            name: "edge-proxy".into(),
            sha256: hex([9; 32]),
            authenticode_sha256: hex(machine.program),
            service_sha256: hex(sha256(&machine.service)),
            configuration_sha256: hex(sha256(&machine.configuration)),
        },
        pcrs: rules,
        seal: Seal { layout_any: vec![hex([0x22; 32])], gate_sha256: hex([0x33; 32]) },
        require: Require {
            key_origin_any: vec!["ephemeral".into(), "sealed".into()],
            platform_trust_any: vec![PlatformTrust::VtpmHost, PlatformTrust::Tpm],
            safe_clock: true,
            min_reset_count: Some(5),
            firmware_version_deny: vec![0xbad],
        },
    }
}
