//! A TLS client for tests, with the same library the server uses, and a forger of records.
//!
//! It uses only what the library has without std, so that tests run the code the machine runs.

use std::sync::Arc;
use std::time::Duration;
use std::vec;
use std::vec::Vec;

use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, DigitallySignedStruct, Error,
    ProtocolVersion, SignatureScheme, SupportedCipherSuite,
};

/// The certificate for `sealed.test` that tests use, and its key.
pub(crate) const CERTIFICATE: &[u8] = include_bytes!("testdata/cert.der");
/// The key of [`CERTIFICATE`].
pub(crate) const KEY: &[u8] = include_bytes!("testdata/key.pkcs8.der");

/// What a client asks for.
#[derive(Clone)]
pub(crate) struct Wishes {
    pub(crate) provider: CryptoProvider,
    pub(crate) protocols: Vec<Vec<u8>>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { provider: ring::default_provider(), protocols: Vec::new() }
    }
}

/// A TLS client without a connection.
pub(crate) struct Client {
    connection: UnbufferedClientConnection,
    incoming: Vec<u8>,
    /// TLS bytes for the server.
    pub(crate) outgoing: Vec<u8>,
    /// Plaintext from the server.
    pub(crate) plaintext: Vec<u8>,
    /// Whether the server sent `close_notify`.
    pub(crate) is_closed: bool,
    /// Why the client gave up.
    pub(crate) error: Option<Error>,
}

impl Client {
    pub(crate) fn new(wishes: &Wishes) -> Self {
        let algorithms = wishes.provider.signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_details(
            Arc::new(wishes.provider.clone()),
            Arc::new(StoppedClock),
        )
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(algorithms)))
        .with_no_client_auth();
        config.enable_secret_extraction = true;
        config.alpn_protocols = wishes.protocols.clone();
        let name = ServerName::try_from("sealed.test").unwrap();
        let mut client = Self {
            connection: UnbufferedClientConnection::new(Arc::new(config), name).unwrap(),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            plaintext: Vec::new(),
            is_closed: false,
            error: None,
        };
        client.pump(None);
        client
    }

    /// Takes bytes from the server.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        self.pump(None);
    }

    /// Seals application data.
    pub(crate) fn send(&mut self, plaintext: &[u8]) {
        self.pump(Some(Act::Seal(plaintext)));
    }

    /// Sends `close_notify`.
    pub(crate) fn close(&mut self) {
        self.pump(Some(Act::Close));
    }

    /// Changes the keys and asks the server to change its own.
    pub(crate) fn update_keys(&mut self) {
        self.pump(Some(Act::UpdateKeys));
    }

    pub(crate) fn is_open(&self) -> bool {
        self.error.is_none() && !self.connection.is_handshaking()
    }

    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Turns an open client into one that can seal any record with its keys.
    pub(crate) fn into_forger(self) -> Forger {
        // Without the library's TLS 1.2 there is no other kind.
        let SupportedCipherSuite::Tls13(suite) = self.connection.negotiated_cipher_suite().unwrap();
        let (secrets, _) = self.connection.dangerous_into_kernel_connection().unwrap();
        let (sequence, secrets) = secrets.tx;
        let (key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => panic!("unknown secrets"),
        };
        Forger { encrypter: suite.aead_alg.encrypter(key, iv), sequence }
    }

    fn pump(&mut self, mut act: Option<Act<'_>>) {
        if self.error.is_some() {
            return;
        }
        for _ in 0..100_000 {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut self.incoming);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else {
                        panic!("encodes into nothing");
                    };
                    let start = self.outgoing.len();
                    self.outgoing.resize(start + needed.required_size, 0);
                    data.encode(&mut self.outgoing[start..]).unwrap();
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.unwrap();
                        discard += record.discard;
                        self.plaintext.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::PeerClosed) => self.is_closed = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => match act.take() {
                    Some(Act::Seal(bytes)) => {
                        let mut sealed = vec![0; bytes.len() + 200 + bytes.len() / 16];
                        let count = traffic.encrypt(bytes, &mut sealed).unwrap();
                        self.outgoing.extend_from_slice(&sealed[..count]);
                    }
                    Some(Act::Close) => {
                        let mut sealed = [0; 200];
                        let count = traffic.queue_close_notify(&mut sealed).unwrap();
                        self.outgoing.extend_from_slice(&sealed[..count]);
                    }
                    Some(Act::UpdateKeys) => traffic.refresh_traffic_keys().unwrap(),
                    None => is_done = true,
                },
                Ok(_) => is_done = true,
                Err(error) => {
                    self.error = Some(error);
                    self.collect();
                    return;
                }
            }
            self.incoming.drain(..discard);
            if is_done {
                return;
            }
        }
        panic!("the client does not come to rest");
    }

    fn collect(&mut self) {
        while self.connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.connection.process_tls_records(&mut []).state
            else {
                return;
            };
            let mut record = vec![0; 1024];
            let count = data.encode(&mut record).unwrap();
            self.outgoing.extend_from_slice(&record[..count]);
        }
    }
}

enum Act<'a> {
    Close,
    Seal(&'a [u8]),
    UpdateKeys,
}

/// Seals any content as a record that the server's keys open.
pub(crate) struct Forger {
    encrypter: std::boxed::Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    pub(crate) fn record(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ: kind,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(content),
        };
        let record = self.encrypter.encrypt(message, self.sequence).unwrap();
        self.sequence += 1;
        record.encode()
    }
}

/// Accepts the one certificate, and checks that the server has its key.
#[derive(Debug)]
pub(crate) struct Pinned(pub(crate) WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        assert_eq!(certificate.as_ref(), CERTIFICATE);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        panic!("TLS 1.2 was negotiated");
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[derive(Debug)]
struct StoppedClock;

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

/// Random numbers that are the same each time (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }
}
