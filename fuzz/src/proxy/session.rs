//! A session that is no TLS: the same interface, records that anybody can read, and every rule of
//! the interface checked. A real one would cost a handshake an input.

use libos::tls::{
    EXPORTER_BYTES, Misbehaved, Parameters, RECORD_BYTES, SEAL_OVERHEAD, Session, TlsError,
};

/// A record's first byte, as the client sends it.
pub(crate) mod kind {
    /// Completes the handshake; once. With a payload it asks for a name.
    pub(crate) const HELLO: u8 = 0;
    /// Carries plaintext, also in the other direction.
    pub(crate) const DATA: u8 = 1;
    /// The client sends no more, also in the other direction.
    pub(crate) const CLOSE: u8 = 2;
    /// Has to be answered.
    pub(crate) const QUESTION: u8 = 3;
    /// What the session says of its own: answers and alerts.
    pub(crate) const ANSWER: u8 = 9;
}

const HEADER_BYTES: usize = 3;

/// The name of every connection whose client asks for one.
pub(crate) const EXPORTER: [u8; EXPORTER_BYTES] = [0xe7; EXPORTER_BYTES];

/// The failure that every unknown record leads to.
pub(crate) const FAILURE: TlsError = TlsError::Misbehaved(Misbehaved::Malformed);

/// A record in either direction.
pub(crate) fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind];
    record.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    record.extend_from_slice(payload);
    record
}

/// Takes whole records off the front of `bytes`.
pub(crate) fn take_record(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let [kind, high, low] = *bytes.first_chunk::<HEADER_BYTES>()?;
    let end = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if bytes.len() < end {
        return None;
    }
    let payload = bytes[HEADER_BYTES..end].to_vec();
    bytes.drain(..end);
    Some((kind, payload))
}

#[derive(Default)]
pub(crate) struct Plain {
    buffer: Vec<u8>,
    filled: usize,
    plaintext: Vec<u8>,
    outgoing: Vec<u8>,
    is_open: bool,
    is_named: bool,
    has_closed: bool,
    has_peer_closed: bool,
    failure: Option<TlsError>,
}

impl Plain {
    fn payload(&self) -> usize {
        match self.buffer.get(..self.filled).and_then(|bytes| bytes.first_chunk()) {
            Some([_, high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            None => 0,
        }
    }

    fn fail(&mut self) -> Result<(), TlsError> {
        self.outgoing.extend_from_slice(&record(kind::ANSWER, b"alert"));
        self.failure = Some(FAILURE);
        self.is_open = false;
        self.plaintext.clear();
        Err(FAILURE)
    }
}

impl Session for Plain {
    fn space(&mut self) -> &mut [u8] {
        if self.failure.is_some() || self.has_peer_closed || !self.plaintext.is_empty() {
            return &mut [];
        }
        let end = HEADER_BYTES + if self.filled < HEADER_BYTES { 0 } else { self.payload() };
        self.buffer.resize(end.max(self.filled), 0);
        &mut self.buffer[self.filled..]
    }

    fn received(
        &mut self,
        count: usize,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<(), TlsError> {
        assert_eq!(self.failure, None, "a session fails once");
        self.filled += count;
        assert!(self.filled <= self.buffer.len(), "more than there was space for");
        if self.filled < HEADER_BYTES || self.filled < HEADER_BYTES + self.payload() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        self.filled = 0;
        match take_record(&mut bytes) {
            Some((kind::HELLO, payload)) if !self.is_open => {
                self.is_open = true;
                self.is_named = !payload.is_empty();
                self.outgoing.extend_from_slice(&record(kind::ANSWER, &[0x48; 900]));
            }
            Some((kind::DATA, payload)) if self.is_open && payload.len() <= RECORD_BYTES => {
                let taken = sink(&payload);
                assert!(taken <= payload.len());
                self.plaintext.extend_from_slice(&payload[taken..]);
            }
            Some((kind::CLOSE, _)) if self.is_open => self.has_peer_closed = true,
            Some((kind::QUESTION, _)) if self.is_open && !self.has_closed => {
                self.outgoing.extend_from_slice(&record(kind::ANSWER, b"new keys"));
            }
            _ => return self.fail(),
        }
        Ok(())
    }

    fn has_plaintext(&self) -> bool {
        !self.plaintext.is_empty()
    }

    fn deliver(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) {
        if self.has_plaintext() {
            let taken = sink(&self.plaintext);
            self.plaintext.drain(..taken);
        }
    }

    fn seal(&mut self, plaintext: &[u8], sealed: &mut [u8]) -> Result<usize, TlsError> {
        assert!(self.is_open && !self.has_closed, "sealed out of order");
        assert!(self.outgoing.is_empty(), "what was queued goes first");
        assert!(!plaintext.is_empty() && plaintext.len() <= RECORD_BYTES);
        assert!(sealed.len() >= plaintext.len() + SEAL_OVERHEAD);
        // Fills the overhead, so that the room for it is needed.
        let padding = record(kind::ANSWER, &[0; SEAL_OVERHEAD - 2 * HEADER_BYTES]);
        let whole = [padding, record(kind::DATA, plaintext)].concat();
        sealed[..whole.len()].copy_from_slice(&whole);
        Ok(whole.len())
    }

    fn close(&mut self) {
        if self.is_open && !self.has_closed {
            self.has_closed = true;
            self.outgoing.extend_from_slice(&record(kind::CLOSE, &[]));
        }
    }

    fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    fn sent(&mut self, count: usize) {
        assert!(count <= self.outgoing.len());
        self.outgoing.drain(..count);
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    fn parameters(&self) -> Option<Parameters> {
        self.is_open.then_some(Parameters { suite: "none", group: "none" })
    }

    fn exporter(&self) -> Option<[u8; EXPORTER_BYTES]> {
        (self.is_open && self.is_named).then_some(EXPORTER)
    }

    fn rest(&mut self) {
        if self.filled == 0 {
            self.buffer = Vec::new();
        }
    }
}
