//! Frames coming in: each is dropped, answered, or given to its connection.

use core::time::Duration;

use super::flow::{Flow, Hop, Phase};
use super::frame::{Arp, Content, EthernetAddress, Frame, Key, Rejected, Segment, flag};
use super::life::Event;
use super::stack::Stack;
use super::wire::{Wire, send_arp};
use crate::link::{Checksum, Transmitter};

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
    pub(super) fn enter(&mut self, mut flow: Flow, handshake_timeout: Duration) -> u32 {
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
