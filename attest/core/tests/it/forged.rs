//! Every way we know to fool a verifier, tried on ours: one named test each.

use attest_core::claims::KeyOrigin;
use attest_core::policy::{Hex, PlatformTrust, Rule};
use attest_core::sha256;
use attest_core::verdict::{Component, Verdict};

use crate::sample::{Machine, Scene, SoftKey, event, hashed};

#[track_caller]
fn fails(verdict: &Verdict, class: u8, id: &str) {
    assert_eq!((verdict.verdict, verdict.class), ("fail", class), "{verdict:#?}");
    let check = verdict.checks.iter().find(|check| check.id == id && !check.ok);
    assert!(check.is_some(), "{id} did not fail: {verdict:#?}");
}

/// A scene in which one thing is changed.
#[track_caller]
fn changed(change: impl FnOnce(&mut Scene), class: u8, id: &str) {
    let mut scene = Scene::new();
    change(&mut scene);
    fails(&scene.judge(), class, id);
}

/// Another machine, judged by the policy for the good one.
#[track_caller]
fn machine(change: impl FnOnce(&mut Machine), id: &str, differs: &[Component]) {
    let mut machine = Machine::new();
    change(&mut machine);
    let verdict = Scene::of(machine).judge();
    fails(&verdict, 5, id);
    assert_eq!(verdict.differs, differs, "{verdict:#?}");
}

#[test]
fn good_evidence_passes() {
    let verdict = Scene::new().judge();
    assert_eq!((verdict.verdict, verdict.class), ("pass", 0), "{verdict:#?}");
    assert_eq!(verdict.platform_trust, PlatformTrust::VtpmHost);
    assert!(verdict.differs.is_empty());
}

#[test]
fn a_signed_blob_that_no_tpm_made_is_refused() {
    changed(|scene| scene.attest.magic = 0xff54_4346, 2, "quote.form");
}

#[test]
fn an_attestation_of_another_kind_is_no_quote() {
    // Session audit, command audit, time, creation, NV, certify.
    for kind in [0x8014, 0x8015, 0x8016, 0x8017, 0x8019, 0x801a, 0x801c] {
        changed(|scene| scene.attest.kind = kind, 2, "quote.form");
    }
}

#[test]
fn trailing_or_missing_bytes_of_a_quote_are_refused() {
    let scene = Scene::new();
    let good = scene.attest.bytes();
    fails(&scene.judge_quote(&[&good[..], &[0]].concat()), 2, "quote.form");
    for length in 1..good.len() {
        fails(&scene.judge_quote(&good[..length]), 2, "quote.form");
    }
}

#[test]
fn an_empty_or_short_nonce_is_refused() {
    changed(|scene| scene.attest.extra.clear(), 4, "binding.fresh");
    changed(|scene| scene.attest.extra.truncate(31), 4, "binding.fresh");
    changed(|scene| scene.attest.extra.push(0), 4, "binding.fresh");
}

#[test]
fn the_raw_nonce_instead_of_the_binding_is_refused() {
    changed(|scene| scene.attest.extra = scene.connection.nonce.to_vec(), 4, "binding.fresh");
}

#[test]
fn only_the_exact_selection_of_pcrs_is_accepted() {
    let selections = [
        vec![],
        vec![(0x0b, vec![])],
        vec![(0x0b, vec![0xef, 0xff, 0])],
        vec![(0x0b, vec![0xff, 0xff, 1])],
        vec![(0x0b, vec![0xff, 0xff, 0x80])],
        vec![(0x0c, vec![0xff, 0xff, 0])],
        vec![(0x04, vec![0xff, 0xff, 0])],
        vec![(0x0b, vec![0xff, 0xff, 0]), (0x0c, vec![0xff, 0xff, 0])],
    ];
    for selection in selections {
        changed(|scene| scene.attest.selections = selection.clone(), 2, "quote.selection");
    }
}

#[test]
fn a_selection_that_is_malformed_is_refused() {
    let twice = vec![(0x0b, vec![0xff, 0xff, 0]), (0x0b, vec![0xff, 0xff, 0])];
    changed(|scene| scene.attest.selections = twice, 2, "quote.form");
    changed(
        |scene| scene.attest.selections = vec![(0x0b, vec![0xff, 0xff, 0, 0])],
        2,
        "quote.form",
    );
    changed(|scene| scene.attest.selections = vec![(0x99, vec![0xff, 0xff, 0])], 2, "quote.form");
}

