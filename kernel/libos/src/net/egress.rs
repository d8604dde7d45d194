//! Frames going out: who may have something to say, in turn, as long as there is room.

use core::time::Duration;

use smoltcp::iface::{Interface, SocketSet};

use super::flow::{Hop, Phase};
use super::frame::EthernetAddress;
use super::life::Event;
use super::stack::{ACK_DELAY, Stack};
use super::wire::{Wire, send_arp};
use crate::clock::Instant;
use crate::link::Transmitter;

/// How many frames one connection may send before others have their turn.
const FRAMES_A_TURN: usize = 8;

/// How many turns one flush takes at most.
const TURNS_A_FLUSH: usize = 1024;

/// How long a connection rests that claims to have something to send and then sends nothing.
const STALL: Duration = Duration::from_millis(1);

/// How long a connection rests that has just sent everything, before smoltcp is asked for how long.
///
/// smoltcp sets no timer to less than this, so none is missed, and a busy connection need not be
/// asked after each frame.
const PAUSE: Duration = ACK_DELAY;

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
    /// Notes that a connection may have something to send.
    pub(super) fn list(&mut self, slot: u32) {
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.list(slot, &mut self.egress);
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

    /// Lists the connections that waited for a neighbour.
    pub(super) fn resume_waiting(&mut self) {
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
            match self.send(slot, transmitter) {
                Turn::Rests(until) => self.rest(slot, until),
                Turn::HasMore | Turn::Blocked => self.list(slot),
            }
        }
        false
    }

    /// One connection's turn, for which it was listed. There must be room for a frame.
    fn send<T: Transmitter>(&mut self, slot: u32, transmitter: &mut T) -> Turn {
        let Some(flow) = self.flows.get_mut(slot) else { return Turn::Rests(Instant::NEVER) };
        flow.is_listed = false;
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
        // Who has just written need not be asked whether there is something to send.
        let mut is_asked = !core::mem::take(&mut flow.has_written);
        let mut polls = 0;
        for _ in 0..FRAMES_A_TURN {
            if core::mem::replace(&mut is_asked, true) {
                let until = poll_at(&mut self.interface, &flow.sockets, self.now);
                if until > self.now {
                    turn = Turn::Rests(until);
                    break;
                }
            }
            // A question to a neighbour may have taken the room that there was a moment ago.
            if !wire.transmitter.has_room() {
                turn = Turn::Blocked;
                break;
            }
            let before = wire.frames;
            self.interface.poll_egress(self.now.into(), &mut wire, &mut flow.sockets);
            polls += 1;
            if wire.has_sent_all {
                turn = Turn::Rests(self.now + PAUSE);
                break;
            }
            let is_silent = wire.frames == before;
            if is_silent && was_silent {
                turn = Turn::Rests(self.now + STALL);
                break;
            }
            was_silent = is_silent;
        }
        self.counters.polls += polls;
        self.counters.frames_out += wire.frames;
        if polls > 0 {
            self.settle(slot, Event::Turn);
        }
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
