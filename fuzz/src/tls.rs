//! TLS: bytes of strangers, and records of a client that has the right keys and means no good.

use std::sync::{Arc, LazyLock};

use libos::tls::{
    INCOMING_BYTES, RECORD_BYTES, SEAL_OVERHEAD, ServerSession, ServerSettings, Session, TlsError,
    WallClock,
};
use rustls::ContentType;

use crate::input::Input;

#[path = "../../kernel/libos/src/tls/client.rs"]
#[allow(dead_code, reason = "this file belongs to the tests of TLS, which use all of it")]
pub(crate) mod client;
use client::{CERTIFICATE, Client, KEY, Wishes};

/// The first flight of a client, as it was recorded.
pub(crate) const CLIENT_HELLO: &[u8] = include_bytes!("client_hello.bin");

/// No client is sent more than this before it has sent something that is right.
const MAX_OUTGOING_BYTES: usize = 16 << 10;

/// More calls than inputs of any length need.
const MAX_CALLS: usize = 1 << 20;

#[derive(Debug)]
struct NoClock;

impl WallClock for NoClock {
    fn unix_seconds(&self) -> Option<u64> {
        None
    }
}

static SETTINGS: LazyLock<ServerSettings> = LazyLock::new(|| {
    let settings = ServerSettings::new(&[CERTIFICATE], KEY, &[], Arc::new(NoClock));
    let settings = settings.and_then(|settings| settings.with_attestation(b"bulla-attest/1"));
    settings.expect("the tests' certificate and key are good")
});

/// A session and everything it has said.
struct Server {
    session: ServerSession,
    plaintext: Vec<u8>,
    error: Option<TlsError>,
    /// How many bytes the application takes at a time.
    appetite: usize,
}

impl Server {
    fn new(appetite: usize) -> Self {
        let session = SETTINGS.accept().expect("the library takes its own settings");
        Self { session, plaintext: Vec::new(), error: None, appetite }
    }

    /// Feeds bytes in chunks; says how many were taken.
    fn feed(&mut self, bytes: &[u8], mut chunk: impl FnMut() -> usize) {
        let mut rest = bytes;
        for _ in 0..MAX_CALLS {
            let was_open = self.session.is_open();
            let space = self.session.space();
            assert!(space.len() <= INCOMING_BYTES);
            if space.is_empty() {
                let has_reason = self.session.has_plaintext()
                    || self.session.has_peer_closed()
                    || self.error.is_some();
                assert!(has_reason, "a session that takes nothing would wait for ever");
                if !self.session.has_plaintext() {
                    return;
                }
                self.take();
                continue;
            }
            let count = chunk().clamp(1, space.len()).min(rest.len());
            if count == 0 {
                return;
            }
            let (now, later) = rest.split_at(count);
            space[..count].copy_from_slice(now);
            rest = later;
            let before = self.plaintext.len();
            let (plaintext, appetite) = (&mut self.plaintext, self.appetite);
            let result = self.session.received(count, &mut |bytes| {
                let taken = bytes.len().min(appetite);
                plaintext.extend_from_slice(&bytes[..taken]);
                taken
            });
            if !was_open && !self.session.is_open() {
                assert_eq!(self.plaintext.len(), before, "plaintext before the handshake's end");
            }
            assert!(self.session.outgoing().len() <= MAX_OUTGOING_BYTES);
            if let Err(error) = result {
                return self.check_failure(error);
            }
        }
        panic!("a session that never has enough");
    }

    fn take(&mut self) {
        let (plaintext, appetite) = (&mut self.plaintext, self.appetite.max(1));
        self.session.deliver(&mut |bytes| {
            let taken = bytes.len().min(appetite);
            plaintext.extend_from_slice(&bytes[..taken]);
            taken
        });
    }

    fn take_all(&mut self) {
        for _ in 0..MAX_CALLS {
            if !self.session.has_plaintext() {
                return;
            }
            self.take();
        }
        panic!("plaintext without end");
    }

    /// A session that has failed says so again, and says nothing else.
    fn check_failure(&mut self, error: TlsError) {
        self.error = Some(error);
        assert!(!error.to_string().is_empty());
        assert!(!self.session.is_open() && !self.session.has_plaintext());
        assert!(self.session.space().is_empty());
        let said = self.session.outgoing().len();
        assert_eq!(self.session.received(0, &mut |_| 0), Err(error));
        self.session.close();
        assert_eq!(self.session.outgoing().len(), said);
        assert!(self.session.seal(b"", &mut [0; SEAL_OVERHEAD]).is_err());
    }
}

