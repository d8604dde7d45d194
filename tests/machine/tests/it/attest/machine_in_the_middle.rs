//! Somebody on the way: takes the client's connection with a key of its own, has another one with the
//! machine, and hands every byte on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use machine::site::NAME;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::super::support::client::trusting_anybody;

/// How long a silent side is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Listens on loopback, for one client.
pub(super) fn start(machine: SocketAddr) -> SocketAddr {
    let folder = TempDir::with_prefix("bulla-middle-").unwrap();
    let mut command = Command::new("openssl");
    command.current_dir(folder.path()).args(["req", "-x509", "-newkey", "ec", "-nodes"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2", "-subj", "/CN=middle"]);
    command.args(["-addext", "subjectAltName=DNS:sealed.test"]);
    let output = command.args(["-keyout", "key", "-out", "pem"]).output().unwrap();
    assert!(output.status.success());
    let chain = vec![CertificateDer::from_pem_file(folder.path().join("pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.path().join("key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![attest_core::binding::PROTOCOL.into()];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        if let Ok((victim, _)) = listener.accept() {
            relay(victim, machine, Arc::new(config));
        }
    });
    address
}

/// One request up, one answer down.
fn relay(victim: TcpStream, machine: SocketAddr, config: Arc<ServerConfig>) {
    let stream = TcpStream::connect(machine).unwrap();
    for side in [&victim, &stream] {
        side.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut down = StreamOwned::new(ServerConnection::new(config).unwrap(), victim);
    let mut request = [0; 36];
    if down.read_exact(&mut request).is_err() {
        return;
    }
    let mut settings = trusting_anybody();
    settings.alpn_protocols = vec![attest_core::binding::PROTOCOL.into()];
    let name = ServerName::try_from(NAME).unwrap();
    let up = ClientConnection::new(Arc::new(settings), name).unwrap();
    let mut up = StreamOwned::new(up, stream);
    up.write_all(&request).unwrap();
    let mut head = [0; 4];
    up.read_exact(&mut head).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(head) as usize];
    up.read_exact(&mut answer).unwrap();
    let _ = down.write_all(&[&head[..], &answer].concat());
    down.conn.send_close_notify();
    let _ = down.flush();
}
