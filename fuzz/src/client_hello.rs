//! The first message of a client, read by us and by the library: where the library takes it, both
//! must have read the same offer.

use std::sync::{Arc, LazyLock};

use libos::tls::client_hello::{ClientHello, Gathered, Gathering, MAX_BYTES, join};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, UnbufferedServerConnection};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;

use crate::input::Input;
use crate::tls::{CLIENT_HELLO, client};

/// The protocol that the library is given.
const PROTOCOL: &[u8] = b"bulla-attest/1";

/// More states than one first message leads through.
const MAX_STATES: usize = 64;

#[derive(Debug)]
struct StoppedClock;

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let since = std::time::Duration::from_secs(1_800_000_000);
        Some(rustls::pki_types::UnixTime::since_unix_epoch(since))
    }
}

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let key = PrivateKeyDer::try_from(client::KEY).expect("the tests' key is good").clone_key();
    let chain = vec![CertificateDer::from(client::CERTIFICATE)];
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(StoppedClock))
        .with_protocol_versions(&[&TLS13])
        .expect("the library has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the tests' certificate is good");
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
});

/// A message from the beginning, or a recorded one with our offer put in and some bytes changed; in
/// records of any size.
pub fn hello(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.u8();
    let size = match input.u8() {
        0 => usize::MAX,
        size => usize::from(size),
    };
    let mut message = Vec::new();
    if mode & 1 == 1 {
        message.extend_from_slice(&with_offer(mode & 2 == 2));
        for _ in 0..mode >> 5 {
            let at = usize::from(input.u16()) % message.len();
            message[at] = input.u8();
        }
    }
    message.extend_from_slice(input.rest());
    let records = records(&message, size);
    let is_offered = peek(&records);
    if let Some(agreed) = library(&records.concat()) {
        assert_eq!(is_offered, Some(agreed), "the library has read another offer");
    }
}

/// Whether the first message in these records offers the protocol, as far as it can be read.
fn peek(records: &[Vec<u8>]) -> Option<bool> {
    let mut gathering = Gathering::default();
    for (index, record) in records.iter().enumerate() {
        match gathering.follow(record) {
            Gathered::Partial => {}
            Gathered::Other => return None,
            Gathered::Complete => {
                let joined = records[..=index].concat();
                let message = join(&joined).expect("whole records are joined");
                return ClientHello::parse(&message).map(|hello| look(&hello));
            }
        }
    }
    None
}

fn look(hello: &ClientHello<'_>) -> bool {
    let names: Vec<_> = hello.protocols().collect();
    assert!(names.iter().all(|name| !name.is_empty()) && names.len() <= MAX_BYTES);
    assert!(hello.server_name().is_none_or(|name| !name.is_empty()));
    assert_eq!(hello.offers(PROTOCOL), names.contains(&PROTOCOL));
    hello.offers(PROTOCOL)
}

/// Whether the library agrees on the protocol, if it answers the message at all.
fn library(records: &[u8]) -> Option<bool> {
    let connection = UnbufferedServerConnection::new(CONFIG.clone());
    let mut connection = connection.expect("the library takes its own settings");
    let mut bytes = records.to_vec();
    for _ in 0..MAX_STATES {
        let status = connection.process_tls_records(&mut bytes);
        let (discard, state) = (status.discard, status.state);
        match state {
            Ok(rustls::unbuffered::ConnectionState::EncodeTlsData(mut data)) => {
                let mut answer = vec![0; 16 << 10];
                data.encode(&mut answer).expect("an answer fits");
            }
            Ok(rustls::unbuffered::ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(_) | Err(_) => break,
        }
        bytes.drain(..discard);
    }
    // The suite is chosen after the offers were read, and the group when ServerHello was made.
    connection.negotiated_key_exchange_group()?;
    Some(connection.alpn_protocol() == Some(PROTOCOL))
}

/// The recorded message, with our protocol offered beside another one, or with neither.
fn with_offer(is_offered: bool) -> Vec<u8> {
    let mut message = CLIENT_HELLO[5..].to_vec();
    if is_offered {
        let names = [b"\x02h2\x0e", PROTOCOL].concat();
        let length = names.len() as u16;
        let extension = [&[0, 16][..], &(length + 2).to_be_bytes(), &length.to_be_bytes(), &names];
        insert(&mut message, &extension.concat());
    }
    message
}

/// Puts an extension before all others and mends the two lengths round it.
fn insert(message: &mut Vec<u8>, extension: &[u8]) {
    let session = usize::from(message[38]);
    let suites = 39 + session;
    let compressions =
        suites + 2 + usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]));
    let extensions = compressions + 1 + usize::from(message[compressions]);
    let length = u16::from_be_bytes([message[extensions], message[extensions + 1]]);
    let longer = length + extension.len() as u16;
    message[extensions..extensions + 2].copy_from_slice(&longer.to_be_bytes());
    message.splice(extensions + 2..extensions + 2, extension.iter().copied());
    let body = (message.len() - 4) as u32;
    message[1..4].copy_from_slice(&body.to_be_bytes()[1..]);
}

fn records(message: &[u8], size: usize) -> Vec<Vec<u8>> {
    let size = size.min(1 << 14);
    let record =
        |piece: &[u8]| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
    message.chunks(size).map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_gets_as_far_as_an_agreement() {
        for (is_offered, size) in [(true, usize::MAX), (true, 40), (false, usize::MAX), (false, 1)]
        {
            let records = records(&with_offer(is_offered), size);
            assert_eq!(peek(&records), Some(is_offered));
            let expected = is_offered.then_some(true);
            assert_eq!(library(&records.concat()), expected.or(Some(false)));
        }
    }
}
