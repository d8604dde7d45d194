//! The desk where nonces wait: one quote at a time, over all that have come meanwhile.
//!
//! No task of its own runs here. The first of those who wait looks after the TPM, every few
//! milliseconds; when it goes, the next one does.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::Ipv4Addr;
use core::task::Waker;
use core::time::Duration;

use edge_config::Attestation;
use libos::attest::Begin;
use libos::clock::Instant;
use libos::log::{self, Level};

use super::{Leaf, MAX_EVIDENCE_BYTES, MAX_LEAVES, NoEvidence, Progress, Witness};

/// How many clients may wait.
const MAX_WAITING: usize = 64;

/// How many answers are kept at once for the clients that are reading them.
const MAX_ANSWERS: usize = edge_config::budget::EVIDENCE_ANSWERS as usize;

/// How often the TPM is asked whether it is ready.
const POLL: Duration = Duration::from_millis(4);

/// How long a quote may take.
const QUOTE: Duration = Duration::from_secs(5);

/// How long a client waits for an answer at most.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where clients leave their nonces. Copies are of the same desk.
#[derive(Clone)]
pub struct Desk {
    state: Rc<RefCell<State>>,
}

/// A connection's way to the desk.
#[derive(Clone)]
pub struct Visitor {
    /// The desk.
    pub desk: Desk,
    /// Who the client is.
    pub peer: Ipv4Addr,
}

/// A place in the queue. Whoever drops it has left.
pub struct Ticket {
    state: Rc<RefCell<State>>,
    number: u64,
}

/// Evidence, and how it came about.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The evidence, the same for all that one quote is for.
    pub evidence: Rc<Evidence>,
    /// How many connections the quote is for.
    pub together: usize,
    /// From the request to the answer.
    pub waited: Duration,
}

/// The bytes of an answer.
#[derive(Debug)]
pub struct Evidence(Vec<u8>);

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that got evidence.
    pub answered: u64,
    /// Quotes from which nothing came, or nothing in time.
    pub failed: u64,
    /// Quotes that were begun.
    pub quotes: u64,
    /// Requests that were refused.
    pub refused: u64,
}

struct State {
    witness: Box<dyn Witness>,
    config: Attestation,
    /// When the next quote may begin.
    next: Instant,
    /// When the one that runs was begun.
    running: Option<Instant>,
    waiting: VecDeque<Waiting>,
    tickets: u64,
    answers: Vec<Weak<Evidence>>,
    counters: Counters,
}

struct Waiting {
    number: u64,
    leaf: Leaf,
    since: Instant,
    waker: Option<Waker>,
    place: Place,
}

enum Place {
    /// In the queue.
    Queued,
    /// In the quote that runs.
    Asked,
    /// Its answer is here.
    Served(Result<Answered, NoEvidence>),
}

impl Evidence {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Desk {
    /// A desk with nobody at it.
    pub fn new(witness: Box<dyn Witness>, config: Attestation) -> Self {
        let state = State {
            witness,
            config,
            next: Instant::default(),
            running: None,
            waiting: VecDeque::new(),
            tickets: 0,
            answers: Vec::new(),
            counters: Counters::default(),
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.state.borrow().counters
    }
}

impl Visitor {
    /// Leaves a nonce.
    ///
    /// # Errors
    ///
    /// [`NoEvidence`] if this client, or one more, may not.
    pub fn ask(
        &self,
        nonce: &[u8; 32],
        exporter: &[u8; 32],
        now: Instant,
    ) -> Result<Ticket, NoEvidence> {
        let mut state = self.desk.state.borrow_mut();
        let is_listed = state.config.allow.iter().any(|prefix| prefix.contains(self.peer));
        let refusal = match () {
            () if !is_listed => Some(NoEvidence::NotListed),
            () if state.waiting.len() >= MAX_WAITING => Some(NoEvidence::Crowded),
            () => None,
        };
        if let Some(refusal) = refusal {
            state.counters.refused += 1;
            return Err(refusal);
        }
        let leaf = state.witness.leaf(nonce, exporter);
        state.tickets += 1;
        let number = state.tickets;
        let place = Place::Queued;
        state.waiting.push_back(Waiting { number, leaf, since: now, waker: None, place });
        Ok(Ticket { state: Rc::clone(&self.desk.state), number })
    }
}

impl Ticket {
    /// The answer, once it is there. If this is the first in the queue it also moves the queue on.
    pub fn poll(&self, now: Instant) -> Option<Result<Answered, NoEvidence>> {
        let mut state = self.state.borrow_mut();
        if state.is_first(self.number) {
            state.turn(self.number, now);
        }
        let waiting = state.waiting.iter().find(|waiting| waiting.number == self.number)?;
        match &waiting.place {
            Place::Served(answer) => Some(answer.clone()),
            Place::Queued | Place::Asked => None,
        }
    }

    /// When to poll again, whatever happens until then.
    pub fn next_poll(&self, now: Instant) -> Instant {
        let state = self.state.borrow();
        if !state.is_first(self.number) {
            let waiting = state.waiting.iter().find(|waiting| waiting.number == self.number);
            return waiting.map_or(now, |waiting| waiting.since + PATIENCE + POLL);
        }
        match state.running {
            None if state.next > now => state.next.min(now + QUOTE),
            _ => now + POLL,
        }
    }

