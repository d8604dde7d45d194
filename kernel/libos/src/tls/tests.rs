//! The server's side against a client of the same library, byte by byte where it matters.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use rustls::crypto::ring::{self, cipher_suite, kx_group};
use rustls::{AlertDescription, ContentType, Error};

use super::client::{CERTIFICATE, Client, Dice, KEY, Wishes};
use super::*;

mod attested;

const OTHER_KEY: &[u8] = include_bytes!("testdata/other-key.pkcs8.der");
const SEC1_KEY: &[u8] = include_bytes!("testdata/key.sec1.der");

/// More calls than any honest exchange in these tests needs.
const MAX_CALLS: usize = 1_000_000;

#[derive(Debug)]
struct NoClock;

impl WallClock for NoClock {
    fn unix_seconds(&self) -> Option<u64> {
        None
    }
}

fn settings(protocols: &[&[u8]]) -> ServerSettings {
    ServerSettings::new(&[CERTIFICATE], KEY, protocols, Arc::new(NoClock)).unwrap()
}

/// A server as it runs: clients may ask for an attested connection, most do not.
fn server() -> ServerSession {
    settings(&[]).with_attestation(attested::PROTOCOL).unwrap().accept().unwrap()
}

/// Gives `bytes` to `server` in chunks of at most `chunk`, and takes all plaintext.
fn feed(server: &mut ServerSession, bytes: &[u8], chunk: usize) -> Result<Vec<u8>, TlsError> {
    let mut plaintext = Vec::new();
    let mut rest = bytes;
    for _ in 0..MAX_CALLS {
        let space = server.space();
        let count = space.len().min(chunk).min(rest.len());
        if count == 0 {
            return Ok(plaintext);
        }
        assert!(space.len() <= INCOMING_BYTES);
        let (now, later) = rest.split_at(count);
        space[..count].copy_from_slice(now);
        rest = later;
        server.received(count, &mut |bytes| {
            plaintext.extend_from_slice(bytes);
            bytes.len()
        })?;
    }
    panic!("the session never has enough");
}

fn drain(server: &mut ServerSession) -> Vec<u8> {
    let bytes = server.outgoing().to_vec();
    server.sent(bytes.len());
    assert!(server.outgoing().is_empty());
    bytes
}

/// Passes bytes both ways until nothing moves.
fn exchange(client: &mut Client, server: &mut ServerSession, chunk: usize) -> Vec<u8> {
    let mut plaintext = Vec::new();
    loop {
        let to_server = core::mem::take(&mut client.outgoing);
        plaintext.extend(feed(server, &to_server, chunk).unwrap());
        let to_client = drain(server);
        client.feed(&to_client);
        if to_client.is_empty() && client.outgoing.is_empty() {
            return plaintext;
        }
    }
}

fn connected() -> (Client, ServerSession) {
    let (mut client, mut server) = (Client::new(&Wishes::default()), server());
    exchange(&mut client, &mut server, usize::MAX);
    assert!(client.is_open() && server.is_open());
    (client, server)
}

fn seal(server: &mut ServerSession, plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; plaintext.len() + SEAL_OVERHEAD];
    let count = server.seal(plaintext, &mut sealed).unwrap();
    sealed.truncate(count);
    sealed
}

/// The connection works in both directions.
#[track_caller]
fn check_traffic(client: &mut Client, server: &mut ServerSession) {
    client.send(b"question");
    assert_eq!(exchange(client, server, usize::MAX), b"question");
    client.plaintext.clear();
    let sealed = seal(server, b"answer");
    client.feed(&sealed);
    assert_eq!(client.error, None);
    assert_eq!(client.plaintext, b"answer");
}

/// `bytes` are refused with `expected`, and what goes to the client is `alert` in plaintext.
#[track_caller]
fn check_refused(bytes: &[u8], expected: TlsError, alert: u8) {
    for (chunk, mut server) in [
        (1, server()),
        (7, server()),
        (usize::MAX, server()),
        (usize::MAX, settings(&[]).accept().unwrap()),
    ] {
        assert_eq!(feed(&mut server, bytes, chunk), Err(expected));
        assert_eq!(drain(&mut server), [21, 3, 3, 0, 2, 2, alert]);
        assert!(server.space().is_empty() && !server.is_open() && !server.has_plaintext());
        assert_eq!(server.received(0, &mut |_| 0), Err(expected));
        server.close();
        assert!(server.outgoing().is_empty(), "says nothing after the alert");
        assert_eq!(server.seal(b"", &mut [0; 200]), Err(TlsError::Internal(Internal::Misuse)));
    }
}

