//! The verdict: every check with what it found, and one class for all of them.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use crate::policy::PlatformTrust;

/// What a verdict calls its form.
pub const SCHEMA: &str = "bulla-verdict/1";

/// What a failed check means; the number is the exit status of `attest`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The evidence is not evidence: malformed, not signed, not consistent.
    Invalid = 2,
    /// The key that signed is not one we trust.
    Key = 3,
    /// It is old, or of another connection.
    Binding = 4,
    /// It is good evidence of something we do not want.
    Policy = 5,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which does not change.
    pub id: &'static str,
    /// Which class it fails in.
    pub class: u8,
    /// Whether it passed.
    pub ok: bool,
    /// What was found, where it did not, or what was not looked at and why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The part of a machine that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// What ran before the image, and its settings.
    Firmware,
    /// The ring 0 program.
    Boot,
    /// The application.
    Service,
    /// The configuration section.
    Configuration,
    /// What boot made of the machine.
    Seal,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// `pass` or `fail`.
    pub verdict: &'static str,
    /// 0, or the lowest class that failed.
    pub class: u8,
    /// Every check, in order.
    pub checks: Vec<Check>,
    /// Which components differ from the reference values.
    pub differs: Vec<Component>,
    /// The verifier's own finding.
    pub platform_trust: PlatformTrust,
    /// The attestation key's name, in hexadecimal, if there is one.
    pub ak_name: String,
    /// Where the machine says its TLS key came from; bound into the quote.
    pub key_origin: String,
}

/// Checks, as they are made.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<Check>);

impl Checks {
    /// Notes a check and hands on whether it passed.
    pub(crate) fn note(
        &mut self,
        id: &'static str,
        class: Class,
        ok: bool,
        detail: impl Into<String>,
    ) -> bool {
        self.0.push(Check { id, class: class as u8, ok, detail: detail.into() });
        ok
    }

    /// Notes a result: its value, or its error as the detail.
    pub(crate) fn result<T, E: core::fmt::Display>(
        &mut self,
        id: &'static str,
        class: Class,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.note(id, class, true, "");
                Some(value)
            }
            Err(error) => {
                self.note(id, class, false, alloc::format!("{error}"));
                None
            }
        }
    }

    /// The lowest class that failed, or 0.
    pub(crate) fn class(&self) -> u8 {
        self.0.iter().filter(|check| !check.ok).map(|check| check.class).min().unwrap_or(0)
    }

    pub(crate) fn into_inner(self) -> Vec<Check> {
        self.0
    }
}
