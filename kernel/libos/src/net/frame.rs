//! A short, strict look at a frame's headers: whose is it, and is it worth anybody's time?
//!
//! What is not ours or contradicts itself ends here, with a reason, before smoltcp sees it.
//! Ethernet II, IPv4 (RFC 791), TCP (RFC 9293), ARP (RFC 826). No field is read past the end.

use super::checksum;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET_BYTES: usize = 14;

/// Bytes of an IPv4 header; we neither take nor send options.
pub(super) const IP_BYTES: usize = 20;

/// Where the IP packet's payload begins in a frame.
pub(super) const PAYLOAD_AT: usize = ETHERNET_BYTES + IP_BYTES;

/// The largest IP packet.
pub(super) const IP_MTU: usize = 1500;

/// The IP protocol number of TCP.
pub(super) const TCP: u8 = 6;

/// Bytes of an ARP frame, Ethernet header included.
pub(super) const ARP_FRAME_BYTES: usize = ETHERNET_BYTES + 28;

const ICMP: u8 = 1;
const ICMP_ECHO_REQUEST: u8 = 8;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Hardware Ethernet, protocol IPv4, six and four bytes.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// TCP flags (RFC 9293 section 3.1).
pub(super) mod flag {
    pub(in crate::net) const FIN: u8 = 1;
    pub(in crate::net) const SYN: u8 = 2;
    pub(in crate::net) const RST: u8 = 4;
    pub(in crate::net) const PSH: u8 = 8;
    pub(in crate::net) const ACK: u8 = 16;
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EthernetAddress(pub(super) [u8; 6]);

impl EthernetAddress {
    pub(super) const EVERYBODY: Self = Self([0xff; 6]);

    /// Whether it names several machines, or none.
    pub(super) fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// Who we are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) mac: EthernetAddress,
    pub(super) address: u32,
    pub(super) mask: u32,
}

impl Identity {
    /// Whether `address` lies in our network.
    pub(super) fn is_on_link(&self, address: u32) -> bool {
        (address ^ self.address) & self.mask == 0
    }

    /// Whether `address` can be one host's, here or anywhere.
    pub(super) fn is_host(&self, address: u32) -> bool {
        let is_special = matches!(address >> 24, 0 | 127 | 224..=255);
        let within = address & !self.mask;
        // A network's first address is the network, its last one is everybody.
        let is_edge = self.is_on_link(address) && (within == 0 || within == !self.mask);
        !is_special && !is_edge
    }

    /// Whether `address` can be another host's.
    pub(super) fn is_other_host(&self, address: u32) -> bool {
        address != self.address && self.is_host(address)
    }

    /// Whether `address` can be another host's in our network.
    pub(super) fn is_neighbour(&self, address: u32) -> bool {
        self.is_on_link(address) && self.is_other_host(address)
    }
}

/// One side's name of a connection. Our own address is not in it: we have only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) remote: u32,
    pub(super) remote_port: u16,
    pub(super) local_port: u16,
}

impl Key {
    /// All of the key in one word.
    pub(super) fn word(self) -> u64 {
        u64::from(self.remote) << 32
            | u64::from(self.remote_port) << 16
            | u64::from(self.local_port)
    }
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub(super) is_request: bool,
    pub(super) sender_mac: EthernetAddress,
    pub(super) sender: u32,
    pub(super) target_mac: EthernetAddress,
    pub(super) target: u32,
}

/// A TCP segment for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) key: Key,
    pub(super) flags: u8,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Arp(Arp),
    Segment(Segment),
    EchoRequest,
}

/// A frame that may be processed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) from: EthernetAddress,
    pub(super) content: Content,
    /// The IP packet without the frame's padding; nothing in an ARP frame.
    pub(super) packet: &'a [u8],
}

/// Why a frame may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    NotOurs,
    Malformed,
    Fragment,
    Options,
    Martian,
    Protocol,
    Checksum,
}

impl<'a> Frame<'a> {
    /// Looks at a frame that arrived.
    pub(super) fn parse(bytes: &'a [u8], us: &Identity) -> Result<Self, Rejected> {
        if bytes.len() > ETHERNET_BYTES + IP_MTU {
            return Err(Rejected::Malformed);
        }
        let (ethernet, rest) =
            bytes.split_first_chunk::<ETHERNET_BYTES>().ok_or(Rejected::Malformed)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
        let to = EthernetAddress([d0, d1, d2, d3, d4, d5]);
        let from = EthernetAddress([s0, s1, s2, s3, s4, s5]);
        if from.is_group() {
            return Err(Rejected::Martian);
        }
        match [t0, t1] {
            ETHERTYPE_IPV4 if to == us.mac => {
                let (content, packet) = parse_ip(rest, us)?;
                Ok(Self { from, content, packet })
            }
            ETHERTYPE_ARP if to == us.mac || to == EthernetAddress::EVERYBODY => {
                let content = Content::Arp(parse_arp(rest, us)?);
                Ok(Self { from, content, packet: &[] })
            }
            _ if to != us.mac => Err(Rejected::NotOurs),
            _ => Err(Rejected::Protocol),
        }
    }

    /// Whether the TCP checksum is right (RFC 9293 section 3.1).
    pub(super) fn has_right_checksum(&self) -> bool {
        match (self.packet.get(12..20), self.packet.get(IP_BYTES..)) {
            (Some(addresses), Some(segment)) => {
                let pseudo = checksum::pseudo_header(addresses, segment.len());
                checksum::fold(pseudo + checksum::sum(segment)) == 0xffff
            }
            _ => false,
        }
    }
}

