//! One side of one connection: a smoltcp socket set with one socket in it, and what we know about
//! it.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Waker;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration as SmolDuration;

use super::config::Tuning;
use super::frame::{EthernetAddress, Key};
use super::stack::ACK_DELAY;
use crate::clock::Instant;

/// Where a connection is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A SYN came in on the listener with that index; nobody knows of it yet.
    HalfOpen(usize),
    /// We sent a SYN, or are about to.
    Dialling,
    /// Established, in one or both directions.
    Open,
    /// Over, but for an acknowledgement that may still have to go out.
    Closing,
    /// Over and in no list any more. It waits for its owner to let go.
    Ended,
}

/// Who will let go of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody: it goes once it has ended.
    Nobody,
    /// Nobody, but our FIN is still on its way, and counted.
    Lingering,
    /// The queue of established connections that nobody has taken yet.
    Queue,
    /// A [`TcpStream`](super::TcpStream).
    Stream,
}

/// Where a connection's frames go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hop {
    /// To the machine that sent the SYN. It is in our network, and a stranger elsewhere who
    /// imitates it must not turn its frames away.
    Fixed(EthernetAddress),
    /// To the router that the last frame came from; routers may take over from each other.
    LastSeen(EthernetAddress),
    /// To a neighbour that ARP finds.
    Neighbour(usize),
}

/// What an application could notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Appearance {
    state: State,
    unread: usize,
    unacknowledged: usize,
    is_broken: bool,
}

/// One side of one connection.
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) phase: Phase,
    pub(super) owner: Owner,
    pub(super) hop: Hop,
    /// Whether it ended other than by a FIN each way.
    pub(super) is_broken: bool,
    /// Whether it was dialled, and not accepted.
    pub(super) is_dialled: bool,
    /// Whether it stands in the list of those that may have something to send.
    pub(super) is_listed: bool,
    /// Whether bytes were written since its last turn to send.
    pub(super) has_written: bool,
    /// Whether it waits for ARP.
    pub(super) is_waiting: bool,
    /// Whether FIN is to be sent once it is established.
    pub(super) wants_finish: bool,
    /// When the phase it is in has lasted too long.
    pub(super) deadline: Instant,
    /// Its entry among the timers.
    pub(super) queued_at: Instant,
    pub(super) waker: Option<Waker>,
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
    shown: Appearance,
}

impl Flow {
    /// A connection that does nothing yet.
    pub(super) fn new(key: Key, phase: Phase, hop: Hop, tuning: &Tuning) -> Self {
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(new_socket(tuning));
        let shown =
            Appearance { state: State::Closed, unread: 0, unacknowledged: 0, is_broken: false };
        let is_dialled = phase == Phase::Dialling;
        Self {
            key,
            phase,
            owner: if is_dialled { Owner::Stream } else { Owner::Nobody },
            hop,
            is_broken: false,
            is_dialled,
            is_listed: false,
            has_written: false,
            is_waiting: false,
            wants_finish: false,
            deadline: Instant::NEVER,
            queued_at: Instant::NEVER,
            waker: None,
            sockets,
            handle,
            shown,
        }
    }

    /// The TCP socket.
    pub(super) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// The TCP socket, to be changed.
    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Whether the peer's FIN came.
    pub(super) fn has_peer_finished(&self) -> bool {
        match self.socket().state() {
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait => true,
            State::Closed => self.phase == Phase::Ended && !self.is_broken,
            _ => false,
        }
    }

    /// Whether our FIN is sent or will be.
    pub(super) fn has_finished(&self) -> bool {
        matches!(
            self.socket().state(),
            State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck | State::TimeWait
        )
    }

    /// Notes in `egress` that it may have something to send.
    pub(super) fn list(&mut self, slot: u32, egress: &mut VecDeque<u32>) {
        if !self.is_listed && self.phase != Phase::Ended {
            self.is_listed = true;
            egress.push_back(slot);
        }
    }

    fn appearance(&self) -> Appearance {
        let socket = self.socket();
        Appearance {
            state: socket.state(),
            unread: socket.recv_queue(),
            unacknowledged: socket.send_queue(),
            is_broken: self.is_broken,
        }
    }

    /// Wakes whoever waits if anything looks different now.
    pub(super) fn show(&mut self) {
        let appearance = self.appearance();
        if appearance != self.shown {
            self.shown = appearance;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Lets `waker` wait for what will look different from now on: what it did to the connection
    /// itself is no news to it.
    pub(super) fn watch(&mut self, waker: &Waker) {
        self.shown = self.appearance();
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// Throws away what arrived, since nobody will read it.
    pub(super) fn discard_received(&mut self) {
        let socket = self.socket_mut();
        // A ring has two pieces at most.
        for _ in 0..2 {
            if socket.can_recv() {
                // The only error is that nothing can be received.
                let _ = socket.recv(|bytes| (bytes.len(), ()));
            }
        }
    }
}

fn new_socket(tuning: &Tuning) -> Socket<'static> {
    let receive = SocketBuffer::new(vec![0; usize::from(tuning.receive_bytes)]);
    let send = SocketBuffer::new(vec![0; tuning.send_bytes as usize]);
    let mut socket = Socket::new(receive, send);
    let duration = |span: core::time::Duration| {
        Some(SmolDuration::from_micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX >> 2)))
    };
    socket.set_timeout(duration(tuning.silence_timeout));
    socket.set_keep_alive(duration(tuning.keep_alive));
    socket.set_ack_delay(duration(ACK_DELAY));
    // TLS hands over whole records: waiting to fill a segment only adds latency.
    socket.set_nagle_enabled(false);
    socket.set_congestion_control(CongestionControl::Reno);
    socket
}

/// All connections, by slot.
#[derive(Default)]
pub(super) struct Flows {
    slots: Vec<Option<Box<Flow>>>,
    free: Vec<u32>,
    count: usize,
}

impl Flows {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Puts a connection into a free slot.
    pub(super) fn insert(&mut self, flow: Flow) -> u32 {
        self.count += 1;
        let flow = Some(Box::new(flow));
        let reusable =
            self.free.pop().and_then(|slot| Some((slot, self.slots.get_mut(slot as usize)?)));
        match reusable {
            Some((slot, place)) => {
                *place = flow;
                slot
            }
            None => {
                self.slots.push(flow);
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// The connection in a slot.
    pub(super) fn get(&self, slot: u32) -> Option<&Flow> {
        self.slots.get(slot as usize)?.as_deref()
    }

    /// The connection in a slot, to be changed.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Takes a connection out and frees its slot.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Flow>> {
        let flow = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        self.count -= 1;
        Some(flow)
    }

    /// Every slot that may hold a connection.
    pub(super) fn slots(&self) -> core::ops::Range<u32> {
        0..self.slots.len() as u32
    }
}
