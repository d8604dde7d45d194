//! A client's first message, read before the library sees it: what the client offers decides
//! which settings it meets.
//!
//! Nothing is believed for longer than that choice. The library reads the message again, and a
//! message that is not understood here goes to the settings that every other client meets; the
//! library then says what is wrong with it.

use alloc::borrow::Cow;
use alloc::vec::Vec;

/// Bytes of a record's header (RFC 8446 section 5.1).
const RECORD_HEADER_BYTES: usize = 5;

/// Bytes of a handshake message's header (RFC 8446 section 4).
const HEADER_BYTES: usize = 4;

/// The content type of records that carry the handshake.
const HANDSHAKE: u8 = 22;

/// The type of the message that begins a handshake.
const CLIENT_HELLO: u8 = 1;

/// The longest message that is read: more than a client has to say, and less than we receive.
pub const MAX_BYTES: usize = 16 << 10;

/// Extensions of RFC 6066 section 3 and RFC 7301 section 3.1.
const SERVER_NAME: u16 = 0;
const APPLICATION_PROTOCOLS: u16 = 16;

/// What a client says in its first message, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientHello<'a> {
    server_name: Option<&'a [u8]>,
    /// Names with their lengths before them, all whole.
    protocols: &'a [u8],
}

/// How far a first message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// All of it is there.
    Complete,
    /// It is no ClientHello, or one that is not read.
    Other,
    /// There is more to come.
    Partial,
}

/// Follows records until the first message is complete, without keeping them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gathering {
    header: [u8; HEADER_BYTES],
    received: usize,
}

impl Gathering {
    /// Takes one more whole record into account.
    pub fn follow(&mut self, record: &[u8]) -> Gathered {
        let Some(([kind, ..], payload)) = record.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Gathered::Other;
        };
        if *kind != HANDSHAKE || payload.is_empty() {
            return Gathered::Other;
        }
        let rest_of_header = self.header.get_mut(self.received..).unwrap_or_default();
        for (to, from) in rest_of_header.iter_mut().zip(payload) {
            *to = *from;
        }
        self.received = self.received.saturating_add(payload.len());
        let [kind, high, middle, low] = self.header;
        if kind != CLIENT_HELLO {
            return Gathered::Other;
        }
        if self.received < HEADER_BYTES {
            return Gathered::Partial;
        }
        let body = u32::from_be_bytes([0, high, middle, low]) as usize;
        match HEADER_BYTES + body {
            whole if whole > MAX_BYTES => Gathered::Other,
            whole if whole <= self.received => Gathered::Complete,
            _ => Gathered::Partial,
        }
    }
}

/// The payloads of whole records, joined: the message and what follows it.
pub fn join(records: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (first, mut rest) = split_record(records)?;
    if rest.is_empty() {
        return Some(Cow::Borrowed(first));
    }
    let mut joined = Vec::with_capacity(records.len());
    joined.extend_from_slice(first);
    // Each round takes a header off, so there are fewer rounds than bytes.
    while !rest.is_empty() {
        let (payload, later) = split_record(rest)?;
        joined.extend_from_slice(payload);
        rest = later;
    }
    Some(Cow::Owned(joined))
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([_, _, _, high, low], rest) = records.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))
}

