//! TCP/IP: many connections over one network card, each found in constant time.
//!
//! smoltcp does TCP, but it searches all sockets of a set for each frame and each timer. So every
//! connection has a set of its own, and a table of ours, keyed by the 4-tuple, says which set a
//! frame is for. A frame costs the same with one connection as with ten thousand.
//!
//! ```text
//!   ring -> frame (strict headers) -> table -> one connection's smoltcp socket -> its task wakes
//!   task -> TcpStream -> list of those with something to send -> smoltcp -> ring
//! ```
//!
//! A round of the main loop is: [`Network::poll`] (frames in, timers), then the tasks, then
//! [`Network::flush`] (frames out), then one ring of each queue's bell by whoever owns the rings.
//! Nothing here waits, and time is handed in.
//!
//! smoltcp works with IP packets; Ethernet and ARP are ours. Answers go back where a connection's
//! frames came from, and only next hops of connections that *we* open are asked for by ARP, so no
//! stranger can fill or block the table of neighbours.
//!
//! A closed connection is forgotten as soon as both FINs are acknowledged: there is no TIME-WAIT.
//! All data of both directions has arrived then. If our last acknowledgement is lost, the peer's
//! second FIN is answered with RST; that costs the peer nothing it has not got, and a flood of
//! short connections costs us no memory.
//!
//! Not solved here: smoltcp's initial sequence numbers come from a weak generator, and a flood of
//! SYNs beyond the limits keeps newcomers out while it lasts (it takes no memory and nobody else's
//! connection). The cure for both is a front that answers SYNs with cookies and translates sequence
//! numbers. It fits between the rings and [`Network`]: as a [`Receiver`] and a [`Transmitter`] that
//! wrap the rings' own.

pub(crate) mod timers;

mod checksum;
mod config;
mod counters;
mod egress;
mod flow;
mod frame;
mod ingress;
mod life;
mod neighbour;
mod stack;
mod stream;
mod table;
mod wire;

#[cfg(test)]
mod tests;

use alloc::rc::Rc;
use core::cell::RefCell;
use core::net::SocketAddrV4;

use zeroize::Zeroize;

pub use self::config::{Config, ConfigError, Limits, ListenError, Listener, Tuning};
pub use self::counters::Counters;
pub use self::stream::{Dialer, TcpStream};

use self::stack::Stack;
use crate::clock::Instant;
use crate::link::{Receiver, Transmitter};

/// How many frames one [`Network::poll`] takes from the ring at most.
pub const FRAMES_A_ROUND: usize = 128;

/// The network: the two halves of a card and all connections over it.
pub struct Network<R, T> {
    stack: Rc<RefCell<Stack>>,
    receiver: R,
    transmitter: T,
    is_blocked: bool,
}

/// A connection that was established from outside.
#[derive(Debug)]
pub struct Accepted {
    /// Our side of it.
    pub stream: TcpStream,
    /// The port it came in on.
    pub port: u16,
    /// Where it came from.
    pub peer: SocketAddrV4,
}

/// What one call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Frames taken from the ring, or frames put into it.
    pub frames: usize,
    /// Whether there may be more to do at once.
    pub has_more: bool,
}

impl<R: Receiver, T: Transmitter> Network<R, T> {
    /// A network without listeners or connections.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the addresses in `config` contradict each other.
    pub fn new(
        mut config: Config,
        receiver: R,
        mut transmitter: T,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let identity = config.identity()?;
        let stack = Stack::new(&config, identity, &mut transmitter, now);
        config.random.zeroize();
        Ok(Self { stack: Rc::new(RefCell::new(stack)), receiver, transmitter, is_blocked: false })
    }

    /// Accepts connections on `port` from now on.
    ///
    /// # Errors
    ///
    /// [`ListenError`] if the port cannot be listened on.
    pub fn listen(&mut self, port: u16, listener: Listener) -> Result<(), ListenError> {
        self.stack.borrow_mut().listen(port, listener)
    }

    /// Something that opens connections.
    pub fn dialer(&self) -> Dialer {
        Dialer::new(Rc::clone(&self.stack))
    }

    /// Takes in frames that have arrived and deadlines that have passed; wakes tasks.
    ///
    /// While the transmit ring is full, frames stay in the receive ring, since almost any of them
    /// may need an answer.
    pub fn poll(&mut self, now: Instant) -> Progress {
        let mut stack = self.stack.borrow_mut();
        stack.now = now;
        stack.expire();
        self.is_blocked = false;
        for frames in 0..FRAMES_A_ROUND {
            if !self.transmitter.has_room() {
                self.is_blocked = true;
                return Progress { frames, has_more: false };
            }
            let Some(frame) = self.receiver.next() else {
                return Progress { frames, has_more: false };
            };
            let bytes = self.receiver.bytes(&frame);
            stack.receive(bytes, frame.checksum, &mut self.transmitter);
            self.receiver.release(frame);
        }
        Progress { frames: FRAMES_A_ROUND, has_more: true }
    }

    /// The next connection that was established from outside.
    ///
    /// Ask until there is none after each [`Network::poll`].
    pub fn accept(&mut self) -> Option<Accepted> {
        let (slot, key) = self.stack.borrow_mut().take_accepted()?;
        let stream = TcpStream::new(Rc::clone(&self.stack), slot, key);
        Some(Accepted { port: key.local_port, peer: stream.peer(), stream })
    }

    /// Sends what connections have to say. Wakes tasks whose connections timed out over it.
    pub fn flush(&mut self, now: Instant) -> Progress {
        let mut stack = self.stack.borrow_mut();
        stack.now = now;
        let before = stack.counters.frames_out;
        let was_blocked = self.is_blocked | stack.flush(&mut self.transmitter);
        // Room that has come since is not announced again, so nobody must wait for it.
        self.is_blocked = was_blocked && !self.transmitter.has_room();
        let frames = (stack.counters.frames_out - before) as usize;
        let has_more = !self.is_blocked && (was_blocked || stack.has_turns());
        Progress { frames, has_more }
    }

    /// Whether the transmit ring is full and something waits for it.
    ///
    /// Then sleep until it has room, whatever lies in the receive ring.
    pub fn is_blocked_on_transmit(&self) -> bool {
        self.is_blocked
    }

    /// When to call [`Network::poll`] and [`Network::flush`] even if no frame arrives.
    pub fn next_deadline(&self) -> Option<Instant> {
        let stack = self.stack.borrow();
        if stack.has_turns() && !self.is_blocked {
            return Some(stack.now);
        }
        stack.next_deadline()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.stack.borrow().count()
    }

    /// The two halves of the card, for the bell and for interrupts.
    pub fn card(&mut self) -> (&mut R, &mut T) {
        (&mut self.receiver, &mut self.transmitter)
    }

    /// Breaks every connection without a word to anybody, and uses fresh randomness from now on.
    ///
    /// For a machine that was cloned or rolled back: its connections belong to another one now.
    pub fn renew(&mut self, mut random: [u8; 32]) {
        self.stack.borrow_mut().renew(&random, &mut self.transmitter);
        random.zeroize();
    }
}
