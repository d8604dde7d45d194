//! The server's side of a TLS connection: rustls, driven through its unbuffered interface.
//!
//! Three things about that interface are not obvious, and each would be a way to stop the machine
//! from outside:
//!
//! * It remembers how far it has worked on the buffer it was last shown. So the next buffer must
//!   not be shorter, also where the aim is only to write ([`Incoming::worked_on`]).
//! * After an error it must not see the same record again. What it has queued until then, an alert
//!   most of all, is collected without showing it any input ([`ServerSession::collect`]).
//! * Every state repeats until it is handled, so all loops here are bounded by [`MAX_STATES`].

use alloc::vec::Vec;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use super::choice::{Attested, Choice};
use super::client_hello::Gathered;
use super::incoming::{Incoming, Record, TooLong};
use super::{
    EXPORTER_BYTES, Internal, Misbehaved, NotTls, Parameters, RECORD_BYTES, SEAL_OVERHEAD, Session,
    TlsError,
};

/// How many states one record can lead through. A ClientHello leads through two for each record
/// of our answer, of which the longest chain makes a handful.
const MAX_STATES: usize = 32;

/// How plain HTTP begins. A record's header is five bytes, so that many are there to compare.
const HTTP_METHODS: [&[u8]; 9] =
    [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"PATCH", b"DELET", b"OPTIO", b"CONNE", b"PRI *"];

/// The server's side of one TLS connection.
pub struct ServerSession {
    connection: UnbufferedServerConnection,
    /// Until the first message is there and says which settings the client meets.
    choice: Option<Choice>,
    attested: Option<Attested>,
    exporter: Option<[u8; EXPORTER_BYTES]>,
    incoming: Incoming,
    plaintext: Queue,
    outgoing: Queue,
    is_tls: bool,
    has_closed: bool,
    has_peer_closed: bool,
    failure: Option<TlsError>,
}

/// What follows from one of the library's states.
enum Next {
    Again,
    Fail(TlsError),
    Rest,
}

impl ServerSession {
    pub(super) fn new(connection: UnbufferedServerConnection, choice: Option<Choice>) -> Self {
        Self {
            connection,
            choice,
            attested: None,
            exporter: None,
            incoming: Incoming::default(),
            plaintext: Queue::default(),
            outgoing: Queue::default(),
            is_tls: false,
            has_closed: false,
            has_peer_closed: false,
            failure: None,
        }
    }

    /// Chooses the settings by the client's first message; says whether they are chosen.
    ///
    /// Until then the library sees nothing: it cannot go from one to the other.
    fn choose(&mut self) -> Result<bool, TlsError> {
        let Some(choice) = &mut self.choice else { return Ok(true) };
        match choice.follow(self.incoming.newest()) {
            Gathered::Partial => return Ok(false),
            Gathered::Other => self.choice = None,
            Gathered::Complete => {
                let choice = self.choice.take();
                self.attested = choice.and_then(|choice| choice.make(self.incoming.all()));
            }
        }
        if let Some(attested) = &self.attested {
            self.connection = attested.connect()?;
        }
        Ok(true)
    }

    /// Works on whole records, and takes what names the connection as soon as it is there.
    fn open(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) -> Result<(), TlsError> {
        if !self.choose()? {
            return Ok(());
        }
        self.work(sink)?;
        if let Some(attested) = &self.attested
            && let Some(exporter) = attested.name(&self.connection)?
        {
            self.exporter = Some(exporter);
        }
        Ok(())
    }

