//! Seeds for the network, written as the events that its world reads.

use super::frame::{self, PEER_IP, PEER_MAC};

/// A segment: which connection, which kind, right numbers, some payload.
fn segment(chosen: u8, port: u8, flags: u8, payload: u16) -> Vec<u8> {
    let mut event = vec![2, chosen];
    if chosen < 4 {
        event.extend_from_slice(&[0, port]);
    }
    let [low, high] = payload.to_le_bytes();
    // Kind, right sequence, no options, payload, right acknowledgement, window, the peer's address.
    event.extend_from_slice(&[flags, 0, 0, low, high, 0, 0x40, 0x1f, 0]);
    event
}

/// Kinds, by their place in the world's list.
const ACK: u8 = 0;
const SYN: u8 = 1;
const RST: u8 = 2;
const FIN: u8 = 3;
const SYN_ACK: u8 = 4;

/// Two connections come in; both are used, one is closed politely and one is reset.
pub(crate) fn connections() -> Vec<u8> {
    [
        vec![0],
        segment(0, 0, SYN, 0),
        segment(4, 0, ACK, 0),
        segment(0, 1, SYN, 0),
        segment(5, 0, ACK, 10),
        segment(4, 0, ACK, 700),
        vec![13, 0, 4, 14, 0, 8, 13, 0, 4],
        segment(4, 0, FIN, 0),
        vec![15, 15],
        segment(4, 0, ACK, 0),
        vec![12, 12, 10, 3, 0, 1],
        segment(5, 0, RST, 0),
    ]
    .concat()
}

/// We open a connection, ask for its neighbour, and the backend answers.
pub(crate) fn dialled() -> Vec<u8> {
    let mut events = vec![1, 18, 0, 9, 0, 1, 1, 0];
    events.extend(segment(4, 0, SYN_ACK, 0));
    events.extend_from_slice(&[14, 0, 2]);
    events.extend(segment(4, 0, ACK, 300));
    events.extend_from_slice(&[13, 0, 2, 11, 6, 0, 16, 12, 17]);
    events
}

/// An echo request, an ARP request, a segment of nobody's, time, a smaller ring, a renewal.
pub(crate) fn odd_frames() -> Vec<u8> {
    let mut events = vec![0];
    let echo = frame::ip(PEER_MAC, PEER_IP.to_bits(), 1, &[8, 0, 0, 0, 0, 1, 0, 1, b'x', b'y']);
    let arp = frame::arp(1, PEER_MAC, PEER_IP.to_bits(), frame::OUR_IP.to_bits());
    for frame in [echo, arp] {
        events.push(0);
        events.extend_from_slice(&(frame.len() as u16).to_le_bytes());
        events.extend_from_slice(&frame);
        events.push(1);
    }
    events.extend(segment(0, 3, ACK, 5));
    events.extend_from_slice(&[11, 10, 0xff, 0xff, 19, 2]);
    events.extend(segment(0, 4, SYN, 0));
    events.extend_from_slice(&[19, 0]);
    events
}

/// Reading, writing, segments that arrive out of order, closing.
pub(crate) fn traffic() -> Vec<u8> {
    [
        vec![0, 0xff, 0xff, 0xff, 0xff],
        vec![14, 0xff, 0xff, 13, 100, 0],
        segment(4, 0, ACK, 1000),
        // Ahead by 256.
        vec![2, 4, ACK, 5, 0, 1, 0, 100, 0, 0, 0x40, 0x1f, 0],
        segment(4, 0, ACK, 300),
        vec![13, 0xff, 0xff, 12, 12, 15],
        segment(4, 0, FIN, 20),
        vec![12],
    ]
    .concat()
}