#[test]
fn values_that_the_digest_does_not_cover_are_not_used() {
    changed(|scene| scene.attest.digest[0] ^= 1, 2, "quote.pcr-digest");
    // The policy would like the value of PCR 7; the quote is over another one.
    changed(|scene| scene.pcrs[4 + 7 * 32] ^= 1, 2, "quote.pcr-digest");
    changed(|scene| scene.pcrs.truncate(4 + 15 * 32), 2, "quote.pcr-digest");
    changed(|scene| scene.pcrs[2] = 31, 2, "quote.pcr-digest");
    let bank_twice =
        |scene: &mut Scene| scene.pcrs = [scene.pcrs.clone(), scene.pcrs.clone()].concat();
    changed(bank_twice, 2, "quote.pcr-digest");
}

#[test]
fn a_signature_by_another_scheme_or_of_another_form_is_refused() {
    for (at, value) in [(1, 0x14), (1, 0x16), (3, 0x04), (3, 0x0c)] {
        changed(
            |scene| {
                let mut signature = scene.key.sign(&scene.attest.bytes());
                signature[at] = value;
                scene.signature = Some(signature);
            },
            2,
            "quote.signature",
        );
    }
    let der = vec![0x30, 0x06, 2, 1, 1, 2, 1, 1];
    changed(|scene| scene.signature = Some(der), 2, "quote.signature");
}

#[test]
fn numbers_of_a_signature_that_are_out_of_range_are_refused() {
    for filler in [0, 0xff] {
        changed(
            |scene| {
                let mut signature = scene.key.sign(&scene.attest.bytes());
                signature[6..38].fill(filler);
                scene.signature = Some(signature);
            },
            2,
            "quote.signature",
        );
    }
    changed(
        |scene| {
            let mut signature = scene.key.sign(&scene.attest.bytes());
            signature.push(0);
            scene.signature = Some(signature);
        },
        2,
        "quote.signature",
    );
}

#[test]
fn any_changed_byte_of_a_signed_quote_is_noticed() {
    let scene = Scene::new();
    let good = scene.attest.bytes();
    let signature = scene.key.sign(&good);
    let scene = Scene { signature: Some(signature), ..scene };
    assert_eq!(scene.judge_quote(&good).class, 0);
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        let verdict = scene.judge_quote(&changed);
        fails(&verdict, 2, "quote.signature");
    }
}

#[test]
fn a_key_off_its_curve_is_refused() {
    changed(|scene| *scene.ak.last_mut().unwrap() ^= 1, 2, "quote.signature");
}

#[test]
fn a_key_that_is_no_attestation_key_is_refused() {
    // Not restricted, may decrypt, may leave its TPM, its parent, was not made by it, may not sign.
    let all = 0x0005_0472;
    for attributes in
        [all & !0x1_0000, all | 0x2_0000, all & !2, all & !0x10, all & !0x20, all & !0x4_0000]
    {
        changed(|scene| scene.ak = scene.key.public_with(0x0b, attributes), 2, "ak.public");
    }
    changed(|scene| scene.ak = scene.key.public_with(0x04, all), 2, "ak.public");
    changed(|scene| scene.ak.push(0), 2, "ak.public");
    changed(|scene| scene.ak.truncate(20), 2, "ak.public");
}

#[test]
fn the_key_in_the_evidence_is_no_root_of_trust() {
    changed(
        |scene| {
            scene.key = SoftKey::new();
            scene.ak = scene.key.public();
            let public = attest_core::tpms::Public::parse(&scene.ak).unwrap();
            scene.attest.signer = public.qualified_name_under_endorsement();
        },
        3,
        "ak.trusted",
    );
}

#[test]
fn a_key_of_another_hierarchy_is_refused() {
    changed(|scene| scene.attest.signer[5] ^= 1, 3, "quote.signer");
}

#[test]
fn another_tpms_certificate_beside_a_known_key_is_refused() {
    changed(
        |scene| {
            scene.identity.ek_sha256 = Some(Hex(sha256(b"certificate").to_vec()));
            scene.ek = Some(b"another".to_vec());
        },
        3,
        "ek.certificate",
    );
}

