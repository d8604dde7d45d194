//! All connections and the rules they live by. It does no input or output of its own: frames and
//! the time are handed in.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use smoltcp::iface::{self, Interface, SocketSet};
use smoltcp::socket::tcp::State;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::config::{Config, Limits, ListenError, Listener, Tuning};
use super::counters::Counters;
use super::flow::{Flow, Flows, Hop, Owner, Phase};
use super::frame::{Arp, Content, EthernetAddress, Frame, Identity, Key, Rejected, Segment, flag};
use super::neighbour::Neighbours;
use super::table::{FIRST_DIALLED_PORT, Table};
use super::timers::Timers;
use super::wire::{Wire, send_arp};
use crate::clock::Instant;
use crate::link::{Checksum, Transmitter};
use crate::stream::DialError;

/// How long an acknowledgement waits for data to travel with.
///
/// Long enough for a backend's answer to carry it, short against any peer's retransmission timer.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(20);

/// How long a connection may take to end once nobody holds it any more.
const LINGER: Duration = Duration::from_secs(10);

/// How many frames one connection may send before others have their turn.
const FRAMES_A_TURN: usize = 8;

/// How many turns one flush takes at most.
const TURNS_A_FLUSH: usize = 1024;

/// How long a connection rests that claims to have something to send and then sends nothing.
const STALL: Duration = Duration::from_millis(1);

/// Everything that tasks and the network share.
pub(super) struct Stack {
    pub(super) us: Identity,
    pub(super) flows: Flows,
    pub(super) table: Table,
    pub(super) timers: Timers,
    pub(super) neighbours: Neighbours,
    pub(super) counters: Counters,
    pub(super) now: Instant,
    interface: Interface,
    /// The set for packets of no connection: smoltcp answers them with RST or an echo.
    nobody: SocketSet<'static>,
    listeners: Vec<Port>,
    egress: VecDeque<u32>,
    queue: VecDeque<u32>,
    gateway: Option<u32>,
    limits: Limits,
    dial: Tuning,
    has_memory: fn() -> bool,
    accepted: usize,
    dialled: usize,
    lingering: usize,
}

/// A port that is listened on.
struct Port {
    number: u16,
    listener: Listener,
    half_open: usize,
}

/// What made smoltcp look at a connection.
#[derive(Clone, Copy)]
enum Event {
    /// A segment, when the connection was in that state.
    Segment { before: State, is_reset: bool },
    /// The time, or something to send.
    Turn,
}

/// How a connection's turn to send ended.
enum Turn {
    /// It has nothing to send until then.
    Rests(Instant),
    /// It may have more.
    HasMore,
    /// The transmit ring is full.
    Blocked,
}

impl Stack {
    pub(super) fn new<T: Transmitter>(
        config: &Config,
        us: Identity,
        transmitter: &mut T,
        now: Instant,
    ) -> Self {
        let (table, interface) = keyed_parts(&config.random, us, config.limits, transmitter, now);
        Self {
            us,
            flows: Flows::default(),
            table,
            timers: Timers::default(),
            neighbours: Neighbours::default(),
            counters: Counters::default(),
            now,
            interface,
            nobody: SocketSet::new(Vec::new()),
            listeners: Vec::new(),
            egress: VecDeque::new(),
            queue: VecDeque::new(),
            gateway: config.gateway.map(Ipv4Addr::to_bits),
            limits: config.limits,
            dial: config.dial,
            has_memory: config.has_memory,
            accepted: 0,
            dialled: 0,
            lingering: 0,
        }
    }

    /// Breaks every connection without a word to anybody, and draws new keys.
    pub(super) fn renew<T: Transmitter>(&mut self, random: &[u8; 32], transmitter: &mut T) {
        for slot in self.flows.slots() {
            match self.flows.get(slot).map(|flow| flow.phase) {
                Some(Phase::HalfOpen(_)) => self.vanish(slot),
                Some(Phase::Dialling | Phase::Open | Phase::Closing) => self.end(slot, true),
                Some(Phase::Ended) | None => {}
            }
        }
        (self.table, self.interface) =
            keyed_parts(random, self.us, self.limits, transmitter, self.now);
    }