impl<'a> ClientHello<'a> {
    /// Reads the message at the beginning of `bytes`; `None` if there is none that holds together.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut message = Reader(bytes);
        let [kind, high, middle, low] = *message.chunk()?;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if kind != CLIENT_HELLO || length > MAX_BYTES {
            return None;
        }
        let mut body = Reader(message.take(length)?);
        // The version of old, the random number, the session of old (RFC 8446 section 4.1.2).
        let [_, _] = body.chunk()?;
        let _random: &[u8; 32] = body.chunk()?;
        let session = body.short_list()?;
        let suites = body.list()?;
        let compressions = body.short_list()?;
        if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 {
            return None;
        }
        if compressions.is_empty() {
            return None;
        }
        if body.0.is_empty() {
            return Some(Self::default());
        }
        let extensions = body.list()?;
        if !body.0.is_empty() {
            return None;
        }
        Self::of_extensions(Reader(extensions))
    }

    fn of_extensions(mut extensions: Reader<'a>) -> Option<Self> {
        let (mut server_name, mut protocols) = (None, None);
        // Each round takes four bytes off at least.
        while !extensions.0.is_empty() {
            let kind = u16::from_be_bytes(*extensions.chunk()?);
            let content = extensions.list()?;
            let place = match kind {
                SERVER_NAME => &mut server_name,
                APPLICATION_PROTOCOLS => &mut protocols,
                _ => continue,
            };
            // RFC 8446 section 4.2: no extension twice.
            if place.replace(content).is_some() {
                return None;
            }
        }
        let protocols = match protocols {
            Some(content) => protocol_names(content)?,
            None => &[],
        };
        Some(Self { server_name: server_name.and_then(host_name), protocols })
    }

    /// The host that the client wants to reach, as it wrote it.
    pub fn server_name(&self) -> Option<&'a [u8]> {
        self.server_name
    }

    /// The application protocols that the client offers, the one it likes best first.
    pub fn protocols(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = Reader(self.protocols);
        core::iter::from_fn(move || rest.short_list())
    }

    /// Whether the client offers an application protocol.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.protocols().any(|name| name == protocol)
    }
}

/// The list in the extension: at least one name, none of them empty (RFC 7301 section 3.1).
fn protocol_names(extension: &[u8]) -> Option<&[u8]> {
    let mut extension = Reader(extension);
    let names = extension.list()?;
    let mut rest = Reader(names);
    if names.is_empty() || !extension.0.is_empty() {
        return None;
    }
    // Each name takes two bytes off at least.
    while !rest.0.is_empty() {
        if rest.short_list()?.is_empty() {
            return None;
        }
    }
    Some(names)
}

