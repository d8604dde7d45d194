//! Connections that have a name of their own: against the library's whole client, which has an
//! exporter, tickets and early data.

use std::io::Write as _;
use std::string::String;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ServerSessionMemoryCache;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
    SupportedCipherSuite,
};

use super::*;
use crate::tls::client::Pinned;
use crate::tls::exporter::channel_binding;

pub(super) const PROTOCOL: &[u8] = b"bulla-attest/1";

const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

fn client_config(suites: &[SupportedCipherSuite], protocols: &[&[u8]]) -> ClientConfig {
    let mut provider = default_provider();
    provider.cipher_suites = suites.to_vec();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(algorithms)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.enable_early_data = true;
    config
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("sealed.test").unwrap();
    ClientConnection::new(config.clone(), name).unwrap()
}

fn outgoing(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn incoming(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
    }
}

fn connect(client: &mut ClientConnection, server: &mut ServerSession) -> Result<(), TlsError> {
    for _ in 0..4 {
        feed(server, &outgoing(client), usize::MAX)?;
        incoming(client, &drain(server));
    }
    assert!(!client.is_handshaking() && server.is_open());
    Ok(())
}

fn exported(client: &ClientConnection) -> [u8; EXPORTER_BYTES] {
    client.export_keying_material([0; EXPORTER_BYTES], LABEL, Some(&[])).unwrap()
}

/// With that suite both ends agree on the connection's name, and the client on nothing else.
#[track_caller]
fn check_exporter(suite: SupportedCipherSuite, protocols: &[&[u8]]) -> [u8; EXPORTER_BYTES] {
    let config = Arc::new(client_config(&[suite], protocols));
    let (mut client, mut server) = (client(&config), server());
    assert_eq!(server.exporter(), None);
    feed(&mut server, &outgoing(&mut client), usize::MAX).unwrap();
    assert_eq!(server.exporter(), None, "the client has not finished the handshake");
    incoming(&mut client, &drain(&mut server));
    connect(&mut client, &mut server).unwrap();
    assert_eq!(client.alpn_protocol(), Some(PROTOCOL));
    assert_eq!(server.exporter(), Some(exported(&client)));
    assert_eq!(client.tls13_tickets_received(), 0);
    exported(&client)
}

#[test]
fn both_ends_give_the_connection_the_same_name() {
    let suites = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    for suite in suites {
        let first = check_exporter(suite, &[PROTOCOL]);
        let second = check_exporter(suite, &[b"h2", PROTOCOL, b"http/1.1"]);
        assert_ne!(first, second, "no two connections have the same name");
    }
}

/// What OpenSSL 3.0 derived: the suite, its EXPORTER_SECRET, and the value (`testdata/README.md`).
const DERIVED: &str = include_str!("../testdata/exporter.txt");

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn derives_what_another_implementation_derives() {
    let mut checked = Vec::new();
    for line in DERIVED.lines() {
        let [name, secret, value] = *line.split(' ').collect::<Vec<_>>() else { panic!("{line}") };
        let suite = match name {
            "TLS_AES_128_GCM_SHA256" => cipher_suite::TLS13_AES_128_GCM_SHA256,
            "TLS_AES_256_GCM_SHA384" => cipher_suite::TLS13_AES_256_GCM_SHA384,
            other => panic!("{other}"),
        };
        let derived = channel_binding(suite.tls13().unwrap(), &unhex(secret)).unwrap();
        assert_eq!(derived[..], unhex(value));
        checked.push(String::from(name));
    }
    assert_eq!(checked, ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"]);
}

/// A client that offers these protocols is served as every client is: nothing is agreed, nothing
/// is exported.
#[track_caller]
fn check_ordinary(protocols: &[&[u8]]) {
    let wishes = Wishes {
        protocols: protocols.iter().map(|name| name.to_vec()).collect(),
        ..Wishes::default()
    };
    let without = settings(&[]).accept().unwrap();
    let lengths = [without, server()].map(|mut server| {
        let mut client = Client::new(&wishes);
        let hello = core::mem::take(&mut client.outgoing);
        feed(&mut server, &hello, usize::MAX).unwrap();
        let answer = drain(&mut server);
        client.feed(&answer);
        exchange(&mut client, &mut server, usize::MAX);
        assert_eq!((client.protocol(), server.exporter()), (None, None));
        check_traffic(&mut client, &mut server);
        answer.len()
    });
    // ECDSA signatures differ by a few bytes; that a protocol was agreed would take eighteen.
    assert!(lengths[0].abs_diff(lengths[1]) < 8, "{lengths:?}");
}

#[test]
fn clients_that_do_not_ask_meet_the_settings_of_always() {
    check_ordinary(&[]);
    check_ordinary(&[b"h2", b"http/1.1"]);
    check_ordinary(&[b"bulla-attest/2", b"bulla-attest/", b"bulla-attest/10"]);
}

#[test]
fn the_name_is_there_whatever_the_chunks_and_records() {
    let wishes = Wishes { protocols: vec![PROTOCOL.to_vec()], ..Wishes::default() };
    for size in [1, 2, 3, 50, 5000] {
        for chunk in [1, 6, usize::MAX] {
            let (mut client, mut server) = (Client::new(&wishes), server());
            let hello = core::mem::take(&mut client.outgoing);
            feed(&mut server, &records(22, &hello[5..], size), chunk).unwrap();
            exchange(&mut client, &mut server, usize::MAX);
            assert!(server.exporter().is_some());
            check_traffic(&mut client, &mut server);
        }
    }
}

#[test]
fn an_offer_that_is_taken_back_ends_the_connection() {
    // The first share is of a group that the server does not have, so each client is asked again.
    let wishes = |protocols: &[&[u8]]| {
        let mut wishes = Wishes::default();
        wishes.provider.kx_groups = vec![&Strange, kx_group::SECP256R1];
        wishes.protocols = protocols.iter().map(|name| name.to_vec()).collect();
        wishes
    };
    let asked_again = |protocols: &[&[u8]]| {
        let (mut client, mut server) = (Client::new(&wishes(protocols)), server());
        let hello = core::mem::take(&mut client.outgoing);
        feed(&mut server, &hello, usize::MAX).unwrap();
        client.feed(&drain(&mut server));
        (client, server)
    };
    let (mut asks, mut attested) = asked_again(&[PROTOCOL]);
    let (mut asks_not, mut ordinary) = asked_again(&[b"h2"]);
    let refused = Err(TlsError::Incompatible(Incompatible::ApplicationProtocol));
    assert_eq!(feed(&mut attested, &asks_not.outgoing, usize::MAX), refused);
    assert!(attested.exporter().is_none() && !attested.is_open());
    // One that asks only the second time gets what it did not ask for at first: nothing.
    assert_eq!(feed(&mut ordinary, &asks.outgoing, usize::MAX), Ok(vec![]));
    assert_eq!((ordinary.exporter(), asks.protocol()), (None, None));
    // Whoever stays with its offer is served.
    let (mut client, mut server) = asked_again(&[PROTOCOL]);
    exchange(&mut client, &mut server, usize::MAX);
    assert!(server.exporter().is_some());
    asks.close();
    asks_not.close();
}

#[derive(Debug)]
struct StoppedClock;

impl WallClock for StoppedClock {
    fn unix_seconds(&self) -> Option<u64> {
        Some(1_800_000_000)
    }
}

/// Whoever offers a ticket makes the library ask for the time.
fn server_with_clock() -> ServerSession {
    let settings = ServerSettings::new(&[CERTIFICATE], KEY, &[], Arc::new(StoppedClock));
    settings.unwrap().with_attestation(PROTOCOL).unwrap().accept().unwrap()
}

/// A client that has a ticket and may send early data: of another server with the same identity.
fn client_with_ticket(protocol: &[u8]) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::try_from(KEY).unwrap().clone_key();
    let chain = vec![CertificateDer::from(CERTIFICATE.to_vec())];
    let mut generous = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    generous.session_storage = ServerSessionMemoryCache::new(8);
    generous.max_early_data_size = 1000;
    generous.alpn_protocols = vec![protocol.to_vec()];
    let config = client_config(&[cipher_suite::TLS13_AES_128_GCM_SHA256], &[protocol]);
    let config = Arc::new(config);
    let (mut client, generous) = (client(&config), Arc::new(generous));
    let mut server = ServerConnection::new(generous).unwrap();
    for _ in 0..4 {
        let bytes = outgoing(&mut client);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        incoming(&mut client, &answer);
    }
    assert!(client.tls13_tickets_received() > 0);
    config
}