    pub(super) fn listen(&mut self, number: u16, listener: Listener) -> Result<(), ListenError> {
        if !(1..FIRST_DIALLED_PORT).contains(&number) {
            return Err(ListenError::Port(number));
        }
        if self.listeners.iter().any(|port| port.number == number) {
            return Err(ListenError::InUse(number));
        }
        self.listeners.push(Port { number, listener, half_open: 0 });
        Ok(())
    }

    /// An established connection that nobody has taken yet.
    pub(super) fn take_accepted(&mut self) -> Option<(u32, Key)> {
        let slot = self.queue.pop_front()?;
        let flow = self.flows.get_mut(slot)?;
        flow.owner = Owner::Stream;
        Some((slot, flow.key))
    }

    /// The counters, with the numbers that say how it stands.
    pub(super) fn count(&self) -> Counters {
        Counters {
            connections: self.flows.len() as u64,
            half_open: self.listeners.iter().map(|port| port.half_open as u64).sum(),
            ..self.counters
        }
    }

    /// When something is to be done even if no frame arrives.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let retry = self.neighbours.next_retry();
        self.timers.next().into_iter().chain(retry).min()
    }

    /// Whether connections wait for their turn to send.
    pub(super) fn has_turns(&self) -> bool {
        !self.egress.is_empty()
    }
}

/// Frames coming in.
impl Stack {
    /// Processes one frame. There must be room to send one.
    pub(super) fn receive<T: Transmitter>(
        &mut self,
        bytes: &[u8],
        checksum: Checksum,
        transmitter: &mut T,
    ) {
        self.counters.frames_in += 1;
        let frame = match Frame::parse(bytes, &self.us) {
            Ok(frame) => frame,
            Err(reason) => return self.reject(reason),
        };
        match frame.content {
            Content::Arp(arp) => self.receive_arp(&arp, transmitter),
            Content::EchoRequest => self.answer_stray(&frame, transmitter),
            Content::Segment(_) if checksum == Checksum::Unknown && !frame.has_right_checksum() => {
                self.reject(Rejected::Checksum);
            }
            Content::Segment(segment) => self.receive_segment(segment, &frame, transmitter),
        }
    }

    fn reject(&mut self, reason: Rejected) {
        let counter = match reason {
            Rejected::NotOurs => &mut self.counters.not_ours,
            Rejected::Malformed => &mut self.counters.malformed,
            Rejected::Fragment => &mut self.counters.fragments,
            Rejected::Options => &mut self.counters.options,
            Rejected::Martian => &mut self.counters.martians,
            Rejected::Protocol => &mut self.counters.protocols,
            Rejected::Checksum => &mut self.counters.checksums,
        };
        *counter += 1;
    }

