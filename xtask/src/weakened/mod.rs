//! Breaks one property of the seal at a time and asks who notices.
//!
//! A check that nothing has ever failed may check nothing. So each patch in `tests/weakened` takes
//! one property away, boot is built with it, and every checker looks at the same machine: boot's
//! own audit, the walk from outside, `seal audit` of the file, and the acts that the patch names.
//! Production source has no switch for any of this.

mod patch;
mod trial;
mod workshop;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::{fs, thread};

use tempfile::TempDir;

pub use patch::{Checker, Weakening, all};
pub use trial::Seen;

use crate::build::Guest;
use crate::steps::{Error, while_doing};
use trial::{Ending, Trial};
use workshop::Workshop;

/// The patch that changes nothing, which nobody may notice.
const CONTROL: &str = "nothing";

/// Laid over each patch: boot says what its audit finds and goes on, so that the others see the
/// machine too.
const GOES_ON: &str = "goes-on.diff";

/// The most important ones are built a second time without [`GOES_ON`]: boot has to stop.
const STOPS: [&str; 5] = [
    "boot-mapped",
    "descriptors-writable",
    "heap-executable",
    "ports-allowed",
    "used-ring-writable",
];

/// What everybody saw of one weakening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The weakening.
    pub weakening: Weakening,
    /// What each checker saw.
    pub seen: Vec<(Checker, Seen)>,
    /// What boot does if it is not told to go on.
    pub halt: Halt,
}

/// What boot does once its audit has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It serves all the same.
    GoesOn,
    /// It was not built for this question.
    NotAsked,
    /// It says this and stops.
    Stops(String),
}

/// The table of all weakenings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A row for each.
    pub rows: Vec<Row>,
}

/// A boot program that was built.
struct Built {
    weakening: Weakening,
    boot: PathBuf,
    strict: Option<PathBuf>,
}

/// Builds every weakening whose name contains `filter`, and asks everybody.
///
/// `guest` is the checkout's own; `each` is told of every row as it comes.
///
/// # Errors
///
/// [`Error`] if a patch does not apply or build, or if a machine cannot be had.
pub fn run(guest: &Guest, filter: &str, mut each: impl FnMut(&Row)) -> Result<Report, Error> {
    let mut weakenings = all()?;
    weakenings.retain(|weakening| weakening.name.contains(filter));
    // The control last: by then every act is known, and it is asked for all of them.
    weakenings.sort_by_key(|weakening| weakening.name == CONTROL);
    let folder = TempDir::with_prefix("bulla-weakened-").map_err(while_doing("a folder"))?;
    let seal = trial::seal()?;
    let mut sound = Sound { guest, folder: folder.path(), seal: &seal, acts: BTreeMap::new() };
    let mut report = Report::default();
    // While one boot is tried, the next is built.
    let (sender, built) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        scope.spawn(|| build_all(weakenings, folder.path(), sender));
        for built in built {
            let row = sound.ask(built?)?;
            each(&row);
            report.rows.push(row);
        }
        Ok(report)
    })
}

/// Builds and asks everybody, prints the table, and says what is not well.
///
/// # Errors
///
/// As for [`run`], and [`Error::Tests`] if there is a complaint.
pub fn show(guest: &Guest, filter: &str) -> Result<(), Error> {
    println!("{}", header());
    let report = run(guest, filter, |row| println!("{}", row.to_string().trim_end()))?;
    let complaints = report.complaints();
    for complaint in &complaints {
        println!("not well: {complaint}");
    }
    let (weakenings, failed) = (report.rows.len(), complaints.len());
    println!("\n{weakenings} weakenings, {failed} complaints");
    if failed == 0 { Ok(()) } else { Err(Error::Tests { failed }) }
}

/// Builds boot in another folder, nothing changed, and copies it to `boot`; and the edge proxy's
/// service to `edge_proxy`, if that is wanted, which takes minutes.
///
/// # Errors
///
/// [`Error`] if the checkout cannot be copied or does not build.
pub fn build_elsewhere(boot: &Path, edge_proxy: Option<&Path>) -> Result<(), Error> {
    let workshop = Workshop::open()?;
    workshop.boot(&[], boot)?;
    edge_proxy.map_or(Ok(()), |to| workshop.edge_proxy(to))
}

/// Builds one boot after the other, until all are built, one fails or nobody wants more.
fn build_all(
    weakenings: Vec<Weakening>,
    folder: &Path,
    sender: mpsc::SyncSender<Result<Built, Error>>,
) {
    let workshop = match Workshop::open() {
        Ok(workshop) => workshop,
        Err(error) => return drop(sender.send(Err(error))),
    };
    for weakening in weakenings {
        let built = build_one(&workshop, weakening, folder);
        let is_over = built.is_err();
        if sender.send(built).is_err() || is_over {
            return;
        }
    }
}

