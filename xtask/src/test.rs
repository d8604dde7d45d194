//! `cargo xtask test`: everything that must hold, in one command, on a laptop and in CI.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::steps::{self, Error, while_doing};
use crate::{build, fuzz, install, tidy};

/// Set for the tests when the long sizes are asked for.
pub const LONG: &str = "BULLA_LONG";

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only tests whose name contains this; without the checks that are no tests.
    pub filter: Option<String>,
    /// With the long sizes: soaks and floods.
    pub is_long: bool,
}

/// Runs all checks and tests and prints a summary.
///
/// # Errors
///
/// [`Error::Tests`] if anything failed; [`Error`] if the tests could not be run at all.
pub fn run(options: &Options) -> Result<(), Error> {
    install::tools()?;
    install::components()?;
    let mut report = Report::default();
    if options.filter.is_none() {
        checks(&mut report)?;
    }
    report.tests("unit tests on the host", || {
        test(
            options,
            &["--exclude=machine", "--exclude=boot", "--exclude=probe", "--workspace"],
            &[],
        )
    })?;
    report.tests("inputs of the fuzz targets", || test(options, &fuzz::replay(), &[]))?;
    if options.is_long && options.filter.is_none() {
        let time = fuzz::LONG;
        report
            .check("fuzz targets", || fuzz::run(&fuzz::Options { time, ..Default::default() }))?;
    }
    let is_built = report.check("guest programs build", || build::guest().map(drop))?;
    if is_built {
        // One at a time: some of these build and boot two machines themselves, and there are two
        // cores. What others do to the host's load is not what they test.
        let serially = ["--test-threads=1"];
        report.tests("tests in QEMU", || test(options, &["--package=machine"], &serially))?;
    }
    report.print();
    match report.failed() {
        0 => Ok(()),
        failed => Err(Error::Tests { failed }),
    }
}

fn checks(report: &mut Report) -> Result<(), Error> {
    report.check("tidy", || tidy::check(false))?;
    report.check("format", || steps::run(steps::cargo("fmt").args(["--all", "--", "--check"])))?;
    report.check("lints on the host", || {
        steps::run(steps::cargo("clippy").args(["--all-targets", "--", "--deny", "warnings"]))
    })?;
    report.check("lints of the guest", build::lint_guest)?;
    report.check("format and lints of the fuzz targets", fuzz::lint)?;
    report.check("documentation", || {
        let mut doc = steps::cargo("doc");
        steps::run(doc.args(["--no-deps", "--lib"]).env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    Ok(())
}

/// Runs `cargo test` and counts. A test that fails is counted, not an error.
fn test(
    options: &Options,
    arguments: &[impl AsRef<OsStr>],
    harness: &[&str],
) -> Result<Counted, Error> {
    // Machines that tests share live until their process ends, and cannot take their folders away.
    let folder = TempDir::with_prefix("bulla-tests-").map_err(while_doing("temporary folder"))?;
    let mut command = steps::cargo("test");
    command.arg("--no-fail-fast").args(arguments).env("TMPDIR", folder.path());
    // Test programs die with cargo, and cargo dies with us.
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "setpriv --pdeathsig KILL --");
    if options.is_long {
        command.env(LONG, "1");
    }
    command.arg("--").args(&options.filter).args(harness);
    let mut counted = Counted::default();
    match steps::show(&mut command, |line| counted.add(line)) {
        // Cargo fails without a failed test if something did not compile, or died.
        Err(Error::Command { .. }) if counted.failed == 0 => {
            counted.failed = 1;
            counted.names.push("a test program that did not run to its end".to_owned());
        }
        Err(Error::Command { .. }) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    Ok(counted)
}

/// What the test programs' last lines say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counted {
    passed: usize,
    failed: usize,
    names: Vec<String>,
}

impl Counted {
    /// Reads one line of libtest's report.
    fn add(&mut self, line: &str) {
        if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.names.push(name.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += number,
                // A test that is skipped is a promise that is not kept.
                "failed" => self.failed += number,
                "ignored" if number > 0 => {
                    self.failed += number;
                    self.names.push(format!("{number} ignored"));
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug, Default)]
struct Report {
    steps: Vec<(String, Duration, Counted)>,
}

impl Report {
    /// Runs a check, which passes or fails as one.
    fn check(
        &mut self,
        name: &str,
        check: impl FnOnce() -> Result<(), Error>,
    ) -> Result<bool, Error> {
        self.tests(name, || match check() {
            Ok(()) => Ok(Counted { passed: 1, ..Counted::default() }),
            Err(error @ (Error::Command { .. } | Error::Failed(_) | Error::Tests { .. })) => {
                eprintln!("xtask: {error}");
                Ok(Counted { failed: 1, names: vec![name.to_owned()], ..Counted::default() })
            }
            Err(error) => Err(error),
        })
    }

    fn tests(
        &mut self,
        name: &str,
        tests: impl FnOnce() -> Result<Counted, Error>,
    ) -> Result<bool, Error> {
        println!("\n== {name}");
        let start = Instant::now();
        let counted = tests()?;
        let has_passed = counted.failed == 0;
        self.steps.push((name.to_owned(), start.elapsed(), counted));
        Ok(has_passed)
    }

    fn failed(&self) -> usize {
        self.steps.iter().map(|(_, _, counted)| counted.failed).sum()
    }

    fn passed(&self) -> usize {
        self.steps.iter().map(|(_, _, counted)| counted.passed).sum()
    }

    fn print(&self) {
        println!("\n== summary");
        for (name, took, counted) in &self.steps {
            let Counted { passed, failed, .. } = counted;
            println!("{:6.1} s  {passed:4} passed  {failed:3} failed  {name}", took.as_secs_f64());
        }
        for name in self.steps.iter().flat_map(|(_, _, counted)| &counted.names) {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed", self.passed(), self.failed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, passed: usize, failed: usize, names: &[&str]) {
        let mut counted = Counted::default();
        counted.add(line);
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(counted, Counted { passed, failed, names });
    }

    #[test]
    fn counts_what_libtest_says() {
        let tail = "0 measured; 3 filtered out; finished in 0.01s";
        check(&format!("test result: ok. 17 passed; 0 failed; 0 ignored; {tail}"), 17, 0, &[]);
        check(&format!("test result: FAILED. 1 passed; 2 failed; 0 ignored; {tail}"), 1, 2, &[]);
        check("test seal::no_code_is_writable ... FAILED", 0, 0, &["seal::no_code_is_writable"]);
        check("test seal::no_code_is_writable ... ok", 0, 0, &[]);
        check("running 2 tests", 0, 0, &[]);
    }

    #[test]
    fn a_skipped_test_counts_as_failed() {
        check("test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured", 1, 2, &["2 ignored"]);
    }
}
