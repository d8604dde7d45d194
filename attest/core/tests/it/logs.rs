//! Event logs: those of real machines replay to what their PCRs held, and broken ones are refused.

use attest_core::event_log::{EventLog, Kind, MAX_BYTES, Malformed};
use attest_core::hash::Algorithm;
use attest_core::measured::{self, Unusual};

use crate::sample;
use crate::vectors::{algorithm, json, path, read, values};

#[test]
fn logs_of_real_machines_replay_to_their_pcrs() {
    let expected = json("go-tpm-tools/expected-pcrs.json");
    let mut count = 0;
    for (name, of_file) in expected.as_object().unwrap() {
        let bytes = read(&format!("go-tpm-tools/{name}"));
        let log = EventLog::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (bank, pcrs) in of_file["pcrs"].as_object().unwrap() {
            let replayed = log.replay(algorithm(bank)).unwrap_or_else(|| panic!("{name} {bank}"));
            for (pcr, value) in values(pcrs) {
                // What the log does not mention holds zeros still.
                let zeros = vec![0; value.len()];
                let ours = replayed.get(&pcr).unwrap_or(&zeros);
                assert_eq!(*ours, value, "{name}: PCR {pcr} of {bank}");
                count += 1;
            }
        }
    }
    assert!(count > 50, "{count} values compared");
    let of_folder = std::fs::read_dir(path("go-tpm-tools")).unwrap();
    let logs =
        of_folder.filter(|it| it.as_ref().unwrap().path().extension() == Some("bin".as_ref()));
    assert_eq!(logs.count(), expected.as_object().unwrap().len(), "logs without values");
}

#[test]
fn the_log_of_a_quoted_machine_replays_to_what_was_quoted() {
    let bytes = read("derived/gce-cos-85-nonce9009/eventlog.bin");
    let log = EventLog::parse(&bytes).unwrap();
    for bank in ["sha1", "sha256"] {
        let pcrs = values(&json(&format!("derived/gce-cos-85-nonce9009/pcrs-{bank}.json")));
        for (pcr, value) in log.replay(algorithm(bank)).unwrap() {
            assert_eq!(value, pcrs[&pcr], "PCR {pcr} of {bank}");
        }
    }
}

/// An event: its PCR, its type, and its digests with the names of their functions.
type Plain = (u8, String, Vec<(String, String)>);

/// Every event in a YAML file of `tpm2_eventlog`.
fn yaml_events(text: &str) -> Vec<Plain> {
    let mut events: Vec<Plain> = Vec::new();
    let mut function = "sha1".to_owned();
    for line in text.lines().map(str::trim) {
        let Some((key, value)) = line.trim_start_matches("- ").split_once(": ") else { continue };
        match (key, events.last_mut()) {
            ("PCRIndex", _) => events.push((value.parse().unwrap(), String::new(), Vec::new())),
            ("EventType", Some(event)) if event.1.is_empty() => event.1 = value.to_owned(),
            ("AlgorithmId", _) => function = value.to_owned(),
            ("Digest", Some(event)) => {
                event.2.push((function.clone(), value.trim_matches('"').to_owned()));
            }
            _ => {}
        }
    }
    events
}

#[test]
fn events_are_those_that_another_tool_reads() {
    let mut count = 0;
    for (log, yaml) in [
        ("tpm2-tools/event.bin", "tpm2-tools/event.bin.yaml"),
        ("tpm2-tools/event-arch-linux.bin", "tpm2-tools/event-pretty/event-arch-linux.bin.yaml"),
        ("tpm2-tools/event-bootorder.bin", "tpm2-tools/event-pretty/event-bootorder.bin.yaml"),
        (
            "tpm2-tools/event-moklisttrusted.bin",
            "tpm2-tools/event-pretty/event-moklisttrusted.bin.yaml",
        ),
        ("tpm2-tools/event-postcode.bin", "tpm2-tools/event-pretty/event-postcode.bin.yaml"),
        (
            "tpm2-tools/event-uefi-sha1-log.bin",
            "tpm2-tools/event-pretty/event-uefi-sha1-log.bin.yaml",
        ),
        (
            "ovmf-swtpm/2M-crb-full/eventlog_after_extend.bin",
            "ovmf-swtpm/2M-crb-full/eventlog.yaml",
        ),
        (
            "ovmf-swtpm/2M-kernelefi/eventlog_after_extend.bin",
            "ovmf-swtpm/2M-kernelefi/eventlog.yaml",
        ),
    ] {
        let theirs = yaml_events(&String::from_utf8(read(yaml)).unwrap());
        let bytes = read(log);
        let parsed = EventLog::parse(&bytes).unwrap_or_else(|error| panic!("{log}: {error}"));
        let digest = |(function, digest): &(Algorithm, &[u8])| {
            (function.as_str().to_owned(), attest_core::policy::Hex(digest.to_vec()).to_string())
        };
        let ours: Vec<_> = parsed
            .events()
            .iter()
            .map(|it| (it.pcr, it.kind.to_string(), it.digests.iter().map(digest).collect()))
            .collect();
        assert_eq!(ours, theirs, "{log}");
        count += ours.len();
    }
    assert!(count > 300, "{count} events compared");
}

