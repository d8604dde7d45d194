//! One proxied connection between a client and a backend that do what the data says, in its order.
//!
//! No byte is lost, changed or made up on its way, the session is used by its rules, and whatever
//! the two sides do, the connection is over when its deadlines say so.

mod desk;
mod link;
mod session;

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use edge_proxy::{Connection, Limits, Outcome, Progress, Reason, Route, Workspace};
use libos::clock::Instant;
use libos::stream::{Dial, DialError};

use crate::input::Input;
use desk::REQUEST_BYTES;
use link::{End, Flag, Link, Shared};
use session::{Plain, kind, record, take_record};

const LIMITS: Limits = Limits {
    handshake: Duration::from_secs(5),
    connect: Duration::from_secs(3),
    idle: Duration::from_secs(60),
    lifetime: Duration::from_secs(600),
    closing: Duration::from_secs(2),
};

const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 8080);

/// More events than this say nothing new.
const MAX_EVENTS: usize = 600;

/// More steps than moving everything that can be there takes.
const MAX_STEPS: usize = 10_000;

/// More deadlines than a connection has, with one for each look for a place.
const MAX_DEADLINES: usize = 20_000;

/// How the backend answers.
#[derive(Clone, Copy)]
enum Answer {
    Accept,
    Fail(DialError),
    Refuse,
    Stall,
}

const ANSWERS: [Answer; 6] = [
    Answer::Accept,
    Answer::Accept,
    Answer::Stall,
    Answer::Refuse,
    Answer::Fail(DialError::NoPlace),
    Answer::Fail(DialError::NoRoute),
];

struct Dialer {
    answer: Rc<Cell<Answer>>,
    backend: Shared,
    is_dialled: Rc<Cell<bool>>,
}

impl Dial for Dialer {
    type Stream = End;

    fn dial(&mut self, to: SocketAddrV4) -> Result<End, DialError> {
        assert_eq!(to, BACKEND);
        assert!(!self.is_dialled.get(), "one backend connection for one client");
        match self.answer.get() {
            Answer::Accept => self.backend.borrow_mut().is_established = true,
            Answer::Fail(error) => return Err(error),
            Answer::Refuse => self.backend.borrow_mut().is_reset = true,
            Answer::Stall => {}
        }
        self.is_dialled.set(true);
        Ok(End(Rc::clone(&self.backend)))
    }
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace::new());
}

struct World {
    connection: Connection<Plain, End, Dialer>,
    client: Shared,
    backend: Shared,
    answer: Rc<Cell<Answer>>,
    is_dialled: Rc<Cell<bool>>,
    flag: Arc<Flag>,
    now: Instant,
    deadline: Instant,
    outcome: Option<Outcome>,
    /// Plaintext in whole records of the client.
    asked: Vec<u8>,
    /// What of it came to the backend.
    heard: Vec<u8>,
    /// What the client received and is no whole record yet.
    received: Vec<u8>,
    /// Whether the client's first word was that it asks for evidence.
    asks: Option<bool>,
    /// What the client received of an answer about evidence.
    told: Vec<u8>,
    /// Plaintext of the backend's that the client received.
    answered: usize,
}

/// The byte at a place in what the backend sends.
fn pattern(place: usize) -> u8 {
    (place.wrapping_mul(2_654_435_761) >> 13) as u8
}

impl World {
    fn new(capacity: usize) -> Self {
        let visitor = desk::visitor(capacity % 8 != 7);
        let client = Shared::default();
        let backend = Shared::default();
        client.borrow_mut().is_established = true;
        client.borrow_mut().from_proxy.capacity = edge_proxy::MIN_ROOM.max(capacity);
        backend.borrow_mut().from_proxy.capacity = capacity.max(1);
        let (answer, is_dialled) = (Rc::new(Cell::new(Answer::Accept)), Rc::default());
        let dial = Dialer {
            answer: Rc::clone(&answer),
            backend: Rc::clone(&backend),
            is_dialled: Rc::clone(&is_dialled),
        };
        let now = Instant::default();
        let route = Route { backend: BACKEND, limits: LIMITS };
        let end = End(Rc::clone(&client));
        let connection = Connection::new(Plain::default(), end, dial, route, visitor, now);
        Self {
            connection,
            client,
            backend,
            answer,
            is_dialled,
            flag: Arc::default(),
            now,
            deadline: now,
            outcome: None,
            asked: Vec::new(),
            heard: Vec::new(),
            received: Vec::new(),
            asks: None,
            told: Vec::new(),
            answered: 0,
        }
    }

