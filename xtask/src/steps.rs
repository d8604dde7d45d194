//! Runs the commands that a task is made of, so that what fails is named and nothing is left over.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, fmt};

use machine::process::{self, Process};

use crate::build;

/// No step takes longer than this; what does has hung.
pub const LONGEST_STEP: Duration = Duration::from_secs(4 * 3600);

/// Why a task did not succeed.
#[derive(Debug)]
pub enum Error {
    /// A command failed; it has said why itself.
    Command {
        /// The command line.
        line: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Another module's error, already in words.
    Failed(String),
    /// A machine, or a program beside it, failed.
    Machine(machine::Error),
    /// Tests or checks failed; each was named when it did.
    Tests {
        /// How many.
        failed: usize,
    },
    /// Programs are missing and cannot be installed from here.
    Tools {
        /// What is missing.
        missing: Vec<&'static str>,
        /// The command that installs it on Debian.
        remedy: String,
    },
    /// The command line is wrong.
    Usage(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { line, status } => write!(f, "{status}: {line}"),
            Self::Failed(reason) | Self::Usage(reason) => write!(f, "{reason}"),
            Self::Machine(error) => write!(f, "{error}"),
            Self::Tests { failed } => write!(f, "{failed} failed"),
            Self::Tools { missing, remedy } => {
                write!(f, "missing: {}\nhint: {remedy}", missing.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<machine::Error> for Error {
    fn from(error: machine::Error) -> Self {
        Self::Machine(error)
    }
}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Turns any error into one that says what was being done.
pub fn while_doing<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Error {
    move |error| Error::Failed(format!("{what}: {error}"))
}

/// The cargo that runs us, at the top of the checkout.
pub fn cargo(verb: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(verb).current_dir(build::root());
    command
}

/// Runs a command that talks to the terminal itself.
///
/// # Errors
///
/// [`Error::Command`] if it fails.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let (tied, line) = tie(command);
    check(&line, Process::start(tied, LONGEST_STEP)?.wait(LONGEST_STEP)?)
}

/// Runs a command that writes whatever it has to say to a file.
///
/// # Errors
///
/// [`Error::Command`] if it fails, [`Error::Failed`] if there can be no such file.
pub fn run_into(command: &mut Command, log: &Path) -> Result<(), Error> {
    let (mut tied, line) = tie(command);
    let file = File::create(log).map_err(while_doing(log.display()))?;
    tied.stderr(file.try_clone().map_err(while_doing(log.display()))?).stdout(file);
    check(&line, Process::start(tied, LONGEST_STEP)?.wait(LONGEST_STEP)?)
}

/// Runs a command and returns what it printed, which is text.
///
/// # Errors
///
/// [`Error::Command`] if it fails.
pub fn output(command: &mut Command) -> Result<String, Error> {
    let mut text = String::new();
    lines(command, |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    Ok(text)
}

/// Runs a command, shows what it prints, and calls `each` with every line of it.
///
/// # Errors
///
/// [`Error::Command`] if it fails.
pub fn show(command: &mut Command, mut each: impl FnMut(&str)) -> Result<(), Error> {
    lines(command, |line| {
        // A closed terminal is no reason to stop testing.
        let _ = writeln!(io::stdout(), "{line}");
        each(line);
    })
}

fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<(), Error> {
    let (mut tied, line) = tie(command);
    tied.stdout(Stdio::piped());
    let process = Process::start(tied, LONGEST_STEP)?;
    let pipe = process.child().stdout.take();
    let mut pipe = BufReader::new(pipe.map_or_else(
        || Box::new(io::empty()) as Box<dyn Read>,
        |pipe| Box::new(pipe) as Box<dyn Read>,
    ));
    let mut buffer = Vec::new();
    while pipe.read_until(b'\n', &mut buffer).map_err(while_doing(&line))? > 0 {
        each(String::from_utf8_lossy(&buffer).trim_end_matches(['\n', '\r']));
        buffer.clear();
        process::check_interrupt()?;
    }
    check(&line, process.wait(LONGEST_STEP)?)
}

fn check(line: &str, status: ExitStatus) -> Result<(), Error> {
    if status.success() {
        return Ok(());
    }
    // Ctrl-C reaches the command before it reaches us; then it is not the command's fault.
    process::check_interrupt()?;
    Err(Error::Command { line: line.to_owned(), status })
}

/// The same command, ended with us and without our input; and its line for error messages.
fn tie(command: &Command) -> (Command, String) {
    let mut tied = process::tied(command.get_program());
    tied.args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        tied.current_dir(folder);
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    (tied, words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failed_command_is_named() {
        let error = run(&mut shell("exit 3")).unwrap_err();
        assert_eq!(error.to_string(), "exit status: 3: sh -c exit 3");
    }

    #[test]
    fn output_is_what_was_printed() {
        assert_eq!(output(&mut shell("echo one; printf two")).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn no_command_waits_for_input() {
        assert_eq!(output(&mut shell("cat; echo end")).unwrap(), "end\n");
    }

    #[test]
    fn environment_and_folder_are_kept() {
        let mut command = shell("echo $NAME; pwd");
        command.env("NAME", "value").current_dir("/");
        assert_eq!(output(&mut command).unwrap(), "value\n/\n");
    }
}
