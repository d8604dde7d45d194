//! The connection to the backend.

use libos::clock::Instant;
use libos::stream::{DialError, Stream};

use super::visit::Visit;

/// The connection to the backend. There is none before there is something to say.
pub(super) enum Backend<B> {
    Unneeded,
    NoPlace { since: Instant, error: DialError },
    Connecting { since: Instant, stream: B },
    Open(B),
}

impl<B: Stream> Backend<B> {
    pub(super) fn stream(&mut self) -> Option<&mut B> {
        match self {
            Self::Unneeded | Self::NoPlace { .. } => None,
            Self::Connecting { stream, .. } | Self::Open(stream) => Some(stream),
        }
    }

    /// Whether reading from the client makes sense: before there is a backend it does, for the
    /// handshake and the first plaintext.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::Unneeded => true,
            Self::NoPlace { .. } | Self::Connecting { .. } => false,
            Self::Open(stream) => stream.room() > 0,
        }
    }
}

/// What plaintext goes to: the backend, as far as it has room, or nobody yet. Before the backend
/// comes the desk, where there is a visit.
pub(super) fn sink<B: Stream>(
    visit: &mut Visit,
    backend: &mut Backend<B>,
    bytes: &mut u64,
) -> impl FnMut(&[u8]) -> usize {
    move |plaintext| match backend {
        _ if !matches!(visit, Visit::Over) => {
            visit.take(plaintext);
            plaintext.len()
        }
        Backend::Open(stream) => {
            let count = stream.write(plaintext);
            *bytes += count as u64;
            count
        }
        Backend::Unneeded | Backend::NoPlace { .. } | Backend::Connecting { .. } => 0,
    }
}
