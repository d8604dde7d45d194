//! `cargo xtask attack`: a program inside the machine tries everything that is forbidden.
//!
//! Each act is the whole life of one machine: a probe commits it, and the console says what became
//! of it. Then the machine is kept as it is and read from outside: the act has failed only if the
//! seal still holds. The control comes first and does nothing forbidden; if it does not reach its
//! end, nothing that follows would prove anything.

pub mod acts;
mod outcome;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use machine::outside::{self, Image, Snapshot};
use machine::process::{self, POLL};
use machine::{Machine, Net};
use tempfile::TempDir;

use crate::build::{self, Guest};
use crate::steps::{Error, while_doing};
use crate::{install, samples, weakened};

pub use acts::{Act, Setup, acts};
pub use outcome::Outcome;

/// How many machines run at a time.
const AT_A_TIME: usize = 2;

/// An act takes less than a second, but for one that sleeps as long as the timer can.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long QEMU may take to notice that the gate has ended the machine.
const END: Duration = Duration::from_secs(10);

/// How often a key is pressed while a crowded machine sleeps.
const KEYS: usize = 5;

/// What every record of the gate has: the end of the machine.
const RECORD: &str = " rip=";

/// What to try, and how to say what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only acts whose name contains this.
    pub filter: Option<String>,
    /// A list of objects instead of a table.
    pub is_json: bool,
}

/// One act and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The act's name.
    pub act: String,
    /// What the machine has to do about it, in words.
    pub expected: String,
    /// What it did.
    pub seen: String,
    /// Whether that is one of the things it has to do, and the seal held.
    pub is_ok: bool,
}

/// Tries everything and prints it; in full and for people, with the table of weakenings.
///
/// # Errors
///
/// [`Error::Tests`] if an act was not refused as it should be, or if a weakening is not noticed; [`Error`] if nothing could be tried.
pub fn run(options: &Options) -> Result<(), Error> {
    install::tools()?;
    let guest = build::guest()?;
    let chosen = chosen(options.filter.as_deref())?;
    let is_json = options.is_json;
    if !is_json {
        println!("{}", line("act", "expected", "seen", "ok"));
    }
    let rows = attempt_all(&guest, &chosen, |row| {
        if !is_json {
            println!("{}", text(row));
        }
    })?;
    let failed = rows.iter().filter(|row| !row.is_ok).count();
    if is_json {
        print!("{}", json(&rows));
    } else {
        println!("\n{} acts, {failed} not refused as they should be", rows.len());
    }
    if failed > 0 {
        return Err(Error::Tests { failed });
    }
    if options.filter.is_none() && !is_json {
        println!("\nEach property of the seal, broken once, and who notices:\n");
        weakened::show(&guest, "")?;
    }
    Ok(())
}

/// The acts whose name contains the filter, the control before them.
fn chosen(filter: Option<&str>) -> Result<Vec<Act>, Error> {
    let is_chosen = |act: &Act| filter.is_none_or(|part| act.label().contains(part));
    let chosen: Vec<Act> = acts().into_iter().filter(is_chosen).collect();
    match filter {
        Some(filter) if chosen.is_empty() => {
            Err(Error::Usage(format!("attack: no act's name contains {filter:?}")))
        }
        _ => Ok(chosen),
    }
}

/// Runs the control, then each act in a machine of its own, and calls `each` in their order.
///
/// # Errors
///
/// [`Error::Failed`] if the control does not reach its end; [`Error`] if no machine can be had.
pub fn attempt_all(
    guest: &Guest,
    acts: &[Act],
    mut each: impl FnMut(&Row),
) -> Result<Vec<Row>, Error> {
    let folder = TempDir::with_prefix("bulla-attack-").map_err(while_doing("temporary folder"))?;
    let control = attempt(guest, &Act::control(), folder.path())?;
    if !control.is_ok {
        return Err(Error::Failed(format!("nothing is proven: the control {}", control.seen)));
    }
    each(&control);
    let mut rows = vec![control];
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            let (sender, next, folder) = (sender.clone(), &next, folder.path());
            scope.spawn(move || work(guest, acts, folder, next, &sender));
        }
        drop(sender);
        // Machines end in any order; the table has one.
        let mut early = BTreeMap::new();
        for (index, result) in results {
            early.insert(index, result);
            while let Some(result) = early.remove(&(rows.len() - 1)) {
                let row = result?;
                each(&row);
                rows.push(row);
            }
        }
        Ok(rows)
    })
}

/// An act by its place in the list, and what became of it.
type Attempt = (usize, Result<Row, Error>);

/// Takes one act after the other until there is none, or until nobody wants to know any more.
fn work(
    guest: &Guest,
    acts: &[Act],
    folder: &Path,
    next: &AtomicUsize,
    results: &mpsc::Sender<Attempt>,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(act) = acts.get(index) else { return };
        if results.send((index, attempt(guest, act, folder))).is_err() {
            return;
        }
    }
}

