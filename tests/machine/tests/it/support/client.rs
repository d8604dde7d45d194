//! A TLS client that does only what it is told, so that it can be slow, rude and many at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use machine::body;
use machine::site::NAME;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};

use super::{PATIENCE, Site};

/// A TLS connection to a machine.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client's configuration that trusts the site's authority and never resumes.
pub(crate) fn config(site: &Site) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.authority()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// How the SubjectPublicKeyInfo of a P-256 key begins; it has 91 bytes.
const P256_KEY: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// A client's configuration that takes any certificate: for those who do not care whom they meet.
pub(crate) fn trusting_anybody() -> ClientConfig {
    trusting(None)
}

/// One that trusts a single key, by the SHA-256 that the console names, as an operator would who
/// reads it there. It never resumes.
pub(crate) fn pinned(sha256: String) -> Arc<ClientConfig> {
    let mut config = trusting(Some(sha256));
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn trusting(pin: Option<String>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Holder { pin, algorithms }))
        .with_no_client_auth()
}

/// Whoever holds a key: this one, or any.
#[derive(Debug)]
struct Holder {
    pin: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Holder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(pin) = &self.pin {
            let mut windows = certificate.windows(91).filter(|key| key.starts_with(&P256_KEY));
            let key = windows.next().expect("a P-256 key in the certificate");
            assert_eq!(body::sha256(key), *pin, "the key that the console names");
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        panic!("TLS 1.2 was negotiated");
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A plain TCP connection to the proxy, which fails rather than hangs.
pub(crate) fn dial(site: &Site) -> TcpStream {
    let stream = TcpStream::connect(site.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client before its first byte.
pub(crate) fn begin(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(NAME).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

/// A connection whose handshake is done.
#[track_caller]
pub(crate) fn connect(site: &Site) -> Stream {
    connect_as(site, &config(site))
}

/// The same, with a configuration that many connections share.
#[track_caller]
pub(crate) fn connect_as(site: &Site, config: &Arc<ClientConfig>) -> Stream {
    let mut stream = StreamOwned::new(begin(config), dial(site));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

/// Sends a request for `path` on a connection that stays open.
pub(crate) fn ask(stream: &mut impl Write, path: &str) -> std::io::Result<()> {
    // In one piece: each write is a TLS record and a packet.
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes())?;
    stream.flush()
}

/// Asks for `path` and returns the answer's body.
#[track_caller]
pub(crate) fn get(stream: &mut Stream, path: &str) -> Vec<u8> {
    ask(stream, path).unwrap();
    answer(stream)
}

/// Reads an answer of HTTP/1.1 with a `Content-Length`, and returns its body.
#[track_caller]
pub(crate) fn answer(stream: &mut impl Read) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let mut length = None;
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the answer ended in its head");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let mut body = vec![0; length.expect("an answer with a length")];
    reader.read_exact(&mut body).unwrap();
    body
}

/// A socket that sends one byte at a time, each in a segment of its own if the network agrees.
pub(crate) struct Dribble(pub(crate) TcpStream);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Dribble {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::thread::sleep(std::time::Duration::from_millis(2));
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
