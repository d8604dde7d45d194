//! `attest verify`.

use std::path::{Path, PathBuf};

use attest_core::evidence::{Evidence, MAX_BYTES};
use attest_core::policy::{Identity, PlatformTrust, Policy};
use attest_core::verdict::{Check, SCHEMA, Verdict};
use attest_core::verify::{Connection, verify};
use clap::{ArgGroup, Args};
use serde_json::json;

use super::connection::Peer;
use super::enroll::{answered, read_state};
use super::policy::read_policy;
use super::{evidence_error, json_text, trust_words};
use crate::client::Exchange;
use crate::command::Answer;
use crate::endorsement::Roots;
use crate::enrolment::State;
use crate::error::{Class, Error};
use crate::input::{self, MAX_SMALL_BYTES, Readers};
use crate::units::{hex, plain, unhex_array, wide};

/// Says whether a machine is what a policy asks for
///
/// With HOST:PORT it asks the machine; with --evidence it judges what was saved. Exactly one source of trust in
/// the machine's key has to be named: an identity, or the roots and the state of an enrolment.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("trust").required(true).multiple(false).args(["identity", "ek_roots"]))]
#[command(group = ArgGroup::new("of").required(true).multiple(false).args(["address", "evidence"]))]
pub(crate) struct Options {
    /// HOST:PORT
    address: Option<String>,
    /// Saved evidence, to be judged offline
    #[arg(long, value_name = "FILE", requires_all = ["nonce", "exporter", "spki"])]
    evidence: Option<PathBuf>,
    /// The nonce that was sent for it
    #[arg(long, value_name = "HEX", requires = "evidence")]
    nonce: Option<String>,
    /// The exporter of the connection that it came by
    #[arg(long, value_name = "HEX", requires = "evidence")]
    exporter: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo on that connection
    #[arg(long, value_name = "HEX", requires = "evidence")]
    spki: Option<String>,
    /// The reference values
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The machine, as `attest enroll` wrote it
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Who makes TPMs that we trust; the evidence must bring the answer to the challenge of --state
    #[arg(long, value_name = "DIR", requires = "state")]
    ek_roots: Option<PathBuf>,
    /// What `attest enroll begin` remembered
    #[arg(long, value_name = "FILE", requires = "ek_roots")]
    state: Option<PathBuf>,
    #[command(flatten)]
    peer: Peer,
    /// Keeps the evidence, to be judged again
    #[arg(long, value_name = "FILE", requires = "address")]
    save_evidence: Option<PathBuf>,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// On what the key is believed.
enum Trust {
    /// Somebody has found out before.
    Identity(Identity),
    /// The evidence has to show it.
    Enrolment(Box<State>, Roots),
}

pub(crate) fn run(options: &Options) -> Result<Answer, Error> {
    // Everything that can be wrong with the files is told before a machine is asked.
    let policy = read_policy(&options.policy)?;
    let trust = read_trust(options)?;
    let (verdict, connection) = match examine(options, &trust, &policy) {
        Ok((verdict, connection)) => (verdict, Some(connection)),
        // What is not even evidence gets a verdict too; what could not be asked gets none.
        Err(error) if error.class() != Class::Usage => (shapeless(&error), None),
        Err(error) => return Err(error),
    };
    let text = if options.json {
        as_json(&verdict, connection.as_ref())?
    } else {
        as_text(&verdict, &policy)
    };
    Ok(Answer { text, failed: class_of(&verdict) })
}

fn examine(
    options: &Options,
    trust: &Trust,
    policy: &Policy,
) -> Result<(Verdict, Connection), Error> {
    let exchange = exchange(options)?;
    if let Some(path) = &options.save_evidence {
        input::write(path, &exchange.evidence, Readers::Everybody)?;
    }
    let Exchange { nonce, exporter, spki_sha256, evidence } = &exchange;
    let decoded = Evidence::decode(evidence).map_err(|error| {
        let path = options.evidence.as_deref().unwrap_or(Path::new("evidence"));
        evidence_error(path, &error)
    })?;
    let connection = Connection { nonce: *nonce, exporter: *exporter, spki_sha256: *spki_sha256 };
    Ok((judge(&decoded, &connection, trust, policy)?, connection))
}

/// The verdict on what cannot be looked into.
fn shapeless(error: &Error) -> Verdict {
    let class = error.class().number();
    let check = Check { id: "evidence.form", class, ok: false, detail: error.to_string() };
    Verdict {
        schema: SCHEMA,
        verdict: "fail",
        class,
        checks: vec![check],
        differs: Vec::new(),
        platform_trust: PlatformTrust::None,
        ak_name: String::new(),
        key_origin: String::new(),
    }
}

fn exchange(options: &Options) -> Result<Exchange, Error> {
    let Some(path) = &options.evidence else {
        return options.peer.ask(options.address.as_deref().unwrap_or_default());
    };
    let bytes = |name: &str, value: &Option<String>| {
        value
            .as_deref()
            .and_then(unhex_array::<32>)
            .ok_or_else(|| Error::Usage(format!("--{name} is not 32 bytes in hexadecimal")))
    };
    Ok(Exchange {
        nonce: bytes("nonce", &options.nonce)?,
        exporter: bytes("exporter", &options.exporter)?,
        spki_sha256: bytes("spki", &options.spki)?,
        evidence: input::read(path, wide(MAX_BYTES))?,
    })
}

fn read_trust(options: &Options) -> Result<Trust, Error> {
    if let Some(path) = &options.identity {
        return read_identity(path).map(Trust::Identity);
    }
    match (&options.ek_roots, &options.state) {
        (Some(roots), Some(state)) => {
            Ok(Trust::Enrolment(Box::new(read_state(state)?), Roots::read(roots)?))
        }
        _ => Err(Error::Usage("name --identity, or --ek-roots and --state".to_owned())),
    }
}

pub(crate) fn read_identity(path: &Path) -> Result<Identity, Error> {
    let bytes = input::read(path, MAX_SMALL_BYTES)?;
    Identity::parse(&bytes).map_err(|error| Error::Format {
        path: path.to_owned(),
        what: error.to_string(),
        hint: "an identity is what `attest enroll finish` writes",
    })
}

/// The verdict; where the evidence itself has to show whose key it is, with two checks more.
fn judge(
    evidence: &Evidence<'_>,
    connection: &Connection,
    trust: &Trust,
    policy: &Policy,
) -> Result<Verdict, Error> {
    let (state, roots) = match trust {
        Trust::Identity(identity) => return Ok(verify(evidence, connection, identity, policy)),
        Trust::Enrolment(state, roots) => (state, roots),
    };
    let identity = state.identity().map_err(super::enroll::not_enrolled)?;
    let mut verdict = verify(evidence, connection, &identity, policy);
    let now = rustls_pki_types::UnixTime::now();
    let chain = state.certificate().map_err(|it| it.to_string());
    let chain = chain.and_then(|it| it.verify(roots, now).map_err(|it| it.to_string()));
    let answer = answered(state, evidence).map(|_| ()).map_err(|it| it.to_string());
    for (id, result) in [("ek.chain", chain), ("ek.answer", answer)] {
        let (ok, detail) = (result.is_ok(), result.err().unwrap_or_default());
        verdict.checks.push(Check { id, class: Class::Key.number(), ok, detail });
    }
    let failed = verdict.checks.iter().filter(|check| !check.ok).map(|check| check.class);
    // A verdict that failed stays so, whatever its checks say.
    if let Some(class) = failed.min() {
        verdict.class = if verdict.class == 0 { class } else { class.min(verdict.class) };
        verdict.verdict = "fail";
    }
    Ok(verdict)
}

/// The exit code of a verdict. Only class 0 *and* the word make it good.
fn class_of(verdict: &Verdict) -> Option<Class> {
    match (verdict.class, verdict.verdict) {
        (0, "pass") => None,
        (3, _) => Some(Class::Key),
        (4, _) => Some(Class::Fresh),
        (5, _) => Some(Class::Policy),
        _ => Some(Class::Evidence),
    }
}

fn as_json(verdict: &Verdict, connection: Option<&Connection>) -> Result<String, Error> {
    let mut value = serde_json::to_value(verdict).map_err(|error| Error::Output(error.into()))?;
    if let (Some(members), Some(connection)) = (value.as_object_mut(), connection) {
        let connection = json!({
            "nonce": hex(&connection.nonce),
            "exporter": hex(&connection.exporter),
            "spki_sha256": hex(&connection.spki_sha256),
        });
        members.insert("connection".to_owned(), connection);
    }
    Ok(json_text(&value))
}

fn as_text(verdict: &Verdict, policy: &Policy) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    match class_of(verdict) {
        None => {
            line(format!("verified  {}", plain(&policy.image.name)));
            line(format!("AK        {}", verdict.ak_name));
            line(format!("TLS key   {}", plain(&verdict.key_origin)));
        }
        Some(class) => {
            line(format!("refused   class {}: {}", class.number(), class.words()));
            for check in verdict.checks.iter().filter(|check| !check.ok) {
                line(format!("  {}  {:22}  {}", check.class, check.id, plain(&check.detail)));
            }
            if !verdict.differs.is_empty() {
                let differs: Vec<_> =
                    verdict.differs.iter().map(|it| super::component(*it)).collect();
                line(format!("differs   {}", differs.join(", ")));
            }
        }
    }
    line(format!("platform  {}", trust_words(verdict.platform_trust)));
    text
}
