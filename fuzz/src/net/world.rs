//! Our side, its applications, and what is known of its peers.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use libos::clock::Instant;
use libos::net::{Config, Dialer, Limits, Listener, Network, TcpStream, Tuning};
use libos::stream::{Dial, Read, Stream};

use super::card::{MAX_FRAME_BYTES, Rx, Tx};
use super::frame::{self, ACK, FIN, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, RST, SYN, Segment, Sent};
use crate::input::Input;

/// The port that is listened on.
pub(crate) const PORT: u16 = 443;

const LIMITS: Limits = Limits { accepted: 12, dialled: 4, lingering: 2 };
const MAX_HALF_OPEN: usize = 5;
const CAPACITY: usize = 64;

/// More calls than a round with so few connections can need.
const MAX_CALLS: usize = 64;

/// More deadlines than there can be before the last connection has gone.
const MAX_DEADLINES: usize = 5_000;

/// A handshake's time or a lingering end's, and some for what was to be sent.
const LONGEST_END: Duration = Duration::from_secs(20);

const TUNING: Tuning = Tuning {
    receive_bytes: 3000,
    send_bytes: 5000,
    handshake_timeout: Duration::from_secs(5),
    silence_timeout: Duration::from_secs(60),
    keep_alive: Duration::from_secs(25),
};

/// A connection by the peer's address and port and ours.
type Key = (u32, u16, u16);

/// How far both directions of a connection have come, by what our side sent.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// What the peer's next byte is, as far as our side has acknowledged.
    expected: u32,
    /// What our side sends next.
    next: u32,
    /// What the peer's first byte is, if our side has ever said so.
    first: Option<u32>,
    /// Where the peer has said that its data ends. What it sends behind that is nobody's.
    end: Option<u32>,
}

impl Known {
    /// Whether a place lies before the end of the peer's data.
    fn is_data(&self, place: u32) -> bool {
        self.end.is_none_or(|end| place.wrapping_sub(end).cast_signed() < 0)
    }
}

struct Held {
    stream: TcpStream,
    key: Key,
    /// What the next byte read has to be, once the first one's place is known.
    position: Option<u32>,
    /// Whether no later connection has got its name.
    is_checked: bool,
}

/// The byte at a place in every peer's sequence.
pub(crate) fn pattern(place: u32) -> u8 {
    (place.wrapping_mul(2_654_435_761) >> 13) as u8
}

pub(crate) struct World {
    network: Network<Rx, Tx>,
    dialer: Dialer,
    now: Instant,
    streams: VecDeque<Held>,
    known: BTreeMap<Key, Known>,
    last: Option<Sent>,
}

impl World {
    pub(crate) fn new(options: u8) -> Self {
        let config = Config {
            mac: OUR_MAC,
            address: OUR_IP,
            prefix: 24,
            gateway: Some(PEER_IP),
            random: [0x5a; 32],
            limits: LIMITS,
            dial: TUNING,
            has_memory: || true,
        };
        let transmitter =
            Tx { sent: Vec::new(), capacity: CAPACITY, completes_checksums: options & 1 != 0 };
        let mut receiver = Rx::default();
        receiver.is_trusted = options & 2 != 0;
        let now = Instant::from_micros(1_000_000);
        let mut network = Network::new(config, receiver, transmitter, now).expect("a good address");
        let listener = Listener { max_half_open: MAX_HALF_OPEN, tuning: TUNING };
        network.listen(PORT, listener).expect("a free port");
        let dialer = network.dialer();
        Self { network, dialer, now, streams: VecDeque::new(), known: BTreeMap::new(), last: None }
    }