    fn receive_arp<T: Transmitter>(&mut self, arp: &Arp, transmitter: &mut T) {
        self.counters.arp += 1;
        if self.neighbours.learn(arp, self.now) {
            self.resume_waiting();
        }
        if arp.is_request && arp.target == self.us.address {
            let answer = Arp {
                is_request: false,
                sender_mac: self.us.mac,
                sender: self.us.address,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            send_arp(transmitter, &answer, arp.sender_mac);
            self.counters.frames_out += 1;
        }
    }

    /// Lets smoltcp answer a packet of no connection; the answer goes back where it came from.
    fn answer_stray<T: Transmitter>(&mut self, frame: &Frame<'_>, transmitter: &mut T) {
        self.counters.strays += 1;
        let mut wire = Wire::new(transmitter, self.us.mac, frame.from, Some(frame.packet));
        self.interface.poll_ingress_single(self.now.into(), &mut wire, &mut self.nobody);
        self.counters.frames_out += wire.frames;
    }

    fn receive_segment<T: Transmitter>(
        &mut self,
        segment: Segment,
        frame: &Frame<'_>,
        transmitter: &mut T,
    ) {
        if let Some(slot) = self.table.find(segment.key) {
            return self.feed(slot, segment, frame, transmitter);
        }
        let is_first = segment.flags & (flag::SYN | flag::ACK) == flag::SYN;
        let port = self.listeners.iter().position(|port| port.number == segment.key.local_port);
        match port {
            Some(index) if is_first => {
                if let Some(slot) = self.welcome(index, segment.key, frame.from) {
                    self.feed(slot, segment, frame, transmitter);
                }
            }
            _ => self.answer_stray(frame, transmitter),
        }
    }

    /// Makes a place for a new connection, or counts why there is none.
    ///
    /// Whoever is refused hears nothing: an answer would cost us more than the question cost.
    fn welcome(&mut self, index: usize, key: Key, from: EthernetAddress) -> Option<u32> {
        let port = self.listeners.get_mut(index)?;
        let refused = if self.accepted >= self.limits.accepted {
            &mut self.counters.refused_connections
        } else if port.half_open >= port.listener.max_half_open {
            &mut self.counters.refused_half_open
        } else if !(self.has_memory)() {
            &mut self.counters.refused_memory
        } else {
            let tuning = port.listener.tuning;
            let is_neighbour = self.us.is_on_link(key.remote);
            let hop = if is_neighbour { Hop::Fixed(from) } else { Hop::LastSeen(from) };
            let mut flow = Flow::new(key, Phase::HalfOpen(index), hop, &tuning);
            // A fresh socket listens on any port but zero, which no frame has.
            flow.socket_mut().listen(key.local_port).ok()?;
            port.half_open += 1;
            self.accepted += 1;
            return Some(self.enter(flow, tuning.handshake_timeout));
        };
        *refused += 1;
        None
    }

    /// Enters a new connection everywhere, with a deadline for its handshake.
    fn enter(&mut self, mut flow: Flow, handshake_timeout: Duration) -> u32 {
        let key = flow.key;
        flow.deadline = self.now + handshake_timeout;
        let slot = self.flows.insert(flow);
        self.table.insert(key, slot);
        if let Some(flow) = self.flows.get_mut(slot) {
            self.timers.arm(slot, &mut flow.queued_at, flow.deadline);
        }
        slot
    }

    fn feed<T: Transmitter>(
        &mut self,
        slot: u32,
        segment: Segment,
        frame: &Frame<'_>,
        transmitter: &mut T,
    ) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let to = match &mut flow.hop {
            Hop::Fixed(mac) => *mac,
            Hop::LastSeen(mac) => {
                *mac = frame.from;
                *mac
            }
            Hop::Neighbour(index) => self.neighbours.mac(*index).unwrap_or(frame.from),
        };
        let before = flow.socket().state();
        let mut wire = Wire::new(transmitter, self.us.mac, to, Some(frame.packet));
        self.interface.poll_ingress_single(self.now.into(), &mut wire, &mut flow.sockets);
        self.counters.polls += 1;
        self.counters.frames_out += wire.frames;
        let is_reset = segment.flags & flag::RST != 0;
        self.settle(slot, Event::Segment { before, is_reset });
        self.list(slot);
    }
}

