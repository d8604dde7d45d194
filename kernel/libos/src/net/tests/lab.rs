//! A network in memory: our side, a wire that can lose, repeat and disorder frames, and another
//! smoltcp, or packets made by hand, on the far side.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use smoltcp::iface::{self, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::super::checksum;
use super::super::frame::flag;
use super::super::*;
use crate::link::{Checksum, PartialChecksum, Received};

pub(super) const OUR_MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 2];
pub(super) const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(super) const PEER_MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 1];
pub(super) const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(super) const FAR_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub(super) const PORT: u16 = 443;

type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// Our receive ring.
#[derive(Default)]
pub(super) struct Rx {
    arrived: Queue,
    held: BTreeMap<u16, Vec<u8>>,
    next: u16,
    is_trusted: Rc<Cell<bool>>,
}

impl Receiver for Rx {
    fn next(&mut self) -> Option<Received> {
        let frame = self.arrived.borrow_mut().pop_front()?;
        let length = frame.len() as u16;
        self.next = self.next.wrapping_add(1);
        assert!(self.held.insert(self.next, frame).is_none());
        assert_eq!(self.held.len(), 1, "a frame was not released");
        let checksum = if self.is_trusted.get() { Checksum::Trusted } else { Checksum::Unknown };
        Some(Received { index: self.next, length, checksum })
    }

    fn bytes(&self, frame: &Received) -> &[u8] {
        &self.held[&frame.index]
    }

    fn release(&mut self, frame: Received) {
        assert!(self.held.remove(&frame.index).is_some(), "a frame was released twice");
    }
}

/// Our transmit ring.
pub(super) struct Tx {
    sent: Queue,
    capacity: Rc<Cell<usize>>,
    completes_checksums: bool,
}

impl Transmitter for Tx {
    fn completes_checksums(&self) -> bool {
        self.completes_checksums
    }

    fn has_room(&mut self) -> bool {
        self.sent.borrow().len() < self.capacity.get()
    }

    fn transmit<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (R, Option<PartialChecksum>),
    ) -> R {
        assert!(self.has_room() && length <= 1514);
        // Old contents mean nothing.
        let mut frame = vec![0xa5; length];
        let (result, partial) = fill(&mut frame);
        if let Some(PartialChecksum { start, offset }) = partial {
            assert!(self.completes_checksums);
            let start = usize::from(start);
            let at = start + usize::from(offset);
            let sum = !checksum::fold(checksum::sum(&frame[start..]));
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.sent.borrow_mut().push_back(frame);
        result
    }
}

/// A generator that always gives the same numbers.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn happens(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// Our network and the queues of its card.
pub(super) struct Lab {
    pub(super) network: Network<Rx, Tx>,
    pub(super) now: Instant,
    pub(super) capacity: Rc<Cell<usize>>,
    pub(super) is_trusted: Rc<Cell<bool>>,
    arrived: Queue,
    sent: Queue,
}

pub(super) fn config() -> Config {
    Config {
        mac: OUR_MAC,
        address: OUR_IP,
        prefix: 24,
        gateway: Some(PEER_IP),
        random: [0x5a; 32],
        limits: Limits { accepted: 2000, dialled: 8, lingering: 4 },
        dial: Tuning { handshake_timeout: Duration::from_secs(3), ..Tuning::default() },
        has_memory: || true,
    }
}

