//! The command line: what there is, and how a run ends.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{enroll, eventlog, explain, policy, predict, seal_key, verify};
use crate::error::{Class, Error};
use crate::units::plain;

/// What a command has to say.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What goes to standard output.
    pub(crate) text: String,
    /// The class in which it failed, if it did although there is something to say.
    pub(crate) failed: Option<Class>,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, failed: None }
    }
}

/// Predicts what an image's measurements will be, enrols machines, seals keys to them, and verifies
/// what they say about themselves.
#[derive(Debug, Parser)]
#[command(
    name = "attest",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 the answer is good, 1 usage, files or network, 2 the evidence is \
                  invalid,\n3 its key is not trusted, 4 it is not fresh or not bound to this \
                  connection, 5 policy.\n\nexample: attest predict edge-proxy.efi"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(verify::Options),
    Predict(predict::Options),
    Policy(policy::Options),
    Enroll(enroll::Options),
    SealKey(seal_key::Options),
    Eventlog(eventlog::Options),
    Explain(explain::Options),
    /// Writes a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual page, in roff
    Man,
}

/// Runs a command line, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match Cli::try_parse_from(arguments) {
        Ok(cli) => answer(&cli.command),
        Err(error) => usage(&error),
    };
    match result.and_then(|answer| print(&answer.text).map(|()| answer.failed)) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(class)) => class.code(),
        Err(error) => {
            let hint = plain(error.hint());
            // There is nobody left to tell if this fails.
            let _done = writeln!(io::stderr(), "attest: error: {error}\nhint: {hint}");
            error.class().code()
        }
    }
}

/// Help and version are answers; anything else that the parser says is a complaint.
fn usage(error: &clap::Error) -> Result<Answer, Error> {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return Ok(text.into());
    }
    let text = text.trim_start_matches("error: ");
    let complaint = text.lines().next().unwrap_or_default();
    Err(Error::Usage(complaint.to_owned()))
}

fn answer(command: &Command) -> Result<Answer, Error> {
    match command {
        Command::Verify(options) => verify::run(options),
        Command::Predict(options) => predict::run(options),
        Command::Policy(options) => policy::run(options),
        Command::Enroll(options) => enroll::run(options),
        Command::Eventlog(options) => eventlog::run(options),
        Command::Explain(options) => explain::run(options),
        Command::SealKey(options) => seal_key::run(options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "attest", &mut script);
            Ok(String::from_utf8_lossy(&script).into_owned().into())
        }
        Command::Man => {
            let mut page = Vec::new();
            manual(&mut page).map_err(Error::Output)?;
            Ok(String::from_utf8_lossy(&page).into_owned().into())
        }
    }
}

/// One page: the program, then each command with its options.
fn manual(page: &mut Vec<u8>) -> io::Result<()> {
    let mut program = Cli::command();
    program.build();
    clap_mangen::Man::new(program.clone()).render(page)?;
    for command in program.get_subcommands().filter(|it| it.get_name() != "help") {
        writeln!(page, ".SH \"ATTEST {}\"", command.get_name().to_uppercase())?;
        let man = clap_mangen::Man::new(command.clone());
        man.render_description_section(page)?;
        man.render_options_section(page)?;
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}