/// What becomes of connections.
impl Stack {
    /// Draws the conclusions from what smoltcp has made of a connection.
    fn settle(&mut self, slot: u32, event: Event) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let state = flow.socket().state();
        let may_send_reset = flow.socket().remote_endpoint().is_some();
        match (flow.phase, state) {
            (Phase::HalfOpen(_) | Phase::Dialling, State::SynSent | State::SynReceived) => {}
            (Phase::HalfOpen(_), State::Listen | State::Closed) => return self.vanish(slot),
            (Phase::HalfOpen(index), _) => self.establish_accepted(slot, index),
            (Phase::Dialling, State::Listen | State::Closed) => return self.fail_dial(slot),
            (Phase::Dialling, _) => self.establish_dialled(slot),
            (Phase::Open, State::TimeWait) => {
                flow.phase = Phase::Closing;
                flow.deadline = self.now + ACK_DELAY;
            }
            (Phase::Open | Phase::Closing, State::Closed) if !may_send_reset => {
                return self.conclude(slot, event);
            }
            (Phase::Open | Phase::Closing | Phase::Ended, _) => {}
        }
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.owner == Owner::Lingering {
            flow.discard_received();
        }
        flow.show();
    }

    /// Notes why an established connection is closed, and ends it.
    fn conclude(&mut self, slot: u32, event: Event) {
        let Some(flow) = self.flows.get(slot) else { return };
        let is_broken = match event {
            // We reset it ourselves, and that was counted.
            _ if flow.is_broken => true,
            Event::Segment { is_reset: true, .. } => {
                self.counters.resets += 1;
                true
            }
            // The last acknowledgement of a connection whose peer finished first.
            Event::Segment { before: State::LastAck, .. } => false,
            Event::Segment { .. } | Event::Turn => {
                self.counters.timeouts += 1;
                true
            }
        };
        self.end(slot, is_broken);
    }

    fn establish_accepted(&mut self, slot: u32, index: usize) {
        self.leave_half_open(index);
        self.counters.accepted += 1;
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.phase = Phase::Open;
            flow.owner = Owner::Queue;
            flow.deadline = Instant::NEVER;
            self.queue.push_back(slot);
        }
    }

    fn establish_dialled(&mut self, slot: u32) {
        self.counters.dialled += 1;
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.phase = Phase::Open;
            flow.deadline = Instant::NEVER;
            if flow.wants_finish {
                flow.socket_mut().close();
            }
        }
    }

    fn leave_half_open(&mut self, index: usize) {
        if let Some(port) = self.listeners.get_mut(index) {
            port.half_open = port.half_open.saturating_sub(1);
        }
    }

    /// Forgets a half-open connection. Nobody knew of it, so nobody is told.
    fn vanish(&mut self, slot: u32) {
        if let Some(Flow { phase: Phase::HalfOpen(index), .. }) = self.flows.get(slot) {
            let index = *index;
            self.leave_half_open(index);
            self.counters.vanished_half_open += 1;
            self.end(slot, true);
        }
    }

    fn fail_dial(&mut self, slot: u32) {
        self.counters.failed_dials += 1;
        self.end(slot, true);
    }

    /// Takes a connection out of every list; its owner may still read what arrived.
    fn end(&mut self, slot: u32, is_broken: bool) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        self.table.remove(flow.key);
        self.timers.disarm(slot, &mut flow.queued_at);
        if flow.is_listed {
            self.egress.retain(|&listed| listed != slot);
            flow.is_listed = false;
        }
        if flow.is_waiting {
            self.neighbours.forget(slot);
            flow.is_waiting = false;
        }
        if let Hop::Neighbour(index) = flow.hop {
            self.neighbours.leave(index);
        }
        flow.phase = Phase::Ended;
        flow.is_broken |= is_broken;
        flow.show();
        if matches!(flow.owner, Owner::Nobody | Owner::Lingering) {
            self.free(slot);
        }
    }

    fn free(&mut self, slot: u32) {
        let Some(flow) = self.flows.remove(slot) else { return };
        let count = if flow.is_dialled { &mut self.dialled } else { &mut self.accepted };
        *count = count.saturating_sub(1);
        if flow.owner == Owner::Lingering {
            self.lingering = self.lingering.saturating_sub(1);
        }
    }

    /// Resets a connection.
    pub(super) fn abort(&mut self, slot: u32) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        match flow.phase {
            Phase::HalfOpen(_) | Phase::Ended => {}
            Phase::Dialling => self.fail_dial(slot),
            Phase::Closing => self.end(slot, false),
            Phase::Open => {
                if !flow.is_broken {
                    self.counters.aborts += 1;
                }
                flow.is_broken = true;
                flow.socket_mut().abort();
                flow.show();
                self.list(slot);
            }
        }
    }

    /// Takes a connection back from its stream.
    ///
    /// One that was finished lingers until its FIN is acknowledged, if there is place; one that
    /// was not is reset.
    pub(super) fn release(&mut self, slot: u32) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        flow.waker = None;
        flow.owner = Owner::Nobody;
        match flow.phase {
            Phase::Ended => self.free(slot),
            Phase::Closing => {}
            Phase::Open if flow.has_finished() && self.lingering < self.limits.lingering => {
                flow.owner = Owner::Lingering;
                flow.deadline = self.now + LINGER;
                flow.discard_received();
                self.lingering += 1;
                self.timers.arm(slot, &mut flow.queued_at, flow.deadline);
                self.list(slot);
            }
            Phase::HalfOpen(_) | Phase::Dialling | Phase::Open => self.abort(slot),
        }
    }

    /// Begins a connection to `to`.
    pub(super) fn dial(&mut self, to: SocketAddrV4) -> Result<u32, DialError> {
        let remote = to.ip().to_bits();
        if !self.us.is_other_host(remote) || to.port() == 0 {
            return Err(DialError::NoRoute);
        }
        let next_hop = if self.us.is_on_link(remote) { Some(remote) } else { self.gateway };
        let next_hop = next_hop.ok_or(DialError::NoRoute)?;
        if self.dialled >= self.limits.dialled || !(self.has_memory)() {
            return Err(DialError::NoPlace);
        }
        let key = self.table.free_port(to).ok_or(DialError::NoPort)?;
        let neighbour = self.neighbours.join(next_hop).ok_or(DialError::NoPlace)?;
        let mut flow = Flow::new(key, Phase::Dialling, Hop::Neighbour(neighbour), &self.dial);
        let remote = (IpAddress::Ipv4(*to.ip()), to.port());
        let local = (IpAddress::Ipv4(Ipv4Addr::from_bits(self.us.address)), key.local_port);
        if flow.socket_mut().connect(self.interface.context(), remote, local).is_err() {
            self.neighbours.leave(neighbour);
            return Err(DialError::NoRoute);
        }
        self.dialled += 1;
        let slot = self.enter(flow, self.dial.handshake_timeout);
        self.list(slot);
        Ok(slot)
    }
}

