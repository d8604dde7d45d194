//! Quotes: the one thing that the TPM still does for the service.
//!
//! Boot left an attestation key in the TPM and its one command in the gate. The service gives 32
//! bytes and gets, some time later, the TPM's signed answer about them and about what was measured;
//! it can neither see nor change anything else of the command.

#[cfg(any(test, target_os = "none"))]
pub(crate) mod gate;

#[cfg(target_os = "none")]
pub use gate::GateQuoter;

use alloc::vec::Vec;

/// What became of the wish for a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The TPM computes; [`Quoter::poll`] tells when it is done.
    Started,
    /// An earlier quote has not been fetched, or the TPM takes no command at the moment.
    Busy,
    /// There is no TPM.
    Absent,
}

/// What there is of a quote that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Pending,
    /// The TPM's whole response, header included. It may say that the TPM refused.
    Ready(Vec<u8>),
    /// There is none, or it is not a response: nothing was begun, or the TPM failed.
    Failed,
}

/// Somebody who gets quotes from a TPM, one at a time.
pub trait Quoter {
    /// Begins a quote over 32 bytes. Never waits for the TPM to compute.
    fn begin(&mut self, qualifying: &[u8; 32]) -> Begin;

    /// Looks whether the quote that was begun is there. A quote that is there stays so until the next
    /// one is begun.
    fn poll(&mut self) -> Answer;
}
