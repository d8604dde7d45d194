//! Reference values and trust: what the verifier demands, written down as JSON.
//!
//! A policy is code: an unknown field, a key that comes twice or a value that is missing is an error
//! and not a default. What is not to be checked is written as a skip, with its reason.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::claims::KeyOrigin;

/// What a policy calls its form.
pub const SCHEMA: &str = "bulla-refvalues/1";

/// What an identity calls its form.
pub const IDENTITY_SCHEMA: &str = "bulla-identity/1";

/// The most bytes a policy or an identity may have.
pub const MAX_BYTES: usize = 256 << 10;

/// The PCRs that a policy has to say something about.
pub const MUST_SAY: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12];

/// The most values that one rule may allow.
const MAX_VALUES: usize = 64;

/// Bytes, in lower-case hexadecimal in JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Hex {
    /// Reads an even number of hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = |pair: &[u8; 2]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
        let bytes = pairs.iter().map(byte).collect::<Option<Vec<u8>>>()?;
        rest.is_empty().then_some(Self(bytes))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("not hexadecimal digits in pairs"))
    }
}

/// What one PCR has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Rule {
    /// One of these values.
    ExpectedAny(Vec<Hex>),
    /// What follows from the image: PCR 4 by the log and the image's Authenticode digest, 11 by its
    /// parts, 12 by its configuration and the seal record.
    FromImage(bool),
    /// Anything, for this reason.
    Skip(String),
}

/// The image that the reference values are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// What people call it.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: Hex,
    /// Its Authenticode digest: what firmware measures.
    pub authenticode_sha256: Hex,
    /// SHA-256 of the service in it.
    pub service_sha256: Hex,
    /// SHA-256 of the configuration section in it.
    pub configuration_sha256: Hex,
}

/// What the sealed machine has to look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// SHA-256 of the layouts that the image may have, one for each kind of machine.
    pub layout_any: Vec<Hex>,
    /// SHA-256 of the gate's text.
    pub gate_sha256: Hex,
}

/// What else is demanded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Require {
    /// Where the TLS key may have come from.
    pub key_origin_any: Vec<String>,
    /// Which findings about the platform are good enough.
    pub platform_trust_any: Vec<PlatformTrust>,
    /// Whether the TPM's clock must not have gone back.
    pub safe_clock: bool,
    /// The lowest reset count that is accepted, or `null` if none is known.
    #[serde(deserialize_with = "said")]
    pub min_reset_count: Option<u32>,
    /// Firmware versions of TPMs that are not accepted.
    pub firmware_version_deny: Vec<u64>,
}

/// Under whose word the PCRs are what they are: the verifier's own finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlatformTrust {
    /// Nobody measured the image before it ran: it says so of itself.
    None,
    /// A TPM whose maker is unknown here; firmware measured the image.
    Unknown,
    /// A software TPM on the machine's host, and the host's firmware.
    VtpmHost,
    /// A TPM whose certificate leads to a root that the verifier gave.
    Tpm,
}

/// Reference values of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// [`SCHEMA`].
    pub schema: String,
    /// The image.
    pub image: Image,
    /// Rules for PCRs of the SHA-256 bank.
    pub pcrs: Rules,
    /// The seal.
    pub seal: Seal,
    /// The rest.
    pub require: Require,
}

/// Rules by PCR, each PCR once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(pub BTreeMap<u8, Rule>);

impl Serialize for Rules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pcr, rule)| (pcr.to_string(), rule)))
    }
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Rules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("rules by PCR, each PCR once")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rules, A::Error> {
                let mut rules = BTreeMap::new();
                while let Some((key, rule)) = map.next_entry::<String, Rule>()? {
                    let index = (0..16).find(|index: &u8| index.to_string() == key);
                    let Some(index) = index else {
                        return Err(serde::de::Error::custom("a PCR that evidence does not have"));
                    };
                    if rules.insert(index, rule).is_some() {
                        return Err(serde::de::Error::custom("a PCR comes twice"));
                    }
                }
                Ok(Rules(rules))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// Why a policy or an identity is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is longer than one may be.
    TooLong,
    /// It is not JSON of this form; where and why.
    Form(String),
    /// It is of another version, or something else.
    Schema,
    /// It says nothing about a PCR.
    Missing(u8),
    /// A rule allows nothing, or more values than a rule may, or has a value of a wrong length.
    Values(u8),
    /// A skip has no reason.
    Reason(u8),
    /// A rule leaves to the image what does not follow from one.
    NotFromImage(u8),
    /// It pins no PCR at all.
    NothingPinned,
    /// A digest has the wrong length, a list is empty, or a word in it means nothing.
    Value(&'static str),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it has more than {MAX_BYTES} bytes"),
            Self::Form(why) => write!(f, "it is not of its form: {why}"),
            Self::Schema => write!(f, "its schema is not one that is known here"),
            Self::Missing(pcr) => {
                write!(f, "it says nothing about PCR {pcr}; write a skip with its reason")
            }
            Self::Values(pcr) => write!(f, "its values for PCR {pcr} are none, many or crooked"),
            Self::Reason(pcr) => write!(f, "it skips PCR {pcr} without a reason"),
            Self::NotFromImage(pcr) => write!(f, "no value of PCR {pcr} follows from the image"),
            Self::NothingPinned => write!(f, "it pins no PCR"),
            Self::Value(field) => write!(f, "its {field} is empty or no such value"),
        }
    }
}

