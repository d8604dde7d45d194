//! What each checker says of one weakened machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use machine::outside::{self, Image, Snapshot};
use machine::tpm::Interface;
use machine::{Firmware, Machine, Net, process};

use super::patch::Checker;
use crate::build::{self, Guest};
use crate::samples;
use crate::steps::{self, Error, while_doing};

/// The machine's memory: small, because all of it is looked at.
const MEMORY_MIB: u64 = 16;

/// Whatever a machine does, it does in this time or never. QEMU shares two cores with cargo.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a pipe may hold what a machine has said.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the probe says that does nothing forbidden.
const END_OF_CONTROL: &str = "PROBE control: end of program";

/// What boot says before it halts.
const REFUSED: &str = "boot: refused: ";

/// What boot says with `goes-on.diff`, which does not halt.
const WOULD_REFUSE: &str = "boot: would refuse: ";

/// What a checker saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Something that should not be.
    Noticed(String),
    /// All is well.
    Nothing,
    /// It had nothing to look at: boot had stopped the machine.
    Stopped,
}

/// A boot program under trial.
pub(super) struct Trial<'a> {
    /// Boot, and the probe of the checkout.
    pub(super) guest: &'a Guest,
    /// Where images go.
    pub(super) folder: &'a Path,
    /// The program `seal`.
    pub(super) seal: &'a Path,
    /// Whether its machines have a TPM.
    pub(super) has_tpm: bool,
}

impl Trial<'_> {
    /// Boot's audit and the walk from outside: two boots, because some things must differ.
    pub(super) fn machine(&self) -> Result<[(Checker, Seen); 2], Error> {
        let image = samples::probe(self.guest, "control", self.folder)?;
        let first = self.control(&image)?;
        let _ = first.wait_for(END_OF_CONTROL, LAST_WORDS);
        let console = first.console().text();
        let boot = match [REFUSED, WOULD_REFUSE].iter().find_map(|key| after(&console, key)) {
            Some(reason) => Seen::Noticed(reason),
            None => Seen::Nothing,
        };
        let outside =
            if console.contains(REFUSED) { Seen::Stopped } else { self.outside(&first, &image)? };
        Ok([(Checker::Boot, boot), (Checker::Outside, outside)])
    }

    fn outside(&self, first: &Machine, image: &Path) -> Result<Seen, Error> {
        let snapshot = Snapshot::take(first, MEMORY_MIB)?;
        if let Some(finding) = snapshot.findings(&Image::read(image)?).first() {
            return Ok(Seen::Noticed(finding.to_string()));
        }
        // The last lines may still be in the pipe when the machine is over.
        if first.wait_for(END_OF_CONTROL, LAST_WORDS).is_err() {
            return Ok(Seen::Noticed("the machine does not work".to_owned()));
        }
        let again = Snapshot::take(&self.control(image)?, MEMORY_MIB)?;
        if base(&again) == base(&snapshot) {
            return Ok(Seen::Noticed("the base is the same in two boots".to_owned()));
        }
        Ok(Seen::Nothing)
    }

    /// Boots the probe that does nothing forbidden, and waits until it is through or boot refuses.
    fn control(&self, image: &Path) -> Result<Machine, Error> {
        let machine = self.small(image).extra_args(["-no-shutdown"]).start()?;
        let is_through =
            || Ok(machine.console().text().contains(REFUSED) || outside::is_over(&machine)?);
        wait_until(&machine, is_through)?;
        Ok(machine)
    }

    fn small(&self, image: &Path) -> machine::qemu::Builder {
        let builder = Machine::builder(image)
            .memory_mib(MEMORY_MIB)
            .firmware(Firmware::Qboot)
            .net(Net::User { ports: Vec::new() })
            .deadline(PATIENCE);
        if self.has_tpm { builder.tpm(Interface::Crb) } else { builder }
    }

    /// Whether boot alone, which does not go on, stops the machine before the service runs.
    pub(super) fn stops(&self) -> Result<Option<String>, Error> {
        let image = samples::probe(self.guest, "control", self.folder)?;
        let machine = self.small(&image).start()?;
        let is_through = || Ok(machine.console().text().contains(REFUSED));
        wait_until(&machine, is_through)?;
        let console = machine.console().text();
        Ok(after(&console, REFUSED).filter(|_| !console.contains("PROBE")))
    }

    /// `seal audit` of the image.
    pub(super) fn image(&self) -> Result<Seen, Error> {
        let image = samples::probe(self.guest, "control", self.folder)?;
        let mut audit = process::tied(self.seal);
        let output = audit.arg("audit").arg(&image).output().map_err(while_doing("seal audit"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => Ok(Seen::Nothing),
            Some(1) => Ok(Seen::Noticed(complaint(&text))),
            _ => Err(Error::Failed(format!("seal audit: {}\n{text}", output.status))),
        }
    }

    /// How an act ends.
    pub(super) fn act(&self, act: &str) -> Result<Ending, Error> {
        let image = samples::probe(self.guest, act, self.folder)?;
        let machine = self.small(&image).start()?;
        let is_through = || Ok(machine.console().text().contains(REFUSED));
        wait_until(&machine, is_through)?;
        Ok(Ending::of(&machine.console().text(), act))
    }
}

