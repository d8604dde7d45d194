//! Evidence for clients that ask for it: the protocol `bulla-attest/1`, apart from connections.
//!
//! Right after the handshake such a client sends one nonce, and nothing else before the answer. The
//! desk collects nonces and lets the TPM sign over several of them at once; the connection then goes
//! on as any other. A TPM is slow and does one thing at a time, so everything here is bounded: who
//! may ask, how many wait, how often there is a quote, how long one may take, and how many answers
//! are kept for clients that read slowly.

mod desk;
mod request;
mod tpm;

use alloc::vec::Vec;
use core::fmt;

use attest_core::{Sha256, binding, evidence};
use libos::attest::Begin;

pub use self::desk::{Answered, Counters, Desk, Ticket, Visitor};
pub(crate) use self::request::Request;
pub use self::tpm::TpmWitness;

/// The application protocol (ALPN) by which a client asks.
pub const PROTOCOL: &[u8] = binding::PROTOCOL.as_bytes();

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = binding::NONCE_BYTES;

/// How many leaves one quote may be over.
pub const MAX_LEAVES: usize = binding::MAX_LEAVES;

/// The longest evidence.
pub const MAX_EVIDENCE_BYTES: usize = evidence::MAX_BYTES;

const _: () = assert!(MAX_EVIDENCE_BYTES as u64 <= edge_config::budget::EVIDENCE_BYTES);

/// What a connection's nonce becomes in a quote.
pub type Leaf = Sha256;

/// Who signs, and makes evidence of what was signed.
pub trait Witness {
    /// The leaf of a connection that the client names by `nonce` and both ends by `exporter`.
    fn leaf(&self, nonce: &[u8; 32], exporter: &[u8; 32]) -> Leaf;

    /// Starts a quote over leaves in ascending order, 1 to [`MAX_LEAVES`] of them, each once.
    fn begin(&mut self, leaves: &[Leaf]) -> Begin;

    /// Looks after the quote that was started last.
    fn poll(&mut self) -> Progress;
}

/// How far a quote is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The TPM refused, or its answer is none to these leaves.
    Failed,
    /// It is not ready.
    Pending,
    /// The evidence for all of its leaves.
    Ready(Vec<u8>),
}

/// Why a client that asked gets no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEvidence {
    /// There is no TPM.
    Absent,
    /// As many clients wait as may.
    Crowded,
    /// The TPM did not sign, or nothing that is evidence.
    Failed,
    /// The client is not among those that may ask.
    NotListed,
    /// It took too long.
    Slow,
}

/// How a client broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It sent more than its request before the answer.
    Early,
    /// Its request is for a nonce of that many bytes.
    Length(u32),
}

impl fmt::Display for NoEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "there is no TPM",
            Self::Crowded => "too many clients wait for evidence",
            Self::Failed => "the TPM failed",
            Self::NotListed => "client is not listed",
            Self::Slow => "the TPM is too slow",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Early => f.write_str("data before the answer"),
            Self::Length(bytes) => write!(f, "a nonce of {bytes} bytes, not {NONCE_BYTES}"),
        }
    }
}