impl core::error::Error for Refused {}

impl Policy {
    /// Reads and checks a policy.
    ///
    /// # Errors
    ///
    /// [`Refused`] with the first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, Refused> {
        let policy: Self = from_json(json)?;
        if policy.schema != SCHEMA {
            return Err(Refused::Schema);
        }
        for pcr in MUST_SAY {
            if !policy.pcrs.0.contains_key(&pcr) {
                return Err(Refused::Missing(pcr));
            }
        }
        for (pcr, rule) in &policy.pcrs.0 {
            check_rule(*pcr, rule)?;
        }
        if policy.pcrs.0.values().all(|rule| matches!(rule, Rule::Skip(_))) {
            return Err(Refused::NothingPinned);
        }
        policy.check_values()?;
        Ok(policy)
    }

    fn check_values(&self) -> Result<(), Refused> {
        let digests = [
            ("image.sha256", &self.image.sha256),
            ("image.authenticode_sha256", &self.image.authenticode_sha256),
            ("image.service_sha256", &self.image.service_sha256),
            ("image.configuration_sha256", &self.image.configuration_sha256),
            ("seal.gate_sha256", &self.seal.gate_sha256),
        ];
        let layouts = self.seal.layout_any.iter().map(|layout| ("seal.layout_any", layout));
        if let Some((field, _)) =
            digests.into_iter().chain(layouts).find(|(_, digest)| digest.0.len() != 32)
        {
            return Err(Refused::Value(field));
        }
        let origins = &self.require.key_origin_any;
        let are_known = origins.iter().all(|name| KeyOrigin::parse(name).is_some());
        let lists = [
            ("seal.layout_any", !self.seal.layout_any.is_empty()),
            ("require.key_origin_any", !origins.is_empty() && are_known),
            ("require.platform_trust_any", !self.require.platform_trust_any.is_empty()),
        ];
        let bad = lists.into_iter().find(|(_, is_good)| !is_good);
        bad.map_or(Ok(()), |(field, _)| Err(Refused::Value(field)))
    }

    /// The policy as JSON that people can read.
    pub fn to_json(&self) -> String {
        // Every key is a string and every value has a form, so nothing can go wrong.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

fn check_rule(pcr: u8, rule: &Rule) -> Result<(), Refused> {
    match rule {
        Rule::ExpectedAny(values) => {
            let is_counted = (1..=MAX_VALUES).contains(&values.len());
            let are_whole = values.iter().all(|value| value.0.len() == 32);
            (is_counted && are_whole).then_some(()).ok_or(Refused::Values(pcr))
        }
        Rule::FromImage(is_so) => {
            let can_be = *is_so && matches!(pcr, 4 | 11 | 12);
            can_be.then_some(()).ok_or(Refused::NotFromImage(pcr))
        }
        Rule::Skip(reason) => (!reason.trim().is_empty()).then_some(()).ok_or(Refused::Reason(pcr)),
    }
}

/// How an identity came to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Its TPM answered a challenge that only the TPM of the certificate could answer.
    EkActivated,
    /// Somebody read it from the machine and says so.
    Pinned,
}

/// A machine, by its attestation key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// [`IDENTITY_SCHEMA`].
    pub schema: String,
    /// The key's name: algorithm and digest.
    pub ak_name: Hex,
    /// SHA-256 of the endorsement key's certificate, or `null` where there is none.
    #[serde(deserialize_with = "said")]
    pub ek_sha256: Option<Hex>,
    /// Under whose word, as `enroll` found it.
    pub platform_trust: PlatformTrust,
    /// How it came to be believed.
    pub source: Source,
}

impl Identity {
    /// Reads and checks an identity.
    ///
    /// # Errors
    ///
    /// [`Refused`] with the first thing that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, Refused> {
        let identity: Self = from_json(json)?;
        if identity.schema != IDENTITY_SCHEMA {
            return Err(Refused::Schema);
        }
        let has_name = matches!(identity.ak_name.0.len(), 34 | 50 | 66);
        let has_digest = identity.ek_sha256.as_ref().is_none_or(|digest| digest.0.len() == 32);
        if !has_name || !has_digest {
            return Err(Refused::Value(if has_name { "ek_sha256" } else { "ak_name" }));
        }
        Ok(identity)
    }

    /// The identity as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// A value or `null`. Named, so that a field that is missing is an error: of its own, serde takes it
/// for `null`, and a demand that somebody misspelt or lost would be none.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

fn from_json<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, Refused> {
    if json.len() > MAX_BYTES {
        return Err(Refused::TooLong);
    }
    serde_json::from_slice(json).map_err(|error| Refused::Form(error.to_string()))
}
