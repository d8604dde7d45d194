//! Why there is no good answer, and with which exit code the program says so.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::units::plain;

/// The classes of failure, which are the exit codes. The order is the order of trust: a program
/// that failed in several ways ends with the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The command line, a file or the network.
    Usage = 1,
    /// The evidence is not evidence.
    Evidence = 2,
    /// Nobody we trust vouches for the key.
    Key = 3,
    /// The evidence is old, or of another connection.
    Fresh = 4,
    /// It is genuine, and not what the policy asks for.
    Policy = 5,
}

impl Class {
    /// The exit code.
    pub fn code(self) -> ExitCode {
        ExitCode::from(self.number())
    }

    /// What it means.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Usage => "usage, files or network",
            Self::Evidence => "the evidence is invalid",
            Self::Key => "its key is not trusted",
            Self::Fresh => "it is not fresh, or not bound to this connection",
            Self::Policy => "it is not what the policy demands",
        }
    }

    /// The exit code as a number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Usage => 1,
            Self::Evidence => 2,
            Self::Key => 3,
            Self::Fresh => 4,
            Self::Policy => 5,
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// A check failed, for a reason that is a class of its own.
    Failed {
        /// Which class.
        class: Class,
        /// What failed.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file could not be read or written.
    File(PathBuf, io::Error),
    /// A file does not hold what it should.
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The answer could not be written.
    Output(io::Error),
    /// The command line makes no sense.
    Usage(String),
}

impl Error {
    /// The class, and hence the exit code.
    pub fn class(&self) -> Class {
        match self {
            Self::Failed { class, .. } => *class,
            Self::File(..) | Self::Format { .. } | Self::Output(_) | Self::Usage(_) => Class::Usage,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Failed { hint, .. } | Self::Format { hint, .. } => hint,
            Self::File(..) | Self::Output(_) => "check the path and its rights",
            Self::Usage(_) => "`attest help`",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Paths and details may hold bytes that somebody hostile chose.
        match self {
            Self::Failed { what, .. } => f.write_str(&plain(what)),
            Self::File(path, error) => write!(f, "{}: {error}", plain(&path.to_string_lossy())),
            Self::Format { path, what, .. } => {
                write!(f, "{}: {}", plain(&path.to_string_lossy()), plain(what))
            }
            Self::Output(error) => write!(f, "the answer could not be written: {error}"),
            Self::Usage(complaint) => f.write_str(&plain(complaint)),
        }
    }
}

impl std::error::Error for Error {}