    fn event(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0 => self.send(kind::HELLO, &[]),
            1..=3 => {
                let length = usize::from(input.u8());
                let mut payload = input.bytes(length).to_vec();
                let fill = if input.u8() % 32 == 31 { 16_000 } else { 0 };
                payload.resize(payload.len() + fill, 0x61);
                self.send(kind::DATA, &payload);
            }
            4 => self.send(kind::CLOSE, &[]),
            // A hello that says something asks for evidence.
            5 => {
                const KINDS: [u8; 4] = [kind::QUESTION, kind::QUESTION, kind::ANSWER, kind::HELLO];
                self.send(input.choice(&KINDS), b"?");
            }
            6 => {
                // The rest of it never comes.
                let whole = record(kind::DATA, b"cut off");
                let cut = usize::from(input.u8()) % whole.len();
                self.client.borrow_mut().put(&whole[..cut]);
                self.client.borrow_mut().finish();
            }
            7 => self.receive(usize::from(input.u16())),
            8 => self.client.borrow_mut().finish(),
            9 => match input.u8() % 8 {
                0 => self.client.borrow_mut().reset(),
                1 if self.is_dialled.get() => self.backend.borrow_mut().reset(),
                _ => {}
            },
            10 => self.hear(usize::from(input.u16())),
            11 | 12 => self.answer(usize::from(input.u16()) % 40_000),
            13 => self.of_backend(Link::finish),
            14 => {
                self.answer.set(input.choice(&ANSWERS));
                let is_established = self.is_dialled.get();
                self.of_backend(|link| link.is_established |= is_established);
                self.backend.borrow().wake();
            }
            _ => {
                let span = Duration::from_millis(u64::from(input.u16()));
                self.now =
                    if input.is_set() { self.deadline.max(self.now) } else { self.now + span };
            }
        }
    }

    fn of_backend(&mut self, act: impl FnOnce(&mut Link)) {
        if self.is_dialled.get() {
            act(&mut self.backend.borrow_mut());
        }
    }

    fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut client = self.client.borrow_mut();
        if kind == kind::DATA && !client.to_proxy.has_fin && !client.is_reset {
            self.asked.extend_from_slice(payload);
        }
        if kind == kind::HELLO && !client.to_proxy.has_fin && !client.is_reset {
            self.asks.get_or_insert(!payload.is_empty());
        }
        client.put(&record(kind, payload));
    }

    /// The client reads.
    fn receive(&mut self, count: usize) {
        self.received.extend(self.client.borrow_mut().take(count));
        while let Some((kind, payload)) = take_record(&mut self.received) {
            if kind == kind::DATA {
                let payload = self.listen(&payload);
                let expected = (self.answered..).take(payload.len()).map(pattern);
                assert!(payload.iter().copied().eq(expected), "what the backend sent");
                self.answered += payload.len();
            }
        }
    }

    /// Takes what belongs to the answer about evidence off the front of what was received.
    fn listen<'a>(&mut self, payload: &'a [u8]) -> &'a [u8] {
        if self.asks != Some(true) {
            return payload;
        }
        let before = self.told.len();
        self.told.extend_from_slice(payload);
        let Some(length) = self.told.first_chunk() else { return &[] };
        let evidence = match u32::from_be_bytes(*length) {
            0 => Vec::new(),
            _ => self.evidence().expect("an answer to what is no request"),
        };
        let answer = [&(evidence.len() as u32).to_be_bytes()[..], &evidence].concat();
        self.told.truncate(answer.len());
        assert!(answer.starts_with(&self.told), "evidence as it was made");
        &payload[self.told.len() - before..]
    }

    /// The evidence for what was asked.
    fn evidence(&self) -> Option<Vec<u8>> {
        let request: &[u8; REQUEST_BYTES] = self.asked.first_chunk()?;
        let (length, nonce) = request.split_first_chunk()?;
        let is_request = u32::from_be_bytes(*length) == 32;
        nonce.first_chunk().filter(|_| is_request).map(desk::evidence)
    }

    /// The backend reads.
    fn hear(&mut self, count: usize) {
        self.heard.extend(self.backend.borrow_mut().take(count));
        let is_request = self.asks == Some(true);
        let asked = self.asked.get(if is_request { REQUEST_BYTES } else { 0 }..);
        assert!(asked.unwrap_or_default().starts_with(&self.heard), "what the client sent");
    }

    /// The backend writes.
    fn answer(&mut self, count: usize) {
        self.of_backend(|link| {
            let place = link.to_proxy.written;
            let bytes: Vec<u8> = (place..place + count).map(pattern).collect();
            link.put(&bytes);
        });
    }

    /// Steps if somebody woke it, until it waits.
    fn run(&mut self) {
        if !self.flag.take() && self.now < self.deadline {
            return;
        }
        for _ in 0..MAX_STEPS {
            let step = |workspace: &RefCell<Workspace>| {
                self.connection.step(self.now, &mut workspace.borrow_mut())
            };
            match WORKSPACE.with(step) {
                Progress::Done(outcome) => return self.outcome = Some(outcome),
                Progress::Idle(deadline) => {
                    assert!(deadline > self.now, "a deadline that has passed");
                    self.deadline = deadline;
                    return self.connection.wake_on_change(&Waker::from(Arc::clone(&self.flag)));
                }
                Progress::More => {}
            }
        }
        panic!("steps without end");
    }

    /// Nobody does anything any more: the deadlines end the connection.
    fn wind_down(&mut self) {
        let end = self.now.max(Instant::default() + LIMITS.lifetime) + LIMITS.closing;
        for _ in 0..MAX_DEADLINES {
            self.run();
            if self.outcome.is_some() {
                return;
            }
            assert!(self.deadline <= end, "a connection that outlives its time");
            self.now = self.now.max(self.deadline);
        }
        panic!("deadlines without end");
    }

    fn check(&mut self) {
        let outcome = self.outcome.expect("it is over");
        assert!(!outcome.to_string().is_empty());
        self.hear(usize::MAX);
        self.receive(usize::MAX);
        assert_eq!(outcome.to_backend as usize, self.heard.len());
        assert_eq!(outcome.to_client as usize, self.answered);
        if outcome.attested.is_some() {
            assert!(self.evidence().is_some(), "evidence without a request");
        }
        if self.asks == Some(true) && outcome.attested.is_none() {
            assert!(self.heard.is_empty(), "the backend before the answer");
        }
        if outcome.reason == Reason::Completed {
            let backend = self.backend.borrow();
            assert_eq!(self.answered, backend.to_proxy.written, "all that the backend sent");
            assert!(self.received.is_empty(), "a record that was cut off");
        }
    }
}

/// Events of a client, of a backend and of time.
pub fn steps(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(usize::from(input.u16()));
    for _ in 0..MAX_EVENTS {
        if input.is_empty() || world.outcome.is_some() {
            break;
        }
        world.event(&mut input);
        world.run();
    }
    if world.outcome.is_none() {
        world.wind_down();
    }
    world.check();
}
