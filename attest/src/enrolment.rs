//! Enrolment: from a TPM's certificate to the attestation key that is believed from then on.
//!
//! A certificate vouches for an endorsement key, which cannot sign. That the attestation key is in the
//! same TPM is shown by a challenge that only a TPM with both can answer (TPM 2.0 Part 1, section 24).

use std::fmt;

use attest_core::policy::{Hex, IDENTITY_SCHEMA, Identity, PlatformTrust, Source};
use attest_core::sha256;
use serde::{Deserialize, Serialize};

use crate::endorsement::{EkCertificate, Roots, Untrusted};
use crate::tpm::{AttestationKey, WrapError, make_credential};

/// What a state calls its form.
pub const SCHEMA: &str = "bulla-enrolment/1";

/// The most bytes that a state may have.
const MAX_BYTES: usize = 64 << 10;

/// What is remembered between the challenge and its answer. It holds no secret: of the answer, only
/// the digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`SCHEMA`].
    pub schema: String,
    /// The attestation key's name.
    pub ak_name: Hex,
    /// The endorsement key's certificate, in DER.
    pub ek_certificate: Hex,
    /// SHA-256 of the answer.
    pub answer_sha256: Hex,
}

/// Why a machine is not enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotEnrolled {
    /// Another attestation key than the challenge was made for.
    AnotherKey,
    /// Evidence comes with another certificate than the challenge was made for.
    AnotherTpm,
    /// Nobody vouches for the endorsement key.
    Certificate(Untrusted),
    /// The evidence has no answer in it.
    NoAnswer,
    /// The state is not of its form.
    State(String),
    /// No challenge can be made.
    Wrap(WrapError),
    /// It is not the answer.
    Wrong,
}

impl fmt::Display for NotEnrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnotherKey => {
                write!(f, "the attestation key is not the one that the challenge was made for")
            }
            Self::AnotherTpm => {
                write!(f, "the certificate is not the one that the challenge was made for")
            }
            Self::Certificate(error) => write!(f, "{error}"),
            Self::NoAnswer => write!(f, "there is no answer to a challenge in the evidence"),
            Self::State(why) => write!(f, "not the state of an enrolment: {why}"),
            Self::Wrap(error) => write!(f, "{error}"),
            Self::Wrong => write!(f, "the answer is wrong: the keys are not both in that TPM"),
        }
    }
}

impl std::error::Error for NotEnrolled {}

/// A challenge, and what to remember of it.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// What the machine's boot reads.
    pub file: Vec<u8>,
    /// What decides about the answer.
    pub state: State,
}

/// Makes a challenge for a TPM that a root vouches for.
///
/// # Errors
///
/// [`NotEnrolled`] if none does, or the challenge cannot be made.
pub fn begin(
    certificate: &EkCertificate,
    roots: &Roots,
    ak: &AttestationKey,
) -> Result<Challenge, NotEnrolled> {
    let now = rustls_pki_types::UnixTime::now();
    certificate.verify(roots, now).map_err(NotEnrolled::Certificate)?;
    let credential = make_credential(&certificate.key, &ak.name).map_err(NotEnrolled::Wrap)?;
    let state = State {
        schema: SCHEMA.to_owned(),
        ak_name: Hex(ak.name.clone()),
        ek_certificate: Hex(certificate.der.to_vec()),
        answer_sha256: Hex(sha256(&credential.answer[..]).to_vec()),
    };
    Ok(Challenge { file: credential.challenge, state })
}

impl State {
    /// Reads a state.
    ///
    /// # Errors
    ///
    /// [`NotEnrolled::State`] if it is none.
    pub fn parse(json: &[u8]) -> Result<Self, NotEnrolled> {
        let refused = |why: &str| NotEnrolled::State(why.to_owned());
        if json.len() > MAX_BYTES {
            return Err(refused("too long"));
        }
        let state: Self = serde_json::from_slice(json).map_err(|it| refused(&it.to_string()))?;
        let is_whole = state.schema == SCHEMA && state.answer_sha256.0.len() == 32;
        if is_whole { Ok(state) } else { Err(refused("another version, or another file")) }
    }

    /// The state as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The certificate that the challenge was made for.
    ///
    /// # Errors
    ///
    /// [`NotEnrolled::Certificate`] if it cannot be read.
    pub fn certificate(&self) -> Result<EkCertificate, NotEnrolled> {
        let der = self.ek_certificate.0.clone().into();
        EkCertificate::parse(der).map_err(NotEnrolled::Certificate)
    }

    /// Who the machine is, if it gave the right answer.
    ///
    /// # Errors
    ///
    /// [`NotEnrolled::Wrong`] if it did not.
    pub fn finish(&self, answer: &[u8]) -> Result<Identity, NotEnrolled> {
        // What is compared is known to whoever may read the state: nothing is given away by when
        // the comparison ends.
        if sha256(answer)[..] != self.answer_sha256.0[..] {
            return Err(NotEnrolled::Wrong);
        }
        self.identity()
    }

    /// Who the machine would be if it gave the right answer.
    pub(crate) fn identity(&self) -> Result<Identity, NotEnrolled> {
        Ok(Identity {
            schema: IDENTITY_SCHEMA.to_owned(),
            ak_name: self.ak_name.clone(),
            ek_sha256: Some(Hex(sha256(&self.ek_certificate.0).to_vec())),
            platform_trust: self.certificate()?.platform_trust(),
            source: Source::EkActivated,
        })
    }
}

/// An identity that somebody vouches for who read the key from the machine.
pub fn pin(ak: &AttestationKey) -> Identity {
    Identity {
        schema: IDENTITY_SCHEMA.to_owned(),
        ak_name: Hex(ak.name.clone()),
        ek_sha256: None,
        platform_trust: PlatformTrust::Unknown,
        source: Source::Pinned,
    }
}