fn records(kind: u8, content: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in content.chunks(size) {
        bytes.extend_from_slice(&[kind, 3, 3]);
        bytes.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// A handshake message of type ClientHello that says it has `claimed` bytes, and has `actual`.
fn client_hello(claimed: u32, actual: usize) -> Vec<u8> {
    let mut message = vec![1];
    message.extend_from_slice(&claimed.to_be_bytes()[1..]);
    message.resize(4 + actual, 0x55);
    message
}

#[test]
fn completes_a_handshake_whatever_the_chunks() {
    for chunk in (1..40).chain([100, 1000, 5000, usize::MAX]) {
        let (mut client, mut server) = (Client::new(&Wishes::default()), server());
        exchange(&mut client, &mut server, chunk);
        check_traffic(&mut client, &mut server);
    }
}

#[test]
fn completes_a_handshake_wherever_the_client_hello_is_cut() {
    let length = Client::new(&Wishes::default()).outgoing.len();
    for cut in 1..length {
        let (mut client, mut server) = (Client::new(&Wishes::default()), server());
        let hello = core::mem::take(&mut client.outgoing);
        assert_eq!(feed(&mut server, &hello[..cut], usize::MAX), Ok(vec![]));
        assert!(server.outgoing().is_empty());
        assert_eq!(feed(&mut server, &hello[cut..], usize::MAX), Ok(vec![]));
        exchange(&mut client, &mut server, usize::MAX);
        check_traffic(&mut client, &mut server);
    }
}

#[test]
fn completes_a_handshake_whose_messages_are_spread_over_records() {
    for size in [1, 2, 3, 4, 5, 50] {
        let (mut client, mut server) = (Client::new(&Wishes::default()), server());
        let hello = core::mem::take(&mut client.outgoing);
        feed(&mut server, &records(22, &hello[5..], size), usize::MAX).unwrap();
        exchange(&mut client, &mut server, usize::MAX);
        check_traffic(&mut client, &mut server);
    }
}

#[test]
fn takes_the_client_finished_and_data_in_one_chunk() {
    let (mut client, mut server) = (Client::new(&Wishes::default()), server());
    let hello = core::mem::take(&mut client.outgoing);
    feed(&mut server, &hello, usize::MAX).unwrap();
    client.feed(&drain(&mut server));
    client.send(b"early bird");
    client.send(b", second record");
    client.close();
    let rest = core::mem::take(&mut client.outgoing);
    assert_eq!(feed(&mut server, &rest, usize::MAX).unwrap(), b"early bird, second record");
    assert!(server.is_open() && server.has_peer_closed());
}

#[track_caller]
fn check_parameters(wishes: &Wishes, suite: &str, group: &str) {
    let (mut client, mut server) = (Client::new(wishes), server());
    assert_eq!(server.parameters(), None);
    exchange(&mut client, &mut server, usize::MAX);
    let parameters = server.parameters().unwrap();
    assert_eq!((parameters.suite, parameters.group), (suite, group));
    check_traffic(&mut client, &mut server);
}

#[test]
fn agrees_on_what_both_have_in_our_order() {
    let wishes = |suites: &[rustls::SupportedCipherSuite], groups: &[_]| {
        let mut wishes = Wishes::default();
        wishes.provider.cipher_suites = suites.to_vec();
        wishes.provider.kx_groups = groups.to_vec();
        wishes
    };
    let (aes128, aes256, chacha) = (
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    );
    let (x25519, p256, p384) = (kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1);
    check_parameters(
        &wishes(&[aes256, chacha, aes128], &[x25519]),
        "TLS13_AES_128_GCM_SHA256",
        "X25519",
    );
    check_parameters(
        &wishes(&[aes256, chacha], &[p256, x25519]),
        "TLS13_CHACHA20_POLY1305_SHA256",
        "secp256r1",
    );
    check_parameters(&wishes(&[aes256], &[p384]), "TLS13_AES_256_GCM_SHA384", "secp384r1");
}

/// A group that no server of ours has.
#[derive(Debug)]
struct Strange;
impl rustls::crypto::SupportedKxGroup for Strange {
    fn start(&self) -> Result<alloc::boxed::Box<dyn rustls::crypto::ActiveKeyExchange>, Error> {
        struct Share;
        impl rustls::crypto::ActiveKeyExchange for Share {
            fn complete(
                self: alloc::boxed::Box<Self>,
                _: &[u8],
            ) -> Result<rustls::crypto::SharedSecret, Error> {
                Err(Error::HandshakeNotComplete)
            }
            fn pub_key(&self) -> &[u8] {
                &[1; 32]
            }
            fn group(&self) -> rustls::NamedGroup {
                rustls::NamedGroup::X448
            }
        }
        Ok(alloc::boxed::Box::new(Share))
    }
    fn name(&self) -> rustls::NamedGroup {
        rustls::NamedGroup::X448
    }
}

#[test]
fn asks_again_for_a_key_share_it_has() {
    // The client's first share is of a group we do not have, so HelloRetryRequest goes out.
    let mut wishes = Wishes::default();
    wishes.provider.kx_groups = vec![&Strange, kx_group::SECP256R1];
    check_parameters(&wishes, "TLS13_AES_128_GCM_SHA256", "secp256r1");
    wishes.provider.kx_groups = vec![&Strange];
    let hello = Client::new(&wishes).outgoing;
    check_refused(&hello, TlsError::Incompatible(Incompatible::Group), 40);
}

#[test]
fn agrees_on_an_application_protocol_or_says_why_not() {
    let settings = settings(&[b"http/1.1"]);
    let client = |names: &[&[u8]]| {
        let protocols = names.iter().map(|name| name.to_vec()).collect();
        Client::new(&Wishes { provider: ring::default_provider(), protocols })
    };
    let (mut good, mut server) = (client(&[b"h2", b"http/1.1"]), settings.accept().unwrap());
    exchange(&mut good, &mut server, usize::MAX);
    assert_eq!(good.protocol(), Some(&b"http/1.1"[..]));

    let (mut silent, mut server) = (client(&[]), settings.accept().unwrap());
    exchange(&mut silent, &mut server, usize::MAX);
    assert!(silent.is_open());

    let (mut bad, mut server) = (client(&[b"h2"]), settings.accept().unwrap());
    let expected = TlsError::Incompatible(Incompatible::ApplicationProtocol);
    assert_eq!(feed(&mut server, &bad.outgoing, usize::MAX), Err(expected));
    bad.feed(&drain(&mut server));
    assert_eq!(bad.error, Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
}

/// The hello with the extension that offers TLS 1.3 hidden under another number.
fn hello_without_tls13() -> Vec<u8> {
    let mut hello = Client::new(&Wishes::default()).outgoing;
    let versions = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04];
    let at = hello.windows(versions.len()).position(|bytes| bytes == versions).unwrap();
    hello[at] = 0xfa;
    hello
}

#[test]
fn refuses_what_it_cannot_serve_with_the_alert_for_it() {
    check_refused(&hello_without_tls13(), TlsError::Incompatible(Incompatible::Version), 70);

    let misbehaved = TlsError::Misbehaved;
    let not_tls = |first| TlsError::NotTls(NotTls::Other(first));
    check_refused(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", TlsError::NotTls(NotTls::Http), 50);
    check_refused(b"HEAD / HTTP/1.1\r\n\r\n", TlsError::NotTls(NotTls::Http), 50);
    check_refused(b"POST /upload HTTP/1.1\r\n\r\n", TlsError::NotTls(NotTls::Http), 50);
    check_refused(b"PRI * HTTP/2.0\r\n\r\n", TlsError::NotTls(NotTls::Http), 50);
    check_refused(b"SSH-2.0-OpenSSH_9.2\r\n", not_tls(b'S'), 50);
    check_refused(&[0x80, 0x2e, 1, 0, 2, 0, 21], not_tls(0x80), 50);
    check_refused(&[0; 64], not_tls(0), 50);
    check_refused(&[0xff; 64], not_tls(0xff), 50);
    check_refused(&[22, 2, 0, 0, 5, 1, 0, 0, 1, 0], not_tls(22), 50);

    let no_hello = records(22, &client_hello(40, 40), 16384);
    check_refused(&no_hello, misbehaved(Misbehaved::Malformed), 50);
    let data_first = records(23, b"data before any handshake", 16384);
    check_refused(&data_first, misbehaved(Misbehaved::UnexpectedMessage), 10);
    let finished_first = records(22, &[20, 0, 0, 1, 0], 16384);
    check_refused(&finished_first, misbehaved(Misbehaved::UnexpectedMessage), 10);
    let nothing = [22, 3, 3, 0, 0];
    check_refused(&nothing, misbehaved(Misbehaved::Malformed), 50);
}

#[test]
fn refuses_what_is_too_long_before_it_has_come() {
    let record = TlsError::Misbehaved(Misbehaved::RecordTooLong);
    check_refused(&[22, 3, 1, 0x41, 0x01], record, 22);
    check_refused(&[22, 3, 1, 0xff, 0xff], record, 22);
    let message = TlsError::Misbehaved(Misbehaved::MessageTooLong);
    let hello = records(22, &client_hello(65_536, 65_536), 16384);
    check_refused(&hello[..16389], message, 50);
    check_refused(&hello, message, 50);
    let hello = records(22, &client_hello(40_000, 40_000), 16384);
    check_refused(&hello[..16389 + 5], message, 50);
    let hello = records(22, &client_hello(8_000, 8_000), 1);
    check_refused(&hello, message, 50);
}

#[test]
fn answers_an_encrypted_record_that_is_too_long_with_an_encrypted_alert() {
    for header in [[23, 3, 3, 0x41, 0x01], [23, 3, 3, 0xff, 0xff]] {
        let (mut client, mut server) = connected();
        let expected = TlsError::Misbehaved(Misbehaved::RecordTooLong);
        assert_eq!(feed(&mut server, &header, usize::MAX), Err(expected));
        client.feed(&drain(&mut server));
        assert_eq!(client.error, Some(Error::AlertReceived(AlertDescription::DecodeError)));
    }
}

#[test]
fn says_bad_record_mac_once() {
    let (mut client, mut server) = connected();
    client.send(b"to be damaged");
    let mut sealed = core::mem::take(&mut client.outgoing);
    *sealed.last_mut().unwrap() ^= 1;
    let expected = TlsError::Misbehaved(Misbehaved::DecryptError);
    assert_eq!(feed(&mut server, &sealed, usize::MAX), Err(expected));
    let alert = drain(&mut server);
    assert_eq!(alert.len(), 5 + 2 + 1 + 16, "exactly one record");
    client.feed(&alert);
    assert_eq!(client.error, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
}

#[test]
fn names_the_alert_it_receives() {
    let (client, mut server) = connected();
    let mut forger = client.into_forger();
    let alert = forger.record(ContentType::Alert, &[2, 42]);
    let error = feed(&mut server, &alert, usize::MAX).unwrap_err();
    assert_eq!(error, TlsError::Alert(Alert(42)));
    assert_eq!(alloc::format!("{error}"), "alert received: bad_certificate");
    assert!(server.outgoing().is_empty(), "an alert is not answered");
}

#[test]
fn follows_key_updates_in_the_midst_of_traffic() {
    let (mut client, mut server) = connected();
    for _ in 0..20 {
        check_traffic(&mut client, &mut server);
        client.update_keys();
        check_traffic(&mut client, &mut server);
    }
}

#[test]
fn writes_while_a_handshake_message_is_incomplete() {
    // The library remembers the half message by its place in the buffer.
    let (client, mut server) = connected();
    let mut forger = client.into_forger();
    let update = [24, 0, 0, 1, 1];
    for cut in 1..update.len() {
        let (first, second) = update.split_at(cut);
        let record = forger.record(ContentType::Handshake, first);
        let data = forger.record(ContentType::Handshake, second);
        assert_eq!(feed(&mut server, &record, usize::MAX), Ok(vec![]));
        assert!(!seal(&mut server, b"answer").is_empty());
        server.rest();
        if cut == update.len() - 1 {
            assert_eq!(feed(&mut server, &data, usize::MAX), Ok(vec![]));
            assert!(!seal(&mut server, b"answer with new keys").is_empty());
            return;
        }
        let (other_client, other_server) = connected();
        forger = other_client.into_forger();
        server = other_server;
    }
}

#[test]
fn ends_on_an_endless_stream_of_nothing() {
    let (client, mut server) = connected();
    let mut forger = client.into_forger();
    let nothing =
        |forger: &mut super::client::Forger| forger.record(ContentType::ApplicationData, b"");
    let error = (0..100).find_map(|_| {
        let record = nothing(&mut forger);
        feed(&mut server, &record, usize::MAX).err()
    });
    assert_eq!(error, Some(TlsError::Misbehaved(Misbehaved::TooMuchOfNothing)));
}

#[test]
fn refuses_handshake_messages_that_have_no_place() {
    let (client, mut server) = connected();
    let record = client.into_forger().record(ContentType::Handshake, &client_hello(40, 40));
    let error = feed(&mut server, &record, usize::MAX).unwrap_err();
    assert!(matches!(error, TlsError::Misbehaved(_)), "{error}");
}

#[test]
fn refuses_a_long_message_in_an_open_connection() {
    let (client, mut server) = connected();
    let mut forger = client.into_forger();
    let first = forger.record(ContentType::Handshake, &client_hello(60_000, 16_000));
    assert_eq!(feed(&mut server, &first, usize::MAX), Ok(vec![]));
    let second = forger.record(ContentType::Handshake, &[0; 16_000]);
    let expected = TlsError::Misbehaved(Misbehaved::MessageTooLong);
    assert_eq!(feed(&mut server, &second, usize::MAX), Err(expected));
    assert_eq!(drain(&mut server).len(), 24, "one encrypted alert");
}

#[test]
fn closes_both_ways() {
    let (mut client, mut server) = connected();
    client.close();
    exchange(&mut client, &mut server, usize::MAX);
    assert!(server.has_peer_closed() && server.is_open());
    let sealed = seal(&mut server, b"still talking");
    client.feed(&sealed);
    assert_eq!(client.plaintext, b"still talking");
    server.close();
    server.close();
    let goodbye = drain(&mut server);
    assert_eq!(goodbye.len(), 24, "one alert");
    client.feed(&goodbye);
    assert!(client.is_closed && client.error.is_none());
}

#[test]
fn receives_after_it_has_closed() {
    let (mut client, mut server) = connected();
    server.close();
    client.feed(&drain(&mut server));
    assert!(client.is_closed && !server.has_peer_closed());
    client.send(b"last words");
    assert_eq!(exchange(&mut client, &mut server, usize::MAX), b"last words");
    let misuse = Err(TlsError::Internal(Internal::Misuse));
    assert_eq!(server.seal(b"x", &mut [0; 200]), misuse, "the library would still seal");
    client.close();
    exchange(&mut client, &mut server, usize::MAX);
    assert!(server.has_peer_closed());
}

#[test]
fn ignores_what_comes_after_close_notify() {
    let (mut client, mut server) = connected();
    client.close();
    let mut bytes = core::mem::take(&mut client.outgoing);
    bytes.extend_from_slice(&[0xff; 50_000]);
    assert_eq!(feed(&mut server, &bytes, usize::MAX), Ok(vec![]));
    assert!(server.has_peer_closed() && server.space().is_empty());
    assert!(!seal(&mut server, b"still works").is_empty());
}

#[test]
fn closing_in_the_handshake_says_nothing() {
    let mut server = server();
    server.close();
    assert!(server.outgoing().is_empty());
}

#[test]
fn opens_no_record_while_plaintext_waits() {
    let (mut client, mut server) = connected();
    client.send(&[7; 1000]);
    client.send(&[8; 1000]);
    let bytes = core::mem::take(&mut client.outgoing);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for part in [&first[..5], &first[5..]] {
        let space = server.space();
        space[..part.len()].copy_from_slice(part);
        server.received(part.len(), &mut |bytes| bytes.len().min(10)).unwrap();
    }
    assert!(server.has_plaintext() && server.space().is_empty());
    let mut seen = 10;
    while server.has_plaintext() {
        server.deliver(&mut |bytes| {
            assert!(bytes.iter().all(|byte| *byte == 7));
            seen += bytes.len().min(300);
            bytes.len().min(300)
        });
    }
    assert_eq!(seen, 1000);
    assert_eq!(feed(&mut server, second, usize::MAX).unwrap(), [8; 1000]);
}

#[test]
fn seals_into_any_room_that_is_enough() {
    let (mut client, mut server) = connected();
    let plaintext: Vec<u8> = (0..RECORD_BYTES).map(|index| index as u8).collect();
    for length in [1, 2, 100, 1000, RECORD_BYTES - 1, RECORD_BYTES] {
        client.plaintext.clear();
        let sealed = seal(&mut server, &plaintext[..length]);
        assert!(sealed.len() == length + 22);
        client.feed(&sealed);
        assert_eq!(client.plaintext, plaintext[..length]);
    }
    let misuse = Err(TlsError::Internal(Internal::Misuse));
    assert_eq!(server.seal(b"x", &mut [0; SEAL_OVERHEAD]), misuse);
    let long = vec![0; RECORD_BYTES + 1];
    assert_eq!(server.seal(&long, &mut vec![0; 2 * RECORD_BYTES]), misuse);
    check_traffic(&mut client, &mut server);
}

#[test]
fn holds_next_to_nothing_at_rest() {
    let (mut client, mut server) = connected();
    client.send(&[0; RECORD_BYTES]);
    exchange(&mut client, &mut server, usize::MAX);
    server.rest();
    assert!(server.space().len() <= INCOMING_KEPT_BYTES);
    assert!(server.outgoing().is_empty() && !server.has_plaintext());
    check_traffic(&mut client, &mut server);
}

#[track_caller]
fn check_settings(chain: &[&[u8]], key: &[u8], protocols: &[&[u8]], expected: SettingsError) {
    let result = ServerSettings::new(chain, key, protocols, Arc::new(NoClock));
    assert_eq!(result.err(), Some(expected));
}

#[test]
fn settings_are_checked_before_the_first_connection() {
    let chain = [CERTIFICATE];
    assert!(ServerSettings::new(&chain, SEC1_KEY, &[], Arc::new(NoClock)).is_ok());
    check_settings(&[], KEY, &[], SettingsError::ChainLength(0));
    check_settings(&[CERTIFICATE; 9], KEY, &[], SettingsError::ChainLength(9));
    let long = vec![0; 33 << 10];
    check_settings(&[CERTIFICATE, &long], KEY, &[], SettingsError::ChainTooLong(416 + (33 << 10)));
    check_settings(&chain, b"", &[], SettingsError::Key);
    check_settings(&chain, &KEY[..50], &[], SettingsError::Key);
    check_settings(&chain, OTHER_KEY, &[], SettingsError::KeyMismatch);
    check_settings(&[b"no certificate"], KEY, &[], SettingsError::Certificate);
    check_settings(&chain, KEY, &[b""], SettingsError::Protocol);
    check_settings(&chain, KEY, &[&[b'a'; 256]], SettingsError::Protocol);
}

#[test]
fn survives_random_chunks_and_random_damage() {
    let mut dice = Dice(1);
    let (mut ended_well, mut ended_badly) = (0, 0);
    for _ in 0..600 {
        let (mut client, mut server) = (Client::new(&Wishes::default()), server());
        let damage_at = dice.roll(8);
        let mut failed = false;
        for round in 0..6 {
            if client.is_open() {
                client.send(&vec![round; 1 + dice.roll(3000)]);
                if dice.roll(4) == 0 {
                    client.update_keys();
                }
            }
            let mut bytes = core::mem::take(&mut client.outgoing);
            if usize::from(round) == damage_at && !bytes.is_empty() {
                damage(&mut bytes, &mut dice);
            }
            let chunk = 1 + dice.roll(2000);
            failed |= feed(&mut server, &bytes, chunk).is_err();
            let answer = drain(&mut server);
            client.feed(&answer);
            if server.is_open() && !failed {
                client.feed(&seal(&mut server, &vec![round; 1 + dice.roll(100)]));
            }
        }
        if failed {
            ended_badly += 1
        } else {
            ended_well += 1
        }
        server.close();
        assert!(drain(&mut server).len() < 100);
    }
    assert!(ended_well > 100 && ended_badly > 100, "{ended_well} {ended_badly}");
}

fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.roll(bytes.len());
    match dice.roll(5) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << dice.roll(8),
        2 => {
            bytes.remove(at);
        }
        3 => bytes.insert(at, dice.roll(256) as u8),
        _ => {
            let copy = bytes.clone();
            bytes.extend_from_slice(&copy[at..]);
        }
    }
}