#[test]
fn a_clock_that_went_back_is_refused_where_the_policy_says_so() {
    changed(|scene| scene.attest.safe = 0, 5, "policy.clock");
    changed(|scene| scene.attest.reset_count = 4, 5, "policy.reset-count");
    changed(|scene| scene.attest.safe = 2, 2, "quote.form");
    let mut scene = Scene::new();
    (scene.policy.require.safe_clock, scene.policy.require.min_reset_count) = (false, None);
    (scene.attest.safe, scene.attest.reset_count) = (0, 0);
    assert_eq!(scene.judge().class, 0);
}

#[test]
fn a_tpms_firmware_that_is_denied_is_refused() {
    changed(
        |scene| scene.policy.require.firmware_version_deny.push(0x2019_1023),
        5,
        "policy.tpm-firmware",
    );
}

#[test]
fn an_answer_for_another_connection_is_refused() {
    changed(|scene| scene.connection.exporter[0] ^= 1, 4, "binding.fresh");
}

#[test]
fn a_replayed_answer_is_refused() {
    changed(|scene| scene.connection.nonce[31] ^= 1, 4, "binding.fresh");
}

#[test]
fn an_answer_for_another_server_key_is_refused() {
    changed(|scene| scene.connection.spki_sha256[0] ^= 1, 4, "binding.fresh");
}

#[test]
fn changed_claims_are_refused() {
    let other = Machine { key_origin: KeyOrigin::Sealed, ..Machine::new() }.claims();
    changed(|scene| scene.aux = other, 4, "binding.fresh");
    changed(|scene| scene.aux.push(0), 2, "claims.form");
}

#[test]
fn leaves_that_are_not_those_of_the_quote_are_refused() {
    changed(|scene| scene.leaves.truncate(32), 4, "binding.fresh");
    changed(|scene| scene.leaves.rotate_left(32), 2, "binding.leaves");
    changed(|scene| scene.leaves.truncate(33), 2, "binding.leaves");
}

#[test]
fn a_log_that_does_not_lead_to_the_values_is_refused() {
    changed(|scene| scene.log.extend(hashed(11, 0xd, b"more")), 2, "log.replay");
    let cut = Machine { is_sealed: false, ..Machine::new() }.log();
    changed(|scene| scene.log = cut, 2, "log.replay");
    changed(|scene| scene.log = vec![0xff; 40], 2, "log.form");
    // A log of another bank only.
    let other = crate::sample::spec_id(&[(0x0c, 48)]);
    changed(|scene| scene.log = other, 2, "log.replay");
}

#[test]
fn an_events_type_or_data_proves_nothing_by_itself() {
    // The same digests under another type: the replay cannot tell, the grammar must.
    let machine = Machine::new();
    let good = machine.log();
    let program = event(4, 0x8000_0003, &machine.program, b"path");
    let at = good.windows(program.len()).position(|it| it == program).unwrap();
    changed(|scene| scene.log[at + 4] = 4, 5, "policy.pcrs");
    // The separator of PCR 7 says something else than it hashes to.
    let separator = hashed(7, 4, &[0; 4]);
    let at = good.windows(separator.len()).position(|it| it == separator).unwrap();
    changed(|scene| scene.log[at + separator.len() - 1] = 1, 2, "log.data");
}

#[test]
fn a_phase_that_was_not_measured_is_not_believed() {
    // The word "sealed" stands in the log, over another digest.
    let mut machine = Machine { is_sealed: false, ..Machine::new() };
    machine.firmware.push(event(11, 0xd, &[4; 32], b"sealed"));
    fails(&Scene::of(machine).judge(), 2, "log.image");
}

#[test]
fn a_machine_that_booted_and_did_not_seal_itself_is_refused() {
    machine(|it| it.is_sealed = false, "seal.phase", &[]);
    machine(
        |it| {
            it.is_sealed = false;
            it.has_record = false;
        },
        "seal.record",
        &[Component::Seal],
    );
}

#[test]
fn a_seal_record_that_was_not_measured_is_refused() {
    changed(|scene| scene.seal[16] ^= 1, 5, "seal.record");
    changed(|scene| scene.seal.push(0), 5, "seal.record");
}