fn build_one(workshop: &Workshop, weakening: Weakening, folder: &Path) -> Result<Built, Error> {
    let boot = folder.join(format!("{}.boot", weakening.name));
    workshop.boot(&[&weakening.path, &patch::folder().join(GOES_ON)], &boot)?;
    let is_strict = weakening.name == CONTROL || STOPS.contains(&weakening.name.as_str());
    let strict = is_strict.then(|| folder.join(format!("{}.strict", weakening.name)));
    if let Some(strict) = &strict {
        workshop.boot(&[&weakening.path], strict)?;
    }
    Ok(Built { weakening, boot, strict })
}

/// The checkout as it is, and how each act ends there.
struct Sound<'a> {
    guest: &'a Guest,
    folder: &'a Path,
    seal: &'a Path,
    acts: BTreeMap<String, Ending>,
}

impl Sound<'_> {
    fn ask(&mut self, built: Built) -> Result<Row, Error> {
        let Built { weakening, boot, strict } = built;
        let guest = Guest { boot, ..self.guest.clone() };
        let has_tpm = weakening.has_tpm;
        let trial = Trial { guest: &guest, folder: self.folder, seal: self.seal, has_tpm };
        let mut seen = Vec::from(trial.machine()?);
        seen.push((Checker::Image, trial.image()?));
        for checker in self.acts_for(&weakening) {
            if let Checker::Act(act) = &checker {
                let sound = self.sound(act)?;
                seen.push((checker.clone(), sound.against(&trial.act(act)?)));
            }
        }
        let halt = match strict {
            Some(boot) if weakening.name == CONTROL => {
                self.check_ours(&boot)?;
                Halt::NotAsked
            }
            Some(boot) => {
                let guest = Guest { boot, ..self.guest.clone() };
                let line = Trial { guest: &guest, ..trial }.stops()?;
                line.map_or(Halt::GoesOn, Halt::Stops)
            }
            None => Halt::NotAsked,
        };
        Ok(Row { weakening, seen, halt })
    }

    /// The acts that a patch names; the control is asked for all that were named so far.
    fn acts_for(&self, weakening: &Weakening) -> Vec<Checker> {
        if weakening.name == CONTROL {
            return self.acts.keys().cloned().map(Checker::Act).collect();
        }
        weakening.noticed_by.clone()
    }

    /// How an act ends in the checkout's own machine.
    fn sound(&mut self, act: &str) -> Result<Ending, Error> {
        if let Some(known) = self.acts.get(act) {
            return Ok(known.clone());
        }
        let (guest, folder, seal) = (self.guest, self.folder, self.seal);
        let trial = Trial { guest, folder, seal, has_tpm: false };
        let ending = trial.act(act)?;
        if !ending.is_sound() {
            return Err(Error::Failed(format!("act {act} ends in {ending} without any weakening")));
        }
        self.acts.insert(act.to_owned(), ending.clone());
        Ok(ending)
    }

    /// What the workshop builds without a patch has to be what is shipped, bit by bit; otherwise
    /// the table says nothing of it.
    fn check_ours(&self, boot: &Path) -> Result<(), Error> {
        let read = |path: &Path| fs::read(path).map_err(while_doing(path.display()));
        if read(boot)? == read(&self.guest.boot)? {
            return Ok(());
        }
        Err(Error::Failed("the workshop's boot differs from the checkout's".to_owned()))
    }
}

impl Row {
    /// Everybody who noticed, with what was said.
    pub fn noticed(&self) -> impl Iterator<Item = (&Checker, &str)> {
        self.seen.iter().filter_map(|(checker, seen)| match seen {
            Seen::Noticed(what) => Some((checker, what.as_str())),
            Seen::Nothing | Seen::Stopped => None,
        })
    }

    /// What is wrong with this row.
    fn complaints(&self) -> Vec<String> {
        let name = &self.weakening.name;
        let mut complaints = Vec::new();
        if name == CONTROL {
            let noticed = self.noticed();
            return noticed.map(|(who, what)| format!("{who} notices nothing: {what}")).collect();
        }
        if self.noticed().next().is_none() {
            complaints.push(format!("{name}: a hole, nobody notices: {}", self.weakening.weakens));
        }
        for who in &self.weakening.noticed_by {
            if !self.noticed().any(|(noticed, _)| noticed == who) {
                complaints.push(format!("{name}: {who} does not notice"));
            }
        }
        if self.halt == Halt::GoesOn {
            complaints.push(format!("{name}: boot does not stop"));
        }
        complaints
    }

