//! Policies are code: what is not understood whole is refused.

use attest_core::policy::{Identity, Policy, Refused};
use serde_json::{Value, json};

use crate::sample;

fn good() -> Value {
    serde_json::from_str(&sample::policy().to_json()).unwrap()
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Value), is_expected: impl FnOnce(&Refused) -> bool) {
    let mut value = good();
    change(&mut value);
    let refused = Policy::parse(value.to_string().as_bytes()).unwrap_err();
    assert!(is_expected(&refused), "{refused}");
}

#[test]
fn reads_back_what_it_wrote() {
    let policy = sample::policy();
    assert_eq!(Policy::parse(policy.to_json().as_bytes()), Ok(policy));
}

#[test]
fn a_missing_pcr_fails_and_a_skip_needs_a_reason() {
    for pcr in attest_core::policy::MUST_SAY {
        refused(
            |it| drop(it["pcrs"].as_object_mut().unwrap().remove(&pcr.to_string())),
            |why| *why == Refused::Missing(pcr),
        );
    }
    refused(|it| it["pcrs"]["0"] = json!({"skip": " "}), |why| *why == Refused::Reason(0));
}

#[test]
fn a_policy_that_pins_nothing_is_refused() {
    refused(
        |it| {
            for rule in it["pcrs"].as_object_mut().unwrap().values_mut() {
                *rule = json!({"skip": "because"});
            }
        },
        |why| *why == Refused::NothingPinned,
    );
    refused(|it| it["pcrs"]["2"] = json!({"expected_any": []}), |why| *why == Refused::Values(2));
    refused(
        |it| it["pcrs"]["2"] = json!({"expected_any": ["00"]}),
        |why| *why == Refused::Values(2),
    );
    refused(
        |it| it["pcrs"]["2"] = json!({"from_image": true}),
        |why| *why == Refused::NotFromImage(2),
    );
    refused(
        |it| it["pcrs"]["4"] = json!({"from_image": false}),
        |why| *why == Refused::NotFromImage(4),
    );
}

#[test]
fn unknown_fields_and_keys_that_come_twice_are_refused() {
    let is_form = |why: &Refused| matches!(why, Refused::Form(_));
    refused(|it| it["more"] = json!(1), is_form);
    refused(|it| it["require"]["more"] = json!(1), is_form);
    refused(|it| it["pcrs"]["24"] = json!({"skip": "x"}), is_form);
    refused(|it| it["pcrs"]["01"] = json!({"skip": "x"}), is_form);
    let text = sample::policy().to_json();
    let twice = text.replacen("\"schema\":", "\"schema\": \"x\", \"schema\":", 1);
    assert!(matches!(Policy::parse(twice.as_bytes()), Err(Refused::Form(_))));
    let twice = text.replacen("\"pcrs\": {", "\"pcrs\": { \"0\": {\"skip\": \"x\"},", 1);
    assert!(matches!(Policy::parse(twice.as_bytes()), Err(Refused::Form(_))));
}

#[test]
fn values_that_mean_nothing_are_refused() {
    refused(|it| it["schema"] = json!("bulla-refvalues/2"), |why| *why == Refused::Schema);
    refused(|it| it["image"]["sha256"] = json!("00"), |why| matches!(why, Refused::Value(_)));
    refused(|it| it["image"]["sha256"] = json!("zz"), |why| matches!(why, Refused::Form(_)));
    refused(|it| it["seal"]["layout_any"] = json!([]), |why| matches!(why, Refused::Value(_)));
    refused(
        |it| it["require"]["key_origin_any"] = json!(["magic"]),
        |why| matches!(why, Refused::Value(_)),
    );
    refused(
        |it| it["require"]["platform_trust_any"] = json!([]),
        |why| matches!(why, Refused::Value(_)),
    );
    assert_eq!(Policy::parse(&vec![b' '; 300_000]), Err(Refused::TooLong));
    assert!(matches!(Policy::parse(b""), Err(Refused::Form(_))));
}

#[test]
fn an_identity_is_refused_unless_it_is_whole() {
    let good = sample::Scene::new().identity;
    assert_eq!(Identity::parse(good.to_json().as_bytes()), Ok(good.clone()));
    let value: Value = serde_json::from_str(&good.to_json()).unwrap();
    for (key, bad) in [
        ("ak_name", json!("000b")),
        ("ek_sha256", json!("00")),
        ("schema", json!("x")),
        ("more", json!(1)),
    ] {
        let mut changed = value.clone();
        changed[key] = bad;
        assert!(Identity::parse(changed.to_string().as_bytes()).is_err(), "{key}");
    }
}

/// The way to every member of an object, at any depth, but for the rules by PCR.
fn members(value: &Value, way: &str, found: &mut Vec<String>) {
    for (key, member) in value.as_object().into_iter().flatten() {
        let way = format!("{way}/{key}");
        if !way.starts_with("/pcrs/") {
            found.push(way.clone());
        }
        members(member, &way, found);
    }
}

/// The object without the member at the end of the way.
fn without(mut value: Value, way: &str) -> Value {
    let (parent, key) = way.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent).unwrap();
    assert!(parent.as_object_mut().unwrap().remove(key).is_some(), "{way}");
    value
}

#[test]
fn every_field_that_is_missing_fails() {
    let mut ways = Vec::new();
    members(&good(), "", &mut ways);
    assert!(ways.iter().any(|way| way == "/require/min_reset_count"), "{ways:?}");
    for way in ways {
        let json = without(good(), &way).to_string();
        assert!(Policy::parse(json.as_bytes()).is_err(), "without {way}");
    }
    let identity = sample::Scene::new().identity;
    let value: Value = serde_json::from_str(&identity.to_json()).unwrap();
    let mut ways = Vec::new();
    members(&value, "", &mut ways);
    assert!(ways.iter().any(|way| way == "/ek_sha256"), "{ways:?}");
    for way in ways {
        let json = without(value.clone(), &way).to_string();
        assert!(Identity::parse(json.as_bytes()).is_err(), "without {way}");
    }
}