#[test]
fn a_cpu_that_does_not_enforce_the_tables_is_refused() {
    // WP, SMEP, SMAP and NX, each off; global pages and SYSCALL, each on.
    for (register, bit) in [(0, 16), (1, 20), (1, 21), (2, 11), (1, 7), (2, 0)] {
        machine(
            |it| it.record[80 + 8 * register + bit / 8] ^= 1 << (bit % 8),
            "seal.record",
            &[Component::Seal],
        );
    }
}

#[test]
fn another_layout_or_gate_is_refused_by_name() {
    machine(|it| it.record[16] ^= 1, "seal.layout", &[Component::Seal]);
    machine(|it| it.record[48] ^= 1, "seal.layout", &[Component::Seal]);
    machine(|it| it.record[8] = 0, "seal.record", &[Component::Seal]);
}

#[test]
fn one_byte_of_each_component_is_told_by_the_components_name() {
    machine(|it| it.service[0] ^= 1, "image.service", &[Component::Service]);
    machine(|it| it.configuration[0] ^= 1, "image.configuration", &[Component::Configuration]);
    machine(|it| it.program[0] ^= 1, "image.boot", &[Component::Boot]);
    machine(|it| it.firmware.push(hashed(7, 4, &[0; 4])), "policy.pcrs", &[Component::Firmware]);
}

#[test]
fn a_flat_hash_is_no_authenticode_digest() {
    changed(
        |scene| scene.policy.image.authenticode_sha256 = scene.policy.image.sha256.clone(),
        5,
        "image.boot",
    );
}

#[test]
fn an_image_that_nobody_measured_is_not_trusted() {
    // As on the direct path: no firmware event in PCR 4.
    let mut scene = Scene::new();
    let own = scene.machine.log();
    let start = {
        let call = hashed(4, 0x8000_0007, attest_core::measured::CALLING);
        own.windows(call.len()).position(|it| it == call).unwrap()
    };
    let end = {
        let program = event(4, 0x8000_0003, &scene.machine.program, b"path");
        own.windows(program.len()).position(|it| it == program).unwrap() + program.len()
    };
    scene.log = [&own[..start], &own[end..]].concat();
    // Its PCR 4 holds zeros, and the quote says so.
    scene.pcrs[4 + 4 * 32..4 + 5 * 32].fill(0);
    let values: Vec<&[u8]> = scene.pcrs[4..].chunks(32).collect();
    scene.attest.digest = attest_core::measured::BANK.digest(&values);
    scene.policy.pcrs.0.insert(4, Rule::Skip("a test without firmware".into()));
    let verdict = scene.judge();
    fails(&verdict, 5, "policy.platform-trust");
    assert_eq!(verdict.platform_trust, PlatformTrust::None);
}

#[test]
fn a_key_of_an_origin_that_is_not_wanted_is_refused() {
    machine(|it| it.key_origin = KeyOrigin::Image, "policy.key-origin", &[]);
}

#[test]
fn all_failures_are_told_and_the_lowest_class_counts() {
    let mut scene = Scene::of(Machine { service: b"x".to_vec(), ..Machine::new() });
    scene.connection.nonce[0] ^= 1;
    let verdict = scene.judge();
    fails(&verdict, 4, "binding.fresh");
    fails(&verdict, 4, "image.service");
    scene.identity.ak_name.0[5] ^= 1;
    fails(&scene.judge(), 3, "ak.trusted");
    scene.attest.digest[0] ^= 1;
    fails(&scene.judge(), 2, "quote.pcr-digest");
}

#[test]
fn a_verdict_says_pass_or_fail_and_its_class_in_json() {
    let verdict = serde_json::to_value(Scene::new().judge()).unwrap();
    assert_eq!(verdict["schema"], "bulla-verdict/1");
    assert_eq!((&verdict["verdict"], &verdict["class"]), (&"pass".into(), &0.into()));
    assert!(verdict["checks"].as_array().unwrap().len() >= attest_core::verify::MUST_PASS.len());
}

#[test]
fn a_pass_says_what_was_not_looked_at() {
    let mut scene = Scene::new();
    scene.policy.pcrs.0.insert(1, Rule::Skip("every maker's is another".into()));
    let verdict = scene.judge();
    assert_eq!(verdict.verdict, "pass", "{verdict:#?}");
    let check = verdict.checks.iter().find(|check| check.id == "policy.pcrs").unwrap();
    let says = "PCR 1 was not looked at: every maker's is another";
    assert!(check.ok && check.detail.split("; ").any(|it| it == says), "{}", check.detail);
}
