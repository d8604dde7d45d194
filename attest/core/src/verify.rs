//! The judgement: evidence against connection, trust and policy.
//!
//! Every check is made that can be made, so that all failures are told at once; a check whose input
//! is not there fails. The verdict is "pass" only if there is no failed check *and* every check of
//! [`MUST_PASS`] was made: leaving one out cannot help anybody.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::binding::{Bound, Leaves, NONCE_BYTES};
use crate::claims::Claims;
use crate::event_log::EventLog;
use crate::evidence::Evidence;
use crate::measured::{self, BANK, IMAGE_PCR, PROGRAM_PCR, SEAL_PCR};
use crate::pcrs::Pcrs;
use crate::policy::{Hex, Identity, PlatformTrust, Policy, Rule};
use crate::seal_record::SealRecord;
use crate::tpms::{Public, Quote, Selection};
use crate::verdict::{Checks, Class, Component, SCHEMA, Verdict};
use crate::{Sha256, sha256};

/// What a quote has to select, no more and no less: PCR 0 to 15 of one bank.
pub const SELECTION: Selection = Selection { bank: BANK, pcrs: 0xffff };

/// The checks without which nothing passes.
pub const MUST_PASS: [&str; 15] = [
    "ak.public",
    "quote.form",
    "quote.signature",
    "quote.selection",
    "quote.pcr-digest",
    "ak.trusted",
    "binding.leaves",
    "binding.fresh",
    "claims.form",
    "log.form",
    "log.replay",
    "log.image",
    "seal.record",
    "seal.layout",
    "policy.pcrs",
];

/// What the verifier knows of its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The nonce it sent.
    pub nonce: [u8; NONCE_BYTES],
    /// The connection's exporter.
    pub exporter: [u8; 32],
    /// SHA-256 of the server's public key.
    pub spki_sha256: Sha256,
}

/// Judges evidence.
///
/// `identity` is the one source of trust in the key: whoever enrolled the machine made it.
pub fn verify(
    evidence: &Evidence<'_>,
    connection: &Connection,
    identity: &Identity,
    policy: &Policy,
) -> Verdict {
    let mut judge = Judge { evidence, policy, checks: Checks::default(), differs: Vec::new() };
    let ak = judge.key(identity);
    let quote = judge.quote(ak.as_ref());
    let claims = judge.binding(connection, quote.as_ref());
    let pcrs = judge.values(quote.as_ref());
    let log = judge.log(pcrs.as_ref());
    let platform_trust = platform(log.as_ref(), identity);
    judge.image(log.as_ref());
    judge.rules(pcrs.as_ref(), log.as_ref());
    judge.demands(platform_trust, claims.as_ref(), quote.as_ref());
    judge.conclude(platform_trust, ak.as_ref(), claims.as_ref())
}

/// Whose word the PCRs are: firmware's only if its log reaches a program in PCR 4.
fn platform(log: Option<&EventLog<'_>>, identity: &Identity) -> PlatformTrust {
    match log.map(measured::program) {
        Some(Ok(_)) => identity.platform_trust,
        _ => PlatformTrust::None,
    }
}

struct Judge<'a> {
    evidence: &'a Evidence<'a>,
    policy: &'a Policy,
    checks: Checks,
    differs: Vec<Component>,
}

