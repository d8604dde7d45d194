//! One proxied connection with everything round it, on streams made of lists of bytes.
//!
//! A tiny executor polls a connection only when it was woken, so a forgotten waker shows as a test
//! that stands still until its deadline and ends with the wrong reason.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use edge_config::Attestation;
use edge_proxy::attest::{Desk, Leaf, PROTOCOL, Progress, Visitor, Witness};
use edge_proxy::{Limits, Outcome, Route, Workspace, serve};
use libos::attest::Begin;
use libos::clock::Instant;
use libos::stream::{Dial, DialError, Read, Stream, Timer};
use libos::tls::{ServerSettings, WallClock};

#[path = "../../../../kernel/libos/src/tls/client.rs"]
#[allow(dead_code, reason = "this file belongs to the tests of TLS, which use all of it")]
pub(crate) mod client;
use client::{CERTIFICATE, Client, KEY, Wishes};

/// More rounds than any test needs.
pub(crate) const MAX_ROUNDS: usize = 100_000;

pub(crate) const LIMITS: Limits = Limits {
    handshake: Duration::from_secs(5),
    connect: Duration::from_secs(3),
    idle: Duration::from_secs(60),
    lifetime: Duration::from_secs(3600),
    closing: Duration::from_secs(2),
};

// Two ends of a TCP connection.

#[derive(Default)]
pub(crate) struct Pipe {
    pub(crate) bytes: VecDeque<u8>,
    pub(crate) capacity: usize,
    pub(crate) has_fin: bool,
}

pub(crate) struct Link {
    /// What the end with that index has written.
    pub(crate) pipes: [Pipe; 2],
    pub(crate) is_established: bool,
    pub(crate) is_reset: bool,
    pub(crate) wakers: [Option<Waker>; 2],
}

/// One end; `side` writes into `pipes[side]`.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) link: Rc<RefCell<Link>>,
    pub(crate) side: usize,
}

pub(crate) fn link(capacity: usize) -> (End, End) {
    let pipe = || Pipe { capacity, ..Pipe::default() };
    let link = Link {
        pipes: [pipe(), pipe()],
        is_established: true,
        is_reset: false,
        wakers: [None, None],
    };
    let link = Rc::new(RefCell::new(link));
    (End { link: link.clone(), side: 0 }, End { link, side: 1 })
}

impl End {
    pub(crate) fn wake_other(link: &Link, side: usize) {
        if let Some(waker) = &link.wakers[1 - side] {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn establish(&self) {
        let mut link = self.link.borrow_mut();
        link.is_established = true;
        Self::wake_other(&link, self.side);
    }

    /// Everything that has come, at most `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        if count == 0 {
            return Vec::new();
        }
        let mut bytes = vec![0; count];
        let count = match self.read(&mut bytes) {
            Read::Data(count) => count,
            Read::Empty | Read::Finished | Read::Broken => 0,
        };
        bytes.truncate(count);
        bytes
    }

    pub(crate) fn has_received_fin(&self) -> bool {
        let link = self.link.borrow();
        let pipe = &link.pipes[1 - self.side];
        pipe.has_fin && pipe.bytes.is_empty()
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.link.borrow().is_reset
    }
}

impl Stream for End {
    fn is_established(&self) -> bool {
        let link = self.link.borrow();
        link.is_established && !link.is_reset
    }

    fn read(&mut self, buffer: &mut [u8]) -> Read {
        assert!(!buffer.is_empty());
        let mut link = self.link.borrow_mut();
        if link.is_reset {
            return Read::Broken;
        }
        let pipe = &mut link.pipes[1 - self.side];
        let count = buffer.len().min(pipe.bytes.len());
        for (to, from) in buffer.iter_mut().zip(pipe.bytes.drain(..count)) {
            *to = from;
        }
        let is_finished = pipe.has_fin && pipe.bytes.is_empty();
        if count > 0 {
            // What is read is acknowledged, and its room is free again.
            Self::wake_other(&link, self.side);
        }
        match count {
            0 if is_finished => Read::Finished,
            0 => Read::Empty,
            _ => Read::Data(count),
        }
    }

    fn room(&self) -> usize {
        let link = self.link.borrow();
        let pipe = &link.pipes[self.side];
        if link.is_reset || pipe.has_fin || !link.is_established {
            return 0;
        }
        pipe.capacity.saturating_sub(pipe.bytes.len())
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let count = self.room().min(bytes.len());
        let mut link = self.link.borrow_mut();
        link.pipes[self.side].bytes.extend(&bytes[..count]);
        if count > 0 {
            Self::wake_other(&link, self.side);
        }
        count
    }

