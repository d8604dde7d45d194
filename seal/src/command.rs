//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::prelude::{Long, Short, Value};

use crate::audit::audit;
use crate::file::Unreadable;
use crate::units::wide;
use crate::{explain, text};

/// What `seal help` prints.
pub const USAGE: &str = "\
usage: seal COMMAND IMAGE

  audit [--json] IMAGE   proves from the file alone that its machine will be sealed
  explain IMAGE          draws the sealed address space

An image is what `cargo xtask image` writes: NAME.elf or NAME.efi, signed or not.
Exit status of audit: 0 every property holds, 1 one does not, 2 no answer.

example: seal audit edge-proxy.elf
";

/// The largest file that is read. A service has at most 64 MiB and a payload 16.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// No answer could be given.
const NO_ANSWER: u8 = 2;

/// Why there is no answer.
#[derive(Debug)]
enum Error {
    /// It is no image that could be drawn.
    Incomplete(PathBuf),
    /// It could not be read.
    Read(PathBuf, io::Error),
    /// It is too large.
    TooLarge(PathBuf),
    /// It is no file of an image's kind for this CPU.
    Unreadable(PathBuf, Unreadable),
    /// The command line makes no sense.
    Usage(String),
    /// The answer could not be written.
    Write(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete(path) => {
                write!(f, "{}: manifest or configuration cannot be read", path.display())
            }
            Self::Read(path, error) => write!(f, "{}: {error}", path.display()),
            Self::TooLarge(path) => {
                write!(f, "{}: more than {MAX_IMAGE_BYTES} bytes", path.display())
            }
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Usage(complaint) => f.write_str(complaint),
            Self::Write(error) => write!(f, "the answer could not be written: {error}"),
        }
    }
}

impl Error {
    fn hint(&self) -> &'static str {
        match self {
            Self::Incomplete(_) => "`seal audit IMAGE` says what is wrong with it",
            Self::Unreadable(..) => {
                "an image is the NAME.elf or NAME.efi that `cargo xtask image` writes"
            }
            Self::Read(..) | Self::TooLarge(_) | Self::Usage(_) | Self::Write(_) => "`seal help`",
        }
    }
}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs a command line, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match answer(arguments).and_then(|(text, is_good)| print(&text).map(|()| is_good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is nobody left to tell if this fails.
            let _done = writeln!(
                io::stderr(),
                "seal: error: {}\nhint: {}",
                text::plain(&error.to_string()),
                error.hint()
            );
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Write)
}

/// What to print, and whether it is good news.
fn answer(arguments: impl IntoIterator<Item = OsString>) -> Result<(String, bool), Error> {
    let mut parser = lexopt::Parser::from_iter(arguments);
    let (mut command, mut image, mut is_json, mut wants_help) = (None, None, false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => wants_help = true,
            Long("json") => is_json = true,
            Value(value) if command.is_none() => command = Some(value),
            Value(value) if image.is_none() => image = Some(PathBuf::from(value)),
            other => return Err(other.unexpected().into()),
        }
    }
    let command = command.unwrap_or_default();
    let command = command.to_string_lossy();
    if wants_help || command == "help" {
        return Ok((USAGE.to_owned(), true));
    }
    match (&*command, image) {
        ("audit", Some(image)) => audit_file(&image, is_json),
        ("explain", Some(image)) if !is_json => explain_file(&image),
        ("explain", Some(_)) => Err(Error::Usage("explain has no --json".to_owned())),
        ("audit" | "explain", None) => Err(Error::Usage("which image?".to_owned())),
        ("", _) => Err(Error::Usage("no command".to_owned())),
        (other, _) => Err(Error::Usage(format!("no command {other:?}"))),
    }
}

fn audit_file(path: &Path, is_json: bool) -> Result<(String, bool), Error> {
    let bytes = read(path)?;
    let unreadable = |error| Error::Unreadable(path.to_owned(), error);
    let report = audit(&bytes).map_err(unreadable)?;
    let image = path.display().to_string();
    let text =
        if is_json { format!("{}\n", report.to_json(&image)) } else { report.to_text(&image) };
    Ok((text, report.is_sealed()))
}

fn explain_file(path: &Path) -> Result<(String, bool), Error> {
    let bytes = read(path)?;
    let unreadable = |error| Error::Unreadable(path.to_owned(), error);
    let report = audit(&bytes).map_err(unreadable)?;
    let table = explain::table(&path.display().to_string(), &report);
    table.map(|table| (table, true)).ok_or_else(|| Error::Incomplete(path.to_owned()))
}

/// Reads a file of bounded size, whatever it says its size is.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::Read(path.to_owned(), error);
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let limit = MAX_IMAGE_BYTES.saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if wide(bytes.len()) > MAX_IMAGE_BYTES {
        return Err(Error::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}
