//! `attest eventlog`.

use std::path::PathBuf;

use attest_core::event_log::{Event, EventLog, MAX_BYTES};
use attest_core::evidence::Evidence;
use clap::Args;
use serde_json::{Map, Value, json};

use super::printed;
use crate::command::Answer;
use crate::error::{Class, Error};
use crate::input;
use crate::units::{hex, plain, wide};

/// How much of an event's data is shown.
const SHOWN_BYTES: usize = 48;

/// Shows an event log and what it replays to
///
/// A log proves nothing by itself. What is marked as proven has the digest of its data, which is as true as the PCR
/// that it was extended into.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A log as firmware keeps it, or evidence
    file: PathBuf,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<Answer, Error> {
    let bytes = input::read(&options.file, wide(MAX_BYTES))?;
    let bytes = match Evidence::decode(&bytes) {
        Ok(evidence) => evidence.log,
        Err(_) => &bytes[..],
    };
    let log = EventLog::parse(bytes).map_err(|error| Error::Failed {
        class: Class::Evidence,
        what: format!("{}: {error}", options.file.display()),
        hint: "Linux has its log in /sys/kernel/security/tpm0/binary_bios_measurements",
    })?;
    Ok(if options.json { printed(&as_json(&log)) } else { as_text(&log).into() })
}

fn as_text(log: &EventLog<'_>) -> String {
    let mut text = String::new();
    for event in log.events() {
        let mark = if is_proven(log, event) { "proven" } else { "" };
        let (pcr, kind, data) = (event.pcr, event.kind.to_string(), readable(event.data));
        text.push_str(&format!("PCR {pcr:2}  {kind:34}  {mark:6}  {data}\n"));
    }
    for bank in log.algorithms() {
        for (pcr, value) in log.replay(*bank).unwrap_or_default() {
            text.push_str(&format!("{} {pcr:2}  {}\n", bank.as_str(), hex(&value)));
        }
    }
    text
}

fn as_json(log: &EventLog<'_>) -> Value {
    let event = |event: &Event<'_>| {
        let digests = event.digests.iter();
        let digests = digests.map(|(bank, it)| (bank.as_str().to_owned(), hex(it).into()));
        json!({
            "pcr": event.pcr,
            "type": event.kind.to_string(),
            "type_id": event.kind.0,
            "digests": digests.collect::<Map<_, _>>(),
            "data": hex(event.data),
            "proven": is_proven(log, event),
        })
    };
    let bank = |bank: &attest_core::hash::Algorithm| {
        let values = log.replay(*bank).unwrap_or_default().into_iter();
        let values = values.map(|(pcr, value)| (pcr.to_string(), hex(&value).into()));
        (bank.as_str().to_owned(), Value::Object(values.collect()))
    };
    json!({
        "schema": "bulla-eventlog/1",
        "events": log.events().iter().map(event).collect::<Vec<_>>(),
        "pcrs": log.algorithms().iter().map(bank).collect::<Map<_, _>>(),
    })
}

/// Whether the digests of an event, all of them, are those of its data.
fn is_proven(log: &EventLog<'_>, event: &Event<'_>) -> bool {
    !event.digests.is_empty() && log.algorithms().iter().all(|bank| event.is_of_its_data(*bank))
}

/// Data as text if it is text, and as digits if it is not.
pub(crate) fn readable(data: &[u8]) -> String {
    let shown = data.get(..SHOWN_BYTES).unwrap_or(data);
    let rest = data.len().saturating_sub(shown.len());
    let more = if rest > 0 { format!(" and {rest} bytes more") } else { String::new() };
    match std::str::from_utf8(shown) {
        Ok(text) if !shown.is_empty() && text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) => {
            format!("\"{}\"{more}", plain(text))
        }
        _ => format!("{}{more}", hex(shown)),
    }
}
