//! `attest enroll`.

use std::path::{Path, PathBuf};

use attest_core::evidence::Evidence;
use attest_core::policy::Identity;
use attest_core::sha256;
use clap::{Args, Subcommand};
use serde_json::json;

use super::connection::Peer;
use super::{evidence_error, printed};
use crate::command::Answer;
use crate::endorsement::{self, EkCertificate, Roots};
use crate::enrolment::{self, NotEnrolled, State};
use crate::error::{Class, Error};
use crate::input::{self, MAX_SMALL_BYTES, Readers};
use crate::tpm::AttestationKey;
use crate::units::{hex, plain, unhex};

/// Finds out which attestation key to believe, once for each machine
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    Ask(Ask),
    Begin(Begin),
    Finish(Finish),
    Pin(Pin),
}

/// Fetches evidence for an enrolment, and believes nothing of it
#[derive(Args, Debug)]
struct Ask {
    /// HOST:PORT
    address: String,
    #[command(flatten)]
    peer: Peer,
    /// Where the evidence goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Makes a challenge that only one TPM can answer
///
/// The challenge belongs into \EFI\BULLA\CHALLENGE beside the image; boot answers it, and the answer comes with
/// the machine's evidence.
#[derive(Args, Debug)]
struct Begin {
    /// Evidence that brings both keys
    #[arg(long, value_name = "FILE", required_unless_present_all = ["ek_certificate", "ak"])]
    evidence: Option<PathBuf>,
    /// The endorsement key's certificate
    #[arg(long, value_name = "FILE", conflicts_with = "evidence", requires = "ak")]
    ek_certificate: Option<PathBuf>,
    /// The attestation key: TPM2B_PUBLIC or TPMT_PUBLIC
    #[arg(long, value_name = "FILE", conflicts_with = "evidence", requires = "ek_certificate")]
    ak: Option<PathBuf>,
    /// The certificates of who makes TPMs that we trust
    #[arg(long, value_name = "DIR")]
    roots: PathBuf,
    /// Where the challenge goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Where to remember what the answer must be
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Checks the answer, and writes the identity to verify by
#[derive(Args, Debug)]
struct Finish {
    /// What `enroll begin` remembered
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// The answer, in hexadecimal
    #[arg(long, value_name = "HEX", required_unless_present = "evidence")]
    answer: Option<String>,
    /// Evidence that brings the answer
    #[arg(long, value_name = "FILE", conflicts_with = "answer")]
    evidence: Option<PathBuf>,
    /// Where the identity goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Writes an identity for a key that you have read from the machine yourself
#[derive(Args, Debug)]
struct Pin {
    /// The attestation key: TPM2B_PUBLIC or TPMT_PUBLIC
    #[arg(long, value_name = "FILE")]
    ak: PathBuf,
    /// Where the identity goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<Answer, Error> {
    match &options.step {
        Step::Ask(ask) => fetch(ask),
        Step::Begin(begin) => challenge(begin),
        Step::Finish(finish) => check(finish),
        Step::Pin(pin) => {
            let identity = enrolment::pin(&read_ak(&pin.ak)?);
            write_identity(&pin.output, &identity, pin.json)
        }
    }
}

fn fetch(ask: &Ask) -> Result<Answer, Error> {
    let exchange = ask.peer.ask(&ask.address)?;
    input::write(&ask.output, &exchange.evidence, Readers::Everybody)?;
    let path = plain(&ask.output.to_string_lossy());
    Ok(format!("evidence  {path}, {} bytes, not verified\n", exchange.evidence.len()).into())
}

fn challenge(begin: &Begin) -> Result<Answer, Error> {
    let (certificate, ak) = match (&begin.evidence, &begin.ek_certificate, &begin.ak) {
        (Some(evidence), ..) => keys_of_evidence(evidence)?,
        (None, Some(certificate), Some(ak)) => {
            (endorsement::read_certificate(certificate)?, read_ak(ak)?)
        }
        _ => return Err(Error::Usage("name --evidence, or --ek-certificate and --ak".to_owned())),
    };
    let roots = Roots::read(&begin.roots)?;
    let challenge = enrolment::begin(&certificate, &roots, &ak).map_err(not_enrolled)?;
    input::write(&begin.state, challenge.state.to_json().as_bytes(), Readers::Everybody)?;
    input::write(&begin.output, &challenge.file, Readers::Everybody)?;
    let (path, state) = (begin.output.to_string_lossy(), begin.state.to_string_lossy());
    if begin.json {
        return Ok(printed(&json!({
            "schema": "bulla-challenge/1",
            "ak_name": hex(&ak.name),
            "ek_sha256": hex(&sha256(&certificate.der)),
            "ek_issuer": certificate.issuer,
            "challenge": path,
            "state": state,
        })));
    }
    let text = format!(
        "challenge  {}, {} bytes\nstate      {}\nAK         {}\nEK         {}, issued by {}\n",
        plain(&path),
        challenge.file.len(),
        plain(&state),
        hex(&ak.name),
        certificate.key.describe(),
        plain(&certificate.issuer)
    );
    Ok(text.into())
}

fn keys_of_evidence(path: &Path) -> Result<(EkCertificate, AttestationKey), Error> {
    let bytes = input::read(path, MAX_SMALL_BYTES)?;
    let evidence = Evidence::decode(&bytes).map_err(|it| evidence_error(path, &it))?;
    let certificate = evidence
        .ek
        .ok_or_else(|| evidence_error(path, &"it brings no certificate of an endorsement key"))?;
    let certificate = EkCertificate::parse(certificate.to_vec().into())
        .map_err(|error| endorsement::untrusted(path, &error))?;
    let ak = AttestationKey::parse(evidence.ak).map_err(|error| evidence_error(path, &error))?;
    Ok((certificate, ak))
}

fn check(finish: &Finish) -> Result<Answer, Error> {
    let state = read_state(&finish.state)?;
    let identity = match (&finish.answer, &finish.evidence) {
        (Some(answer), _) => {
            let answer = unhex(answer)
                .ok_or_else(|| Error::Usage("--answer is not hexadecimal".to_owned()))?;
            state.finish(&answer)
        }
        (None, Some(path)) => {
            let bytes = input::read(path, MAX_SMALL_BYTES)?;
            let evidence = Evidence::decode(&bytes).map_err(|it| evidence_error(path, &it))?;
            answered(&state, &evidence)
        }
        (None, None) => return Err(Error::Usage("name --answer or --evidence".to_owned())),
    };
    write_identity(&finish.output, &identity.map_err(not_enrolled)?, finish.json)
}

/// Who the machine is whose evidence this is: it brings both keys and the answer.
pub(crate) fn answered(state: &State, evidence: &Evidence<'_>) -> Result<Identity, NotEnrolled> {
    let ak = AttestationKey::parse(evidence.ak).map_err(|_| NotEnrolled::AnotherKey)?;
    if ak.name != state.ak_name.0 {
        return Err(NotEnrolled::AnotherKey);
    }
    if evidence.ek.is_some_and(|certificate| certificate != state.ek_certificate.0) {
        return Err(NotEnrolled::AnotherTpm);
    }
    state.finish(evidence.answer.ok_or(NotEnrolled::NoAnswer)?)
}

pub(crate) fn read_state(path: &Path) -> Result<State, Error> {
    let bytes = input::read(path, MAX_SMALL_BYTES)?;
    State::parse(&bytes).map_err(|error| Error::Format {
        path: path.to_owned(),
        what: error.to_string(),
        hint: "a state is what `attest enroll begin --state` writes",
    })
}

fn read_ak(path: &Path) -> Result<AttestationKey, Error> {
    let bytes = input::read(path, MAX_SMALL_BYTES)?;
    AttestationKey::parse(&bytes).map_err(|error| Error::Format {
        path: path.to_owned(),
        what: error.to_string(),
        hint: "an attestation key is restricted, signs, and never leaves its TPM",
    })
}

pub(crate) fn not_enrolled(error: NotEnrolled) -> Error {
    let hint = match &error {
        NotEnrolled::Certificate(_) => "name the roots of who made the TPM",
        NotEnrolled::State(_) => "a state is what `attest enroll begin --state` writes",
        NotEnrolled::NoAnswer => "put the challenge beside the image and boot the machine again",
        NotEnrolled::Wrap(_) => "check the endorsement key",
        NotEnrolled::AnotherKey | NotEnrolled::AnotherTpm | NotEnrolled::Wrong => {
            "begin again, with the keys of the machine that is to be enrolled"
        }
    };
    Error::Failed { class: Class::Key, what: error.to_string(), hint }
}

fn write_identity(path: &Path, identity: &Identity, is_json: bool) -> Result<Answer, Error> {
    input::write(path, identity.to_json().as_bytes(), Readers::Everybody)?;
    if is_json {
        return Ok(format!("{}\n", identity.to_json()).into());
    }
    let ek = identity.ek_sha256.as_ref().map_or("none".to_owned(), ToString::to_string);
    let text = format!(
        "identity  {}\nAK        {}\nEK        {ek}\ntrust     {}\n",
        plain(&path.to_string_lossy()),
        identity.ak_name,
        super::trust_words(identity.platform_trust)
    );
    Ok(text.into())
}