#[test]
fn a_ticket_of_somebody_elses_is_not_taken() {
    let config = client_with_ticket(PROTOCOL);
    let (mut client, mut server) = (client(&config), server_with_clock());
    assert!(client.early_data().is_some(), "the client wants to resume");
    connect(&mut client, &mut server).unwrap();
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
    assert!(!client.is_early_data_accepted());
    assert_eq!(server.exporter(), Some(exported(&client)));
}

#[test]
fn early_data_is_thrown_away() {
    let config = client_with_ticket(PROTOCOL);
    let (mut client, mut server) = (client(&config), server_with_clock());
    client.early_data().unwrap().write_all(b"too early").unwrap();
    assert_eq!(feed(&mut server, &outgoing(&mut client), usize::MAX), Ok(vec![]));
    incoming(&mut client, &drain(&mut server));
    assert_eq!(feed(&mut server, &outgoing(&mut client), usize::MAX), Ok(vec![]));
    assert!(server.is_open() && !client.is_early_data_accepted() && !server.has_plaintext());
    assert_eq!(server.exporter(), Some(exported(&client)));
}

#[test]
fn early_data_without_end_ends_the_connection() {
    let config = client_with_ticket(PROTOCOL);
    let (mut client, mut server) = (client(&config), server_with_clock());
    let hello = outgoing(&mut client);
    assert_eq!(feed(&mut server, &hello, usize::MAX), Ok(vec![]));
    let record = [&[23, 3, 3, 0x40, 0][..], &[0x5a; 1 << 14]].concat();
    let result = feed(&mut server, &[&record[..], &record].concat(), usize::MAX);
    assert!(matches!(result, Err(TlsError::Misbehaved(_))), "{result:?}");
    assert!(server.exporter().is_none());
}

#[test]
fn a_protocol_without_a_name_is_no_settings() {
    for name in [&[][..], &[b'a'; 256]] {
        let result = settings(&[]).with_attestation(name);
        assert_eq!(result.err(), Some(SettingsError::Protocol));
    }
}

#[test]
fn nobody_reads_the_secret_in_a_debug_line() {
    use rustls::KeyLog;
    let slot = crate::tls::exporter::Slot::default();
    slot.log("CLIENT_TRAFFIC_SECRET_0", &[], &[7; 32]);
    assert!(slot.take().is_none() && !slot.will_log("SERVER_TRAFFIC_SECRET_0"));
    slot.log("EXPORTER_SECRET", &[], &[7; 32]);
    assert_eq!(std::format!("{slot:?}"), "Slot(..)");
    assert_eq!(slot.take().unwrap()[..], [7; 32]);
    assert!(slot.take().is_none());
}