pub(super) const LISTENER: Listener = Listener {
    max_half_open: 64,
    tuning: Tuning {
        receive_bytes: 16 << 10,
        send_bytes: 64 << 10,
        handshake_timeout: Duration::from_secs(5),
        silence_timeout: Duration::from_secs(60),
        keep_alive: Duration::from_secs(25),
    },
};

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(config(), LISTENER, false)
    }

    pub(super) fn with(config: Config, listener: Listener, completes_checksums: bool) -> Self {
        let (arrived, sent) = (Queue::default(), Queue::default());
        let (capacity, is_trusted) = (Rc::new(Cell::new(256)), Rc::new(Cell::new(false)));
        let receiver = Rx {
            arrived: Rc::clone(&arrived),
            is_trusted: Rc::clone(&is_trusted),
            ..Rx::default()
        };
        let transmitter =
            Tx { sent: Rc::clone(&sent), capacity: Rc::clone(&capacity), completes_checksums };
        let now = Instant::from_micros(1_000_000);
        let mut network = Network::new(config, receiver, transmitter, now).unwrap();
        network.listen(PORT, listener).unwrap();
        Self { network, now, capacity, is_trusted, arrived, sent }
    }

    pub(super) fn arrive(&mut self, frame: Vec<u8>) {
        self.arrived.borrow_mut().push_back(frame);
    }

    /// One round of our side without tasks.
    pub(super) fn round(&mut self) {
        while self.network.poll(self.now).has_more {}
        while self.network.flush(self.now).has_more {}
    }

    pub(super) fn take_sent(&mut self) -> Vec<Vec<u8>> {
        self.sent.borrow_mut().drain(..).collect()
    }

    /// Lets the frame arrive; what our side sends upon it.
    pub(super) fn answer(&mut self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        self.arrive(frame);
        self.round();
        self.take_sent()
    }

    /// Lets that much time pass, stopping at each deadline; what our side sends meanwhile.
    pub(super) fn pass(&mut self, span: Duration) -> Vec<Vec<u8>> {
        let end = self.now + span;
        let mut frames = Vec::new();
        for _ in 0..100_000 {
            self.round();
            frames.extend(self.take_sent());
            if self.now >= end {
                return frames;
            }
            let next = self.network.next_deadline().unwrap_or(end);
            // At least a little, or a deadline that does not move would stop the clock.
            self.now = next.max(self.now + Duration::from_micros(100)).min(end);
        }
        panic!("deadlines follow each other without end");
    }

    /// How many connections there are in the slots, the table and the timers.
    pub(super) fn census(&self) -> [usize; 4] {
        let stack = self.network.stack.borrow();
        let waiting = stack.neighbours.waiting();
        [stack.flows.len(), stack.table.len(), stack.timers.len(), waiting]
    }

    /// Establishes a connection with packets made by hand.
    pub(super) fn connect(&mut self, from: SocketAddrV4) -> Hand {
        let mut hand = Hand { from, seq: 1000, ack: 0, port: PORT };
        let frames = self.answer(hand.syn());
        assert_eq!(frames.len(), 1, "one SYN|ACK");
        let reply = Reply::of(&frames[0]);
        assert_eq!(reply.flags, flag::SYN | flag::ACK);
        assert_eq!(reply.ack, 1001);
        hand.seq = 1001;
        hand.ack = reply.seq.wrapping_add(1);
        assert_eq!(self.answer(hand.segment(flag::ACK, &[])), Vec::<Vec<u8>>::new());
        hand
    }

    pub(super) fn accept(&mut self) -> TcpStream {
        self.network.accept().expect("a connection").stream
    }
}

/// A TCP peer whose packets are made by hand.
#[derive(Clone, Copy)]
pub(super) struct Hand {
    pub(super) from: SocketAddrV4,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) port: u16,
}

impl Hand {
    /// A SYN as Linux sends it: largest segment, window scale.
    pub(super) fn syn(&self) -> Vec<u8> {
        let mut frame = self.segment(flag::SYN, &[2, 4, 5, 0xb4, 1, 3, 3, 7]);
        frame[46] = 7 << 4;
        fix(&mut frame);
        frame
    }

    pub(super) fn segment(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 20];
        tcp[0..2].copy_from_slice(&self.from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.port.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = flags;
        tcp[14..16].copy_from_slice(&60_000u16.to_be_bytes());
        tcp.extend_from_slice(payload);
        packet(*self.from.ip(), 6, tcp)
    }
}

/// A frame from the peer's hardware address with an IP packet for us.
pub(super) fn packet(from: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&OUR_MAC);
    frame.extend_from_slice(&PEER_MAC);
    frame.extend_from_slice(&[8, 0, 0x45, 0]);
    frame.extend_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&OUR_IP.octets());
    frame.extend_from_slice(&payload);
    fix(&mut frame);
    frame
}

/// Writes the right checksums into a frame.
pub(super) fn fix(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let header = !checksum::fold(checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    if frame[23] == 6 && frame.len() >= 54 {
        frame[50..52].fill(0);
        let pseudo = checksum::pseudo_header(&frame[26..34], frame.len() - 34);
        let sum = !checksum::fold(pseudo + checksum::sum(&frame[34..]));
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
    }
}

/// What our side sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) to_mac: [u8; 6],
    pub(super) local_port: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) payload: usize,
}

impl Reply {
    pub(super) fn of(frame: &[u8]) -> Self {
        assert_eq!((&frame[6..12], &frame[12..14]), (&OUR_MAC[..], &[8, 0][..]));
        assert_eq!(frame[23], 6, "TCP");
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        Self {
            to_mac: frame[..6].try_into().unwrap(),
            local_port: u16::from_be_bytes(frame[34..36].try_into().unwrap()),
            seq: word(38),
            ack: word(42),
            flags: frame[47] & 0x3f,
            payload: frame.len() - 34 - usize::from(frame[46] >> 4) * 4,
        }
    }
}