/// Arbitrary bytes, or a recorded ClientHello with some bytes changed, in arbitrary chunks.
pub fn incoming(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.u8();
    let seed = u32::from(input.u8());
    let mut bytes = Vec::new();
    if mode & 1 == 1 {
        bytes.extend_from_slice(CLIENT_HELLO);
        for _ in 0..mode >> 5 {
            let (at, change, kind) =
                (usize::from(input.u16()) % bytes.len(), input.u8(), input.u8());
            match kind % 4 {
                0 => bytes[at] ^= change,
                1 => bytes[at] = change,
                2 => bytes.insert(at, change),
                _ => drop(bytes.remove(at)),
            }
        }
    }
    bytes.extend_from_slice(input.rest());
    let mut server = Server::new(7 * usize::from(mode >> 1 & 15));
    let mut state = seed;
    server.feed(&bytes, || {
        // All at once, or in pieces of changing sizes.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if seed == 0 { usize::MAX } else { (state >> 16) as usize % (8 * seed as usize) }
    });
}

/// After a handshake: records of any type and content, sealed with the right keys, and bytes that
/// are not; what the application sends and when it closes.
pub fn records(data: &[u8]) {
    let mut input = Input::new(data);
    let mut server = Server::new(usize::from(input.u16()));
    let mut client = Client::new(&Wishes::default());
    for _ in 0..2 {
        let flight = std::mem::take(&mut client.outgoing);
        server.feed(&flight, || usize::MAX);
        let answer = server.session.outgoing().to_vec();
        server.session.sent(answer.len());
        client.feed(&answer);
    }
    assert!(client.is_open() && server.session.is_open());
    let mut forger = client.into_forger();
    let mut expected = Vec::new();
    let mut has_raw = false;
    while !input.is_empty() && server.error.is_none() {
        match input.u8() % 8 {
            event @ 0..=4 => {
                let kind = if event == 0 { input.u8() } else { input.choice(&[23, 23, 22, 21]) };
                let fill = usize::from(input.u8() % 64 == 63) * (RECORD_BYTES - 100);
                let length = usize::from(input.u8());
                let mut content = input.bytes(length).to_vec();
                content.resize(content.len() + fill, 0x41);
                let record = forger.record(ContentType::from(kind), &content);
                let was_closed = server.session.has_peer_closed();
                server.feed(&record, || usize::MAX);
                if !was_closed && !has_raw && server.error.is_none() {
                    expected.extend_from_slice(application_data(kind, &content));
                }
            }
            5 => {
                has_raw = true;
                let length = usize::from(input.u8());
                server.feed(input.bytes(length), || usize::MAX);
            }
            6 => seal(&mut server, usize::from(input.u16())),
            _ => {
                server.session.close();
                server.session.rest();
                drain(&mut server);
            }
        }
        server.take_all();
        if !has_raw && server.error.is_none() {
            assert_eq!(server.plaintext, expected, "what the client sealed, in its order");
        }
    }
}

/// What of a record's content is for the application. Zeros at the end are padding, so a type of zero
/// leaves its place to the last byte that is none (RFC 8446 section 5.4).
fn application_data(kind: u8, content: &[u8]) -> &[u8] {
    const APPLICATION_DATA: u8 = 23;
    if kind != 0 {
        return if kind == APPLICATION_DATA { content } else { &[] };
    }
    let end = content.iter().rposition(|byte| *byte != 0);
    match end.and_then(|end| content.split_at_checked(end)) {
        Some((data, [APPLICATION_DATA, ..])) => data,
        _ => &[],
    }
}

fn seal(server: &mut Server, length: usize) {
    drain(server);
    let plaintext = vec![0x55; length];
    let mut sealed = vec![0; length + SEAL_OVERHEAD];
    match server.session.seal(&plaintext, &mut sealed) {
        Ok(count) => assert!(count >= length && count <= sealed.len()),
        Err(error) => assert!(matches!(error, TlsError::Internal(_)), "{error}"),
    }
}

/// TCP takes everything.
fn drain(server: &mut Server) {
    let count = server.session.outgoing().len();
    server.session.sent(count);
    assert!(server.session.outgoing().is_empty());
}

/// A client's first flight, for the seeds.
pub(crate) fn record_client_hello() -> Vec<u8> {
    Client::new(&Wishes::default()).outgoing
}
