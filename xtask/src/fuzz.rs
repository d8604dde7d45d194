//! `cargo xtask fuzz`: the targets in `fuzz/`, run by libFuzzer; and their inputs, run without it.
//!
//! The crate is outside the workspace. cargo-fuzz builds its programs with AddressSanitizer, whose
//! runtime the pinned stable toolchain brings along; `RUSTC_BOOTSTRAP` lets that toolchain take the
//! flags. The programs are started by ourselves, so that what they find is kept in the target
//! folder, and only what is worth it is committed.

use std::ffi::OsString;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, fs, thread};

use crate::build;
use crate::steps::{self, Error, while_doing};

/// The program that builds the targets, newest when this was written.
const CARGO_FUZZ: &str = "0.13.2";

/// The feature that brings libFuzzer.
const FEATURE: &str = "libfuzzer";

/// How long each target runs if nothing else is said.
pub const USUAL: Duration = Duration::from_secs(60);

/// How long each target runs in the long tests.
pub const LONG: Duration = Duration::from_secs(600);

/// How much of a failed target's words is shown.
const SHOWN: usize = 60;

/// An input that takes longer has hung.
const LONGEST_INPUT: Duration = Duration::from_secs(10);

/// A target that takes more has no bound on its memory.
const MOST_MEMORY_MIB: u32 = 2048;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The one target; all of them, if there is none.
    pub target: Option<String>,
    /// How long each runs.
    pub time: Duration,
    /// Only says what there is.
    pub is_list: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { target: None, time: USUAL, is_list: false }
    }
}

/// A target: its name, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    name: String,
    about: String,
}

/// Reads the command line.
///
/// # Errors
///
/// [`Error::Usage`].
pub fn options(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, Error> {
    use lexopt::prelude::{Long, Value, ValueExt};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seconds") => {
                let seconds = parser.value()?.parse()?;
                // To libFuzzer, no time is all the time there is.
                if seconds == 0 {
                    return Err(Error::Usage("--seconds is 0".to_owned()));
                }
                options.time = Duration::from_secs(seconds);
            }
            Long("minutes") => {
                let minutes: u64 = parser.value()?.parse()?;
                if minutes == 0 {
                    return Err(Error::Usage("--minutes is 0".to_owned()));
                }
                options.time = Duration::from_secs(minutes.saturating_mul(60));
            }
            Long("list") => options.is_list = true,
            Value(target) if options.target.is_none() => options.target = Some(target.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

/// Runs one target or all of them, or lists them.
///
/// # Errors
///
/// [`Error::Tests`] if a target failed: what broke it is printed. [`Error`] if none could be run.
pub fn run(options: &Options) -> Result<(), Error> {
    let mut targets = targets()?;
    if options.is_list {
        for Target { name, about } in targets {
            println!("{name:26} {about}");
        }
        return Ok(());
    }
    if let Some(wanted) = &options.target {
        targets.retain(|target| target.name == *wanted);
        if targets.is_empty() {
            return Err(Error::Usage(format!("no target {wanted:?}; `cargo xtask fuzz --list`")));
        }
    }
    build_programs()?;
    match &targets[..] {
        [only] => {
            println!("\n-- {}: {}", only.name, only.about);
            let result = steps::run(&mut program(&only.name, options.time)?);
            finish(judge(&only.name, result)?)
        }
        _ => finish(side_by_side(targets, options.time)?),
    }
}

/// Runs as many targets at once as there are processors; how many failed. What each says goes to a
/// file, whose end is shown of those that fail.
fn side_by_side(targets: Vec<Target>, time: Duration) -> Result<usize, Error> {
    let logs = target_dir().join("logs");
    fs::create_dir_all(&logs).map_err(while_doing(logs.display()))?;
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let waiting = Mutex::new(targets.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut failed = 0;
        while let Some(Target { name, about }) = next() {
            let log = logs.join(&name).with_extension("log");
            let result = steps::run_into(&mut program(&name, time)?, &log);
            let said = fs::read_to_string(&log).unwrap_or_default();
            let done = said.lines().rev().find(|line| line.starts_with("Done "));
            println!("{name:26} {about} {}", done.unwrap_or("It did not come to its end."));
            if result.is_err() {
                let lines: Vec<&str> = said.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default();
                eprintln!("{}", tail.join("\n"));
            }
            failed += judge(&name, result)?;
        }
        Ok(failed)
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|worker| worker.join().unwrap_or(Ok(1))).sum()
    })
}

/// One if the target failed, with what to do; another error than that is one.
fn judge(name: &str, result: Result<(), Error>) -> Result<usize, Error> {
    match result {
        Ok(()) => Ok(0),
        Err(error @ Error::Command { .. }) => {
            eprintln!("xtask: {error}");
            eprintln!("hint: mend it, and keep the input as fuzz/regressions/{name}/WHAT");
            Ok(1)
        }
        Err(error) => Err(error),
    }
}

fn finish(failed: usize) -> Result<(), Error> {
    if failed > 0 { Err(Error::Tests { failed }) } else { Ok(()) }
}

/// What `cargo test` needs to be told to run every committed input, and some thousands of mutations
/// of them.
pub fn replay() -> Vec<OsString> {
    let mut arguments = vec!["--lib".into()];
    arguments.extend(elsewhere());
    arguments
}

/// Checks the crate's format and lints; the workspace's own checks do not see it.
///
/// # Errors
///
/// [`Error::Command`] with the first that fails.
pub fn lint() -> Result<(), Error> {
    let manifest = folder().join("Cargo.toml");
    let mut format = steps::cargo("fmt");
    steps::run(format.arg("--manifest-path").arg(manifest).args(["--", "--check"]))?;
    let mut clippy = steps::cargo("clippy");
    clippy.args(["--lib", "--examples", "--tests"]).args(elsewhere());
    steps::run(clippy.args(["--", "--deny", "warnings"]))
}