    fn unacknowledged(&self) -> usize {
        self.link.borrow().pipes[self.side].bytes.len()
    }

    fn finish(&mut self) {
        let mut link = self.link.borrow_mut();
        link.pipes[self.side].has_fin = true;
        Self::wake_other(&link, self.side);
    }

    fn is_over(&self) -> bool {
        let link = self.link.borrow();
        let [mine, other] = [&link.pipes[self.side], &link.pipes[1 - self.side]];
        link.is_reset || (mine.has_fin && mine.bytes.is_empty() && other.has_fin)
    }

    fn abort(&mut self) {
        let mut link = self.link.borrow_mut();
        link.is_reset = true;
        Self::wake_other(&link, self.side);
    }

    fn wake_on_change(&mut self, waker: &Waker) {
        self.link.borrow_mut().wakers[self.side] = Some(waker.clone());
    }
}

// A backend to dial, the time, and the executor.

/// How the backend answers.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    Accept,
    Fail(DialError),
    Refuse,
    Stall,
}

#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) answer: Rc<Cell<Answer>>,
    pub(crate) capacity: usize,
    /// The backends' ends of what was dialled.
    pub(crate) backends: Rc<RefCell<Vec<End>>>,
}

impl Dial for Dialer {
    type Stream = End;

    fn dial(&mut self, to: SocketAddrV4) -> Result<End, DialError> {
        assert_eq!(to, BACKEND);
        let (ours, theirs) = link(self.capacity);
        match self.answer.get() {
            Answer::Accept => {}
            Answer::Fail(error) => return Err(error),
            Answer::Refuse => theirs.link.borrow_mut().is_reset = true,
            Answer::Stall => theirs.link.borrow_mut().is_established = false,
        }
        self.backends.borrow_mut().push(theirs);
        Ok(ours)
    }
}

pub(crate) const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 8080);

#[derive(Clone)]
pub(crate) struct Clock {
    pub(crate) now: Rc<Cell<Instant>>,
    pub(crate) deadline: Rc<Cell<Instant>>,
}

impl Timer for Clock {
    fn now(&self) -> Instant {
        self.now.get()
    }

    fn wake_at(&self, deadline: Instant, _: &Waker) {
        self.deadline.set(deadline);
    }
}

#[derive(Debug)]
struct NoClock;

impl WallClock for NoClock {
    fn unix_seconds(&self) -> Option<u64> {
        None
    }
}

pub(crate) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A machine without a TPM.
struct NoWitness;

impl Witness for NoWitness {
    fn leaf(&self, nonce: &[u8; 32], _: &[u8; 32]) -> Leaf {
        *nonce
    }

    fn begin(&mut self, _: &[Leaf]) -> Begin {
        Begin::Absent
    }

    fn poll(&mut self) -> Progress {
        Progress::Failed
    }
}

/// What a connection has round it.
pub(crate) struct Place {
    pub(crate) to_client: usize,
    pub(crate) to_backend: usize,
    pub(crate) now: Rc<Cell<Instant>>,
    pub(crate) visitor: Visitor,
    pub(crate) wishes: Wishes,
}

impl Default for Place {
    fn default() -> Self {
        let nobody = Attestation { allow: Vec::new(), quotes_per_second: 1 };
        Self {
            to_client: 64 << 10,
            to_backend: 64 << 10,
            now: Rc::default(),
            visitor: Visitor {
                desk: Desk::new(Box::new(NoWitness), nobody),
                peer: Ipv4Addr::new(10, 77, 0, 9),
            },
            wishes: Wishes::default(),
        }
    }
}

/// A proxied connection with everything round it.
pub(crate) struct World {
    pub(crate) tls: Client,
    pub(crate) client: End,
    pub(crate) dialer: Dialer,
    pub(crate) clock: Clock,
    pub(crate) flag: Arc<Flag>,
    /// What is tested; gone once it is over.
    pub(crate) task: Option<Pin<Box<dyn Future<Output = Outcome>>>>,
    pub(crate) outcome: Option<Outcome>,
    /// How many bytes the client takes from TCP at a time.
    pub(crate) client_chunk: usize,
    /// Records that the client's side has sent but TCP has not taken.
    pub(crate) unsent: VecDeque<u8>,
}