/// What a machine's program read from its TPM once firmware was dismissed.
fn values_read(serial: &str) -> Vec<(u8, String)> {
    let serial = read(serial);
    let serial = String::from_utf8_lossy(&serial);
    let lines = serial.lines().filter_map(|line| line.strip_prefix("MMIO PCR"));
    let value = |line: &str| {
        (line[..2].parse().unwrap(), line.rsplit(' ').next().unwrap().trim().to_owned())
    };
    lines.map(value).collect()
}

/// Checks that a log replays to what a machine's program read, in so many PCRs.
#[track_caller]
fn replays_to(log: &[u8], serial: &str, expected: usize) {
    let replayed = EventLog::parse(log).unwrap().replay(Algorithm::Sha256).unwrap();
    let mut count = 0;
    for (pcr, text) in values_read(serial) {
        // ExitBootServices extends PCR 5 behind the end of these logs.
        if let (Some(value), true) = (replayed.get(&pcr), pcr != 5) {
            let ours = attest_core::policy::Hex(value.clone()).to_string();
            assert_eq!(ours, text, "{serial}: PCR {pcr}");
            count += 1;
        }
    }
    assert_eq!(count, expected, "{serial}");
}

#[test]
fn our_own_machines_logs_replay_to_what_their_tpms_held() {
    for machine in ["2M-crb-full", "2M-kernelefi"] {
        let log = read(&format!("ovmf-swtpm/{machine}/eventlog_after_extend.bin"));
        // PCR 0 to 7 without 5, and 11.
        replays_to(&log, &format!("ovmf-swtpm/{machine}/serial.txt"), 8);
    }
    // The whole area that firmware keeps for its log, ones behind the last event.
    let padded = read("ovmf-swtpm/aavmf-tis/eventlog_entry.padded.bin");
    refused(&padded, Malformed::Digests { event: 23 });
    let end = padded.iter().rposition(|byte| *byte != 0xff).unwrap() + 1;
    replays_to(&padded[..end], "ovmf-swtpm/aavmf-tis/serial.txt", 3);
}

#[test]
fn a_program_that_no_boot_option_names_is_not_what_we_want() {
    // QEMU's -kernel: firmware measures the program first, and then says that it begins.
    let bytes = read("ovmf-swtpm/2M-kernelefi/eventlog_after_extend.bin");
    let log = EventLog::parse(&bytes).unwrap();
    match measured::program(&log) {
        Err(Unusual::Program(what)) => assert!(what.contains("before the separator"), "{what}"),
        other => panic!("{other:?}"),
    }
    let bytes = read("ovmf-swtpm/2M-crb-full/eventlog_after_extend.bin");
    assert!(measured::program(&EventLog::parse(&bytes).unwrap()).is_ok());
}

#[test]
fn odd_logs_are_read_or_refused_as_said() {
    // It is followed by padding of ones, which would be an event for a PCR that there is not.
    let bytes = read("go-attestation/option_rom_eventlog");
    let padding = Malformed::Index { event: 60, pcr: u32::MAX };
    assert_eq!(EventLog::parse(&bytes).err(), Some(padding), "option_rom");
    let short = read("go-attestation/short_no_action_eventlog");
    assert_eq!(EventLog::parse(&short).unwrap().events().len(), 1);
    assert!(EventLog::parse(&read("go-attestation/ebs_event_missing_eventlog")).is_ok());
    assert!(EventLog::parse(&read("go-attestation/sb_cert_eventlog")).is_ok());
    assert!(
        EventLog::parse(&read("go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog"))
            .is_ok()
    );
    // Its vendor data lie behind the event's end.
    let vendor = read("tpm2-tools/specid-vendordata.bin");
    assert_eq!(EventLog::parse(&vendor).err(), Some(Malformed::SpecId));
    // It says that each event has four digests, and the one that follows has two.
    let two_of_four = read("tpm2-tools/event-uefivar.bin");
    assert_eq!(EventLog::parse(&two_of_four).err(), Some(Malformed::Digests { event: 1 }));
}

#[track_caller]
fn refused(log: &[u8], expected: Malformed) {
    assert_eq!(EventLog::parse(log).err(), Some(expected));
}

