//! What a server brings to every handshake: who it is and what it accepts.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use rustls::InconsistentKeys;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ServerConfig, UnbufferedServerConnection};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;

use super::choice::Choice;
use super::identity::MAX_CHAIN;
use super::{ServerSession, TlsError};

/// The most bytes all certificates of a chain may have: they are sent in every handshake and
/// queued as long as the peer does not read them.
const MAX_CHAIN_BYTES: usize = 32 << 10;

/// The wall clock.
pub trait WallClock: fmt::Debug + Send + Sync {
    /// Seconds since 1970-01-01 UTC, or `None` if nobody knows.
    fn unix_seconds(&self) -> Option<u64>;
}

/// The server's certificate, key and preferences, checked once and shared by all connections.
#[derive(Clone)]
pub struct ServerSettings {
    config: Arc<ServerConfig>,
    /// For clients that offer the one protocol it names.
    attested: Option<Arc<ServerConfig>>,
    public_key: Arc<[u8]>,
}

/// Why settings cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// The first certificate cannot be read.
    Certificate,
    /// There are that many certificates, which is none or too many.
    ChainLength(usize),
    /// The certificates have that many bytes, too many to send each time.
    ChainTooLong(usize),
    /// The key is neither PKCS#8 nor SEC1 nor PKCS#1, or of a kind we cannot sign with.
    Key,
    /// The key is not the one in the first certificate.
    KeyMismatch,
    /// An application protocol's name is empty or longer than 255 bytes.
    Protocol,
    /// The TLS library refuses.
    Unsupported,
}

impl ServerSettings {
    /// Settings for TLS 1.3 with a chain of DER certificates, the leaf first, and its private key.
    ///
    /// If `protocols` are given, a client that offers application protocols must offer one of
    /// them (RFC 7301).
    ///
    /// # Errors
    ///
    /// [`SettingsError`] with the first thing that is wrong.
    pub fn new(
        chain: &[&[u8]],
        key: &[u8],
        protocols: &[&[u8]],
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, SettingsError> {
        let identity = identity(chain, key)?;
        let public_key = identity.key.public_key().ok_or(SettingsError::Key)?;
        let public_key = Arc::from(public_key.as_ref());
        if protocols.iter().any(|name| !(1..=255).contains(&name.len())) {
            return Err(SettingsError::Protocol);
        }
        let mut config =
            ServerConfig::builder_with_details(Arc::new(provider()), Arc::new(Clock(clock)))
                .with_protocol_versions(&[&TLS13])
                .map_err(|_| SettingsError::Unsupported)?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.ignore_client_order = true;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self { config: Arc::new(config), attested: None, public_key })
    }

    /// The same settings, and besides them others for clients that offer `protocol`.
    ///
    /// With such a client that protocol is agreed, and [`Session::exporter`](super::Session) names
    /// the connection. It is never resumed, and nothing is received before the handshake's end.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Protocol`] if that is no protocol's name.
    pub fn with_attestation(self, protocol: &[u8]) -> Result<Self, SettingsError> {
        if !(1..=255).contains(&protocol.len()) {
            return Err(SettingsError::Protocol);
        }
        let mut attested = ServerConfig::clone(&self.config);
        attested.alpn_protocols = [protocol.to_vec()].to_vec();
        Ok(Self { attested: Some(Arc::new(attested)), ..self })
    }

    /// The public key of the first certificate (SubjectPublicKeyInfo in DER).
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Begins the server's side of one connection.
    ///
    /// # Errors
    ///
    /// [`TlsError::Internal`] if the library refuses its own settings.
    pub fn accept(&self) -> Result<ServerSession, TlsError> {
        let connection = UnbufferedServerConnection::new(self.config.clone())?;
        Ok(ServerSession::new(connection, self.attested.clone().map(Choice::new)))
    }
}

/// The algorithms, passed to the library explicitly: nothing is looked up in a global.
///
/// The order is our preference. SHA-256 goes first because SHA-384 costs a fifth more
/// instructions in each handshake; all three suites are strong.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: [
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ]
        .to_vec(),
        kx_groups: [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1].to_vec(),
        ..ring::default_provider()
    }
}

fn identity(chain: &[&[u8]], key: &[u8]) -> Result<CertifiedKey, SettingsError> {
    if !(1..=MAX_CHAIN).contains(&chain.len()) {
        return Err(SettingsError::ChainLength(chain.len()));
    }
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > MAX_CHAIN_BYTES {
        return Err(SettingsError::ChainTooLong(bytes));
    }
    // The key is read where it lies, so that no copy of it is left on the heap.
    let key = PrivateKeyDer::try_from(key).map_err(|_| SettingsError::Key)?;
    let key = ring::sign::any_supported_type(&key).map_err(|_| SettingsError::Key)?;
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        Ok(()) => Ok(identity),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(SettingsError::KeyMismatch)
        }
        Err(_) => Err(SettingsError::Certificate),
    }
}

/// Our wall clock in the library's words.
#[derive(Debug)]
struct Clock(Arc<dyn WallClock>);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        self.0
            .unix_seconds()
            .map(|seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate => f.write_str("the first certificate cannot be read"),
            Self::ChainLength(count) => {
                write!(f, "the chain has {count} certificates, not 1 to {MAX_CHAIN}")
            }
            Self::ChainTooLong(bytes) => {
                write!(f, "the chain has {bytes} bytes, more than {MAX_CHAIN_BYTES}")
            }
            Self::Key => f.write_str("the private key is of no kind that can be used"),
            Self::KeyMismatch => f.write_str("the private key does not fit the first certificate"),
            Self::Protocol => f.write_str("an application protocol's name is empty or too long"),
            Self::Unsupported => f.write_str("the TLS library refuses the settings"),
        }
    }
}

impl core::error::Error for SettingsError {}
