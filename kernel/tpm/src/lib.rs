//! TPM 2.0 as boot needs it: two register interfaces and some twenty commands.
//!
//! Boot talks to the TPM before the seal: it measures, makes the attestation key, opens the sealed
//! key and takes away whatever could undo that later. After the seal only the gate's one command is
//! left. Every answer is hostile input, for a bus can be interposed: lengths, tags and codes are
//! checked, loops have bounds, and what is wrong is an [`Error`] and never a panic.
//!
//! The wire format is written out by hand: twenty commands over fixed buffers are less code than a
//! table of types for all of them, and all of it is in front of the reader. Sources: TCG TPM 2.0
//! library 1.59, parts 2 (structures) and 3 (commands); TCG PC Client Platform TPM Profile 1.05
//! (interfaces).

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod commands;
mod digest;
mod endorsement;
mod interface;
pub mod key_file;
mod wire;

pub use commands::{Ak, PUBLIC_BYTES, PcrValues, Quote, Tpm, quote_command};
pub use digest::{Algorithm, Banks, Digest, Digests};
pub use endorsement::{CERTIFICATE_BYTES, CREDENTIAL_BYTES, Certificate, Secret};
pub use interface::{Crb, Either, Interface, Registers, Tis, WINDOW_BYTES};
pub use wire::{ANSWER_BYTES, COMMAND_BYTES};

/// Something that carries one command to a TPM and its answer back.
pub trait Transport {
    /// Sends `command` and waits for the answer, which is written to the front of `answer`.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if the device does not behave as its interface says.
    fn transact<'a>(
        &mut self,
        command: &[u8],
        answer: &'a mut [u8],
    ) -> Result<&'a [u8], TransportError>;
}

/// What a TPM's interface did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The command or the answer is longer than the interface's buffer, or ours.
    Buffer {
        /// How long it would be.
        bytes: u32,
    },
    /// The device reports an error of its own.
    Device,
    /// It takes more, or gives less, than it says.
    Length,
    /// Its buffers are not where this interface has them.
    Place,
    /// It is silent.
    Silent(&'static str),
}

impl core::fmt::Display for TransportError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Buffer { bytes } => write!(f, "{bytes} bytes do not fit into its buffer"),
            Self::Device => write!(f, "it reports an error of its own"),
            Self::Length => write!(f, "it does not keep to the lengths it says"),
            Self::Place => write!(f, "its buffers lie outside its registers"),
            Self::Silent(when) => write!(f, "it is silent {when}"),
        }
    }
}

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The TPM's answer is not one to the command.
    Answer(&'static str),
    /// A bank is active that boot cannot extend: whoever measured nothing into it could claim
    /// anything.
    Bank(u16),
    /// The TPM refused.
    Refused {
        /// What was asked (`TPM_CC`).
        command: u32,
        /// Why (`TPM_RC`).
        code: u32,
    },
    /// The interface failed.
    Transport(TransportError),
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Answer(what) => write!(f, "its answer is malformed: {what}"),
            Self::Bank(id) => {
                write!(f, "its bank {id:#06x} is active and cannot be extended; switch it off")
            }
            Self::Refused { command, code } => {
                write!(f, "it refused command {command:#x} with code {code:#x}")
            }
            Self::Transport(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {}
