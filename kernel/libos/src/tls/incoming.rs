//! The buffer for received TLS bytes: never more than the record that is being received.
//!
//! We find the records ourselves, by their headers, and show the library one whole record at a
//! time. That is what bounds the plaintext, keeps bytes from being moved about, and tells us at
//! any time which bytes the library has already worked on and only holds on to.

use alloc::vec::Vec;

use super::{INCOMING_BYTES, INCOMING_KEPT_BYTES, RECORD_BYTES};

/// Bytes of a record's header (RFC 8446 section 5.1).
const HEADER_BYTES: usize = 5;

/// The longest payload a record may have: plaintext and what protection adds (RFC 8446
/// section 5.2).
const PAYLOAD_BYTES: usize = RECORD_BYTES + 256;

/// The first growth beyond what is kept; from there on it doubles.
const FIRST_GROWTH_BYTES: usize = 2048;

/// What the bytes received so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A whole record.
    Complete,
    /// The beginning of one.
    Partial,
    /// The header of one that is too long, for TLS or together with the handshake message before it.
    TooLong(TooLong),
}

/// What is too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TooLong {
    /// The handshake message that the record continues.
    Message,
    /// The record.
    Record,
}

/// Received TLS bytes.
///
/// `bytes[..kept]` belongs to records that the library has worked on and whose handshake message
/// is not complete yet; `bytes[kept..filled]` is the beginning of the next record.
#[derive(Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    kept: usize,
    filled: usize,
}

impl Incoming {
    /// Where the next bytes go: up to the end of the header, then up to the end of the record.
    ///
    /// A header that announces a long record makes the buffer grow only as bytes really come.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let end = match self.header() {
            Some(header) => self.kept + HEADER_BYTES + payload_bytes(header),
            None => self.kept + HEADER_BYTES,
        };
        let end = end.min(INCOMING_BYTES);
        if self.bytes.len() < end {
            let growth = (2 * self.filled).max(FIRST_GROWTH_BYTES);
            let length =
                if end <= INCOMING_KEPT_BYTES { INCOMING_KEPT_BYTES } else { end.min(growth) };
            if length > self.bytes.len() {
                self.bytes.reserve_exact(length - self.bytes.len());
                self.bytes.resize(length, 0);
            }
        }
        let end = end.min(self.bytes.len());
        self.bytes.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Counts `count` bytes that were put into the space.
    pub(super) fn fill(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
    }

    /// Whether a header is there that no TLS record has: another protocol, most likely.
    pub(super) fn is_implausible(&self) -> bool {
        matches!(self.header(), Some([kind, major, ..]) if !(20..=23).contains(&kind) || major != 3)
    }

    /// What is there now.
    pub(super) fn record(&self) -> Record {
        let Some(header) = self.header() else {
            let has_room = self.kept + HEADER_BYTES <= INCOMING_BYTES;
            return if has_room { Record::Partial } else { Record::TooLong(TooLong::Message) };
        };
        let payload = payload_bytes(header);
        let end = self.kept + HEADER_BYTES + payload;
        if payload > PAYLOAD_BYTES {
            Record::TooLong(TooLong::Record)
        } else if end > INCOMING_BYTES {
            Record::TooLong(TooLong::Message)
        } else if self.filled == end {
            Record::Complete
        } else {
            Record::Partial
        }
    }

    /// All received bytes, for the library to work on.
    pub(super) fn all(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.filled).unwrap_or_default()
    }

    /// What has come since the last [`Incoming::keep_all`].
    pub(super) fn newest(&self) -> &[u8] {
        self.bytes.get(self.kept..self.filled).unwrap_or_default()
    }

    /// The bytes the library has already worked on.
    ///
    /// The library remembers how far it has come, so it must never be shown fewer than these, and
    /// where no new record shall be opened it must not be shown more.
    pub(super) fn worked_on(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.kept).unwrap_or_default()
    }

    /// Forgets the first `count` bytes.
    pub(super) fn discard(&mut self, count: usize) {
        let count = count.min(self.filled);
        if count == 0 {
            return;
        }
        self.bytes.copy_within(count..self.filled, 0);
        self.filled -= count;
        self.kept = self.kept.saturating_sub(count);
    }

    /// Says that the library has worked on all of it.
    pub(super) fn keep_all(&mut self) {
        self.kept = self.filled;
    }

    /// Gives the buffer back if it is empty and not small.
    pub(super) fn rest(&mut self) {
        if self.filled == 0 && self.bytes.len() > INCOMING_KEPT_BYTES {
            self.release();
        }
    }

    /// Gives the buffer back with all that is in it.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    /// Whether the library has not been shown anything and the received bytes begin with `prefix`.
    pub(super) fn begins_with(&self, prefix: &[u8]) -> bool {
        self.bytes.get(..self.filled).unwrap_or_default().starts_with(prefix)
    }

    /// The first received byte.
    pub(super) fn first(&self) -> u8 {
        self.bytes.first().copied().unwrap_or_default()
    }

    /// Makes the next record's header one that the library must refuse as too long.
    pub(super) fn spoil_header(&mut self) {
        self.bytes.truncate(self.kept);
        self.bytes.extend_from_slice(&[23, 3, 3, 0xff, 0xff]);
        self.filled = self.bytes.len();
    }

    fn header(&self) -> Option<[u8; HEADER_BYTES]> {
        self.bytes.get(self.kept..self.filled)?.first_chunk().copied()
    }
}

fn payload_bytes([_, _, _, high, low]: [u8; HEADER_BYTES]) -> usize {
    usize::from(u16::from_be_bytes([high, low]))
}
