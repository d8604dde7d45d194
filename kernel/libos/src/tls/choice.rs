//! Which of two settings a client meets, and what is kept of the handshake with the second ones.

use alloc::sync::Arc;

use rustls::HandshakeKind;
use rustls::server::{ServerConfig, UnbufferedServerConnection};

use super::client_hello::{ClientHello, Gathered, Gathering, join};
use super::exporter::{EXPORTER_BYTES, Slot, channel_binding};
use super::{Incompatible, Internal, TlsError};

/// The second settings, for as long as the client may still turn out to want them.
pub(super) struct Choice {
    config: Arc<ServerConfig>,
    gathering: Gathering,
}

/// A connection with the second settings.
pub(super) struct Attested {
    config: Arc<ServerConfig>,
    slot: Arc<Slot>,
}

impl Choice {
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        Self { config, gathering: Gathering::default() }
    }

    /// Takes one more record into account.
    pub(super) fn follow(&mut self, record: &[u8]) -> Gathered {
        self.gathering.follow(record)
    }

    /// The second settings, if the message in these records asks for them.
    pub(super) fn make(self, records: &[u8]) -> Option<Attested> {
        let message = join(records)?;
        let hello = ClientHello::parse(&message)?;
        if !self.config.alpn_protocols.iter().any(|protocol| hello.offers(protocol)) {
            return None;
        }
        // Settings of its own for each connection: no secret can get into another one's place.
        let slot = Arc::new(Slot::default());
        let mut config = ServerConfig::clone(&self.config);
        config.key_log = slot.clone();
        Some(Attested { config: Arc::new(config), slot })
    }
}

impl Attested {
    pub(super) fn connect(&self) -> Result<UnbufferedServerConnection, TlsError> {
        Ok(UnbufferedServerConnection::new(self.config.clone())?)
    }

    /// Derives the connection's name once its secret is there, and erases the secret.
    ///
    /// A second message of the client's may have taken back what the first one offered.
    pub(super) fn name(
        &self,
        connection: &UnbufferedServerConnection,
    ) -> Result<Option<[u8; EXPORTER_BYTES]>, TlsError> {
        let Some(secret) = self.slot.take() else { return Ok(None) };
        let is_agreed = connection
            .alpn_protocol()
            .is_some_and(|agreed| self.config.alpn_protocols.iter().any(|ours| ours == agreed));
        if !is_agreed {
            return Err(TlsError::Incompatible(Incompatible::ApplicationProtocol));
        }
        let broken = TlsError::Internal(Internal::Other);
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            return Err(broken);
        }
        let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.tls13());
        let name = suite.and_then(|suite| channel_binding(suite, &secret));
        name.map(Some).ok_or(broken)
    }
}
