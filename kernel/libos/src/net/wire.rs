//! The network card as smoltcp sees it: one IP packet in at most, frames out.
//!
//! smoltcp works with bare IP packets; the Ethernet header is ours, since we know where each
//! connection's frames go.

use smoltcp::phy::{self, Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::checksum;
use super::frame::{ARP_FRAME_BYTES, Arp, ETHERNET_BYTES, EthernetAddress, IP_BYTES, IP_MTU};
use super::frame::{PAYLOAD_AT, TCP, flag, write_ip_header};
use crate::link::{PartialChecksum, Transmitter};

/// Where TCP keeps its checksum, from the start of its header.
const TCP_CHECKSUM_AT: u16 = 16;

/// Where a TCP frame has its flags.
const TCP_FLAGS_AT: usize = PAYLOAD_AT + 13;

/// One packet's or one connection's view of the card.
///
/// Whoever lets smoltcp at it has made sure that there is room for one frame.
pub(super) struct Wire<'a, T> {
    pub(super) transmitter: &'a mut T,
    us: EthernetAddress,
    to: EthernetAddress,
    packet: Option<&'a [u8]>,
    /// Frames sent through this view.
    pub(super) frames: u64,
    /// Whether the last of them was a connection's last bytes for now: smoltcp pushes those (RFC
    /// 9293 section 3.9.1.2) or ends with them.
    pub(super) has_sent_all: bool,
}

impl<'a, T: Transmitter> Wire<'a, T> {
    /// A view whose frames go to `to`, with a packet to be received or none.
    pub(super) fn new(
        transmitter: &'a mut T,
        us: EthernetAddress,
        to: EthernetAddress,
        packet: Option<&'a [u8]>,
    ) -> Self {
        Self { transmitter, us, to, packet, frames: 0, has_sent_all: false }
    }
}

impl<T: Transmitter> Device for Wire<'_, T> {
    type RxToken<'b>
        = Packet<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sender<'b, T>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Packet<'_>, Sender<'_, T>)> {
        let packet = Packet(self.packet.take()?);
        Some((packet, self.sender()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_, T>> {
        // One poll of one connection sends at most one frame.
        Some(self.sender())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.transmitter.completes_checksums())
    }
}

impl<T: Transmitter> Wire<'_, T> {
    fn sender(&mut self) -> Sender<'_, T> {
        Sender {
            transmitter: self.transmitter,
            us: self.us,
            to: self.to,
            frames: &mut self.frames,
            has_sent_all: &mut self.has_sent_all,
        }
    }
}

/// What smoltcp need not do: what arrives was checked before.
fn capabilities(completes_checksums: bool) -> DeviceCapabilities {
    let mut checksum = ChecksumCapabilities::default();
    checksum.ipv4 = Checksum::Tx;
    checksum.tcp = if completes_checksums { Checksum::None } else { Checksum::Tx };
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = IP_MTU;
    capabilities.checksum = checksum;
    capabilities
}

/// The packet that arrived.
pub(super) struct Packet<'a>(&'a [u8]);

impl phy::RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// Room for one frame.
pub(super) struct Sender<'a, T> {
    transmitter: &'a mut T,
    us: EthernetAddress,
    to: EthernetAddress,
    frames: &'a mut u64,
    has_sent_all: &'a mut bool,
}

impl<T: Transmitter> phy::TxToken for Sender<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let completes_checksums = self.transmitter.completes_checksums();
        *self.frames += 1;
        self.transmitter.transmit(ETHERNET_BYTES + length, |frame| {
            write_ip_header(frame, self.to, self.us);
            let result = write(frame.get_mut(ETHERNET_BYTES..).unwrap_or_default());
            *self.has_sent_all = is_last(frame);
            let partial = if completes_checksums { begin_checksum(frame) } else { None };
            (result, partial)
        })
    }
}

/// Whether a TCP frame says that no bytes wait behind it.
fn is_last(frame: &[u8]) -> bool {
    frame.get(TCP_FLAGS_AT).is_some_and(|flags| flags & (flag::PSH | flag::FIN) != 0)
}

/// Stores the pseudo-header's sum in a TCP frame, for the device to go on from.
fn begin_checksum(frame: &mut [u8]) -> Option<PartialChecksum> {
    let segment_bytes = frame.len().checked_sub(PAYLOAD_AT)?;
    let header = frame.get(ETHERNET_BYTES..PAYLOAD_AT)?.first_chunk::<IP_BYTES>()?;
    let [_, _, _, _, _, _, _, _, _, protocol, _, _, addresses @ ..] = header;
    if *protocol != TCP {
        return None;
    }
    let sum = checksum::fold(checksum::pseudo_header(addresses, segment_bytes));
    let at = PAYLOAD_AT + usize::from(TCP_CHECKSUM_AT);
    frame.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(PartialChecksum { start: PAYLOAD_AT as u16, offset: TCP_CHECKSUM_AT })
}

/// Sends an ARP packet. There must be room.
pub(super) fn send_arp<T: Transmitter>(transmitter: &mut T, arp: &Arp, to: EthernetAddress) {
    transmitter.transmit(ARP_FRAME_BYTES, |frame| {
        arp.write(frame, to);
        ((), None)
    });
}