/// An ARP frame from the peer.
pub(super) fn arp(operation: u8, sender: Ipv4Addr, mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(if operation == 1 { &[0xff; 6] } else { &OUR_MAC });
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

pub(super) fn is_arp_request(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6] && frame[20..22] == [0, 1]
}

/// The far side: another smoltcp.
pub(super) struct Peer {
    interface: Interface,
    device: PeerDevice,
    pub(super) sockets: SocketSet<'static>,
}

struct PeerDevice {
    inbox: VecDeque<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
}

impl Device for PeerDevice {
    type RxToken<'a> = PeerRx;
    type TxToken<'a> = PeerTx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(PeerRx, PeerTx<'_>)> {
        let frame = self.inbox.pop_front()?;
        Some((PeerRx(frame), PeerTx(&mut self.outbox)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<PeerTx<'_>> {
        Some(PeerTx(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct PeerRx(Vec<u8>);

impl phy::RxToken for PeerRx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct PeerTx<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for PeerTx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        // Ethernet pads short frames.
        frame.resize(length.max(60), 0);
        self.0.push_back(frame);
        result
    }
}

impl Peer {
    pub(super) fn new() -> Self {
        let mut device = PeerDevice { inbox: VecDeque::new(), outbox: VecDeque::new() };
        let address = HardwareAddress::Ethernet(EthernetAddress(PEER_MAC));
        let mut config = iface::Config::new(address);
        config.random_seed = 7;
        let now = smoltcp::time::Instant::from_millis(1000);
        let mut interface = Interface::new(config, &mut device, now);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(PEER_IP), 24)).unwrap();
        });
        Self { interface, device, sockets: SocketSet::new(Vec::new()) }
    }

    fn add(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 60_000]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    pub(super) fn connect(&mut self, port: u16) -> SocketHandle {
        let handle = self.add();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (IpAddress::Ipv4(OUR_IP), PORT), port).unwrap();
        handle
    }

    pub(super) fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.add();
        self.sockets.get_mut::<tcp::Socket>(handle).listen(port).unwrap();
        handle
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

/// Both sides and the wire between them.
pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) peer: Peer,
    /// Percent of frames that are lost, repeated, and overtaken by the next one.
    pub(super) faults: [u64; 3],
    pub(super) dice: Dice,
}

impl World {
    pub(super) fn new(lab: Lab) -> Self {
        Self { lab, peer: Peer::new(), faults: [0; 3], dice: Dice(0x1234_5678_9abc_def1) }
    }

    fn carry(&mut self, frames: Vec<Vec<u8>>) -> VecDeque<Vec<u8>> {
        let [lost, repeated, overtaken] = self.faults;
        let mut there = VecDeque::new();
        for frame in frames {
            if self.dice.happens(lost) {
                continue;
            }
            if self.dice.happens(repeated) {
                there.push_back(frame.clone());
            }
            there.push_back(frame);
            let last = there.len() - 1;
            if last > 0 && self.dice.happens(overtaken) {
                there.swap(last, last - 1);
            }
        }
        there
    }

    /// A millisecond: our side, then the wire, then the peer, then the wire.
    pub(super) fn step(&mut self, mut tasks: impl FnMut(&mut Lab, &mut Peer)) {
        while self.lab.network.poll(self.lab.now).has_more {}
        tasks(&mut self.lab, &mut self.peer);
        self.lab.network.flush(self.lab.now);
        let sent = self.lab.take_sent();
        let mut there = self.carry(sent);
        self.peer.device.inbox.append(&mut there);
        let Peer { interface, device, sockets } = &mut self.peer;
        interface.poll(self.lab.now.into(), device, sockets);
        let answers = self.peer.device.outbox.drain(..).collect();
        let here = self.carry(answers);
        self.lab.arrived.borrow_mut().extend(here);
        self.lab.now = self.lab.now + Duration::from_millis(1);
    }

    /// Steps until `is_done`, at most that many milliseconds.
    pub(super) fn run(
        &mut self,
        max_ms: usize,
        mut is_done: impl FnMut(&mut Lab, &mut Peer) -> bool,
    ) {
        for _ in 0..max_ms {
            let mut done = false;
            self.step(|lab, peer| done = is_done(lab, peer));
            if done {
                return;
            }
        }
        panic!("not done after {max_ms} ms");
    }
}

/// Bytes that tell where they belong.
pub(super) fn pattern(length: usize) -> Box<[u8]> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