/// Frames going out.
impl Stack {
    /// Notes that a connection may have something to send.
    pub(super) fn list(&mut self, slot: u32) {
        if let Some(flow) = self.flows.get_mut(slot)
            && !flow.is_listed
            && flow.phase != Phase::Ended
        {
            flow.is_listed = true;
            self.egress.push_back(slot);
        }
    }

    /// Gives a turn to every connection whose time has come.
    pub(super) fn expire(&mut self) {
        if self.neighbours.next_retry().is_some_and(|at| at <= self.now) {
            self.resume_waiting();
        }
        // Each entry is taken out once, and those entered meanwhile lie ahead.
        while let Some(slot) = self.timers.take_due(self.now) {
            let Some(flow) = self.flows.get_mut(slot) else { continue };
            flow.queued_at = Instant::NEVER;
            let is_late = flow.deadline <= self.now;
            match flow.phase {
                Phase::HalfOpen(_) if is_late => self.vanish(slot),
                Phase::Dialling if is_late => self.fail_dial(slot),
                Phase::Open if is_late => self.abort(slot),
                _ => self.list(slot),
            }
        }
    }

    fn resume_waiting(&mut self) {
        while let Some(slot) = self.neighbours.take_waiting() {
            if let Some(flow) = self.flows.get_mut(slot) {
                flow.is_waiting = false;
            }
            self.list(slot);
        }
    }

    /// Lets connections send what they have. Whether the transmit ring stopped it.
    pub(super) fn flush<T: Transmitter>(&mut self, transmitter: &mut T) -> bool {
        for _ in 0..TURNS_A_FLUSH {
            if self.egress.is_empty() {
                return false;
            }
            if !transmitter.has_room() {
                return true;
            }
            let Some(slot) = self.egress.pop_front() else { return false };
            if let Some(flow) = self.flows.get_mut(slot) {
                flow.is_listed = false;
            }
            let turn = self.send(slot, transmitter);
            self.settle(slot, Event::Turn);
            match turn {
                Turn::Rests(until) => self.rest(slot, until),
                Turn::HasMore | Turn::Blocked => self.list(slot),
            }
        }
        false
    }

