//! What is said about a connection once it is over: one line of the log.

use core::fmt;
use core::time::Duration;

use libos::log::Escaped;
use libos::stream::DialError;
use libos::tls::{Parameters, TlsError};

use crate::attest::{NoEvidence, Violation};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client did not take the evidence in time.
    AnswerDeadline,
    /// The backend did not accept the connection in time.
    BackendDeadline,
    /// The backend refused the connection.
    BackendRefused,
    /// The backend broke the connection off.
    BackendReset,
    /// The client broke the connection off.
    ClientReset,
    /// Both sides finished.
    Completed,
    /// The client did not complete the handshake in time.
    HandshakeDeadline,
    /// Neither side sent a byte for too long.
    IdleDeadline,
    /// The client closed the connection before the handshake was complete.
    LeftInHandshake,
    /// The connection was open for as long as any may be.
    LifetimeDeadline,
    /// The client asked for evidence and there is none for it.
    NoEvidence(NoEvidence),
    /// The client closed the connection without having sent anything.
    NoRequest,
    /// A limit of ours kept the backend from being dialled.
    NotDialled(DialError),
    /// The client said that it asks for evidence, and did not in time.
    RequestDeadline,
    /// TLS failed.
    Tls(TlsError),
    /// The client asked for evidence in a way that is none.
    Violation(Violation),
}

/// How a client came to its evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attested {
    /// How many connections the quote was for.
    pub together: usize,
    /// From the request to the beginning of the answer.
    pub waited: Duration,
}

/// The first bytes that a client sent, for the line about one that does not speak TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    bytes: [u8; Self::MOST],
    length: usize,
}

impl Opening {
    /// How many bytes are kept.
    pub const MOST: usize = 8;

    /// Takes the first bytes of what has come.
    pub fn of(received: &[u8]) -> Self {
        let mut opening = Self::default();
        for (to, from) in opening.bytes.iter_mut().zip(received) {
            *to = *from;
            opening.length += 1;
        }
        opening
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// How a connection went. Of the bytes that the client chose it holds the first few, which are
/// shown escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub reason: Reason,
    /// Plaintext bytes that were passed to the backend.
    pub to_backend: u64,
    /// Plaintext bytes that were passed to the client.
    pub to_client: u64,
    /// From the connection's beginning to its end.
    pub total: Duration,
    /// From the connection's beginning to the end of the handshake.
    pub handshake: Option<Duration>,
    /// From the first plaintext byte to the backend's acceptance.
    pub connect: Option<Duration>,
    /// What was agreed in the handshake.
    pub parameters: Option<Parameters>,
    /// Set if the client was given evidence.
    pub attested: Option<Attested>,
    /// The client's first bytes.
    pub opening: Opening,
    /// Whether the client's data ended with FIN alone: it may have been cut off on the way.
    pub is_truncated: bool,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AnswerDeadline => "client took its evidence too slowly",
            Self::BackendDeadline => "backend did not answer in time",
            Self::BackendRefused => "backend refused",
            Self::BackendReset => "backend reset",
            Self::ClientReset => "client reset",
            Self::Completed => "completed",
            Self::HandshakeDeadline => "handshake took too long",
            Self::IdleDeadline => "idle for too long",
            Self::LeftInHandshake => "client left in the handshake",
            Self::LifetimeDeadline => "open for too long",
            Self::NoEvidence(why) => return write!(f, "no evidence: {why}"),
            Self::NoRequest => "client left without a request",
            Self::NotDialled(DialError::NoPlace) => "no place for a backend connection",
            Self::NotDialled(DialError::NoPort) => "no port for a backend connection",
            Self::NotDialled(DialError::NoRoute) => "no route to the backend",
            Self::RequestDeadline => "client did not ask for evidence in time",
            Self::Tls(error) => return error.fmt(f),
            Self::Violation(how) => return write!(f, "attestation request: {how}"),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, to_backend, to_client, .. } = self;
        write!(f, "{reason}; {to_backend} bytes up, {to_client} down")?;
        write!(f, "; {}", Millis(self.total))?;
        if let Some(span) = self.handshake {
            write!(f, ", handshake {}", Millis(span))?;
        }
        if let Some(span) = self.connect {
            write!(f, ", connect {}", Millis(span))?;
        }
        if let Some(Attested { together, waited }) = self.attested {
            write!(f, "; attested in {}, {together} at once", Millis(waited))?;
        }
        if let Some(Parameters { suite, group }) = self.parameters {
            write!(f, "; {suite} {group}")?;
        }
        if let Reason::Tls(TlsError::NotTls(_)) = reason {
            write!(f, "; began with {}", Escaped(self.opening.bytes()))?;
        }
        if self.is_truncated {
            f.write_str("; FIN without close_notify")?;
        }
        Ok(())
    }
}

/// A span in milliseconds with one decimal.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{} ms", micros / 1000, micros % 1000 / 100)
    }
}