fn parse_ip<'a>(bytes: &'a [u8], us: &Identity) -> Result<(Content, &'a [u8]), Rejected> {
    let header = bytes.first_chunk::<IP_BYTES>().ok_or(Rejected::Malformed)?;
    let [version, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        *header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if version >> 4 != 4 || version & 15 < 5 || length < IP_BYTES {
        return Err(Rejected::Malformed);
    }
    if u32::from_be_bytes([d0, d1, d2, d3]) != us.address {
        return Err(Rejected::NotOurs);
    }
    if version & 15 != 5 {
        return Err(Rejected::Options);
    }
    if checksum::fold(checksum::sum(header)) != 0xffff {
        return Err(Rejected::Malformed);
    }
    // Everything but "don't fragment" says that this is a piece.
    if u16::from_be_bytes([f0, f1]) & !0x4000 != 0 {
        return Err(Rejected::Fragment);
    }
    let remote = u32::from_be_bytes([s0, s1, s2, s3]);
    if !us.is_other_host(remote) {
        return Err(Rejected::Martian);
    }
    let packet = bytes.get(..length).ok_or(Rejected::Malformed)?;
    let payload = packet.get(IP_BYTES..).ok_or(Rejected::Malformed)?;
    let content = match protocol {
        TCP => Content::Segment(parse_tcp(payload, remote)?),
        ICMP if payload.first() == Some(&ICMP_ECHO_REQUEST) => Content::EchoRequest,
        _ => return Err(Rejected::Protocol),
    };
    Ok((content, packet))
}

fn parse_tcp(segment: &[u8], remote: u32) -> Result<Segment, Rejected> {
    let header = segment.first_chunk::<20>().ok_or(Rejected::Malformed)?;
    let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, offset, flags, ..] = *header;
    let remote_port = u16::from_be_bytes([s0, s1]);
    let local_port = u16::from_be_bytes([d0, d1]);
    let header_bytes = usize::from(offset >> 4) * 4;
    let kind = flags & (flag::FIN | flag::SYN | flag::RST);
    let is_sound = remote_port != 0
        && local_port != 0
        && header_bytes >= header.len()
        && header_bytes <= segment.len()
        && kind.count_ones() <= 1;
    let key = Key { remote, remote_port, local_port };
    is_sound.then_some(Segment { key, flags }).ok_or(Rejected::Malformed)
}

fn parse_arp(bytes: &[u8], us: &Identity) -> Result<Arp, Rejected> {
    let packet = bytes.first_chunk::<28>().ok_or(Rejected::Malformed)?;
    let (kind, rest) = packet.split_first_chunk::<6>().ok_or(Rejected::Malformed)?;
    if *kind != ARP_ETHERNET_IPV4 {
        return Err(Rejected::Protocol);
    }
    let [o0, o1, m0, m1, m2, m3, m4, m5, s0, s1, s2, s3, n0, n1, n2, n3, n4, n5, t0, t1, t2, t3] =
        *rest.first_chunk::<22>().ok_or(Rejected::Malformed)?;
    let arp = Arp {
        is_request: match [o0, o1] {
            [0, 1] => true,
            [0, 2] => false,
            _ => return Err(Rejected::Malformed),
        },
        sender_mac: EthernetAddress([m0, m1, m2, m3, m4, m5]),
        sender: u32::from_be_bytes([s0, s1, s2, s3]),
        target_mac: EthernetAddress([n0, n1, n2, n3, n4, n5]),
        target: u32::from_be_bytes([t0, t1, t2, t3]),
    };
    let is_sound = !arp.sender_mac.is_group() && us.is_neighbour(arp.sender);
    is_sound.then_some(arp).ok_or(Rejected::Martian)
}

/// Writes the Ethernet header of an IPv4 packet.
pub(super) fn write_ip_header(frame: &mut [u8], to: EthernetAddress, from: EthernetAddress) {
    write_ethernet(frame, to, from, ETHERTYPE_IPV4);
}

fn write_ethernet(frame: &mut [u8], to: EthernetAddress, from: EthernetAddress, kind: [u8; 2]) {
    if let Some(header) = frame.first_chunk_mut::<ETHERNET_BYTES>() {
        header[..6].copy_from_slice(&to.0);
        header[6..12].copy_from_slice(&from.0);
        header[12..].copy_from_slice(&kind);
    }
}

impl Arp {
    /// Writes a frame of [`ARP_FRAME_BYTES`] that carries this packet to `to`.
    pub(super) fn write(&self, frame: &mut [u8], to: EthernetAddress) {
        write_ethernet(frame, to, self.sender_mac, ETHERTYPE_ARP);
        if let Some(packet) = frame.get_mut(ETHERNET_BYTES..ARP_FRAME_BYTES) {
            packet[..6].copy_from_slice(&ARP_ETHERNET_IPV4);
            packet[6..8].copy_from_slice(&[0, if self.is_request { 1 } else { 2 }]);
            packet[8..14].copy_from_slice(&self.sender_mac.0);
            packet[14..18].copy_from_slice(&self.sender.to_be_bytes());
            packet[18..24].copy_from_slice(&self.target_mac.0);
            packet[24..28].copy_from_slice(&self.target.to_be_bytes());
        }
    }
}
