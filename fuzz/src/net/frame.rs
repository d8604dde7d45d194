//! Frames: written as a peer would, and read as strictly as a peer could.

use std::net::Ipv4Addr;

pub(crate) const OUR_MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 2];
pub(crate) const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const PEER_MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 1];
pub(crate) const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

const ETHERNET_BYTES: usize = 14;
const IP_BYTES: usize = 20;
const TCP_AT: usize = ETHERNET_BYTES + IP_BYTES;

/// The one's complement sum of 16-bit words (RFC 1071).
pub(crate) fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = u64::from(start);
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([word[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header of an IPv4 packet (RFC 9293 section 3.1).
fn pseudo_sum(packet: &[u8]) -> u32 {
    let payload = packet.len() - IP_BYTES;
    u32::from(sum(&packet[12..20], 0)) + u32::from(packet[9]) + payload as u32
}

/// A TCP segment of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    pub(crate) from: u32,
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// As many bytes as there are, filled up to whole words.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    /// The frame that carries it.
    pub(crate) fn frame(&self, from_mac: [u8; 6]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let mut tcp = Vec::new();
        tcp.extend_from_slice(&self.from_port.to_be_bytes());
        tcp.extend_from_slice(&self.to_port.to_be_bytes());
        tcp.extend_from_slice(&self.sequence.to_be_bytes());
        tcp.extend_from_slice(&self.acknowledged.to_be_bytes());
        tcp.extend_from_slice(&[((5 + options.len() / 4) << 4) as u8, self.flags]);
        tcp.extend_from_slice(&self.window.to_be_bytes());
        tcp.extend_from_slice(&[0; 4]);
        tcp.extend_from_slice(&options);
        tcp.extend_from_slice(&self.payload);
        ip(from_mac, self.from, 6, &tcp)
    }
}

/// An IPv4 packet for us in a frame, with right checksums.
pub(crate) fn ip(from_mac: [u8; 6], from: u32, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&OUR_MAC);
    frame.extend_from_slice(&from_mac);
    frame.extend_from_slice(&[8, 0, 0x45, 0]);
    frame.extend_from_slice(&((IP_BYTES + payload.len()) as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&from.to_be_bytes());
    frame.extend_from_slice(&OUR_IP.octets());
    frame.extend_from_slice(payload);
    put_checksums_right(&mut frame);
    frame
}

/// An ARP packet in a frame.
pub(crate) fn arp(operation: u8, mac: [u8; 6], sender: u32, target: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(if operation == 1 { &[0xff; 6] } else { &OUR_MAC });
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&sender.to_be_bytes());
    frame.extend_from_slice(&OUR_MAC);
    frame.extend_from_slice(&target.to_be_bytes());
    frame
}

/// Puts the checksums of an IPv4 header and of the TCP segment or ICMP message in it right, where
/// the frame is long enough to have them.
pub(crate) fn put_checksums_right(frame: &mut [u8]) {
    if frame.len() < TCP_AT || frame[12..14] != [8, 0] {
        return;
    }
    frame[24..26].fill(0);
    let header = !sum(&frame[ETHERNET_BYTES..TCP_AT], 0);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let claimed = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let Some(packet) = frame.get_mut(ETHERNET_BYTES..ETHERNET_BYTES + claimed) else { return };
    let at = match packet.get(9) {
        Some(6) if packet.len() >= 40 => 36,
        Some(1) if packet.len() >= 28 => 22,
        _ => return,
    };
    packet[at..at + 2].fill(0);
    let start = if at == 36 { pseudo_sum(packet) } else { 0 };
    let value = !sum(&packet[IP_BYTES..], start);
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// What we sent to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) to: u32,
    pub(crate) to_port: u16,
    pub(crate) from_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    pub(crate) payload: usize,
}

impl Sent {
    /// What comes after it in the sequence.
    pub(crate) fn next(&self) -> u32 {
        let control = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.sequence.wrapping_add(self.payload as u32).wrapping_add(control)
    }
}

/// Checks a frame that we sent, to the last checksum; tells what it is if it is TCP.
pub(crate) fn check(frame: &[u8]) -> Option<Sent> {
    assert_eq!(frame[6..12], OUR_MAC);
    assert_eq!(frame[0] & 1, u8::from(frame[..6] == [0xff; 6]), "only to one, or to everybody");
    match [frame[12], frame[13]] {
        [8, 6] => {
            assert_eq!(frame.len(), 42);
            assert_eq!((&frame[22..28], &frame[28..32]), (&OUR_MAC[..], &OUR_IP.octets()[..]));
            None
        }
        [8, 0] => check_ip(&frame[ETHERNET_BYTES..]),
        other => panic!("a frame of type {other:02x?}"),
    }
}

fn check_ip(packet: &[u8]) -> Option<Sent> {
    assert_eq!(packet[0], 0x45);
    assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    assert_eq!(sum(&packet[..IP_BYTES], 0), 0xffff, "the header's checksum");
    assert_eq!(packet[12..16], OUR_IP.octets());
    let word = |at: usize| {
        u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
    };
    match packet[9] {
        1 => {
            assert_eq!(sum(&packet[IP_BYTES..], 0), 0xffff, "the message's checksum");
            None
        }
        6 => {
            let header = usize::from(packet[32] >> 4) * 4;
            assert!(header >= 20 && IP_BYTES + header <= packet.len());
            assert_eq!(sum(&packet[IP_BYTES..], pseudo_sum(packet)), 0xffff, "the checksum");
            Some(Sent {
                to: word(16),
                to_port: u16::from_be_bytes([packet[22], packet[23]]),
                from_port: u16::from_be_bytes([packet[20], packet[21]]),
                sequence: word(24),
                acknowledged: word(28),
                flags: packet[33],
                payload: packet.len() - IP_BYTES - header,
            })
        }
        other => panic!("a packet of protocol {other}"),
    }
}
