//! Evidence, judged: whatever a machine or a file brings must be read whole or refused.

use attest_core::claims::Claims;
use attest_core::event_log::EventLog;
use attest_core::evidence::Evidence;
use attest_core::hash::Algorithm;
use attest_core::measured;
use attest_core::pcrs::Pcrs;
use attest_core::policy::{Identity, Policy};
use attest_core::seal_record::SealRecord;
use attest_core::tpm_answer::split_quote;
use attest_core::tpms::{Public, Quote};

/// An event log: what was read replays in every bank it says it has, and can be judged.
pub fn event_log(data: &[u8]) {
    let Ok(log) = EventLog::parse(data) else { return };
    for bank in Algorithm::ALL {
        let replayed = log.replay(bank);
        assert_eq!(replayed.is_some(), log.algorithms().contains(&bank));
        for value in replayed.into_iter().flat_map(|values| values.into_values()) {
            assert_eq!(value.len(), bank.digest_bytes());
        }
    }
    let _ = measured::program(&log);
    if let Ok(image) = measured::image(&log) {
        let _ = image.seal_record.and_then(SealRecord::parse);
    }
    for event in log.events() {
        let _ = event.kind.to_string();
    }
}

/// A TPM's structures: a key, then a quote, then a signature, each with its length before it.
pub fn quote(data: &[u8]) {
    let _ = split_quote(data);
    let mut rest = data;
    let mut next = || {
        let (length, more) = rest.split_first_chunk::<2>()?;
        let (part, more) = more.split_at_checked(u16::from_be_bytes(*length).into())?;
        rest = more;
        Some(part)
    };
    let (Some(key), Some(message), Some(signature)) = (next(), next(), next()) else { return };
    let parsed = Quote::parse(message);
    if let Ok(key) = Public::parse(key) {
        let _ = (key.name(), key.qualified_name_under_endorsement());
        let _ = key.verify(message, signature);
    }
    if let Ok(quote) = parsed {
        for selection in &quote.selections {
            assert_eq!(selection.indices().count(), selection.pcrs.count_ones() as usize);
        }
    }
}

/// Evidence on the wire: what was read is written again as it was.
pub fn evidence(data: &[u8]) {
    if let Ok(evidence) = Evidence::decode(data) {
        assert_eq!(evidence.encode(), data);
        assert!(data.len() <= evidence.max_encoded_bytes());
        if let Some(pcrs) = Pcrs::parse(evidence.pcrs) {
            assert_eq!(pcrs.to_bytes(), evidence.pcrs);
        }
    }
    if let Some(claims) = Claims::decode(data) {
        assert_eq!(claims.encode(), data);
    }
}

/// A policy or an identity: what was read says the same when it is written and read again.
pub fn policy(data: &[u8]) {
    if let Ok(policy) = Policy::parse(data) {
        assert_eq!(Policy::parse(policy.to_json().as_bytes()), Ok(policy));
    }
    if let Ok(identity) = Identity::parse(data) {
        assert_eq!(Identity::parse(identity.to_json().as_bytes()), Ok(identity));
    }
}