    /// Lets the library work on all received bytes until it needs more.
    fn work(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) -> Result<(), TlsError> {
        for _ in 0..MAX_STATES {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(self.incoming.all());
            let next = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It lies in our queue, and we send that once.
                    data.done();
                    Next::Again
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        self.plaintext.offer(record.payload, sink);
                    }
                    Next::Again
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.has_peer_closed = true;
                    Next::Again
                }
                Ok(
                    ConnectionState::BlockedHandshake
                    | ConnectionState::WriteTraffic(_)
                    | ConnectionState::Closed,
                ) => Next::Rest,
                // We allow no early data, and know of no other states.
                Ok(_) => Next::Fail(TlsError::Internal(Internal::Other)),
                Err(error) => Next::Fail(error.into()),
            };
            self.incoming.discard(discard);
            match next {
                Next::Again => {}
                Next::Fail(error) => return Err(error),
                Next::Rest => return Ok(()),
            }
        }
        Err(TlsError::Internal(Internal::Endless))
    }

    /// Lets `act` write once the library is ready for it; what must go first is written first.
    fn write(
        &mut self,
        out: &mut [u8],
        act: impl FnOnce(
            &mut WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<usize, TlsError> {
        let misuse = TlsError::Internal(Internal::Misuse);
        let mut written = 0;
        for _ in 0..MAX_STATES {
            let room = out.get_mut(written..).unwrap_or_default();
            match self.connection.process_tls_records(self.incoming.worked_on()).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return match act(&mut traffic, room) {
                        Ok(count) => Ok(written + count),
                        Err(EncryptError::EncryptExhausted) => {
                            Err(TlsError::Internal(Internal::Exhausted))
                        }
                        Err(EncryptError::InsufficientSize(_)) => Err(misuse),
                    };
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    written += data.encode(room).map_err(|_| misuse)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) => return Err(misuse),
                Err(error) => return Err(error.into()),
            }
        }
        Err(TlsError::Internal(Internal::Endless))
    }

    /// Moves what the library has queued into our queue.
    ///
    /// The library hands out what is queued before it looks at input, so none is shown to it.
    fn collect(&mut self) {
        for _ in 0..MAX_STATES {
            if !self.connection.wants_write() {
                return;
            }
            let Ok(ConnectionState::EncodeTlsData(data)) =
                self.connection.process_tls_records(&mut []).state
            else {
                return;
            };
            encode(data, &mut self.outgoing);
        }
    }

    /// Ends the session, with an alert where one can be sent.
    fn fail(&mut self, error: TlsError) -> TlsError {
        let queued = self.outgoing.bytes.len();
        self.collect();
        let has_alert = self.outgoing.bytes.len() > queued;
        if let Some(alert) = error.alert()
            && !has_alert
            && !self.has_keys()
        {
            self.outgoing.bytes.extend_from_slice(&alert.record());
        }
        self.incoming.release();
        self.plaintext = Queue::default();
        self.failure = Some(error);
        error
    }

    /// Refuses a record for its length, by its header.
    fn refuse(&mut self, too_long: &TooLong) -> TlsError {
        if self.has_keys() {
            // Only the library can encrypt an alert, and this header makes it send one.
            self.incoming.spoil_header();
            let _ = self.connection.process_tls_records(self.incoming.all());
        }
        self.fail(TlsError::Misbehaved(match too_long {
            TooLong::Message => Misbehaved::MessageTooLong,
            TooLong::Record => Misbehaved::RecordTooLong,
        }))
    }

    /// Names what is no TLS at all; any other error stays as it is.
    fn name(&self, error: TlsError) -> TlsError {
        if self.is_tls {
            error
        } else if HTTP_METHODS.iter().any(|method| self.incoming.begins_with(method)) {
            TlsError::NotTls(NotTls::Http)
        } else if error == TlsError::Misbehaved(Misbehaved::Malformed) {
            TlsError::NotTls(NotTls::Other(self.incoming.first()))
        } else {
            error
        }
    }

    /// Whether what we send is encrypted: the key exchange is done as soon as ServerHello is made.
    fn has_keys(&self) -> bool {
        self.connection.negotiated_key_exchange_group().is_some()
    }
}

impl Session for ServerSession {
    fn space(&mut self) -> &mut [u8] {
        if self.failure.is_some() || self.has_peer_closed || self.has_plaintext() {
            return &mut [];
        }
        self.incoming.space()
    }

