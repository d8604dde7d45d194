//! `cargo xtask run`: composes an image and boots it, its console on the terminal.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;

use machine::process::Process;
use machine::qemu::Builder;
use machine::{Machine, Net};
use tempfile::TempDir;

use crate::image::{self, BuildDate};
use crate::steps::{Error, LONGEST_STEP, while_doing};
use crate::{build, install};

/// Memory of the machine, unless the image needs more or `--qemu-arg` says otherwise.
const LEAST_MEMORY_MIB: u64 = 64;

#[derive(Debug, Default)]
struct Options {
    app: String,
    config: PathBuf,
    qemu: Vec<String>,
}

/// Does what the command line says, until the machine is off.
///
/// # Errors
///
/// [`Error`] if the command line is wrong, the image cannot be made or QEMU fails.
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    let options = parse(arguments)?;
    install::tools()?;
    let folder = TempDir::with_prefix("bulla-run-").map_err(while_doing("temporary folder"))?;
    let image = [options.app.into(), "--config".into(), options.config.clone().into_os_string()];
    let out = ["--out".into(), folder.path().as_os_str().to_owned()];
    image::command(image.into_iter().chain(out), build::guest)?;
    // The command above has read the same file and found it good.
    let edge = image::edge::read(&options.config, BuildDate::now()?.unix_s)
        .map_err(|error| Error::Failed(error.to_string()))?;
    let heap_mib = edge.budget.heap() >> 20;
    let machine = Machine::builder(folder.path().join("edge-proxy.elf"))
        .memory_mib(LEAST_MEMORY_MIB.max(heap_mib + heap_mib / 4))
        .net(Net::User { ports: edge.config.listeners.iter().map(|each| each.port).collect() })
        .extra_args(options.qemu);
    let status = boot(&machine)?;
    if status.success() { Ok(()) } else { Err(Error::Failed(format!("QEMU: {status}"))) }
}

fn boot(machine: &Builder) -> Result<ExitStatus, Error> {
    let (command, forwards) = machine.command()?;
    for (guest, host) in forwards {
        println!("port {guest} of the machine is {host}; Ctrl-C ends it");
    }
    Ok(Process::start(command, LONGEST_STEP)?.wait(LONGEST_STEP)?)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, Error> {
    use lexopt::prelude::{Long, Value, ValueExt};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") => options.config = parser.value()?.into(),
            Long("qemu-arg") => options.qemu.push(parser.value()?.string()?),
            Value(app) if options.app.is_empty() => options.app = app.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    if options.app.is_empty() {
        return Err(Error::Usage("run: which application? for instance edge-proxy".to_owned()));
    }
    if options.config.as_os_str().is_empty() {
        return Err(Error::Usage("run: --config FILE is missing".to_owned()));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_understood() {
        let options = parsed("edge-proxy --config a.toml --qemu-arg -m --qemu-arg=512").unwrap();
        assert_eq!((options.app.as_str(), options.config), ("edge-proxy", "a.toml".into()));
        assert_eq!(options.qemu, ["-m", "512"]);
    }

    #[track_caller]
    fn check(line: &str, expected: &str) {
        assert_eq!(parsed(line).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        check("--config a", "run: which application? for instance edge-proxy");
        check("edge-proxy", "run: --config FILE is missing");
        check("edge-proxy more --config a", "unexpected argument \"more\"");
        check("edge-proxy --colour", "invalid option '--colour'");
    }
}