/// How an act ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a crash record: vector and error code.
    Crash(String),
    /// The act says that it had no effect.
    NoEffect,
    /// Without a word, or before the act.
    Silence,
    /// Boot stopped the machine.
    Stopped,
    /// The act was not stopped.
    Survived,
}

impl Ending {
    fn of(console: &str, act: &str) -> Self {
        let crash = || {
            let record = console.lines().find(|line| line.starts_with("CRASH "))?;
            let words = record
                .split_whitespace()
                .filter(|word| word.starts_with("vector=") || word.starts_with("error="));
            Some(words.collect::<Vec<_>>().join(" "))
        };
        if console.contains(REFUSED) {
            Self::Stopped
        } else if !console.contains(&format!("PROBE {act}: begin")) {
            Self::Silence
        } else if console.contains("SURVIVED") {
            Self::Survived
        } else if let Some(record) = crash() {
            Self::Crash(record)
        } else if console.contains(&format!("PROBE {act}: no effect: ")) {
            Self::NoEffect
        } else {
            Self::Silence
        }
    }

    /// What the act says of a weakened machine, if it ends as `self` in a sound one.
    pub(super) fn against(&self, weakened: &Self) -> Seen {
        match weakened {
            Self::Stopped => Seen::Stopped,
            same if same == self => Seen::Nothing,
            other => Seen::Noticed(format!("{other} instead of {self}")),
        }
    }

    /// Whether the act shows anything: in a sound machine it is stopped, or comes to nothing.
    pub(super) fn is_sound(&self) -> bool {
        matches!(self, Self::Crash(_) | Self::NoEffect)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(record) => write!(f, "a crash with {record}"),
            Self::NoEffect => write!(f, "no effect"),
            Self::Silence => write!(f, "no record"),
            Self::Stopped => write!(f, "no machine"),
            Self::Survived => write!(f, "survival"),
        }
    }
}

/// Builds the program `seal` and says where it is.
pub(super) fn seal() -> Result<PathBuf, Error> {
    steps::run(steps::cargo("build").args(["--quiet", "--package=seal"]))?;
    Ok(build::target_dir().join("debug/seal"))
}

/// Looks again and again until something is so or the machine is gone, which its deadline ensures.
fn wait_until(machine: &Machine, is_so: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
    let end = Instant::now() + PATIENCE;
    while machine.process().ended().is_none() && Instant::now() < end {
        if is_so()? {
            return Ok(());
        }
        process::check_interrupt()?;
        thread::sleep(process::POLL);
    }
    // Its last words may still be in the pipe.
    machine.wait_for_off(PATIENCE).map(drop).map_err(Error::from)
}

/// The lowest address of the service.
fn base(snapshot: &Snapshot) -> Option<u64> {
    let (walk, _) = outside::walk(&snapshot.memory, snapshot.registers.cr3);
    walk.leaves.iter().filter(|leaf| leaf.is_user).map(|leaf| leaf.virt).min()
}

/// What a line says after `key`.
fn after(console: &str, key: &str) -> Option<String> {
    console.lines().find_map(|line| line.split_once(key)).map(|(_, rest)| rest.to_owned())
}

/// The first line of a report that says what does not hold.
fn complaint(report: &str) -> String {
    let line = report.lines().find(|line| line.to_lowercase().contains("fail"));
    line.or(report.lines().last()).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(console: &str, ending: Ending) {
        assert_eq!(Ending::of(console, "wrmsr"), ending, "{console}");
    }

    #[test]
    fn an_act_ends_in_one_way() {
        let begun = "seal: 1\nPROBE wrmsr: begin\n";
        let crash = format!("{begun}\nCRASH vector=0d error=0000 rip=service+1 cr2=0\n");
        check(&crash, Ending::Crash("vector=0d error=0000".to_owned()));
        check(&format!("{begun}PROBE wrmsr: SURVIVED\n"), Ending::Survived);
        check(&format!("{begun}PROBE wrmsr: no effect: none\n"), Ending::NoEffect);
        check(begun, Ending::Silence);
        check("CRASH vector=0d error=0000\n", Ending::Silence);
        check("boot: refused: the seal does not hold: CR0\n", Ending::Stopped);
    }

    #[test]
    fn an_act_notices_what_ends_otherwise() {
        let crash = |record: &str| Ending::Crash(record.to_owned());
        let sound = crash("vector=0e error=7");
        assert_eq!(sound.against(&crash("vector=0e error=7")), Seen::Nothing);
        assert_eq!(sound.against(&Ending::Stopped), Seen::Stopped);
        let noticed = "a crash with vector=0e error=4 instead of a crash with vector=0e error=7";
        let other = crash("vector=0e error=4");
        assert_eq!(sound.against(&other), Seen::Noticed(noticed.to_owned()));
        let noticed = "survival instead of no effect".to_owned();
        assert_eq!(Ending::NoEffect.against(&Ending::Survived), Seen::Noticed(noticed));
        assert!(!Ending::Survived.is_sound() && !Ending::Silence.is_sound());
    }
}