/// The one host name in the extension: other kinds of name were never defined.
fn host_name(extension: &[u8]) -> Option<&[u8]> {
    let mut extension = Reader(extension);
    let mut names = Reader(extension.list()?);
    let [kind] = *names.chunk()?;
    let name = names.list()?;
    let is_whole = extension.0.is_empty() && names.0.is_empty();
    (is_whole && kind == 0 && !name.is_empty()).then_some(name)
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    /// Bytes behind a length of one byte.
    fn short_list(&mut self) -> Option<&'a [u8]> {
        let [length] = *self.chunk()?;
        self.take(length.into())
    }

    /// Bytes behind a length of two bytes.
    fn list(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(*self.chunk()?);
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// A list with a length of two bytes before it.
    fn list(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes()[..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &list(content)].concat()
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let body =
            [&[3, 3][..], &[7; 32], &[2, 8, 8], &list(&[0x13, 1]), &[1, 0], &list(extensions)]
                .concat();
        [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
    }

    fn protocols(names: &[&[u8]]) -> Vec<u8> {
        let names: Vec<u8> =
            names.iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect();
        extension(16, &list(&names))
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        extension(0, &list(&[&[0][..], &list(name)].concat()))
    }

    /// The server's name, and the protocols.
    type Offer<'a> = (Option<&'a [u8]>, &'a [&'a [u8]]);

    /// What `message` offers, or that it is not read.
    #[track_caller]
    fn check(message: &[u8], expected: Option<Offer<'_>>) {
        let seen = ClientHello::parse(message);
        let protocols: Option<Vec<_>> = seen.map(|hello| hello.protocols().collect());
        assert_eq!(seen.map(|hello| hello.server_name()), expected.map(|(name, _)| name));
        assert_eq!(protocols.as_deref(), expected.map(|(_, names)| names));
        for cut in 0..message.len() {
            assert_eq!(ClientHello::parse(&message[..cut]), None, "the first {cut} bytes");
        }
    }

    #[test]
    fn reads_what_a_client_offers() {
        let both = [server_name(b"sealed.test"), protocols(&[b"h2", b"bulla-attest/1"])].concat();
        check(&message(&both), Some((Some(b"sealed.test"), &[b"h2", b"bulla-attest/1"])));
        check(&message(&[]), Some((None, &[])));
        check(&message(&extension(0x1234, &[])), Some((None, &[])));
        let one = [extension(5, &[1; 40]), protocols(&[&[0xff; 255]])].concat();
        check(&message(&one), Some((None, &[&[0xff; 255]])));
        let mut without_extensions = message(&[]);
        without_extensions.truncate(without_extensions.len() - 2);
        without_extensions[3] -= 2;
        check(&without_extensions, Some((None, &[])));
    }

    #[test]
    fn a_protocol_is_offered_by_its_whole_name_only() {
        let hello = message(&protocols(&[b"bulla-attest/11", b"bulla-attest/", b"h2"]));
        let hello = ClientHello::parse(&hello).unwrap();
        assert!(!hello.offers(b"bulla-attest/1") && hello.offers(b"h2") && !hello.offers(b""));
    }

    #[test]
    fn what_does_not_hold_together_is_not_read() {
        let twice = [protocols(&[b"h2"]), protocols(&[b"bulla-attest/1"])].concat();
        check(&message(&twice), None);
        check(&message(&[server_name(b"a"), server_name(b"b")].concat()), None);
        check(&message(&protocols(&[])), None);
        check(&message(&protocols(&[b"h2", b""])), None);
        check(&message(&extension(16, &[0, 4, 2, b'h', b'2'])), None);
        check(&message(&extension(16, &[0, 3, 3, b'h', b'2'])), None);
        check(&message(&extension(16, &[0, 3, 2, b'h', b'2', 0])), None);
        check(&message(&[0, 16, 0, 9, 0]), None);
        let good = message(&protocols(&[b"h2"]));
        // The message's type, its length, a session of 33 bytes, an odd list of suites, none, no compression.
        for (at, byte) in [(0, 2), (3, good[3] + 1), (1, 1), (38, 33), (42, 1), (42, 0), (45, 0)] {
            let mut damaged = good.clone();
            damaged[at] = byte;
            check(&damaged, None);
        }
        check(&[&good[..], b"more"].concat()[..good.len()], Some((None, &[b"h2"])));
    }

    #[test]
    fn a_server_name_of_another_form_is_none() {
        for content in [&[][..], &[0, 0], &[0, 3, 0, 0, 0], &[0, 4, 1, 0, 1, b'a'], &[0, 9, 0, 0]] {
            check(&message(&extension(0, content)), Some((None, &[])));
        }
    }

    fn records(message: &[u8], size: usize) -> Vec<Vec<u8>> {
        let record = |piece: &[u8]| [&[22, 3, 1][..], &list(piece)].concat();
        message.chunks(size).map(record).collect()
    }

    #[test]
    fn follows_a_message_over_any_number_of_records() {
        let whole = message(&protocols(&[b"bulla-attest/1"]));
        for size in 1..=whole.len() {
            let pieces = records(&whole, size);
            let mut gathering = Gathering::default();
            let (last, before) = pieces.split_last().unwrap();
            for piece in before {
                assert_eq!(gathering.follow(piece), Gathered::Partial);
            }
            assert_eq!(gathering.follow(last), Gathered::Complete);
            assert_eq!(&*join(&pieces.concat()).unwrap(), whole);
        }
        let longer = records(&[&whole[..], b"more"].concat(), usize::MAX);
        assert_eq!(Gathering::default().follow(&longer[0]), Gathered::Complete);
    }

    #[test]
    fn other_records_end_the_search() {
        let follow = |record: &[u8]| Gathering::default().follow(record);
        assert_eq!(follow(&[21, 3, 3, 0, 2, 2, 40]), Gathered::Other);
        assert_eq!(follow(&[22, 3, 3, 0, 0]), Gathered::Other);
        assert_eq!(follow(&[22, 3, 3, 0, 1, 2]), Gathered::Other);
        assert_eq!(follow(&[22, 3]), Gathered::Other);
        assert_eq!(follow(&[22, 3, 3, 0, 4, 1, 0, 0x3f, 0xfc]), Gathered::Partial);
        assert_eq!(follow(&[22, 3, 3, 0, 4, 1, 0, 0x3f, 0xfd]), Gathered::Other);
        assert_eq!(join(&[22, 3, 3, 0, 2, 1]), None);
        assert_eq!(join(&[]), None);
    }
}
