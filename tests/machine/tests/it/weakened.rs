//! Each property of the seal is broken once, and somebody notices each time.

use std::time::Instant;

use xtask::weakened::{self, Seen};

use crate::support::GUEST;

#[test]
fn every_weakening_is_noticed_and_nothing_is_noticed_without_one() {
    let begin = Instant::now();
    let report = weakened::run(&GUEST, "", |row| println!("{row}")).unwrap();
    println!("{report}{:.0} s", begin.elapsed().as_secs_f64());
    assert_eq!(report.complaints(), [""; 0], "\n{report}");
    let asked = report.rows.iter().flat_map(|row| &row.seen);
    assert!(asked.filter(|(_, seen)| matches!(seen, Seen::Nothing)).count() > report.rows.len());
}