    fn received(
        &mut self,
        count: usize,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<(), TlsError> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        self.incoming.fill(count);
        if self.incoming.is_implausible() {
            // The library judges by the header alone, so let it, before the rest comes.
            self.choice = None;
            self.work(sink).map_err(|error| self.fail(self.name(error)))?;
        }
        if self.incoming.record() == Record::Complete {
            self.is_tls = true;
            self.open(sink).map_err(|error| self.fail(error))?;
            self.incoming.keep_all();
        }
        match self.incoming.record() {
            Record::TooLong(what) => Err(self.refuse(&what)),
            Record::Complete | Record::Partial => Ok(()),
        }
    }

    fn has_plaintext(&self) -> bool {
        !self.plaintext.rest().is_empty()
    }

    fn deliver(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) {
        if self.has_plaintext() {
            let taken = sink(self.plaintext.rest());
            self.plaintext.take(taken);
        }
    }

    fn seal(&mut self, plaintext: &[u8], sealed: &mut [u8]) -> Result<usize, TlsError> {
        let has_room = sealed.len() >= plaintext.len() + SEAL_OVERHEAD;
        let is_in_order = self.is_open() && !self.has_closed && self.outgoing().is_empty();
        if !has_room || !is_in_order || plaintext.len() > RECORD_BYTES {
            return Err(TlsError::Internal(Internal::Misuse));
        }
        self.write(sealed, |traffic, room| traffic.encrypt(plaintext, room))
    }

    fn close(&mut self) {
        if !self.is_open() || self.has_closed {
            return;
        }
        self.has_closed = true;
        let mut alert = [0; SEAL_OVERHEAD];
        // What cannot be sent any more need not be sent.
        let count = self.write(&mut alert, |traffic, room| traffic.queue_close_notify(room));
        self.outgoing.bytes.extend_from_slice(alert.get(..count.unwrap_or(0)).unwrap_or_default());
    }

    fn outgoing(&self) -> &[u8] {
        self.outgoing.rest()
    }

    fn sent(&mut self, count: usize) {
        self.outgoing.take(count);
    }

    fn is_open(&self) -> bool {
        self.failure.is_none() && !self.connection.is_handshaking()
    }

    fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    fn parameters(&self) -> Option<Parameters> {
        let suite = self.connection.negotiated_cipher_suite()?;
        let group = self.connection.negotiated_key_exchange_group()?;
        Some(Parameters {
            suite: suite.suite().as_str().unwrap_or("unknown"),
            group: group.name().as_str().unwrap_or("unknown"),
        })
    }

    fn exporter(&self) -> Option<[u8; EXPORTER_BYTES]> {
        self.exporter.filter(|_| self.is_open())
    }

    fn rest(&mut self) {
        self.incoming.rest();
    }
}

/// Appends what the library wants to send to `queue`.
fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, queue: &mut Queue) -> Next {
    // Asking with no room tells how much is needed.
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else {
        return Next::Fail(TlsError::Internal(Internal::Other));
    };
    let start = queue.bytes.len();
    queue.bytes.resize(start + needed.required_size, 0);
    match data.encode(queue.bytes.get_mut(start..).unwrap_or_default()) {
        Ok(_) => Next::Again,
        Err(_) => Next::Fail(TlsError::Internal(Internal::Other)),
    }
}

/// Bytes that wait to be taken; memory is given back once they all are.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    taken: usize,
}

impl Queue {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) {
        self.taken = self.taken.saturating_add(count);
        if self.taken >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Offers `bytes` to `sink` unless others wait before them, and keeps what it does not take.
    fn offer(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8]) -> usize) {
        let taken = if self.rest().is_empty() { sink(bytes) } else { 0 };
        self.bytes.extend_from_slice(bytes.get(taken..).unwrap_or_default());
    }
}
