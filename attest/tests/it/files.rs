//! `attest eventlog` and `attest explain`.

use std::fs;
use std::process::Command;

use attest_core::evidence::Evidence;

use crate::sample::{Machine, Scene, hashed};
use crate::server::{evidence, write_references};
use crate::{attest, text, vector};

#[test]
fn a_log_replays_to_what_its_machine_read() {
    let expected: serde_json::Value =
        serde_json::from_slice(&fs::read(vector("go-tpm-tools/expected-pcrs.json")).unwrap())
            .unwrap();
    let mut compared = 0;
    for (name, expected) in expected.as_object().unwrap() {
        let path = vector(&format!("go-tpm-tools/{name}"));
        if !std::path::Path::new(&path).exists() {
            continue;
        }
        let json = attest(&["eventlog", &path, "--json"]).ends(0).json();
        assert_eq!(json["schema"], "bulla-eventlog/1");
        for (bank, values) in expected["pcrs"].as_object().unwrap() {
            for (pcr, value) in values.as_object().unwrap() {
                // What a log does not mention holds zeros still.
                let zeros = "0".repeat(value.as_str().unwrap().len());
                let seen = json["pcrs"][bank][pcr].as_str().unwrap_or(&zeros);
                assert_eq!(seen, value, "{name} {bank} {pcr}");
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared}");
}

/// Logs that are refused: bytes behind the last event, data of a vendor that end behind their event,
/// an event without a digest by each of the log's functions, an area's padding behind the last event.
const REFUSED: [&str; 4] = [
    "go-attestation/option_rom_eventlog",
    "tpm2-tools/specid-vendordata.bin",
    "tpm2-tools/event-uefivar.bin",
    "ovmf-swtpm/aavmf-tis/eventlog_entry.padded.bin",
];

/// What `tpm2_eventlog` replays a log to: bank, PCR, value.
fn by_tpm2_tools(path: &str) -> Option<Vec<(String, String, String)>> {
    let output = Command::new("tpm2_eventlog").arg(path).output().unwrap();
    let yaml = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, pcrs) = yaml.split_once("\npcrs:\n").filter(|_| output.status.success())?;
    let (mut bank, mut found) = (String::new(), Vec::new());
    for line in pcrs.lines() {
        match line.trim().split_once(':')? {
            (name, "") => bank = name.to_owned(),
            (pcr, value) => {
                let value = value.trim().trim_start_matches("0x").to_owned();
                found.push((bank.clone(), pcr.trim().to_owned(), value));
            }
        }
    }
    Some(found)
}

#[test]
fn tpm2_eventlog_replays_every_log_to_the_same() {
    let mut logs = Vec::new();
    for folder in [
        "go-tpm-tools",
        "tpm2-tools",
        "go-attestation",
        "derived/gce-cos-85-nonce9009",
        "derived/windows-gcp",
        "ovmf-swtpm/2M-crb-full",
        "ovmf-swtpm/2M-kernelefi",
        "ovmf-swtpm/aavmf-tis",
    ] {
        let files = fs::read_dir(vector(folder)).unwrap().map(|it| it.unwrap().path());
        logs.extend(files.filter(|it| it.is_file()));
    }
    let mut compared = 0;
    for log in logs.into_iter().map(text) {
        let Some(theirs) = by_tpm2_tools(&log) else { continue };
        let run = attest(&["eventlog", &log, "--json"]);
        if run.code != 0 {
            assert!(REFUSED.iter().any(|name| log.ends_with(name)), "{log}");
            continue;
        }
        let json = run.json();
        for (bank, pcr, value) in theirs {
            // Two EV_NO_ACTION events follow the first in this log. No TPM was extended by them (PC
            // Client Platform Firmware Profile 1.06, section 10.4.1), yet tpm2_eventlog 5.4 does.
            if log.contains("eventlogwithsp800155") && pcr == "0" {
                continue;
            }
            assert_eq!(json["pcrs"][&bank][&pcr], *value, "{log} {bank} {pcr}");
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn a_log_that_is_none_is_invalid() {
    for name in REFUSED.into_iter().chain(["README.md"]) {
        attest(&["eventlog", &vector(name)]).ends(2);
    }
}

#[test]
fn nothing_in_a_file_gives_a_terminal_orders() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::new();
    machine.firmware.push(hashed(6, 0xd, "\u{1b}]0;owned\u{7} \u{9b}31m \u{202e}x".as_bytes()));
    machine.firmware.push(hashed(6, 0xd, b"plain words"));
    let scene = Scene::of(machine);
    let path = text(folder.path().join("evidence"));
    fs::write(&path, evidence(&scene, &scene.connection)).unwrap();
    for arguments in [
        &["eventlog", &path][..],
        &["eventlog", &path, "--json"],
        &["explain", &path],
        &["explain", &path, "--json"],
    ] {
        let run = attest(arguments).ends(0);
        let is_order = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!run.out.contains(is_order), "{run:?}");
    }
    attest(&["eventlog", &path]).ends(0).says("\"plain words\"").says("proven");
    let strange = text(folder.path().join("\u{1b}[31m"));
    let run = attest(&["explain", &strange]).ends(1);
    assert!(!run.err.contains('\u{1b}'), "{run:?}");
}

#[test]
fn an_explanation_is_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::new();
    write_references(folder.path(), &scene);
    let path = text(folder.path().join("evidence"));
    fs::write(&path, evidence(&scene, &scene.connection)).unwrap();
    let policy = text(folder.path().join("policy.json"));
    let run = attest(&["explain", &path, "--policy", &policy]).ends(0);
    let run =
        run.says("nothing of it is verified here").says("differs from the policy: no component");
    for word in ["verdict", "pass", "trusted", "ak.trusted", "binding"] {
        assert!(!run.out.contains(word), "{word}: {run:?}");
    }
    let json = attest(&["explain", &path, "--json"]).ends(0).json();
    assert_eq!(json["schema"], "bulla-explain/1");
    assert_eq!(json["unverified"]["phase"], "sealed");
    assert!(json["differs"].is_null());
    fs::write(&path, b"\xa0").unwrap();
    attest(&["explain", &path]).ends(2);
}

#[test]
fn what_an_explanation_says_of_a_log_was_compared() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::new();
    let bytes = evidence(&scene, &scene.connection);
    let whole = Evidence::decode(&bytes).unwrap();
    let mut changed = whole.pcrs.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    let check = |pcrs: &[u8], expected: &str| {
        let path = text(folder.path().join("evidence"));
        fs::write(&path, Evidence { pcrs, ..whole.clone() }.encode()).unwrap();
        let json = attest(&["explain", &path, "--json"]).ends(0).json();
        assert_eq!(json["unverified"]["replays"], expected);
    };
    check(whole.pcrs, "to the PCR values");
    // No event is about PCR 15.
    check(&changed, "not to the values of PCR [15]");
    check(b"?", "unknown: there are no SHA-256 values or no such log to compare");
}
