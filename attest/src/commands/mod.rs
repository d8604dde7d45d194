//! One module a command: its options, and what it does.

mod connection;
pub(crate) mod enroll;
pub(crate) mod eventlog;
pub(crate) mod explain;
pub(crate) mod policy;
pub(crate) mod predict;
pub(crate) mod seal_key;
pub(crate) mod verify;

use std::fmt;
use std::path::Path;

use attest_core::policy::PlatformTrust;
use attest_core::verdict::Component;
use serde_json::Value;

use crate::command::Answer;
use crate::error::{Class, Error};
use crate::units::is_order;

/// A file that should be evidence, or a part of it, and is not.
fn evidence_error(path: &Path, what: &dyn fmt::Display) -> Error {
    Error::Failed {
        class: Class::Evidence,
        what: format!("{}: {what}", path.display()),
        hint: "evidence is what `attest verify --save-evidence` keeps",
    }
}

/// An answer in JSON.
fn printed(value: &Value) -> Answer {
    json_text(value).into()
}

/// JSON in one line. What a terminal could take for an order is written as JSON's own escape; it
/// can stand in strings only.
fn json_text(value: &Value) -> String {
    let mut text = String::new();
    for letter in value.to_string().chars() {
        if is_order(letter) {
            text.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            text.push(letter);
        }
    }
    text.push('\n');
    text
}

/// What people call a component.
const fn component(component: Component) -> &'static str {
    match component {
        Component::Firmware => "firmware",
        Component::Boot => "boot",
        Component::Service => "service",
        Component::Configuration => "configuration",
        Component::Seal => "seal",
    }
}

/// The name of a finding in policies.
const fn trust_name(trust: PlatformTrust) -> &'static str {
    match trust {
        PlatformTrust::None => "none",
        PlatformTrust::Unknown => "unknown",
        PlatformTrust::VtpmHost => "vtpm-host",
        PlatformTrust::Tpm => "tpm",
    }
}

/// What a finding means.
const fn trust_words(trust: PlatformTrust) -> &'static str {
    match trust {
        PlatformTrust::None => "none: nobody measured the image before it ran",
        PlatformTrust::Unknown => "unknown: nobody has said who made the TPM",
        PlatformTrust::VtpmHost => {
            "vtpm-host: the TPM is a program, so this is worth as much as the host that runs it"
        }
        PlatformTrust::Tpm => "tpm: a TPM of a maker among the roots",
    }
}
