//! Everything that is forbidden is tried, each act in a machine of its own, and refused.

use xtask::attack::{acts, attempt_all};

use crate::support::GUEST;

#[test]
fn every_act_is_refused_and_leaves_the_seal_whole() {
    let rows = attempt_all(&GUEST, &acts(), |_| ()).unwrap();
    // The control is a row of its own.
    assert_eq!(rows.len(), acts().len() + 1);
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| !row.is_ok)
        .map(|row| format!("{}: expected {}, seen {}", row.act, row.expected, row.seen))
        .collect();
    assert!(failed.is_empty(), "{} of {} acts:\n{}", failed.len(), rows.len(), failed.join("\n"));
}