thread_local! {
    static SHARED: (ServerSettings, Rc<RefCell<Workspace>>) = (
        ServerSettings::new(&[CERTIFICATE], KEY, &[], Arc::new(NoClock))
            .and_then(|settings| settings.with_attestation(PROTOCOL))
            .unwrap(),
        Rc::new(RefCell::new(Workspace::new())),
    );
}

fn settings() -> ServerSettings {
    SHARED.with(|(settings, _)| settings.clone())
}

fn workspace() -> Rc<RefCell<Workspace>> {
    SHARED.with(|(_, workspace)| workspace.clone())
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_capacities(64 << 10, 64 << 10)
    }

    pub(crate) fn with_capacities(to_client: usize, to_backend: usize) -> Self {
        Self::of(Place { to_client, to_backend, ..Place::default() })
    }

    pub(crate) fn of(place: Place) -> Self {
        let Place { to_client, to_backend, now, visitor, wishes } = place;
        let (client, ours) = link(to_client);
        let dialer = Dialer {
            answer: Rc::new(Cell::new(Answer::Accept)),
            capacity: to_backend,
            backends: Rc::default(),
        };
        let clock = Clock { now, deadline: Rc::new(Cell::new(Instant::NEVER)) };
        let (dial, timer) = (dialer.clone(), clock.clone());
        let session = settings().accept().unwrap();
        let workspace = workspace();
        let task = Box::pin(async move {
            let route = Route { backend: BACKEND, limits: LIMITS };
            serve(session, ours, dial, route, visitor, &timer, &workspace).await
        });
        Self {
            tls: Client::new(&wishes),
            client,
            dialer,
            clock,
            flag: Arc::new(Flag(AtomicBool::new(true))),
            task: Some(task),
            outcome: None,
            client_chunk: usize::MAX,
            unsent: VecDeque::new(),
        }
    }

    /// Polls the task if it was woken; says whether it was.
    pub(crate) fn poll(&mut self) -> bool {
        if !self.flag.0.swap(false, Ordering::Relaxed) {
            return false;
        }
        let Some(task) = &mut self.task else {
            return false;
        };
        let waker = Waker::from(self.flag.clone());
        if let Poll::Ready(outcome) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.outcome = Some(outcome);
            self.task = None;
        }
        true
    }

    /// Passes bytes between the client's TLS and its TCP; says whether any moved.
    pub(crate) fn move_client(&mut self) -> bool {
        self.unsent.extend(core::mem::take(&mut self.tls.outgoing));
        let count = self.client.room().min(self.unsent.len());
        let bytes: Vec<u8> = self.unsent.drain(..count).collect();
        self.client.write(&bytes);
        let received = self.client.take(self.client_chunk.min(1 << 20));
        self.tls.feed(&received);
        count > 0 || !received.is_empty()
    }

    /// Runs client and proxy until both stand still. Time stands still as well.
    pub(crate) fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            let has_moved = self.move_client();
            if !self.poll() && !has_moved {
                return;
            }
        }
        panic!("no rest");
    }

    /// Lets time pass until the connection is over, waking it at its deadlines.
    pub(crate) fn wait(&mut self) -> Outcome {
        for _ in 0..MAX_ROUNDS {
            self.settle();
            if let Some(outcome) = self.outcome {
                return outcome;
            }
            self.pass_time();
        }
        panic!("no end");
    }

    /// Goes on to the moment the task wants to be woken at.
    pub(crate) fn pass_time(&mut self) {
        let deadline = self.clock.deadline.replace(Instant::NEVER);
        assert!(deadline > self.clock.now.get(), "no deadline, or one that has passed");
        assert!(deadline < Instant::NEVER, "waits for ever");
        self.clock.now.set(deadline);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.flag.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now.get().since(Instant::default())
    }

    pub(crate) fn backend(&self) -> End {
        self.dialer.backends.borrow().last().expect("nothing was dialled").clone()
    }

    pub(crate) fn is_dialled(&self) -> bool {
        !self.dialer.backends.borrow().is_empty()
    }

    /// An open connection that has carried a request and its answer.
    pub(crate) fn used() -> (Self, End) {
        let mut world = Self::new();
        world.settle();
        assert!(world.tls.is_open() && !world.is_dialled());
        world.tls.send(b"request");
        world.settle();
        let mut backend = world.backend();
        assert_eq!(backend.take(100), b"request");
        backend.write(b"response");
        world.settle();
        assert_eq!(core::mem::take(&mut world.tls.plaintext), b"response");
        (world, backend)
    }

    pub(crate) fn client_closes(&mut self) {
        self.tls.close();
        self.settle();
        self.client.finish();
        self.settle();
    }
}
