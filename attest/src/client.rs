//! One request over TLS 1.3: `bulla-attest/1`.
//!
//! The certificate is believed by nobody here unless a CA is named: what counts is that evidence names the
//! key that the server has just proven to have, and this very connection.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use attest_core::binding::{EXPORTER_LABEL, NONCE_BYTES, PROTOCOL};
use attest_core::evidence::MAX_BYTES;
use attest_core::sha256;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring as crypto, verify_tls13_signature};
use rustls::{
    CertificateError, DigitallySignedStruct, HandshakeKind, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use crate::error::Class;

/// How many of a name's addresses are tried.
const MAX_ADDRESSES: usize = 8;

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Server {
    /// Host and port, as the user wrote them.
    pub address: String,
    /// The name in its certificate, if it is not the host's.
    pub name: Option<String>,
    /// Who has to have signed its certificate, if anybody has to.
    pub authorities: Vec<CertificateDer<'static>>,
    /// How long all of it may take.
    pub patience: Duration,
}

/// What one connection brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The random bytes that we sent.
    pub nonce: [u8; NONCE_BYTES],
    /// What only this connection's two ends know.
    pub exporter: [u8; 32],
    /// SHA-256 of the server's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// What the server answered.
    pub evidence: Vec<u8>,
}

/// Why there is nothing to verify.
#[derive(Debug)]
pub enum Failed {
    /// Its address has no meaning.
    Address(String),
    /// The server's certificate has no key that can be read.
    Certificate,
    /// The connection was resumed: it is not the one that was authenticated.
    Resumed,
    /// The server gives no evidence.
    NoEvidence,
    /// The network failed us, or the server did not answer in time.
    Network(io::Error),
    /// The server does not speak this protocol.
    Protocol,
    /// The system gives no random numbers.
    Random,
    /// TLS was refused, by us or by the server.
    Tls(rustls::Error),
    /// The answer is longer than evidence may be.
    TooLong {
        /// How long it says it is.
        bytes: u32,
    },
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address:?} is not HOST:PORT"),
            Self::Certificate => write!(f, "the server's certificate has no key that can be read"),
            Self::Resumed => write!(f, "the connection was resumed, which this protocol forbids"),
            Self::NoEvidence => write!(f, "the server gives no evidence"),
            Self::Network(error) => write!(f, "{error}"),
            Self::Protocol => write!(f, "the server does not speak {PROTOCOL}"),
            Self::Random => write!(f, "the system gives no random numbers"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::TooLong { bytes } => {
                write!(f, "the answer would have {bytes} bytes, evidence has at most {MAX_BYTES}")
            }
        }
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// Which exit code it means.
    pub fn class(&self) -> Class {
        match self {
            Self::NoEvidence | Self::TooLong { .. } => Class::Evidence,
            Self::Resumed => Class::Fresh,
            Self::Address(_)
            | Self::Certificate
            | Self::Network(_)
            | Self::Protocol
            | Self::Random
            | Self::Tls(_) => Class::Usage,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address(_) => "for example 192.0.2.7:443, [2001:db8::7]:443 or edge.example:443",
            Self::Certificate | Self::Tls(_) => "the server must speak TLS 1.3",
            Self::Resumed => "somebody else may be answering in the server's place",
            Self::NoEvidence => {
                "is it listed as a peer that may ask, and does its machine have a TPM?"
            }
            Self::Network(_) => "is it running, and may this machine reach it?",
            Self::Protocol => "its listener has to offer attestation",
            Self::Random => "try again once the system is up",
            Self::TooLong { .. } => "this is not a server of ours",
        }
    }
}

/// rustls reports through `io::Error` what happens while it reads and writes.
fn failed(error: io::Error) -> Failed {
    match error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoApplicationProtocol) => Failed::Protocol,
        Some(tls) if is_no_protocol(tls) => Failed::Protocol,
        Some(tls) => Failed::Tls(tls.clone()),
        None => Failed::Network(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::ErrorKind::TimedOut.into(),
            // rustls says more than a user can use.
            io::ErrorKind::UnexpectedEof => io::ErrorKind::UnexpectedEof.into(),
            _ => error,
        }),
    }
}

fn is_no_protocol(error: &rustls::Error) -> bool {
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    matches!(error, rustls::Error::AlertReceived(received) if *received == alert)
}