/// Lets a probe commit one act.
///
/// # Errors
///
/// [`Error`] if there is no image, no QEMU, or somebody interrupts. A machine that does not behave
/// is no error but a row that is not ok.
pub fn attempt(guest: &Guest, act: &Act, folder: &Path) -> Result<Row, Error> {
    // The same act may be under way on another machine, with an image of another second.
    let folder = TempDir::new_in(folder).map_err(while_doing("temporary folder"))?;
    let image = samples::probe(guest, &act.name, folder.path())?;
    let file = Image::read(&image)?;
    let builder = Machine::builder(&image)
        .memory_mib(act.setup.memory_mib())
        .chipset(act.setup.chipset())
        .firmware(act.setup.firmware())
        .net(Net::User { ports: Vec::new() })
        .extra_args(act.setup.devices().iter().copied())
        // After the gate has reset the machine it stays as it was, to be read.
        .extra_args(["-no-shutdown"])
        .deadline(2 * PATIENCE);
    // A TPM of its own, which no other act has touched.
    let builder = match act.setup.tpm() {
        Some(interface) => builder.tpm(interface),
        None => builder,
    };
    let machine = builder.start()?;
    let seen = match watch(&machine, act) {
        Ok(()) => Outcome::read(&act.name, &machine.console().text()),
        Err(machine::Error::Interrupted) => return Err(machine::Error::Interrupted.into()),
        Err(error) => Outcome::Strange(error.to_string()),
    };
    let complaints = match seen {
        Outcome::Strange(_) => vec!["the machine was not read".to_owned()],
        _ => complaints(&machine, act, &file)?,
    };
    Ok(row(act, &seen, &complaints))
}

/// Waits for the gate's record and for the machine's end.
fn watch(machine: &Machine, act: &Act) -> Result<(), machine::Error> {
    if act.setup.has_keyboard() {
        machine.wait_for("begin", PATIENCE)?;
        for _ in 0..KEYS {
            machine.monitor("sendkey a")?;
        }
    }
    machine.wait_for(RECORD, PATIENCE)?;
    let end = Instant::now() + END;
    while !is_over(machine, act)? {
        process::check_interrupt()?;
        if Instant::now() > end {
            let what = "the reset after the record".to_owned();
            return Err(machine::Error::TimedOut { what, timeout: END });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Whether the gate has done its last: a machine that no port ends halts for ever. The gate says its
/// record before, so it is not asleep in between.
fn is_over(machine: &Machine, act: &Act) -> Result<bool, machine::Error> {
    if act.setup.has_reset() {
        return outside::is_over(machine);
    }
    Ok(machine.monitor("info registers")?.contains("HLT=1"))
}

/// What is no longer as it was sealed, seen from outside.
fn complaints(machine: &Machine, act: &Act, image: &Image) -> Result<Vec<String>, Error> {
    let seen = Snapshot::take(machine, act.setup.memory_mib())?;
    let findings = seen.findings(image);
    let told = seen.addresses_in(&machine.console().text());
    let told = told.into_iter().map(|address| format!("the console tells address {address:#x}"));
    Ok(findings.iter().map(ToString::to_string).chain(told).collect())
}

fn row(act: &Act, seen: &Outcome, complaints: &[String]) -> Row {
    let mut text = seen.to_string();
    if !complaints.is_empty() {
        text.push_str("; the seal is broken: ");
        text.push_str(&complaints.join("; "));
    }
    Row {
        act: act.label(),
        expected: act.expected(),
        seen: text,
        is_ok: act.allowed.contains(seen) && complaints.is_empty(),
    }
}

fn text(row: &Row) -> String {
    line(&row.act, &row.expected, &row.seen, if row.is_ok { "ok" } else { "NOT OK" })
}

fn line(act: &str, expected: &str, seen: &str, ok: &str) -> String {
    format!("{act:33} {expected:70} {seen:60} {ok}")
}

fn json(rows: &[Row]) -> String {
    let mut text = String::from("[");
    for (index, row) in rows.iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        let Row { act, expected, seen, is_ok } = row;
        let [act, expected, seen] = [act, expected, seen].map(|text| quoted(text));
        let _ = write!(
            text,
            "  {{\"act\": {act}, \"expected\": {expected}, \"seen\": {seen}, \"ok\": {is_ok}}}"
        );
    }
    text.push_str("\n]\n");
    text
}

/// A string of JSON (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\u{0}'..='\u{1f}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act() -> Act {
        acts().into_iter().find(|act| act.name == "write_text").unwrap()
    }

    #[track_caller]
    fn check(seen: &Outcome, complaints: &[&str], is_ok: bool) {
        let complaints: Vec<String> = complaints.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(row(&act(), seen, &complaints).is_ok, is_ok, "{seen}");
    }

    #[test]
    fn only_what_is_expected_in_a_whole_seal_is_ok() {
        check(&Outcome::Fault { vector: 14, error: 7 }, &[], true);
        check(&Outcome::Fault { vector: 14, error: 7 }, &["gate: other bytes"], false);
        check(&Outcome::Fault { vector: 14, error: 5 }, &[], false);
        check(&Outcome::Fault { vector: 13, error: 7 }, &[], false);
        check(&Outcome::Survived, &[], false);
        check(&Outcome::Stop(0), &[], false);
        check(&Outcome::Strange("silence".to_owned()), &[], false);
    }

    #[test]
    fn json_is_json() {
        let row = Row {
            act: "a \"b\"".to_owned(),
            expected: "c\\d".to_owned(),
            seen: "e\nf".to_owned(),
            is_ok: true,
        };
        let expected = "[\n  {\"act\": \"a \\\"b\\\"\", \"expected\": \"c\\\\d\", \
             \"seen\": \"e\\u000af\", \"ok\": true}\n]\n";
        assert_eq!(json(&[row]), expected);
        assert_eq!(json(&[]), "[\n]\n");
    }

    #[test]
    fn a_filter_that_names_nothing_is_refused() {
        assert!(chosen(Some("no such act")).is_err());
        assert_eq!(chosen(Some("write_text")).unwrap().len(), 1);
        assert_eq!(chosen(None).unwrap().len(), acts().len());
    }
}
