//! What becomes of connections: how they are established, and all the ways in which they end.

use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use smoltcp::socket::tcp::State;
use smoltcp::wire::IpAddress;

use super::flow::{Flow, Hop, Owner, Phase};
use super::stack::{ACK_DELAY, Stack};
use crate::clock::Instant;
use crate::stream::DialError;

/// How long a connection may take to end once nobody holds it any more.
const LINGER: Duration = Duration::from_secs(10);

/// What made smoltcp look at a connection.
#[derive(Clone, Copy)]
pub(super) enum Event {
    /// A segment, when the connection was in that state.
    Segment { before: State, is_reset: bool },
    /// The time, or something to send.
    Turn,
}

impl Stack {
    /// Draws the conclusions from what smoltcp has made of a connection.
    pub(super) fn settle(&mut self, slot: u32, event: Event) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let socket = flow.socket();
        match (flow.phase, socket.state()) {
            (Phase::HalfOpen(_) | Phase::Dialling, State::SynSent | State::SynReceived) => {}
            (Phase::HalfOpen(_), State::Listen | State::Closed) => return self.vanish(slot),
            (Phase::HalfOpen(index), _) => self.establish_accepted(slot, index),
            (Phase::Dialling, State::Listen | State::Closed) => return self.fail_dial(slot),
            (Phase::Dialling, _) => self.establish_dialled(slot),
            (Phase::Open, State::TimeWait) => {
                flow.phase = Phase::Closing;
                flow.deadline = self.now + ACK_DELAY;
            }
            // While it knows its peer, a reset is still to be sent.
            (Phase::Open | Phase::Closing, State::Closed) if socket.remote_endpoint().is_none() => {
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
    pub(super) fn vanish(&mut self, slot: u32) {
        if let Some(Flow { phase: Phase::HalfOpen(index), .. }) = self.flows.get(slot) {
            let index = *index;
            self.leave_half_open(index);
            self.counters.vanished_half_open += 1;
            self.end(slot, true);
        }
    }

    pub(super) fn fail_dial(&mut self, slot: u32) {
        self.counters.failed_dials += 1;
        self.end(slot, true);
    }

    /// Takes a connection out of every list; its owner may still read what arrived.
    pub(super) fn end(&mut self, slot: u32, is_broken: bool) {
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