/// Connects, asks once, and closes.
///
/// # Errors
///
/// [`Failed`] with the first thing that went wrong.
pub fn ask(server: &Server) -> Result<Exchange, Failed> {
    let deadline = Deadline::after(server.patience);
    let (name, mut stream) = connect(server, deadline)?;
    let mut tls =
        ClientConnection::new(Arc::new(configuration(server)?), name).map_err(Failed::Tls)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).map_err(failed)?;
    }
    check_connection(&tls)?;
    let spki_sha256 = sha256(&public_key(&tls)?);
    let exporter =
        tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).map_err(Failed::Tls)?;
    let mut nonce = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut nonce).map_err(|_| Failed::Random)?;
    let evidence = exchange(&mut tls, &mut stream, &nonce)?;
    tls.send_close_notify();
    // We have what we came for; the server may have gone.
    let _closed = tls.complete_io(&mut stream);
    Ok(Exchange { nonce, exporter, spki_sha256, evidence })
}

/// The request is 32 bytes behind their length; so is the answer, at most [`MAX_BYTES`].
fn exchange(
    tls: &mut ClientConnection,
    stream: &mut Stream,
    nonce: &[u8; NONCE_BYTES],
) -> Result<Vec<u8>, Failed> {
    let mut tls = rustls::Stream::new(tls, stream);
    let length = u32::try_from(nonce.len()).map_err(|_| Failed::Random)?;
    tls.write_all(&[&length.to_be_bytes()[..], nonce].concat()).map_err(failed)?;
    tls.flush().map_err(failed)?;
    let mut length = [0; 4];
    tls.read_exact(&mut length).map_err(failed)?;
    let bytes = u32::from_be_bytes(length);
    match usize::try_from(bytes) {
        Ok(0) => Err(Failed::NoEvidence),
        Ok(length) if length <= MAX_BYTES => {
            let mut evidence = vec![0; length];
            tls.read_exact(&mut evidence).map_err(failed)?;
            Ok(evidence)
        }
        _ => Err(Failed::TooLong { bytes }),
    }
}

fn check_connection(tls: &ClientConnection) -> Result<(), Failed> {
    if tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(Failed::Tls(rustls::PeerIncompatible::Tls12NotOffered.into()));
    }
    if tls.handshake_kind() == Some(HandshakeKind::Resumed) {
        return Err(Failed::Resumed);
    }
    if tls.alpn_protocol() != Some(PROTOCOL.as_bytes()) {
        return Err(Failed::Protocol);
    }
    Ok(())
}

/// The SubjectPublicKeyInfo of the key that signed the handshake.
fn public_key(tls: &ClientConnection) -> Result<Vec<u8>, Failed> {
    let certificate = tls.peer_certificates().and_then(<[_]>::first).ok_or(Failed::Certificate)?;
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| Failed::Certificate)?;
    Ok(parsed.subject_public_key_info().to_vec())
}

fn configuration(server: &Server) -> Result<ClientConfig, Failed> {
    let provider = Arc::new(crypto::default_provider());
    let authorities = if server.authorities.is_empty() {
        None
    } else {
        let mut roots = RootCertStore::empty();
        for authority in &server.authorities {
            roots.add(authority.clone()).map_err(Failed::Tls)?;
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let build = verifier.build();
        Some(build.map_err(|_| Failed::Tls(CertificateError::UnknownIssuer.into()))?)
    };
    let keyed = Arc::new(Keyed { authorities, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Failed::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(keyed)
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Lets any certificate through unless authorities are named; that the server has its key is always checked.
#[derive(Debug)]
struct Keyed {
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Keyed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.authorities {
            Some(authorities) => authorities.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn connect(server: &Server, deadline: Deadline) -> Result<(ServerName<'static>, Stream), Failed> {
    let unreadable = || Failed::Address(server.address.clone());
    let (host, port) = server.address.rsplit_once(':').ok_or_else(unreadable)?;
    let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().map_err(|_| unreadable())?;
    let name = server.name.as_deref().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name).map_err(|_| unreadable())?;
    let addresses = (host, port).to_socket_addrs().map_err(Failed::Network)?;
    let mut last = io::ErrorKind::NotFound.into();
    for address in addresses.take(MAX_ADDRESSES) {
        let left = deadline.left().map_err(Failed::Network)?;
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok((name, Stream { stream, deadline })),
            Err(error) => last = error,
        }
    }
    Err(Failed::Network(last))
}

/// When everything has to be over.
#[derive(Clone, Copy, Debug)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(patience: Duration) -> Self {
        Self(Instant::now().checked_add(patience))
    }

    /// How long there is left; never zero, which the sockets would take for no limit.
    fn left(self) -> io::Result<Duration> {
        let left = self.0.map(|end| end.saturating_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero()).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

/// A connection on which no read or write goes on beyond the deadline.
struct Stream {
    stream: TcpStream,
    deadline: Deadline,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.deadline.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.deadline.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
