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
        let file = format!("go-tpm-tools/{name}");
        if !path(&file).exists() {
            continue;
        }
        let bytes = read(&file);
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

/// Digests of one bank in a YAML file of `tpm2_eventlog`, in order.
fn yaml_digests(text: &str, bank: &str) -> Vec<String> {
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    let marker = format!("- AlgorithmId: {bank}");
    while let Some(line) = lines.next() {
        if line == marker {
            let digest = lines.next().and_then(|line| line.strip_prefix("Digest: "));
            found.push(digest.unwrap().trim_matches('"').to_owned());
        }
    }
    found
}

#[test]
fn events_are_those_that_another_tool_reads() {
    for name in ["event.bin", "event-arch-linux.bin", "event-bootorder.bin", "event-postcode.bin"] {
        let yaml =
            [format!("tpm2-tools/{name}.yaml"), format!("tpm2-tools/event-pretty/{name}.yaml")]
                .into_iter()
                .find(|file| path(file).exists());
        let Some(yaml) = yaml else { continue };
        let text = String::from_utf8(read(&yaml)).unwrap();
        let bytes = read(&format!("tpm2-tools/{name}"));
        let log = EventLog::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let theirs = yaml_digests(&text, "sha256");
        let ours: Vec<_> = log
            .events()
            .iter()
            .filter_map(|event| event.digest(Algorithm::Sha256))
            .map(|digest| attest_core::policy::Hex(digest.to_vec()).to_string())
            .collect();
        assert_eq!(ours, theirs, "{name}");
    }
    let ovmf = read("ovmf-swtpm/2M-crb-full/eventlog_after_extend.bin");
    let yaml = String::from_utf8(read("ovmf-swtpm/2M-crb-full/eventlog.yaml")).unwrap();
    let log = EventLog::parse(&ovmf).unwrap();
    let theirs = yaml_digests(&yaml, "sha256");
    let ours = log.events().iter().filter(|event| event.digest(Algorithm::Sha256).is_some());
    assert!(!theirs.is_empty());
    assert_eq!(ours.count(), theirs.len());
}

#[test]
fn our_own_machines_log_replays_to_what_its_tpm_held() {
    let bytes = read("ovmf-swtpm/2M-crb-full/eventlog_after_extend.bin");
    let log = EventLog::parse(&bytes).unwrap();
    let serial = read("ovmf-swtpm/2M-crb-full/serial.txt");
    let serial = String::from_utf8_lossy(&serial);
    let replayed = log.replay(Algorithm::Sha256).unwrap();
    let mut count = 0;
    for line in serial.lines().filter_map(|line| line.strip_prefix("MMIO PCR")) {
        let pcr: u8 = line[..2].parse().unwrap();
        // ExitBootServices extends PCR 5 behind this log's end.
        if let (Some(value), true) = (replayed.get(&pcr), pcr != 5) {
            let text = line.rsplit(' ').next().unwrap();
            assert_eq!(attest_core::policy::Hex(value.clone()).to_string(), text, "PCR {pcr}");
            count += 1;
        }
    }
    assert_eq!(count, 8, "PCR 0 to 7 without 5, and 11");
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
    assert!(EventLog::parse(&read("tpm2-tools/event-uefi-sha1-log.bin")).is_ok());
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
        [&spec[..], &filler, &filler, &at(3)].concat(),
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