#[test]
fn a_log_must_be_whole() {
    let log = sample::Machine::new().log();
    for length in 0..log.len() {
        if let Ok(shorter) = EventLog::parse(&log[..length]) {
            // Only between two events may it end.
            let whole = EventLog::parse(&log).unwrap();
            assert!(shorter.events().len() < whole.events().len(), "{length} bytes");
        }
    }
    let mut longer = log.clone();
    longer.extend_from_slice(&[0xff; 32]);
    assert!(EventLog::parse(&longer).is_err(), "padding of ones");
    refused(&vec![0; MAX_BYTES + 1], Malformed::TooLong);
}

#[test]
fn the_specification_event_comes_first_and_once() {
    let log = sample::Machine::new().log();
    let spec = sample::spec_id(&[(0x0b, 32)]);
    let twice = [&spec[..], &sample::event(0, 3, &[0; 32], b"Spec ID Event03\0rest")].concat();
    refused(&twice, Malformed::SpecId);
    for sizes in [&[][..], &[(0x0b, 31)], &[(0x0b, 32), (0x0b, 32)], &[(0x99, 0)], &[(0x99, 65)]] {
        refused(&sample::spec_id(sizes), Malformed::SpecId);
    }
    let mut vendor = sample::spec_id(&[(0x0b, 32)]);
    // More vendor bytes are announced than there are.
    *vendor.last_mut().unwrap() = 1;
    refused(&vendor, Malformed::SpecId);
    assert!(EventLog::parse(&log).is_ok());
}

#[test]
fn each_event_has_one_digest_by_each_function() {
    let spec = sample::spec_id(&[(0x0b, 32), (0x04, 20)]);
    let (long, short) = ([0; 32], [0; 20]);
    let event = |digests: &[(u16, &[u8])]| {
        [&spec[..], &sample::event_with(4, 4, digests, &[0; 4])].concat()
    };
    assert!(EventLog::parse(&event(&[(0x0b, &long), (0x04, &short)])).is_ok());
    assert!(EventLog::parse(&event(&[(0x04, &short), (0x0b, &long)])).is_ok());
    let digests = Malformed::Digests { event: 1 };
    refused(&event(&[]), digests);
    refused(&event(&[(0x0b, &long)]), digests);
    refused(&event(&[(0x0b, &long), (0x0b, &long)]), digests);
    refused(&event(&[(0x0b, &long), (0x0c, &[0; 48])]), digests);
    refused(&event(&[(0x0b, &long), (0x04, &short), (0x04, &short)]), digests);
}

#[test]
fn only_pcrs_that_there_are_are_extended() {
    let spec = sample::spec_id(&[(0x0b, 32)]);
    for pcr in [24, 0xffff_ffff] {
        let log = [&spec[..], &sample::event(pcr, 4, &[0; 32], b"")].concat();
        refused(&log, Malformed::Index { event: 1, pcr });
    }
}

#[test]
fn what_was_extended_into_no_pcr_is_not_replayed() {
    let spec = sample::spec_id(&[(0x0b, 32)]);
    let log = [&spec[..], &sample::event(4, 3, &[7; 32], b"nothing")].concat();
    let log = EventLog::parse(&log).unwrap();
    assert!(log.replay(Algorithm::Sha256).unwrap().is_empty());
}

#[test]
fn the_startup_locality_is_told_early_and_once() {
    let spec = sample::spec_id(&[(0x0b, 32)]);
    let at = |locality: u8| {
        let data = [&b"StartupLocality\0"[..], &[locality]].concat();
        sample::event(0, 3, &[0; 32], &data)
    };
    let filler = sample::event(1, 4, &[0; 32], &[0; 4]);
    let good = [&spec[..], &at(3), &sample::event(0, 4, &[1; 32], &[0; 4])].concat();
    let mut start = [0; 32];
    start[31] = 3;
    let expected = Algorithm::Sha256.extend(&start, &[1; 32]);
    let log = EventLog::parse(&good).unwrap();
    assert_eq!(log.replay(Algorithm::Sha256).unwrap()[&0], expected);
    for bad in [
        [&spec[..], &at(1)].concat(),
        [&spec[..], &at(5)].concat(),
        [&spec[..], &at(3), &at(3)].concat(),
        // Zero is a locality too, and the second word would overrule it.
        [&spec[..], &at(0), &at(3)].concat(),
        [&spec[..], &at(0), &at(0)].concat(),
        [&spec[..], &filler, &filler, &at(3)].concat(),
        // It is about PCR 0 and stands there.
        [&spec[..], &sample::event(7, 3, &[0; 32], b"StartupLocality\0\x03")].concat(),
    ] {
        refused(&bad, Malformed::StartupLocality);
    }
}

