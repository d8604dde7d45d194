//! `cargo xtask`: see the usage below.

#![forbid(unsafe_code)]

use std::env::ArgsOs;
use std::ffi::OsString;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use machine::process;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xtask::steps::{Error, while_doing};
use xtask::{attack, build, demo, fuzz, image, install, run, symbolize, test, tidy};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo [--keep]                a sealed machine in front of a real web server, from nothing to curl
  test [FILTER] [--long]       everything that must hold; FILTER: only tests whose name contains it
  build                        boot, the applications and the probe, for the machine
  image APP --config F --out D [--disk [--key-file K] [--challenge C]]
                               an image from an application and its configuration, for a PVH loader
                               and for UEFI firmware; with --disk also a disk that firmware boots
  run APP --config F [--qemu-arg ARG ..]
                               boots an image in QEMU, its console on the terminal
  attack [--json] [FILTER]     everything that is forbidden, tried by a program in the machine
  fuzz [TARGET] [--minutes N] [--seconds N] [--list]
                               hostile inputs, made by libFuzzer; without a target, all of them
  symbolize ..                 the functions and lines that a crash record names
  tidy [--write]               the rules that a compiler does not check
  install                      the programs that all of this needs

example: cargo xtask demo --keep
";

/// What a shell says of a process that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// Whoever does not end in this time after Ctrl-C is ended.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let result = end_on_signals().and_then(|()| dispatch(std::env::args_os()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Machine(machine::Error::Interrupted)) => {
            eprintln!("xtask: interrupted; nothing is left running");
            ExitCode::from(INTERRUPTED)
        }
        Err(error @ Error::Usage(_)) => {
            eprintln!("xtask: error: {error}\nhint: `cargo xtask help`");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("xtask: error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Lets every wait end on the first signal, so that what was started and written is taken away;
/// whoever hangs in something else is ended soon after. The kernel then kills our children.
fn end_on_signals() -> Result<(), Error> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(while_doing("signals"))?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            process::interrupt();
            thread::sleep(PATIENCE);
            std::process::exit(INTERRUPTED.into());
        }
    });
    Ok(())
}

fn dispatch(mut arguments: ArgsOs) -> Result<(), Error> {
    let _program = arguments.next();
    let command = arguments.next().unwrap_or_default();
    match command.to_str().unwrap_or_default() {
        "attack" => attack::run(&attack_options(arguments)?),
        "build" => {
            let guest = nothing_more(arguments).and_then(|()| build::guest())?;
            println!("{}\n{}", guest.boot.display(), guest.edge_proxy.display());
            println!("{}", guest.probe.display());
            Ok(())
        }
        "demo" => demo::run(flag(arguments, "keep")?),
        "fuzz" => fuzz::run(&fuzz::options(arguments)?),
        "image" => image::command(arguments, build::guest),
        "install" => nothing_more(arguments).and_then(|()| install::tools()),
        "run" => run::command(arguments),
        "symbolize" => symbolize::command(arguments),
        "test" => test::run(&test_options(arguments)?),
        "tidy" => tidy::check(flag(arguments, "write")?),
        "" => Err(Error::Usage("no command".to_owned())),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(Error::Usage(format!("no command {other:?}"))),
    }
}

fn nothing_more(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    match lexopt::Parser::from_args(arguments).next()? {
        None => Ok(()),
        Some(argument) => Err(argument.unexpected().into()),
    }
}

/// Whether the only argument there may be is there.
fn flag(arguments: impl IntoIterator<Item = OsString>, name: &str) -> Result<bool, Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut is_set = false;
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long(seen) if seen == name => is_set = true,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(is_set)
}

fn test_options(arguments: impl IntoIterator<Item = OsString>) -> Result<test::Options, Error> {
    use lexopt::prelude::{Long, Value, ValueExt};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = test::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("long") => options.is_long = true,
            Value(filter) if options.filter.is_none() => options.filter = Some(filter.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

fn attack_options(arguments: impl IntoIterator<Item = OsString>) -> Result<attack::Options, Error> {
    use lexopt::prelude::{Long, Value, ValueExt};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = attack::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => options.is_json = true,
            Value(filter) if options.filter.is_none() => options.filter = Some(filter.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}