    /// The table's word for a column; several acts share one.
    fn cell(&self, is_column: impl Fn(&Checker) -> bool) -> &'static str {
        let seen = self.seen.iter().filter(|(checker, _)| is_column(checker)).map(|(_, seen)| seen);
        let seen: Vec<_> = seen.collect();
        if seen.iter().any(|seen| matches!(seen, Seen::Noticed(_))) {
            "noticed"
        } else if seen.contains(&&Seen::Stopped) {
            "stopped"
        } else if seen.is_empty() {
            ""
        } else {
            "-"
        }
    }
}

impl Report {
    /// What has to be done before this is well: holes, checkers that miss what is theirs, and
    /// checkers that complain without a reason. Empty if all is well.
    pub fn complaints(&self) -> Vec<String> {
        self.rows.iter().flat_map(Row::complaints).collect()
    }
}

fn header() -> String {
    format!("{:<30} {:<8} {:<8} {:<8} act", "weakening", "boot", "outside", "image")
}

/// A line of the table.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boot = if matches!(self.halt, Halt::Stops(_)) {
            "stops"
        } else {
            self.cell(|checker| *checker == Checker::Boot)
        };
        write!(
            f,
            "{:<30} {:<8} {:<8} {:<8} {:<8}",
            self.weakening.name,
            boot,
            self.cell(|checker| *checker == Checker::Outside),
            self.cell(|checker| *checker == Checker::Image),
            self.cell(|checker| matches!(checker, Checker::Act(_))),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<30} {:<8} {:<8} {:<8} {:<8}",
            "weakening", "boot", "outside", "image", "act"
        )?;
        for row in &self.rows {
            writeln!(f, "{}", row.to_string().trim_end())?;
        }
        writeln!(f)?;
        for row in &self.rows {
            for (who, what) in row.noticed() {
                writeln!(f, "{}: {who}: {what}", row.weakening.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, noticed_by: &[Checker], seen: &[(Checker, Seen)]) -> Row {
        let weakening = Weakening {
            name: name.to_owned(),
            path: PathBuf::new(),
            breaks: String::new(),
            weakens: "it is off".to_owned(),
            has_tpm: false,
            noticed_by: noticed_by.to_vec(),
        };
        Row { weakening, seen: seen.to_vec(), halt: Halt::NotAsked }
    }

    fn noticed() -> Seen {
        Seen::Noticed("CR0".to_owned())
    }

    #[track_caller]
    fn check(row: Row, complaints: &[&str]) {
        assert_eq!(Report { rows: vec![row] }.complaints(), complaints);
    }

    #[test]
    fn what_nobody_notices_is_a_hole() {
        let silent = [(Checker::Boot, Seen::Nothing), (Checker::Outside, Seen::Stopped)];
        check(row("smap", &[], &silent), &["smap: a hole, nobody notices: it is off"]);
        check(row("smap", &[], &[(Checker::Boot, noticed())]), &[]);
    }

    #[test]
    fn who_is_named_has_to_notice() {
        let seen = [(Checker::Boot, noticed()), (Checker::Outside, Seen::Nothing)];
        let named = [Checker::Boot, Checker::Outside, Checker::Act("cli".to_owned())];
        let missing = ["smap: outside does not notice", "smap: act cli does not notice"];
        check(row("smap", &named, &seen), &missing);
        check(row("smap", &named[..1], &seen), &[]);
        let goes_on = Row { halt: Halt::GoesOn, ..row("smap", &named[..1], &seen) };
        check(goes_on, &["smap: boot does not stop"]);
    }

    #[test]
    fn what_is_asked_for_by_name_is_there() {
        let all = all().unwrap();
        for name in STOPS.into_iter().chain([CONTROL]) {
            assert!(all.iter().any(|weakening| weakening.name == name), "no {name}.patch");
        }
    }

    #[test]
    fn the_control_is_noticed_by_nobody() {
        check(row(CONTROL, &[], &[(Checker::Image, Seen::Nothing)]), &[]);
        check(row(CONTROL, &[], &[(Checker::Image, noticed())]), &["image notices nothing: CR0"]);
    }

    #[test]
    fn the_table_says_who_noticed_what() {
        let act = || Checker::Act("cli".to_owned());
        let seen = [
            (Checker::Boot, noticed()),
            (Checker::Outside, Seen::Stopped),
            (Checker::Image, Seen::Nothing),
            (act(), Seen::Nothing),
            (act(), noticed()),
        ];
        let text = Report { rows: vec![row("smap", &[], &seen)] }.to_string();
        let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["smap", "noticed", "stopped", "-", "noticed"]);
        assert!(text.ends_with("\nsmap: boot: CR0\nsmap: act cli: CR0\n"), "{text}");
    }
}
