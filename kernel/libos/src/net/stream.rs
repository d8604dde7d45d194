//! TCP connections as tasks hold them.

use alloc::rc::Rc;
use core::cell::RefCell;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::task::Waker;

use smoltcp::socket::tcp::State;

use super::flow::{Flow, Phase};
use super::frame::Key;
use super::stack::Stack;
use crate::stream::{Dial, DialError, Read, Stream};

/// One side of a TCP connection.
///
/// Dropping it resets the connection, unless it is over; one that was [finished](Stream::finish)
/// goes on in the background until the peer has everything, for a bounded time.
pub struct TcpStream {
    stack: Rc<RefCell<Stack>>,
    slot: u32,
    key: Key,
}

impl TcpStream {
    pub(super) fn new(stack: Rc<RefCell<Stack>>, slot: u32, key: Key) -> Self {
        Self { stack, slot, key }
    }

    /// The other side.
    pub fn peer(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from_bits(self.key.remote), self.key.remote_port)
    }

    /// Our port.
    pub fn local_port(&self) -> u16 {
        self.key.local_port
    }

    /// Asks about the connection. It exists as long as this handle does.
    fn ask<R>(&self, question: impl FnOnce(&Flow) -> R) -> Option<R> {
        self.stack.borrow().flows.get(self.slot).map(question)
    }
}

impl core::fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = if self.is_over() { "over" } else { "open" };
        write!(f, "TcpStream({} <- {}, {name})", self.local_port(), self.peer())
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.stack.borrow_mut().release(self.slot);
    }
}

impl Stream for TcpStream {
    fn is_established(&self) -> bool {
        self.ask(|flow| flow.phase != Phase::Dialling && !flow.is_broken).unwrap_or(false)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Read {
        let Stack { flows, egress, .. } = &mut *self.stack.borrow_mut();
        let Some(flow) = flows.get_mut(self.slot) else { return Read::Broken };
        if flow.socket().can_recv() && flow.phase != Phase::Dialling {
            let count = flow.socket_mut().recv_slice(buffer).unwrap_or(0);
            if count > 0 {
                // The peer may have to hear that there is room again.
                flow.list(self.slot, egress);
                return Read::Data(count);
            }
        }
        match (flow.is_broken, flow.has_peer_finished()) {
            (true, _) => Read::Broken,
            (false, true) => Read::Finished,
            (false, false) => Read::Empty,
        }
    }

    fn room(&self) -> usize {
        self.ask(|flow| {
            let socket = flow.socket();
            let is_open = socket.may_send() && flow.phase == Phase::Open;
            if is_open { socket.send_capacity() - socket.send_queue() } else { 0 }
        })
        .unwrap_or(0)
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let Stack { flows, egress, .. } = &mut *self.stack.borrow_mut();
        let Some(flow) = flows.get_mut(self.slot) else { return 0 };
        if flow.phase != Phase::Open {
            return 0;
        }
        // The only error is that the connection takes no bytes any more.
        let count = flow.socket_mut().send_slice(bytes).unwrap_or(0);
        if count > 0 {
            flow.has_written = true;
            flow.list(self.slot, egress);
        }
        count
    }

    fn unacknowledged(&self) -> usize {
        self.ask(|flow| flow.socket().send_queue()).unwrap_or(0)
    }

    fn finish(&mut self) {
        let mut stack = self.stack.borrow_mut();
        let Some(flow) = stack.flows.get_mut(self.slot) else { return };
        match flow.phase {
            Phase::Dialling => flow.wants_finish = true,
            Phase::Open => {
                flow.socket_mut().close();
                stack.list(self.slot);
            }
            Phase::HalfOpen(_) | Phase::Closing | Phase::Ended => {}
        }
    }

    fn is_over(&self) -> bool {
        self.ask(|flow| {
            flow.is_broken || flow.phase == Phase::Ended || flow.socket().state() == State::TimeWait
        })
        .unwrap_or(true)
    }

    fn abort(&mut self) {
        self.stack.borrow_mut().abort(self.slot);
    }

    fn wake_on_change(&mut self, waker: &Waker) {
        if let Some(flow) = self.stack.borrow_mut().flows.get_mut(self.slot) {
            flow.watch(waker);
        }
    }
}

/// Opens connections. Cheap to copy into every task that needs it.
#[derive(Clone)]
pub struct Dialer {
    stack: Rc<RefCell<Stack>>,
}

impl Dialer {
    pub(super) fn new(stack: Rc<RefCell<Stack>>) -> Self {
        Self { stack }
    }
}

impl Dial for Dialer {
    type Stream = TcpStream;

    fn dial(&mut self, to: SocketAddrV4) -> Result<TcpStream, DialError> {
        let mut stack = self.stack.borrow_mut();
        let slot = stack.dial(to)?;
        let key = stack.flows.get(slot).map(|flow| flow.key).ok_or(DialError::NoPlace)?;
        Ok(TcpStream::new(Rc::clone(&self.stack), slot, key))
    }
}
