//! The main loop: frames in, tasks, frames out, one bell, sleep.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use abi::gate::Stop;

use crate::clock::Instant;
use crate::entropy;
use crate::executor::Executor;
use crate::log::{self, Level};
use crate::machine::{Machine, stop};
use crate::memory::heap_use;
use crate::net::{Accepted, Config, ConfigError, Counters, Dialer, ListenError, Listener, Network};
use crate::rings::{ReceiveRing, TransmitRing};

/// How long nobody must have been connected before the memory line is written.
const QUIET: Duration = Duration::from_millis(500);

/// How much of the heap must be free for one more connection, in bytes.
static RESERVE: AtomicUsize = AtomicUsize::new(0);

/// Why a service cannot begin.
#[derive(Debug)]
pub enum RuntimeError {
    /// The addresses contradict each other.
    Config(ConfigError),
    /// The image has no network card, or it is not set up as this service was built for.
    NoNic,
}

impl core::fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::NoNic => write!(f, "there is no network card"),
        }
    }
}

impl From<ConfigError> for RuntimeError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// A service's machine, network and tasks.
pub struct Runtime {
    machine: Machine,
    network: Network<ReceiveRing, TransmitRing>,
    executor: Executor,
}

impl Runtime {
    /// Takes the machine over.
    ///
    /// `config.mac` and `config.random` are filled in here. A new connection is refused when less
    /// than `reserve_bytes` of the heap are free.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`] if there is no network card or the addresses make no sense.
    pub fn new(
        mut machine: Machine,
        mut config: Config,
        max_tasks: usize,
        reserve_bytes: usize,
    ) -> Result<Self, RuntimeError> {
        let nic = machine.take_nic().ok_or(RuntimeError::NoNic)?;
        RESERVE.store(reserve_bytes, Ordering::Relaxed);
        config.mac = nic.mac;
        entropy::fill(&mut config.random);
        let now = machine.clock.now();
        let network = Network::new(config, nic.receive, nic.transmit, now)?;
        Ok(Self { machine, network, executor: Executor::new(max_tasks) })
    }

    /// Accepts connections on a port.
    ///
    /// # Errors
    ///
    /// [`ListenError`] if the port cannot be listened on.
    pub fn listen(&mut self, port: u16, listener: Listener) -> Result<(), ListenError> {
        self.network.listen(port, listener)
    }

    /// Something that opens connections.
    pub fn dialer(&self) -> Dialer {
        self.network.dialer()
    }

    /// What runs the tasks.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Runs for ever. `accept` gets each connection that was established from outside.
    pub fn run(mut self, mut accept: impl FnMut(Accepted, Instant)) -> ! {
        let mut memory = MemoryLine::new();
        loop {
            if self.machine.was_cloned() {
                self.part_from_clone();
            }
            let now = self.machine.clock.now();
            let received = self.network.poll(now);
            while let Some(accepted) = self.network.accept() {
                accept(accepted, now);
            }
            self.executor.run(now);
            let sent = self.network.flush(now);
            self.ring_the_bell();
            memory.watch(now, &self.executor, &self.network);
            // The flush may have woken tasks: of connections that timed out over it.
            if received.has_more || sent.has_more || self.executor.has_ready() {
                continue;
            }
            if self.prepare_to_sleep() {
                let deadlines =
                    [self.network.next_deadline(), self.executor.next_deadline(), memory.due];
                let until = deadlines.into_iter().flatten().min().unwrap_or(Instant::NEVER);
                self.machine.idle(until);
            }
        }
    }

    /// A clone shares our keys, sequence numbers and connections: keep none of them.
    fn part_from_clone(&mut self) {
        let mut random = [0; 32];
        entropy::fill(&mut random);
        self.network.renew(random);
        let now = self.machine.clock.now();
        let message = format_args!("this machine was cloned or restored: all connections dropped");
        log::line(now, Level::Warning, message);
    }

    /// Hands both queues what is waiting; a device that answers nonsense ends the machine.
    fn ring_the_bell(&mut self) {
        let (receive, transmit) = self.network.card();
        receive.flush();
        transmit.flush();
        if let Some(fault) = receive.fault().or(transmit.fault()) {
            log::plain(format_args!("device fault: {fault}"));
            stop(Stop::DeviceFault);
        }
    }

    /// Asks for interrupts; `false` if there is something to do already.
    ///
    /// Who waits for room to send sleeps until there is some, whatever lies in the receive ring:
    /// almost any frame there may need an answer.
    fn prepare_to_sleep(&mut self) -> bool {
        let waits_for_room = self.network.is_blocked_on_transmit();
        let (receive, transmit) = self.network.card();
        if waits_for_room {
            return !transmit.ask_for_interrupt();
        }
        transmit.ask_for_none();
        !receive.ask_for_interrupt()
    }
}

/// Whether there is memory for one more connection.
pub fn has_memory() -> bool {
    heap_use().free_bytes >= RESERVE.load(Ordering::Relaxed)
}

/// Says how much memory is in use whenever the last connection has been gone for a while: a leak
/// would show as a number that grows.
struct MemoryLine {
    was_busy: bool,
    due: Option<Instant>,
}

impl MemoryLine {
    fn new() -> Self {
        Self { was_busy: true, due: None }
    }

    fn watch(
        &mut self,
        now: Instant,
        executor: &Executor,
        network: &Network<ReceiveRing, TransmitRing>,
    ) {
        if !executor.is_empty() {
            self.was_busy = true;
            self.due = None;
            return;
        }
        if !self.was_busy {
            return;
        }
        let due = *self.due.get_or_insert(now + QUIET);
        if now < due {
            return;
        }
        self.was_busy = false;
        self.due = None;
        report(now, &network.counters());
    }
}

fn report(now: Instant, counters: &Counters) {
    let heap = heap_use();
    log::line(
        now,
        Level::Info,
        format_args!(
            "memory: heap_in_use={} allocations={} connections=0 accepted={}",
            heap.in_use_bytes, heap.allocations, counters.accepted
        ),
    );
}