    /// One connection's turn.
    fn send<T: Transmitter>(&mut self, slot: u32, transmitter: &mut T) -> Turn {
        let Some(flow) = self.flows.get(slot) else { return Turn::Rests(Instant::NEVER) };
        let to = match flow.hop {
            Hop::Fixed(mac) | Hop::LastSeen(mac) => Some(mac),
            Hop::Neighbour(index) => self.find_neighbour(index, transmitter),
        };
        let Some(flow) = self.flows.get_mut(slot) else { return Turn::Rests(Instant::NEVER) };
        let Some(to) = to else {
            if !flow.is_waiting {
                flow.is_waiting = true;
                self.neighbours.wait(slot);
            }
            return Turn::Rests(Instant::NEVER);
        };
        let mut wire = Wire::new(transmitter, self.us.mac, to, None);
        let mut turn = Turn::HasMore;
        let mut was_silent = false;
        for _ in 0..FRAMES_A_TURN {
            let until = poll_at(&mut self.interface, &flow.sockets, self.now);
            if until > self.now {
                turn = Turn::Rests(until);
                break;
            }
            if !wire.transmitter.has_room() {
                turn = Turn::Blocked;
                break;
            }
            let before = wire.frames;
            self.interface.poll_egress(self.now.into(), &mut wire, &mut flow.sockets);
            self.counters.polls += 1;
            let is_silent = wire.frames == before;
            if is_silent && was_silent {
                turn = Turn::Rests(self.now + STALL);
                break;
            }
            was_silent = is_silent;
        }
        self.counters.frames_out += wire.frames;
        turn
    }

    /// A neighbour's hardware address, if known; asks for it if that is due and there is room.
    fn find_neighbour<T: Transmitter>(
        &mut self,
        index: usize,
        transmitter: &mut T,
    ) -> Option<EthernetAddress> {
        if let Some(question) = self.neighbours.question(index, &self.us, self.now)
            && transmitter.has_room()
        {
            send_arp(transmitter, &question, EthernetAddress::EVERYBODY);
            self.counters.frames_out += 1;
            self.neighbours.note_question(index, self.now);
        }
        self.neighbours.mac(index)
    }

    /// Lets a connection rest until it has something to do again, or ends it if that is never.
    fn rest(&mut self, slot: u32, until: Instant) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.phase == Phase::Ended {
            return;
        }
        if flow.phase == Phase::Closing && flow.deadline <= self.now {
            return self.end(slot, false);
        }
        self.timers.arm(slot, &mut flow.queued_at, until.min(flow.deadline));
    }
}

/// When smoltcp wants to look at a connection again.
fn poll_at(interface: &mut Interface, sockets: &SocketSet<'static>, now: Instant) -> Instant {
    match interface.poll_at(now.into(), sockets) {
        Some(at) => Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)),
        None => Instant::NEVER,
    }
}

/// The parts that hold keys: the connection table and smoltcp's interface.
fn keyed_parts<T: Transmitter>(
    random: &[u8; 32],
    us: Identity,
    limits: Limits,
    transmitter: &mut T,
    now: Instant,
) -> (Table, Interface) {
    let [key @ .., s0, s1, s2, s3, s4, s5, s6, s7] = *random;
    let key = *key.first_chunk::<16>().unwrap_or(&[0; 16]);
    let mut config = iface::Config::new(HardwareAddress::Ip);
    config.random_seed = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let mut wire = Wire::new(transmitter, us.mac, us.mac, None);
    let mut interface = Interface::new(config, &mut wire, now.into());
    let address = IpAddress::Ipv4(Ipv4Addr::from_bits(us.address));
    let prefix = us.mask.leading_ones() as u8;
    interface.update_ip_addrs(|addresses| {
        // smoltcp has place for two.
        let _ = addresses.push(IpCidr::new(address, prefix));
    });
    (Table::new(&key, limits.accepted.saturating_add(limits.dialled)), interface)
}
