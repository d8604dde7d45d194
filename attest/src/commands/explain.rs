//! `attest explain`.

use std::path::PathBuf;

use attest_core::claims::Claims;
use attest_core::event_log::EventLog;
use attest_core::evidence::{Evidence, MAX_BYTES};
use attest_core::measured;
use attest_core::pcrs::Pcrs;
use attest_core::policy::{Hex, IDENTITY_SCHEMA, Identity, PlatformTrust, Policy, Source};
use attest_core::seal_record::SealRecord;
use attest_core::tpms::{Public, Quote};
use attest_core::verdict::Verdict;
use attest_core::verify::{Connection, replays_to, verify};
use clap::Args;
use serde_json::{Map, Value, json};

use super::policy::read_policy;
use super::{component, evidence_error, printed};
use crate::command::Answer;
use crate::endorsement::EkCertificate;
use crate::error::Error;
use crate::input;
use crate::units::{hex, plain, wide};

/// Shows what is in evidence, and what in it differs from a policy; never a verdict
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The evidence
    file: PathBuf,
    /// Reference values to compare with
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<Answer, Error> {
    let policy = options.policy.as_deref().map(read_policy).transpose()?;
    let bytes = input::read(&options.file, wide(MAX_BYTES))?;
    let evidence =
        Evidence::decode(&bytes).map_err(|error| evidence_error(&options.file, &error))?;
    let facts = facts(&evidence);
    let compared = policy.as_ref().map(|policy| compare(&evidence, policy));
    if options.json {
        return Ok(printed(&as_json(&facts, compared.as_ref())));
    }
    Ok(as_text(&facts, compared.as_ref()).into())
}

/// Names and values, all of them the machine's own words.
fn facts(evidence: &Evidence<'_>) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let unreadable = || "cannot be read".to_owned();
    let ak = Public::parse(evidence.ak);
    facts.push(("AK", ak.map_or_else(|error| error.to_string(), |ak| hex(&ak.name()))));
    let issuer = |der: &[u8]| EkCertificate::parse(der.to_vec().into()).ok().map(|it| it.issuer);
    facts.push((
        "EK issuer",
        evidence.ek.map_or("none".to_owned(), |it| issuer(it).unwrap_or_else(unreadable)),
    ));
    let answer = if evidence.answer.is_some() { "there is one" } else { "none" };
    facts.push(("answer", answer.to_owned()));
    let claims = Claims::decode(evidence.aux)
        .map(|it| format!("{} {}, TLS key: {}", it.app, it.version, it.key_origin.as_str()));
    facts.push(("claims", claims.unwrap_or_else(unreadable)));
    let quote = Quote::parse(evidence.quote).map(|it| {
        let clock = it.clock;
        let (resets, restarts) = (clock.reset_count, clock.restart_count);
        let safe = if clock.is_safe { "safe" } else { "not safe" };
        format!(
            "resets {resets}, restarts {restarts}, clock {safe}, firmware {:#x}",
            it.firmware_version
        )
    });
    facts.push(("quote", quote.unwrap_or_else(|error| error.to_string())));
    facts.extend(log_facts(evidence));
    let record = SealRecord::parse(evidence.seal);
    let words = |it: &SealRecord| if it.has_passed { "audit held" } else { "audit did not hold" };
    facts.push(("seal", record.as_ref().map_or_else(unreadable, |it| words(it).to_owned())));
    if let Some(SealRecord { layout, gate, cr0, cr4, efer, xcr0, .. }) = record {
        facts.push(("layout", hex(&layout)));
        facts.push(("gate", hex(&gate)));
        let controls = format!("cr0 {cr0:#x}, cr4 {cr4:#x}, efer {efer:#x}, xcr0 {xcr0:#x}");
        facts.push(("controls", controls));
    }
    facts
}

fn log_facts(evidence: &Evidence<'_>) -> Vec<(&'static str, String)> {
    let log = match EventLog::parse(evidence.log) {
        Ok(log) => log,
        Err(error) => return vec![("log", error.to_string())],
    };
    let mut facts = vec![("log", format!("{} events", log.events().len()))];
    match measured::program(&log) {
        Ok(digest) => facts.push(("program", hex(&digest))),
        Err(error) => facts.push(("program", error.to_string())),
    }
    match measured::image(&log) {
        Ok(image) => {
            facts.push(("service", hex(&image.service)));
            facts.push(("configuration", hex(&image.configuration)));
            let phase = if image.is_sealed { "sealed" } else { "booted and not sealed" };
            facts.push(("phase", phase.to_owned()));
        }
        Err(error) => facts.push(("image", error.to_string())),
    }
    let pcrs = Pcrs::parse(evidence.pcrs);
    let words = match replays_to(Some(&log), pcrs.as_ref()) {
        None => "unknown: there are no SHA-256 values or no such log to compare".to_owned(),
        Some(differing) if differing.is_empty() => "to the PCR values".to_owned(),
        Some(differing) => format!("not to the values of PCR {differing:?}"),
    };
    facts.push(("replays", words));
    facts
}

/// How the evidence differs from a policy, if its key were trusted and its connection known. Of
/// the verdict on that, only what the policy has to say is used.
fn compare(evidence: &Evidence<'_>, policy: &Policy) -> Verdict {
    let ak_name = Public::parse(evidence.ak).map(|it| it.name()).unwrap_or_default();
    let identity = Identity {
        schema: IDENTITY_SCHEMA.to_owned(),
        ak_name: Hex(ak_name),
        ek_sha256: None,
        platform_trust: PlatformTrust::Unknown,
        source: Source::Pinned,
    };
    let connection = Connection { nonce: [0; 32], exporter: [0; 32], spki_sha256: [0; 32] };
    verify(evidence, &connection, &identity, policy)
}

/// The checks that do not hold although key and connection are not looked at. Whose word the platform
/// is depends on the identity, which nobody has given.
fn complaints(verdict: &Verdict) -> impl Iterator<Item = (&'static str, &str)> {
    let is_of_the_content =
        |id: &str| !id.starts_with("ak.") && !id.starts_with("ek.") && id != "quote.signer";
    verdict
        .checks
        .iter()
        .filter(move |it| !it.ok && is_of_the_content(it.id))
        .filter(|it| it.id != "binding.fresh" && it.id != "policy.platform-trust")
        .map(|it| (it.id, it.detail.as_str()))
}

fn as_text(facts: &[(&str, String)], compared: Option<&Verdict>) -> String {
    let mut text = "what the machine says; nothing of it is verified here\n".to_owned();
    for (name, value) in facts {
        text.push_str(&format!("  {name:14} {}\n", plain(value)));
    }
    let Some(verdict) = compared else { return text };
    let differs: Vec<_> = verdict.differs.iter().map(|it| component(*it)).collect();
    let differs = if differs.is_empty() { "no component".to_owned() } else { differs.join(", ") };
    text.push_str(&format!("differs from the policy: {differs}\n"));
    for (id, detail) in complaints(verdict) {
        text.push_str(&format!("  {id:22} {}\n", plain(detail)));
    }
    text
}

fn as_json(facts: &[(&str, String)], compared: Option<&Verdict>) -> Value {
    let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into()));
    let complaint = |(id, detail): (&str, &str)| json!({ "id": id, "detail": detail });
    json!({
        "schema": "bulla-explain/1",
        "unverified": facts.collect::<Map<_, _>>(),
        "differs": compared.map(|it| it.differs.iter().map(|it| component(*it)).collect::<Vec<_>>()),
        "complaints": compared.map(|it| complaints(it).map(complaint).collect::<Vec<_>>()),
    })
}
