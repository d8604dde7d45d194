//! The audit against whole files: a clean one, weakened ones, broken ones.

mod broken;
mod command;
mod efi;
mod synthetic;
mod weakened;

use seal::{Report, audit};

/// The names of the properties that do not hold.
fn failing(report: &Report) -> Vec<&'static str> {
    report.properties.iter().filter(|it| !it.holds).map(|it| it.name.as_str()).collect()
}

#[track_caller]
fn check(file: &[u8], expected: &[&str]) -> Report {
    let report = audit(file).unwrap();
    let details: Vec<_> = report.properties.iter().filter(|it| !it.holds).collect();
    assert_eq!(failing(&report), expected, "{details:#?}");
    assert_eq!(report.is_sealed(), expected.is_empty());
    report
}