impl<'a> Judge<'a> {
    fn key(&mut self, identity: &Identity) -> Option<Public<'a>> {
        let parsed = Public::parse(self.evidence.ak);
        let ak = self.checks.result("ak.public", Class::Invalid, parsed);
        let name = ak.as_ref().map(Public::name);
        let is_trusted = name.as_deref() == Some(&identity.ak_name.0[..]);
        let detail = if is_trusted { "" } else { "the key is not the identity's" };
        self.checks.note("ak.trusted", Class::Key, is_trusted, detail);
        if let (Some(expected), Some(certificate)) = (&identity.ek_sha256, self.evidence.ek) {
            let is_same = sha256(certificate)[..] == expected.0[..];
            let detail = if is_same { "" } else { "the certificate is another TPM's" };
            self.checks.note("ek.certificate", Class::Key, is_same, detail);
        }
        ak
    }

    fn quote(&mut self, ak: Option<&Public<'_>>) -> Option<Quote<'a>> {
        let quote =
            self.checks.result("quote.form", Class::Invalid, Quote::parse(self.evidence.quote));
        let Some(ak) = ak else {
            self.checks.note("quote.signature", Class::Invalid, false, "there is no key");
            return quote;
        };
        let signed = ak.verify(self.evidence.quote, self.evidence.signature);
        self.checks.result("quote.signature", Class::Invalid, signed);
        if let Some(quote) = &quote {
            let is_own = quote.qualified_signer == ak.qualified_name_under_endorsement();
            let detail =
                if is_own { "" } else { "the key is no primary key of the endorsement hierarchy" };
            self.checks.note("quote.signer", Class::Key, is_own, detail);
        }
        quote
    }

    fn binding(&mut self, connection: &Connection, quote: Option<&Quote<'_>>) -> Option<Claims> {
        let leaves = Leaves::parse(self.evidence.leaves);
        let detail = if leaves.is_some() { "" } else { "they are none, many or out of order" };
        self.checks.note("binding.leaves", Class::Invalid, leaves.is_some(), detail);
        let bound = Bound {
            nonce: connection.nonce,
            exporter: connection.exporter,
            spki_sha256: connection.spki_sha256,
            claims_sha256: sha256(self.evidence.aux),
        };
        let is_fresh = match (&leaves, quote) {
            (Some(leaves), Some(quote)) => {
                quote.extra_data == leaves.qualifying_data() && leaves.contains(&bound.leaf())
            }
            _ => false,
        };
        let detail =
            if is_fresh { "" } else { "the quote is not for this nonce on this connection" };
        self.checks.note("binding.fresh", Class::Binding, is_fresh, detail);
        let claims = Claims::decode(self.evidence.aux);
        let detail = if claims.is_some() { "" } else { "they are not claims in their one form" };
        self.checks.note("claims.form", Class::Invalid, claims.is_some(), detail);
        claims
    }

    fn values(&mut self, quote: Option<&Quote<'_>>) -> Option<Pcrs> {
        let selected = quote.map(|quote| &quote.selections[..]);
        let is_exact = selected == Some(&[SELECTION]);
        let detail = if is_exact { String::new() } else { format!("{selected:?}") };
        self.checks.note("quote.selection", Class::Invalid, is_exact, detail);
        let pcrs = Pcrs::parse(self.evidence.pcrs);
        let digest = pcrs.as_ref().and_then(|pcrs| {
            // The digest is by the signing scheme's function, whatever the bank.
            let by = Public::parse(self.evidence.ak).ok()?.scheme.hash;
            pcrs.digest(&[SELECTION], by)
        });
        let is_covered =
            is_exact && digest.is_some() && digest.as_deref() == quote.map(|it| it.pcr_digest);
        let detail = if is_covered { "" } else { "the values are not those that were quoted" };
        self.checks.note("quote.pcr-digest", Class::Invalid, is_covered, detail);
        // What no quote covers must not be used.
        pcrs.filter(|_| is_covered)
    }

    fn log(&mut self, pcrs: Option<&Pcrs>) -> Option<EventLog<'a>> {
        let log =
            self.checks.result("log.form", Class::Invalid, EventLog::parse(self.evidence.log));
        let differing = replays_to(log.as_ref(), pcrs);
        let detail = match &differing {
            None => "there are no values or no log to compare".to_string(),
            Some(differing) if differing.is_empty() => String::new(),
            Some(differing) => format!("PCRs {differing:?} hold something else"),
        };
        let is_replayed = differing.is_some_and(|differing| differing.is_empty());
        self.checks.note("log.replay", Class::Invalid, is_replayed, detail);
        let log = log.filter(|_| is_replayed)?;
        for pcr in self.policy.pcrs.0.keys() {
            if let Some(event) = log.unproven(*pcr, BANK) {
                let detail =
                    format!("PCR {pcr}: the data of {} is not what was measured", event.kind);
                self.checks.note("log.data", Class::Invalid, false, detail);
            }
        }
        Some(log)
    }

    fn image(&mut self, log: Option<&EventLog<'_>>) {
        let image = match log.map(measured::image) {
            Some(found) => self.checks.result("log.image", Class::Invalid, found),
            None => {
                self.checks.note("log.image", Class::Invalid, false, "there is no log");
                None
            }
        };
        let reference = &self.policy.image;
        if let Some(image) = &image {
            let is_service = image.service[..] == reference.service_sha256.0[..];
            let is_configuration = image.configuration[..] == reference.configuration_sha256.0[..];
            self.compare("image.service", is_service, Component::Service);
            self.compare("image.configuration", is_configuration, Component::Configuration);
            let program = log.and_then(|log| measured::program(log).ok());
            if let (Some(program), true, true) = (program, is_service, is_configuration) {
                let is_boot = program[..] == reference.authenticode_sha256.0[..];
                self.compare("image.boot", is_boot, Component::Boot);
            }
            self.checks.note(
                "seal.phase",
                Class::Policy,
                image.is_sealed,
                if image.is_sealed { "" } else { "the machine booted and did not seal itself" },
            );
        }
        let logged = image.as_ref().and_then(|image| image.seal_record);
        let record = SealRecord::parse(self.evidence.seal)
            .filter(|_| logged == Some(self.evidence.seal))
            .filter(|record| record.has_passed && record.is_enforced());
        let detail =
            if record.is_some() { "" } else { "it is not measured, not whole, or says no" };
        self.checks.note("seal.record", Class::Policy, record.is_some(), detail);
        let seal = &self.policy.seal;
        let is_expected = record.is_some_and(|record| {
            seal.layout_any.iter().any(|layout| layout.0[..] == record.layout[..])
                && seal.gate_sha256.0[..] == record.gate[..]
        });
        let detail =
            if is_expected { "" } else { "layout or gate are not those that the image predicts" };
        self.checks.note("seal.layout", Class::Policy, is_expected, detail);
        if !is_expected {
            self.differs.push(Component::Seal);
        }
    }

    fn compare(&mut self, id: &'static str, is_same: bool, component: Component) {
        let detail = if is_same { "" } else { "it is not the reference image's" };
        self.checks.note(id, Class::Policy, is_same, detail);
        if !is_same {
            self.differs.push(component);
        }
    }

    fn rules(&mut self, pcrs: Option<&Pcrs>, log: Option<&EventLog<'_>>) {
        let policy = self.policy;
        let mut bad = Vec::new();
        for (pcr, rule) in &policy.pcrs.0 {
            let value = pcrs.and_then(|pcrs| pcrs.value(BANK, *pcr));
            let is_met = match (rule, value) {
                (Rule::Skip(_), _) => true,
                (_, None) => false,
                (Rule::ExpectedAny(values), Some(value)) => {
                    values.iter().any(|expected| expected.0 == value)
                }
                (Rule::FromImage(_), Some(value)) => self.follows(*pcr, value, log),
            };
            if !is_met {
                bad.push(*pcr);
                if *pcr <= 7 && *pcr != PROGRAM_PCR {
                    self.differs.push(Component::Firmware);
                }
            }
        }
        let detail = if bad.is_empty() {
            let skipped = policy.pcrs.0.iter().filter_map(|(pcr, rule)| match rule {
                Rule::Skip(reason) => Some(format!("PCR {pcr} was not looked at: {reason}")),
                Rule::ExpectedAny(_) | Rule::FromImage(_) => None,
            });
            skipped.collect::<Vec<_>>().join("; ")
        } else {
            let value = |pcr: &u8| {
                let value = pcrs.and_then(|pcrs| pcrs.value(BANK, *pcr)).unwrap_or_default();
                format!("{pcr}: {}", Hex(value.to_vec()))
            };
            format!(
                "PCRs hold what is not allowed: {}",
                bad.iter().map(value).collect::<Vec<_>>().join(", ")
            )
        };
        self.checks.note("policy.pcrs", Class::Policy, bad.is_empty(), detail);
    }

    /// Whether a PCR holds what the reference image makes it hold.
    fn follows(&self, pcr: u8, value: &[u8], log: Option<&EventLog<'_>>) -> bool {
        let reference = &self.policy.image;
        let digest = |hex: &Hex| <Sha256>::try_from(&hex.0[..]).ok();
        let (Some(service), Some(configuration)) =
            (digest(&reference.service_sha256), digest(&reference.configuration_sha256))
        else {
            return false;
        };
        match pcr {
            PROGRAM_PCR => log
                .and_then(|log| measured::program(log).ok())
                .is_some_and(|program| program[..] == reference.authenticode_sha256.0[..]),
            IMAGE_PCR => measured::image_pcr(&service, &configuration, true) == value,
            SEAL_PCR => measured::seal_pcr(&configuration, self.evidence.seal) == value,
            _ => false,
        }
    }

    fn demands(
        &mut self,
        platform: PlatformTrust,
        claims: Option<&Claims>,
        quote: Option<&Quote<'_>>,
    ) {
        let require = &self.policy.require;
        let origin = claims.map(|claims| claims.key_origin.as_str());
        let is_wanted =
            origin.is_some_and(|origin| require.key_origin_any.iter().any(|it| it == origin));
        let detail =
            if is_wanted { String::new() } else { format!("the key's origin is {origin:?}") };
        self.checks.note("policy.key-origin", Class::Policy, is_wanted, detail);
        let is_enough = require.platform_trust_any.contains(&platform);
        let detail = if is_enough { String::new() } else { format!("it is {platform:?}") };
        self.checks.note("policy.platform-trust", Class::Policy, is_enough, detail);
        let clock = quote.map(|quote| quote.clock);
        let is_safe = !require.safe_clock || clock.is_some_and(|clock| clock.is_safe);
        let detail = if is_safe { "" } else { "the TPM's clock may have gone back" };
        self.checks.note("policy.clock", Class::Policy, is_safe, detail);
        let is_later = require
            .min_reset_count
            .is_none_or(|least| clock.is_some_and(|clock| clock.reset_count >= least));
        let detail = if is_later { "" } else { "the reset count went back" };
        self.checks.note("policy.reset-count", Class::Policy, is_later, detail);
        let version = quote.map(|quote| quote.firmware_version);
        let is_allowed =
            version.is_some_and(|version| !require.firmware_version_deny.contains(&version));
        let detail =
            if is_allowed { "" } else { "the TPM's firmware is on the list of those denied" };
        self.checks.note("policy.tpm-firmware", Class::Policy, is_allowed, detail);
    }

    fn conclude(
        mut self,
        platform_trust: PlatformTrust,
        ak: Option<&Public<'_>>,
        claims: Option<&Claims>,
    ) -> Verdict {
        let class = self.checks.class();
        let checks = self.checks.into_inner();
        let has_all = MUST_PASS.iter().all(|id| checks.iter().any(|it| it.id == *id && it.ok));
        let class = match class {
            0 if !has_all => Class::Invalid as u8,
            class => class,
        };
        self.differs.sort_unstable();
        self.differs.dedup();
        Verdict {
            schema: SCHEMA,
            verdict: if class == 0 { "pass" } else { "fail" },
            class,
            checks,
            differs: self.differs,
            platform_trust,
            ak_name: ak.map(|ak| Hex(ak.name()).to_string()).unwrap_or_default(),
            key_origin: claims.map_or_else(String::new, |it| it.key_origin.as_str().to_string()),
        }
    }
}

/// The PCRs whose values are not what the log replays to; those that it does not name must hold what
/// they held after the reset. Nothing if there is no log or no values.
pub fn replays_to(log: Option<&EventLog<'_>>, pcrs: Option<&Pcrs>) -> Option<Vec<u8>> {
    let (replayed, pcrs) = (log?.replay(BANK)?, pcrs?);
    let zero = alloc::vec![0; BANK.digest_bytes()];
    let differs = |pcr: &u8| {
        let expected = replayed.get(pcr).unwrap_or(&zero);
        pcrs.value(BANK, *pcr) != Some(&expected[..])
    };
    Some((0..16).filter(differs).collect())
}