    /// Wakes `waker` when polling may have a result.
    pub fn wake_on_change(&self, waker: &Waker) {
        let mut state = self.state.borrow_mut();
        let mine = state.waiting.iter_mut().find(|waiting| waiting.number == self.number);
        if let Some(waiting) = mine {
            waiting.waker = Some(waker.clone());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        let was_first = state.is_first(self.number);
        state.waiting.retain(|waiting| waiting.number != self.number);
        if was_first {
            state.wake_first();
        }
    }
}

impl State {
    fn first(&self) -> Option<&Waiting> {
        self.waiting.iter().find(|waiting| !matches!(waiting.place, Place::Served(_)))
    }

    fn is_first(&self, number: u64) -> bool {
        self.first().is_some_and(|first| first.number == number)
    }

    /// The queue must not stand still when the one that moved it has gone.
    fn wake_first(&self) {
        if let Some(waker) = self.first().and_then(|first| first.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Moves the queue on, as the one with that number does, and wakes whoever has to go on with it.
    fn turn(&mut self, number: u64, now: Instant) {
        if let Some(since) = self.running {
            self.look(since, now);
        }
        self.lose_patience(now);
        if self.running.is_none() {
            self.begin(now);
        }
        if !self.is_first(number) {
            self.wake_first();
        }
    }

    /// Looks after the quote that runs.
    fn look(&mut self, since: Instant, now: Instant) {
        let result = match self.witness.poll() {
            Progress::Pending if now < since + QUOTE => return,
            Progress::Pending => Err(NoEvidence::Slow),
            Progress::Failed => Err(NoEvidence::Failed),
            Progress::Ready(bytes) if bytes.len() > MAX_EVIDENCE_BYTES => Err(NoEvidence::Failed),
            Progress::Ready(bytes) => Ok(Rc::new(Evidence(bytes))),
        };
        self.running = None;
        let is_asked = |waiting: &&mut Waiting| matches!(waiting.place, Place::Asked);
        let together = self.waiting.iter_mut().filter(is_asked).count();
        for waiting in self.waiting.iter_mut().filter(is_asked) {
            let waited = now.since(waiting.since);
            let evidence = result.clone();
            waiting.serve(evidence.map(|evidence| Answered { evidence, together, waited }));
        }
        match &result {
            Ok(evidence) => {
                self.answers.push(Rc::downgrade(evidence));
                self.counters.answered += together as u64;
            }
            Err(_) => self.counters.failed += 1,
        }
        self.tell(now, since, together, result.err());
    }

    fn tell(&self, now: Instant, since: Instant, together: usize, error: Option<NoEvidence>) {
        let Counters { answered, failed, quotes, refused } = self.counters;
        let millis = now.since(since).as_millis();
        let level = if error.is_some() { Level::Warning } else { Level::Info };
        let what: &dyn core::fmt::Display = match &error {
            Some(error) => error,
            None => &"quoted",
        };
        log::line(
            now,
            level,
            format_args!(
                "attestation: {what} after {millis} ms, for {together}; \
                 quotes={quotes} answered={answered} failed={failed} refused={refused}"
            ),
        );
    }

    fn lose_patience(&mut self, now: Instant) {
        for waiting in &mut self.waiting {
            if matches!(waiting.place, Place::Queued) && now >= waiting.since + PATIENCE {
                waiting.serve(Err(NoEvidence::Slow));
                self.counters.refused += 1;
            }
        }
    }

    /// Begins a quote over those who have waited longest, if there may be one.
    fn begin(&mut self, now: Instant) {
        self.answers.retain(|answer| answer.strong_count() > 0);
        if now < self.next || self.answers.len() >= MAX_ANSWERS {
            return;
        }
        let is_queued = |waiting: &&mut Waiting| matches!(waiting.place, Place::Queued);
        let chosen = || self.waiting.iter().filter(|w| matches!(w.place, Place::Queued));
        let mut leaves: Vec<Leaf> = chosen().take(MAX_LEAVES).map(|waiting| waiting.leaf).collect();
        if leaves.is_empty() {
            return;
        }
        leaves.sort_unstable();
        leaves.dedup();
        let begun = self.witness.begin(&leaves);
        let chosen = self.waiting.iter_mut().filter(is_queued).take(MAX_LEAVES);
        match begun {
            Begin::Started => {
                chosen.for_each(|waiting| waiting.place = Place::Asked);
                self.running = Some(now);
                self.next = now + Duration::from_secs(1) / self.config.quotes_per_second.max(1);
                self.counters.quotes += 1;
            }
            Begin::Absent => {
                for waiting in chosen {
                    waiting.serve(Err(NoEvidence::Absent));
                    self.counters.refused += 1;
                }
            }
            Begin::Busy => {}
        }
    }
}

impl Waiting {
    fn serve(&mut self, answer: Result<Answered, NoEvidence>) {
        self.place = Place::Served(answer);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
