//! What can go wrong with a machine or with the programs around it.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

/// Why a machine, or a program beside it, could not do what was asked.
#[derive(Debug)]
pub enum Error {
    /// The machine ended, or closed its console, before the awaited line came.
    Ended {
        /// The line that was waited for.
        awaited: String,
        /// The console so far.
        console: String,
    },
    /// A file could not be used.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No firmware file where Debian puts it.
    Firmware(PathBuf),
    /// Somebody wants us to stop.
    Interrupted,
    /// The image is no ELF file with a PVH entry.
    NoEntry(PathBuf),
    /// The QEMU monitor answered something else.
    Monitor(String),
    /// A program could not be started.
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// What was waited for did not come.
    TimedOut {
        /// What that was.
        what: String,
        /// How long we waited.
        timeout: Duration,
    },
}

impl Error {
    /// An error about the file at `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { awaited, console } => {
                write!(f, "the machine ended before it said {awaited:?}; it said:\n{console}")
            }
            Self::File { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Firmware(path) => write!(f, "no firmware at {}", path.display()),
            Self::Interrupted => write!(f, "interrupted"),
            Self::NoEntry(path) => write!(f, "{}: no PVH entry", path.display()),
            Self::Monitor(answer) => write!(f, "unexpected answer of the monitor: {answer}"),
            Self::Start { program, source } => write!(f, "cannot start {program}: {source}"),
            Self::TimedOut { what, timeout } => {
                write!(f, "waited {} ms in vain for {what}", timeout.as_millis())
            }
        }
    }
}

impl std::error::Error for Error {}
