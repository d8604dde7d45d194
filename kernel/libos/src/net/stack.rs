//! All connections and the limits they live within. It does no input or output of its own: frames
//! and the time are handed in. What happens to them is told in `ingress`, `life` and `egress`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use smoltcp::iface::{self, Interface, SocketSet};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::config::{Config, Limits, ListenError, Listener, Tuning};
use super::counters::Counters;
use super::flow::{Flows, Owner, Phase};
use super::frame::{Identity, Key};
use super::neighbour::Neighbours;
use super::table::{FIRST_DIALLED_PORT, Table};
use super::timers::Timers;
use super::wire::Wire;
use crate::clock::Instant;
use crate::link::Transmitter;

/// How long an acknowledgement waits for data to travel with.
///
/// Long enough for a backend's answer to carry it, short against any peer's retransmission timer.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(20);

/// Everything that tasks and the network share.
pub(super) struct Stack {
    pub(super) us: Identity,
    pub(super) flows: Flows,
    pub(super) table: Table,
    pub(super) timers: Timers,
    pub(super) neighbours: Neighbours,
    pub(super) counters: Counters,
    pub(super) now: Instant,
    pub(super) interface: Interface,
    /// The set for packets of no connection: smoltcp answers them with RST or an echo.
    pub(super) nobody: SocketSet<'static>,
    pub(super) listeners: Vec<Port>,
    pub(super) egress: VecDeque<u32>,
    pub(super) queue: VecDeque<u32>,
    pub(super) gateway: Option<u32>,
    pub(super) limits: Limits,
    pub(super) dial: Tuning,
    pub(super) has_memory: fn() -> bool,
    pub(super) accepted: usize,
    pub(super) dialled: usize,
    pub(super) lingering: usize,
}

/// A port that is listened on.
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) listener: Listener,
    pub(super) half_open: usize,
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