#[track_caller]
fn unusual(events: &[Vec<u8>], expected: &str) {
    let log = [sample::spec_id(&[(0x0b, 32)]), events.concat()].concat();
    match measured::program(&EventLog::parse(&log).unwrap()) {
        Err(Unusual::Program(what)) => assert!(what.contains(expected), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pcr_4_has_calls_one_separator_and_one_program() {
    let hashed = |kind, data: &[u8]| sample::hashed(4, kind, data);
    let call = hashed(Kind::EFI_ACTION.0, measured::CALLING);
    let separator = hashed(Kind::SEPARATOR.0, &[0; 4]);
    let program = sample::event(4, Kind::BOOT_SERVICES_APPLICATION.0, &[5; 32], b"path");
    let good = [sample::spec_id(&[(0x0b, 32)]), call.clone(), separator.clone(), program.clone()];
    let good = good.concat();
    assert_eq!(measured::program(&EventLog::parse(&good).unwrap()), Ok([5; 32]));
    unusual(&[call.clone(), program.clone(), separator.clone()], "before the separator");
    unusual(&[call.clone(), separator.clone(), separator.clone(), program.clone()], "before");
    unusual(&[call.clone(), separator.clone()], "no program");
    unusual(&[call.clone(), program.clone()], "before the separator");
    unusual(&[separator.clone(), program.clone(), program.clone()], "more than one");
    // A program that came back is not what runs now; a call before it that came back may be.
    let back = hashed(Kind::EFI_ACTION.0, measured::RETURNING);
    let again = [sample::spec_id(&[(0x0b, 32)]), call.clone(), separator.clone(), back.clone()];
    let again = [again.concat(), call.clone(), program.clone()].concat();
    assert_eq!(measured::program(&EventLog::parse(&again).unwrap()), Ok([5; 32]));
    let came_back = [call.clone(), separator.clone(), program.clone(), back.clone()];
    unusual(&came_back, "behind the program");
    unusual(&[&came_back[..], std::slice::from_ref(&call)].concat(), "behind the program");
    unusual(&[call.clone(), separator.clone(), program.clone(), call.clone()], "behind the");
    // A marker's digest under a program's type; a program's under a marker's; an unknown type.
    let separator_digest = Algorithm::Sha256.digest(&[&[0; 4]]);
    let marker = sample::event(4, Kind::BOOT_SERVICES_APPLICATION.0, &separator_digest, b"path");
    unusual(&[call.clone(), separator.clone(), marker], "more than one");
    let lie = sample::event(4, Kind::SEPARATOR.0, &[5; 32], &[0; 4]);
    unusual(&[call.clone(), lie, program.clone()], "not what its digest says");
    let lie = sample::event(4, Kind::EFI_ACTION.0, &[5; 32], measured::CALLING);
    unusual(&[lie, separator.clone(), program.clone()], "not what its digest says");
    let failed = hashed(Kind::SEPARATOR.0, &[0xff; 4]);
    unusual(&[call.clone(), failed, program.clone()], "no place");
    let unknown = sample::event(4, 0x8000_0004, &[5; 32], b"driver");
    unusual(&[call, separator, unknown, program], "no place");
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let log = sample::Machine::new().log();
    let mut state = 1_u64;
    for _ in 0..20_000 {
        // xorshift64: any sequence will do.
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let mut changed = log.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % changed.len();
            changed[at] = next() as u8;
        }
        changed.truncate(next() % (log.len() + 1));
        if let Ok(log) = EventLog::parse(&changed) {
            let _ = log.replay(Algorithm::Sha256);
            let _ = measured::program(&log);
            let _ = measured::image(&log);
        }
    }
}

/// What [`measured::image`] says of boot's events, one of them changed.
#[track_caller]
fn not_boots(pcr: u8, nth: usize, at: usize, byte: u8, expected: Unusual) {
    let mut log = sample::Machine::new().log();
    let events = log.clone();
    let whole = EventLog::parse(&events).unwrap();
    assert!(measured::image(&whole).is_ok());
    let event = whole.of(pcr).nth(nth).unwrap();
    let bytes =
        sample::event(pcr.into(), event.kind.0, event.digest(measured::BANK).unwrap(), event.data);
    let start = events.windows(bytes.len()).position(|it| it == bytes).unwrap();
    log[start + at] = byte;
    let changed = EventLog::parse(&log).unwrap();
    assert_eq!(measured::image(&changed).err(), Some(expected), "event {nth} of PCR {pcr}");
}

#[test]
fn boots_events_are_of_boots_kind_and_in_its_words() {
    // The type's first byte, and the first byte of the data behind one SHA-256 digest.
    let (kind, data) = (4, 50);
    for nth in 0..5 {
        not_boots(11, nth, kind, 5, Unusual::Image);
        not_boots(11, nth, data, b'x', Unusual::Image);
    }
    for nth in 0..2 {
        not_boots(12, nth, kind, 5, Unusual::Seal);
        not_boots(12, nth, data, b'x', Unusual::Seal);
    }
}
