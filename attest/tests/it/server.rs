//! A server that speaks `bulla-attest/1` as the machine does, and says what a test wants.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use attest_core::binding::{Bound, EXPORTER_LABEL, Leaves};
use attest_core::evidence::Evidence;
use attest_core::sha256;
use attest_core::verify::Connection;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::FromDer;

use crate::sample::Scene;
use crate::shell;

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate and its key.
pub(crate) struct Key {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self { certificate: self.certificate.clone(), key: self.key.clone_key() }
    }
}

impl Key {
    /// Makes one; the certificate is `NAME.pem` in the folder, for `edge.example`.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let script = format!(
            "openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key 2>/dev/null
             openssl req -x509 -key {name}.key -days 99 -out {name}.pem -subj /CN={name} \
                -addext subjectAltName=DNS:edge.example -addext basicConstraints=critical,CA:FALSE"
        );
        shell(folder, &script);
        let pem = |ending: &str| folder.join(format!("{name}.{ending}"));
        Self {
            certificate: CertificateDer::from_pem_file(pem("pem")).unwrap(),
            key: PrivateKeyDer::from_pem_file(pem("key")).unwrap(),
        }
    }

    pub(crate) fn spki_sha256(&self) -> [u8; 32] {
        let (_, parsed) =
            x509_parser::certificate::X509Certificate::from_der(&self.certificate).unwrap();
        sha256(parsed.public_key().raw)
    }
}

/// What a server does with a request: the bytes that go back.
type Answer = Box<dyn Fn(Connection) -> Vec<u8> + Send>;

/// A running server; it ends with this value.
pub(crate) struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // It waits for a connection, so it gets one.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Server {
    pub(crate) fn start(
        key: &Key,
        protocols: &[&str],
        answer: impl Fn(Connection) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(AtomicUsize::new(0));
        let config = Arc::new(config(key, protocols));
        let spki_sha256 = key.spki_sha256();
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&requests));
        let answer: Answer = Box::new(answer);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                // A client that is refused goes away in the middle of things.
                let _served = serve(stream.unwrap(), &config, spki_sha256, &count, &answer);
            }
        });
        Self { address, is_over, requests, thread: Some(thread) }
    }

    /// One that answers with evidence.
    pub(crate) fn of(key: &Key, scene: Scene) -> Self {
        Self::start(key, &["bulla-attest/1"], move |it| framed(&evidence(&scene, &it)))
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn config(key: &Key, protocols: &[&str]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.certificate.clone()], key.key.clone_key())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    config
}

fn serve(
    mut stream: TcpStream,
    config: &Arc<ServerConfig>,
    spki_sha256: [u8; 32],
    count: &AtomicUsize,
    answer: &Answer,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let mut request = [0; 36];
    rustls::Stream::new(&mut tls, &mut stream).read_exact(&mut request)?;
    assert_eq!(request[..4], 32_u32.to_be_bytes());
    count.fetch_add(1, Ordering::SeqCst);
    let exporter = tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).unwrap();
    let nonce = request[4..].try_into().unwrap();
    let bytes = answer(Connection { nonce, exporter, spki_sha256 });
    let mut both = rustls::Stream::new(&mut tls, &mut stream);
    both.write_all(&bytes)?;
    both.flush()?;
    // Until the client closes, as a backend would wait for its request.
    both.read_to_end(&mut Vec::new()).map(|_| ())
}

/// What a machine answers to somebody in the middle, who hands on a victim's nonce.
pub(crate) fn relayed(machine: &Key, address: &str, nonce: &[u8; 32]) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(machine.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"bulla-attest/1".to_vec()];
    let name = "edge.example".try_into().unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut both = rustls::Stream::new(&mut tls, &mut stream);
    both.write_all(&framed(nonce)).unwrap();
    let mut length = [0; 4];
    both.read_exact(&mut length).unwrap();
    let mut evidence = vec![0; u32::from_be_bytes(length) as usize];
    both.read_exact(&mut evidence).unwrap();
    evidence
}

/// An answer on the wire.
pub(crate) fn framed(evidence: &[u8]) -> Vec<u8> {
    [&(evidence.len() as u32).to_be_bytes()[..], evidence].concat()
}

/// A scene's evidence for a connection.
pub(crate) fn evidence(scene: &Scene, connection: &Connection) -> Vec<u8> {
    let bound = Bound {
        nonce: connection.nonce,
        exporter: connection.exporter,
        spki_sha256: connection.spki_sha256,
        claims_sha256: sha256(&scene.aux),
    };
    // Somebody else asked at the same time.
    let leaves = Leaves::new(vec![bound.leaf(), [0x77; 32]]).unwrap();
    let mut attest = scene.attest.clone();
    attest.extra = leaves.qualifying_data().to_vec();
    let quote = attest.bytes();
    let signature = scene.key.sign(&quote);
    Evidence {
        ak: &scene.ak,
        ek: scene.ek.as_deref(),
        aux: &scene.aux,
        log: &scene.log,
        pcrs: &scene.pcrs,
        seal: &scene.seal,
        quote: &quote,
        answer: scene.signature.as_deref(),
        leaves: &leaves.to_bytes(),
        signature: &signature,
    }
    .encode()
}

/// Writes the policy and the identity that a scene is judged by.
pub(crate) fn write_references(folder: &Path, scene: &Scene) {
    fs::write(folder.join("policy.json"), scene.policy.to_json()).unwrap();
    fs::write(folder.join("identity.json"), scene.identity.to_json()).unwrap();
}