/// Where the crate is, and where it is built, so that it does not disturb what else is.
fn elsewhere() -> [OsString; 4] {
    let manifest = folder().join("Cargo.toml");
    ["--manifest-path".into(), manifest.into(), "--target-dir".into(), target_dir().into()]
}

fn target_dir() -> PathBuf {
    let host = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    build::root().join(host).join("fuzz")
}

fn folder() -> PathBuf {
    build::root().join("fuzz")
}

/// What there is: one program each, whose first line says what it is for.
fn targets() -> Result<Vec<Target>, Error> {
    let folder = folder().join("fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(while_doing(folder.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry.map_err(while_doing(folder.display()))?.path();
        let text = fs::read_to_string(&path).map_err(while_doing(path.display()))?;
        targets.extend(target(&path, &text));
    }
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(targets)
}

fn target(path: &Path, text: &str) -> Option<Target> {
    let name = path.file_name()?.to_str()?.strip_suffix(".rs")?.to_owned();
    let about = text.lines().next()?.strip_prefix("//! ")?.to_owned();
    Some(Target { name, about })
}

/// Builds all programs, with cargo-fuzz from our own folder.
fn build_programs() -> Result<(), Error> {
    require_compiler()?;
    let tools = target_dir().join("tools");
    // Finds that it is there already, and then does nothing.
    steps::run(
        steps::cargo("install")
            .args(["cargo-fuzz", "--locked", "--quiet", "--version", CARGO_FUZZ, "--root"])
            .arg(&tools)
            .env("CARGO_TARGET_DIR", tools.join("build")),
    )?;
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(tools.join("bin")).chain(env::split_paths(&path));
    let path = env::join_paths(folders).map_err(while_doing("PATH"))?;
    // Optimized, with the assertions that the crate's own profile asks for; and without
    // `--cfg fuzzing`, which makes smoltcp skip checksums: what is tested is what runs.
    steps::run(
        steps::cargo("fuzz")
            .args(["build", "--release", "--no-cfg-fuzzing", "--features", FEATURE, "--fuzz-dir"])
            .arg(folder())
            .arg("--target-dir")
            .arg(target_dir())
            .env("PATH", path)
            .env("RUSTC_BOOTSTRAP", "1"),
    )
}

/// libFuzzer is C++.
fn require_compiler() -> Result<(), Error> {
    if steps::output(Command::new("c++").arg("--version")).is_ok() {
        return Ok(());
    }
    let remedy = "on Debian: sudo apt-get install g++".to_owned();
    Err(Error::Tools { missing: vec!["c++"], remedy })
}

/// One target's program with its inputs: what it learns goes to the first folder, which is ours;
/// what is committed is only read.
fn program(name: &str, time: Duration) -> Result<Command, Error> {
    let learned = target_dir().join("corpus").join(name);
    let broken = target_dir().join("broken").join(name);
    for folder in [&learned, &broken] {
        fs::create_dir_all(folder).map_err(while_doing(folder.display()))?;
    }
    let committed = ["corpus", "regressions"].map(|kind| folder().join(kind).join(name));
    let folders = committed.into_iter().filter(|folder| folder.exists());
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(broken.join(""));
    let mut command =
        Command::new(target_dir().join("x86_64-unknown-linux-gnu").join("release").join(name));
    command
        .arg(prefix)
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-timeout={}", LONGEST_INPUT.as_secs()))
        .arg(format!("-rss_limit_mb={MOST_MEMORY_MIB}"))
        .arg("-print_final_stats=1")
        .arg(learned)
        .args(folders)
        // The same static in two crates is no error in Rust.
        .env("ASAN_OPTIONS", "detect_odr_violation=0");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &[&str], expected: Result<Options, &str>) {
        let seen = options(arguments.iter().map(OsString::from));
        assert_eq!(seen.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn reads_the_command_line() {
        let usual = Options::default();
        check(&[], Ok(usual.clone()));
        check(&["--list"], Ok(Options { is_list: true, ..usual.clone() }));
        let time = Duration::from_secs(5);
        let target = Some("edge_config".to_owned());
        check(&["edge_config", "--seconds", "5"], Ok(Options { target, time, is_list: false }));
        let time = Duration::from_secs(120);
        check(&["--minutes", "2"], Ok(Options { time, ..Options::default() }));
        check(&["--minutes", "0"], Err("--minutes is 0"));
        check(&["--seconds", "0"], Err("--seconds is 0"));
        check(&["a", "b"], Err("unexpected argument \"b\""));
        check(&["--fast"], Err("invalid option '--fast'"));
    }

    #[test]
    fn every_target_says_what_it_is_for() {
        let found = targets().unwrap();
        assert!(found.len() >= 18, "{found:?}");
        assert_eq!(found.len(), fs::read_dir(folder().join("fuzz_targets")).unwrap().count());
        assert!(found.iter().all(|target| target.about.ends_with('.')));
    }

    #[test]
    fn what_is_no_target_is_passed_over() {
        let path = Path::new("fuzz_targets/net.rs");
        let expected = Target { name: "net".to_owned(), about: "Frames.".to_owned() };
        assert_eq!(target(path, "//! Frames.\n\n#![no_main]"), Some(expected));
        assert_eq!(target(path, "#![no_main]"), None);
        assert_eq!(target(Path::new("fuzz_targets/net.txt"), "//! Frames."), None);
    }
}
