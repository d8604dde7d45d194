//! Where a connection goes, how long it may take, and the buffers all connections share.

use alloc::boxed::Box;
use alloc::vec;
use core::net::SocketAddrV4;
use core::time::Duration;

use libos::tls::{RECORD_BYTES, SEAL_OVERHEAD};

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The handshake, from the connection's beginning.
    pub handshake: Duration,
    /// The backend's acceptance, from the first plaintext byte; waiting for a place counts.
    pub connect: Duration,
    /// Silence of both sides.
    pub idle: Duration,
    /// The whole connection.
    pub lifetime: Duration,
    /// The end: until the last bytes are acknowledged and the other side has closed.
    pub closing: Duration,
}

/// Where a connection goes, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whom the plaintext is for.
    pub backend: SocketAddrV4,
    /// How long things may take.
    pub limits: Limits,
}

/// Buffers that all connections of one executor share, for the length of one step each.
pub struct Workspace {
    pub(crate) plaintext: Box<[u8]>,
    pub(crate) sealed: Box<[u8]>,
}

impl Workspace {
    /// Buffers for a record each way.
    pub fn new() -> Self {
        Self {
            plaintext: vec![0; RECORD_BYTES].into(),
            sealed: vec![0; RECORD_BYTES + SEAL_OVERHEAD].into(),
        }
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}
