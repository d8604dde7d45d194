//! TLS as the rest of the system sees it: received bytes in, plaintext out, and the way back.
//!
//! No socket is touched here and nothing waits. The one implementation drives rustls 0.23 through
//! its unbuffered interface, the last line that builds without std; nothing above this module
//! knows that, so another library can take its place.

mod choice;
pub mod client_hello;
mod error;
mod exporter;
pub mod identity;
mod incoming;
mod server;
mod settings;

pub use self::error::{Alert, Incompatible, Internal, Misbehaved, NotTls, TlsError};
pub use self::exporter::EXPORTER_BYTES;
pub use self::server::ServerSession;
pub use self::settings::{ServerSettings, SettingsError, WallClock};

/// The most plaintext one record carries (RFC 8446 section 5.1).
pub const RECORD_BYTES: usize = 16384;

/// What [`Session::seal`] may add to the plaintext: header, content type and tag of the record
/// (22 bytes), and up to two key updates (27 bytes each) that must go before it.
pub const SEAL_OVERHEAD: usize = 96;

/// The most received TLS bytes that one connection holds: a whole record and the beginning of a
/// handshake message before it. A longer handshake message is refused, not collected.
pub const INCOMING_BYTES: usize = 20 << 10;

/// What an open connection without unfinished business may hold in received bytes' buffers.
pub const INCOMING_KEPT_BYTES: usize = 512;

/// What was agreed in the handshake, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The cipher suite's name.
    pub suite: &'static str,
    /// The name of the group the keys were exchanged in.
    pub group: &'static str,
}

/// One side of a TLS connection, without the connection.
///
/// The peer's bytes go into [`Session::space`] and are announced by [`Session::received`]. At most
/// one record is decrypted at a time: while its plaintext is not taken, the session offers no
/// space, and so TCP's window closes. What must go to the peer is in [`Session::outgoing`] and in
/// what [`Session::seal`] returns, in the order of these calls.
pub trait Session {
    /// Where the peer's next bytes belong. It is empty while no more are wanted: plaintext waits
    /// to be taken, the peer has closed, or the session failed.
    fn space(&mut self) -> &mut [u8];

    /// Says that `count` bytes were put into [`Session::space`].
    ///
    /// Plaintext goes to `sink`, which says how much it took; the rest is kept for
    /// [`Session::deliver`].
    ///
    /// # Errors
    ///
    /// [`TlsError`], once. The alert for the peer, if there is one, is in [`Session::outgoing`].
    fn received(
        &mut self,
        count: usize,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<(), TlsError>;

    /// Whether plaintext waits to be taken.
    fn has_plaintext(&self) -> bool;

    /// Offers plaintext that was left over once more.
    fn deliver(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize);

    /// Seals up to [`RECORD_BYTES`] of plaintext into `sealed`, which is at least
    /// [`SEAL_OVERHEAD`] longer, and returns how many bytes that made.
    ///
    /// # Errors
    ///
    /// [`TlsError::Internal`] if the handshake is not complete, we have closed, `sealed` is too
    /// small, or [`Session::outgoing`] has not been sent.
    fn seal(&mut self, plaintext: &[u8], sealed: &mut [u8]) -> Result<usize, TlsError>;

    /// Queues a `close_notify`. Twice is once, and after an alert it is nothing.
    fn close(&mut self);

    /// Handshake messages and alerts that wait to be sent.
    fn outgoing(&self) -> &[u8];

    /// Says that the first `count` bytes of [`Session::outgoing`] were sent.
    fn sent(&mut self, count: usize);

    /// Whether the handshake is complete and nothing has failed.
    fn is_open(&self) -> bool;

    /// Whether the peer said that it sends no more, by `close_notify`.
    fn has_peer_closed(&self) -> bool;

    /// What was agreed, once the handshake is complete.
    fn parameters(&self) -> Option<Parameters>;

    /// What names this connection and nobody else can know (RFC 9266), once the handshake is
    /// complete, if it was of the kind that [`ServerSettings::with_attestation`] speaks of.
    fn exporter(&self) -> Option<[u8; EXPORTER_BYTES]>;

    /// Gives buffers back that hold nothing. For when the connection goes to sleep.
    fn rest(&mut self);
}

#[cfg(test)]
mod client;
#[cfg(test)]
mod tests;