    pub(crate) fn last_sent(&self) -> Option<Sent> {
        self.last
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// One frame arrives, and everything that follows from it happens.
    pub(crate) fn deliver(&mut self, frame: Vec<u8>) {
        self.network.card().0.arrived.push_back(frame);
        self.round();
    }

    /// Whatever the input says next.
    pub(crate) fn event(&mut self, input: &mut Input<'_>) {
        match input.u8() % 20 {
            0 | 1 => {
                let length = usize::from(input.u16()) % 2000;
                let mut bytes = input.bytes(length).to_vec();
                if input.is_set() {
                    frame::put_checksums_right(&mut bytes);
                }
                self.arrive(bytes);
            }
            2..=8 => {
                let frame = self.segment(input);
                self.arrive(frame);
            }
            9 => {
                let sender = peer(input);
                let operation = 1 + input.u8() % 3;
                let target = if input.is_set() { OUR_IP.to_bits() } else { input.u32() };
                self.arrive(frame::arp(operation, mac(input), sender, target));
            }
            10 | 11 => {
                let shift = input.u8() % 16;
                self.now = self.now + Duration::from_micros(u64::from(input.u16()) << shift);
            }
            12 => self.now = self.network.next_deadline().unwrap_or(self.now).max(self.now),
            13 => self.read(usize::from(input.u16())),
            14 => {
                let count = usize::from(input.u16());
                self.on_stream(|held| {
                    let taken = held.stream.write(&vec![0x77; count]);
                    assert!(taken <= count);
                });
            }
            15 => self.on_stream(|held| held.stream.finish()),
            16 => self.on_stream(|held| held.stream.abort()),
            17 => drop(self.streams.pop_front()),
            18 => self.dial(SocketAddrV4::new(Ipv4Addr::from_bits(peer(input)), 80)),
            _ => match input.u8() {
                0 => self.network.renew(input.array()),
                capacity => self.network.card().1.capacity = usize::from(capacity) % CAPACITY,
            },
        }
    }

    fn arrive(&mut self, frame: Vec<u8>) {
        self.network.card().0.arrived.push_back(frame);
    }

    /// A segment of a connection that is known or could be, somewhere near where it should be.
    fn segment(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let chosen = usize::from(input.u8()).wrapping_sub(4);
        let key = match self.known.keys().nth(chosen) {
            Some(key) => *key,
            None => (peer(input), 40_000 + u16::from(input.u8() % 8), PORT),
        };
        let known = self.known.get(&key).copied().unwrap_or_default();
        let flags = input.choice(&[ACK, SYN, ACK | RST, ACK | FIN, SYN | ACK, ACK | 8, RST, 0xff]);
        let flags = if flags == 0xff { input.u8() } else { flags };
        let sequence = near(known.expected, input);
        let options = usize::from(input.u8()) % 48;
        let options = input.bytes(options).to_vec();
        let payload = u32::from(input.u16()) % 1400;
        let first = sequence.wrapping_add(u32::from(flags & SYN != 0));
        if let Some(known) = self.known.get_mut(&key)
            && flags & FIN != 0
            && known.is_data(first.wrapping_add(payload))
        {
            known.end = Some(first.wrapping_add(payload));
        }
        let segment = Segment {
            from: key.0,
            from_port: key.1,
            to_port: key.2,
            sequence,
            acknowledged: near(known.next, input),
            flags,
            window: input.u16(),
            options,
            payload: (0..payload).map(|at| pattern(first.wrapping_add(at))).collect(),
        };
        segment.frame(mac(input))
    }

    /// The next stream's turn.
    fn on_stream(&mut self, act: impl FnOnce(&mut Held)) {
        if let Some(mut held) = self.streams.pop_front() {
            act(&mut held);
            self.streams.push_back(held);
        }
    }

    fn read(&mut self, count: usize) {
        let Some(mut held) = self.streams.pop_front() else { return };
        let mut buffer = vec![0; count.max(1)];
        if let Read::Data(count) = held.stream.read(&mut buffer) {
            assert!(count > 0 && count <= buffer.len());
            let known = self.known.get(&held.key).copied().unwrap_or_default();
            let mut position =
                held.position.or(known.first).expect("our side has answered the peer");
            for byte in &buffer[..count] {
                let is_sent = *byte == pattern(position) || !known.is_data(position);
                assert!(is_sent || !held.is_checked, "what is read is what was sent");
                position = position.wrapping_add(1);
            }
            held.position = Some(position);
        }
        self.streams.push_back(held);
    }

    fn dial(&mut self, to: SocketAddrV4) {
        if let Ok(stream) = self.dialer.dial(to) {
            let key = (to.ip().to_bits(), to.port(), stream.local_port());
            // The port may have been another connection's.
            self.known.remove(&key);
            self.streams.push_back(Held { stream, key, position: None, is_checked: true });
        }
    }

    /// Everything that can happen without time passing.
    pub(crate) fn round(&mut self) {
        for _ in 0..MAX_CALLS {
            let polled = self.network.poll(self.now);
            self.look_at_sent();
            self.accept();
            let flushed = self.network.flush(self.now);
            self.look_at_sent();
            let counters = self.network.counters();
            assert!(counters.connections as usize <= LIMITS.accepted + LIMITS.dialled);
            assert!(counters.half_open as usize <= MAX_HALF_OPEN);
            if !polled.has_more && !flushed.has_more {
                return;
            }
        }
        panic!("the network never comes to rest");
    }

    fn accept(&mut self) {
        while let Some(accepted) = self.network.accept() {
            let key = (accepted.peer.ip().to_bits(), accepted.peer.port(), accepted.port);
            assert_eq!(accepted.port, PORT);
            let position = self.known.get(&key).and_then(|known| known.first);
            self.streams.push_back(Held {
                stream: accepted.stream,
                key,
                position,
                is_checked: true,
            });
            assert!(self.streams.len() <= LIMITS.accepted + LIMITS.dialled);
        }
    }

    /// Looks at what was sent, and lets it go.
    fn look_at_sent(&mut self) {
        let sent = std::mem::take(&mut self.network.card().1.sent);
        for frame in &sent {
            assert!(frame.len() <= MAX_FRAME_BYTES);
            let Some(sent) = frame::check(frame) else { continue };
            self.last = Some(sent);
            if sent.flags & RST != 0 {
                continue;
            }
            let key = (sent.to, sent.to_port, sent.from_port);
            let known = self.known.entry(key).or_default();
            known.next = sent.next();
            if sent.flags & ACK != 0 {
                known.expected = sent.acknowledged;
                // Our SYN says what the peer's first byte is; so does the first answer to a peer's.
                let is_new = sent.flags & SYN != 0 && known.first != Some(sent.acknowledged);
                if is_new || known.first.is_none() {
                    (known.first, known.end) = (Some(sent.acknowledged), None);
                    // A stream that has had this name before keeps what it has.
                    let same = self.streams.iter_mut().filter(|held| held.key == key);
                    same.for_each(|held| held.is_checked &= !is_new || held.position.is_none());
                }
            }
        }
    }

    /// Everybody lets go, no frame comes any more, and time passes: nothing may be left.
    pub(crate) fn wind_down(&mut self) {
        self.network.card().1.capacity = CAPACITY;
        self.round();
        self.streams.clear();
        self.round();
        let end = self.now + LONGEST_END;
        for _ in 0..MAX_DEADLINES {
            match self.network.next_deadline() {
                Some(deadline) if deadline <= end => self.now = deadline.max(self.now),
                _ => {
                    let left = self.network.counters().connections;
                    assert_eq!(left, 0, "connections that nobody holds");
                    return;
                }
            }
            self.round();
        }
        panic!("deadlines without end");
    }
}

fn peer(input: &mut Input<'_>) -> u32 {
    match input.u8() % 8 {
        0..=3 => PEER_IP.to_bits(),
        4 => PEER_IP.to_bits() + 8,
        5 | 6 => Ipv4Addr::new(192, 0, 2, 9).to_bits(),
        _ => input.u32(),
    }
}

fn mac(input: &mut Input<'_>) -> [u8; 6] {
    if input.u8() % 8 == 7 { input.array() } else { PEER_MAC }
}

/// A place in a sequence: most often the right one, or near it.
fn near(place: u32, input: &mut Input<'_>) -> u32 {
    match input.u8() % 8 {
        0..=3 => place,
        4 => place.wrapping_add_signed(i32::from(input.u8().cast_signed())),
        5 | 6 => place.wrapping_add_signed(i32::from(input.u16().cast_signed())),
        _ => input.u32(),
    }
}
