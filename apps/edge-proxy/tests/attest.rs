//! Clients that ask for evidence, and a TPM that takes its time.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use edge_config::{Attestation, Prefix};
use edge_proxy::attest::{
    Counters, Desk, Leaf, MAX_EVIDENCE_BYTES, NoEvidence, PROTOCOL, Progress, Violation, Visitor,
    Witness,
};
use edge_proxy::{Outcome, Reason};
use libos::attest::Begin;
use libos::clock::Instant;
use libos::log::{self, Level};
use libos::stream::Stream;

#[allow(dead_code, reason = "this file belongs to all tests of the proxy")]
mod world;
use world::client::Wishes;
use world::{LIMITS, Place, World};

const LISTED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// More steps in time than any test takes.
const MAX_STEPS: usize = 100_000;

/// How the TPM does.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Absent,
    Busy,
    Fails,
    Hangs,
    Works,
}

/// What the tests see of the TPM.
struct Tpm {
    mood: Mood,
    /// The leaves of every quote, in the order of the quotes.
    quotes: Vec<Vec<Leaf>>,
    /// When each was begun.
    begun: Vec<Duration>,
    exporters: RefCell<Vec<[u8; 32]>>,
    takes: Duration,
    /// How many bytes of evidence, besides the leaves.
    bytes: usize,
}

struct FakeWitness {
    tpm: Rc<RefCell<Tpm>>,
    now: Rc<Cell<Instant>>,
}

impl Witness for FakeWitness {
    fn leaf(&self, nonce: &[u8; 32], exporter: &[u8; 32]) -> Leaf {
        self.tpm.borrow().exporters.borrow_mut().push(*exporter);
        *nonce
    }

    fn begin(&mut self, leaves: &[Leaf]) -> Begin {
        let mut tpm = self.tpm.borrow_mut();
        assert!((1..=16).contains(&leaves.len()));
        assert!(leaves.is_sorted() && leaves.windows(2).all(|pair| pair[0] != pair[1]));
        match tpm.mood {
            Mood::Absent => return Begin::Absent,
            Mood::Busy => return Begin::Busy,
            Mood::Fails | Mood::Hangs | Mood::Works => {}
        }
        tpm.quotes.push(leaves.to_vec());
        tpm.begun.push(since(&self.now));
        Begin::Started
    }

    fn poll(&mut self) -> Progress {
        let tpm = self.tpm.borrow();
        match tpm.mood {
            Mood::Fails => Progress::Failed,
            Mood::Works if since(&self.now) >= *tpm.begun.last().unwrap() + tpm.takes => {
                Progress::Ready(evidence(tpm.quotes.last().unwrap(), tpm.bytes))
            }
            _ => Progress::Pending,
        }
    }
}

fn evidence(leaves: &[Leaf], bytes: usize) -> Vec<u8> {
    [leaves.concat(), (0..bytes).map(|index| (index / 3) as u8).collect()].concat()
}

fn since(now: &Rc<Cell<Instant>>) -> Duration {
    now.get().since(Instant::default())
}

/// Several connections, one desk, one time.
struct Town {
    now: Rc<Cell<Instant>>,
    tpm: Rc<RefCell<Tpm>>,
    desk: Desk,
    worlds: Vec<World>,
}

impl Town {
    fn new() -> Self {
        log::configure(Level::Error, 1);
        let now: Rc<Cell<Instant>> = Rc::default();
        let tpm = Rc::new(RefCell::new(Tpm {
            mood: Mood::Works,
            quotes: Vec::new(),
            begun: Vec::new(),
            exporters: RefCell::default(),
            takes: Duration::from_millis(210),
            bytes: 20_000,
        }));
        let witness = FakeWitness { tpm: tpm.clone(), now: now.clone() };
        let prefix = Prefix { address: Ipv4Addr::new(10, 77, 0, 0), length: 24 };
        let config = Attestation { allow: vec![prefix], quotes_per_second: 2 };
        let desk = Desk::new(Box::new(witness), config);
        Self { now, tpm, desk, worlds: Vec::new() }
    }

    fn add(&mut self, peer: Ipv4Addr, protocols: &[&[u8]], to_client: usize) -> usize {
        let wishes = Wishes {
            protocols: protocols.iter().map(|name| name.to_vec()).collect(),
            ..Wishes::default()
        };
        let visitor = Visitor { desk: self.desk.clone(), peer };
        let now = self.now.clone();
        let mut world = World::of(Place { to_client, now, visitor, wishes, ..Place::default() });
        world.settle();
        assert!(world.tls.is_open());
        self.worlds.push(world);
        self.worlds.len() - 1
    }

    /// A client that has asked with that nonce, and its number.
    fn ask(&mut self, nonce: u8) -> usize {
        let index = self.add(LISTED, &[b"h2", PROTOCOL], 64 << 10);
        assert_eq!(self.worlds[index].tls.protocol(), Some(PROTOCOL));
        self.worlds[index].tls.send(&request(nonce));
        self.settle();
        index
    }

    fn settle(&mut self) {
        // One connection's step may wake another.
        for _ in 0..3 {
            self.worlds.iter_mut().for_each(World::settle);
        }
    }

    /// Lets time pass, waking every connection at the moments it wants to be woken at.
    fn pass(&mut self, span: Duration) {
        let end = self.now.get() + span;
        for _ in 0..MAX_STEPS {
            let deadlines = self.worlds.iter().filter(|world| world.task.is_some());
            let next = deadlines.map(|world| world.clock.deadline.get()).min();
            let next = next.unwrap_or(Instant::NEVER).min(end);
            assert!(next > self.now.get() || next == end, "a deadline that has passed");
            self.now.set(next);
            for world in &mut self.worlds {
                if world.clock.deadline.get() <= next {
                    world.clock.deadline.set(Instant::NEVER);
                    world.wake();
                }
            }
            self.settle();
            if next == end {
                return;
            }
        }
        panic!("time stands still");
    }

    fn plaintext(&mut self, index: usize) -> Vec<u8> {
        std::mem::take(&mut self.worlds[index].tls.plaintext)
    }

    /// The evidence that a client has got, which is for these leaves.
    #[track_caller]
    fn check_evidence(&mut self, index: usize, nonces: &[u8]) {
        let leaves: Vec<Leaf> = nonces.iter().map(|nonce| [*nonce; 32]).collect();
        let expected = evidence(&leaves, self.tpm.borrow().bytes);
        let plaintext = self.plaintext(index);
        let (length, bytes) = plaintext.split_first_chunk().expect("an answer");
        assert_eq!(u32::from_be_bytes(*length) as usize, expected.len());
        assert!(bytes == expected, "{} bytes", bytes.len());
    }

    /// A client has got nothing but a length of zero, and a polite end.
    #[track_caller]
    fn check_refused(&mut self, index: usize, reason: NoEvidence) {
        assert_eq!(self.plaintext(index), [0; 4]);
        assert!(self.worlds[index].tls.is_closed);
        let outcome = self.end(index);
        assert_eq!((outcome.reason, outcome.attested), (Reason::NoEvidence(reason), None));
        assert!(!self.worlds[index].is_dialled());
    }

    fn end(&mut self, index: usize) -> Outcome {
        self.worlds[index].client.finish();
        self.settle();
        self.pass(LIMITS.closing);
        self.worlds[index].outcome.expect("an end")
    }

    /// The connection is one like any other.
    #[track_caller]
    fn check_traffic(&mut self, index: usize) {
        let world = &mut self.worlds[index];
        world.tls.send(b"request");
        world.settle();
        let mut backend = world.backend();
        assert_eq!(backend.take(100), b"request");
        backend.write(b"response");
        world.settle();
        assert_eq!(std::mem::take(&mut world.tls.plaintext), b"response");
    }
}

fn request(nonce: u8) -> Vec<u8> {
    [&[0, 0, 0, 32][..], &[nonce; 32]].concat()
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// What goes well.

#[test]
fn who_asks_gets_evidence_and_then_an_ordinary_connection() {
    let mut town = Town::new();
    let client = town.ask(7);
    assert!(town.plaintext(client).is_empty() && !town.worlds[client].is_dialled());
    town.pass(millis(220));
    town.check_evidence(client, &[7]);
    assert!(!town.worlds[client].is_dialled(), "the backend is for plaintext after the answer");
    town.check_traffic(client);
    town.worlds[client].client_closes();
    town.worlds[client].backend().finish();
    let outcome = town.end(client);
    assert_eq!((outcome.reason, outcome.to_backend, outcome.to_client), (Reason::Completed, 7, 8));
    let attested = outcome.attested.unwrap();
    assert_eq!(attested.together, 1);
    assert!((millis(210)..millis(216)).contains(&attested.waited), "{attested:?}");
    let line = outcome.to_string();
    assert!(line.contains("; attested in 21") && line.contains(" ms, 1 at once; TLS13_"), "{line}");
}

#[test]
fn a_request_may_come_in_any_pieces() {
    for size in [1, 3, 4, 5, 35] {
        let mut town = Town::new();
        let client = town.add(LISTED, &[PROTOCOL], 64 << 10);
        for piece in request(9).chunks(size) {
            assert_eq!(town.tpm.borrow().quotes.len(), 0);
            town.worlds[client].tls.send(piece);
            town.worlds[client].tls.send(b"");
            town.settle();
        }
        town.pass(millis(220));
        town.check_evidence(client, &[9]);
        town.check_traffic(client);
    }
}

#[test]
fn those_who_come_while_a_quote_runs_share_the_next_one() {
    let mut town = Town::new();
    let first = town.ask(5);
    town.pass(millis(100));
    let later: Vec<usize> = [9, 2, 4].into_iter().map(|nonce| town.ask(nonce)).collect();
    town.pass(millis(120));
    town.check_evidence(first, &[5]);
    assert_eq!(town.tpm.borrow().quotes.len(), 1);
    town.pass(millis(500));
    for client in &later {
        town.check_evidence(*client, &[2, 4, 9]);
        town.check_traffic(*client);
    }
    let tpm = town.tpm.borrow();
    assert_eq!(tpm.quotes.len(), 2);
    let exporters = tpm.exporters.borrow();
    assert!((0..4).all(|at| !exporters[..at].contains(&exporters[at])), "one for each connection");
    drop(exporters);
    drop(tpm);
    let expected = Counters { answered: 4, failed: 0, quotes: 2, refused: 0 };
    assert_eq!(town.desk.counters(), expected);
}

#[test]
fn one_quote_is_for_sixteen_at_most() {
    let mut town = Town::new();
    town.ask(100);
    let clients: Vec<usize> = (0..20).map(|nonce| town.ask(nonce)).collect();
    town.pass(millis(2000));
    let sizes: Vec<usize> = town.tpm.borrow().quotes.iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 16, 4]);
    let (early, late): (Vec<u8>, Vec<u8>) = ((0..16).collect(), (16..20).collect());
    for client in clients {
        town.check_evidence(client, if client <= 16 { &early } else { &late });
    }
}

#[test]
fn quotes_are_no_more_frequent_than_configured() {
    let mut town = Town::new();
    for nonce in 0..6 {
        town.ask(nonce);
        town.pass(millis(300));
    }
    town.pass(millis(1000));
    let begun = town.tpm.borrow().begun.clone();
    assert!(begun.windows(2).all(|pair| pair[1] - pair[0] >= millis(500)), "{begun:?}");
    assert_eq!(town.desk.counters().answered, 6);
}

#[test]
fn a_slow_tpm_holds_nobody_else_up() {
    let mut town = Town::new();
    town.tpm.borrow_mut().mood = Mood::Hangs;
    let waits = town.ask(1);
    let other = town.add(Ipv4Addr::new(192, 0, 2, 1), &[b"h2"], 64 << 10);
    for _ in 0..20 {
        town.check_traffic(other);
        town.pass(millis(100));
    }
    assert!(town.plaintext(waits).is_empty());
    // Each poll of the TPM is one step of the connection that waits, and of no other.
    town.pass(millis(3100));
    town.check_refused(waits, NoEvidence::Slow);
    town.check_traffic(other);
    assert_eq!(town.desk.counters(), Counters { failed: 1, quotes: 1, ..Counters::default() });
}

#[test]
fn long_evidence_goes_through_a_narrow_connection() {
    let mut town = Town::new();
    town.tpm.borrow_mut().bytes = MAX_EVIDENCE_BYTES - 32;
    let client = town.add(LISTED, &[PROTOCOL], 3000);
    town.worlds[client].client_chunk = 700;
    town.worlds[client].tls.send(&request(3));
    town.settle();
    town.pass(millis(220));
    town.check_evidence(client, &[3]);
    town.check_traffic(client);
}

#[test]
fn who_has_finished_sending_is_still_answered() {
    let mut town = Town::new();
    let client = town.ask(8);
    town.worlds[client].client_closes();
    town.pass(millis(220));
    town.check_evidence(client, &[8]);
    let outcome = town.end(client);
    assert_eq!(outcome.reason, Reason::NoRequest);
    assert!(outcome.attested.is_some());
}

// What is refused.

#[test]
fn who_is_not_listed_gets_none() {
    let mut town = Town::new();
    for peer in [Ipv4Addr::new(10, 77, 1, 9), Ipv4Addr::new(192, 0, 2, 1)] {
        let client = town.add(peer, &[PROTOCOL], 64 << 10);
        town.worlds[client].tls.send(&request(1));
        town.settle();
        town.check_refused(client, NoEvidence::NotListed);
    }
    assert!(town.tpm.borrow().quotes.is_empty(), "the TPM was never bothered");
    assert_eq!(town.desk.counters().refused, 2);
}

#[track_caller]
fn check_mood(mood: Mood, after: Duration, reason: NoEvidence) {
    let mut town = Town::new();
    town.tpm.borrow_mut().mood = mood;
    let (first, second) = (town.ask(1), town.ask(2));
    town.pass(after);
    town.check_refused(first, reason);
    town.pass(after);
    town.check_refused(second, reason);
    // Whoever comes once it works again is served.
    town.tpm.borrow_mut().mood = Mood::Works;
    let client = town.ask(3);
    town.pass(millis(1000));
    town.check_evidence(client, &[3]);
}

#[test]
fn a_tpm_that_does_not_sign_is_no_end_of_the_service() {
    check_mood(Mood::Absent, millis(10), NoEvidence::Absent);
    check_mood(Mood::Fails, millis(510), NoEvidence::Failed);
    check_mood(Mood::Hangs, millis(5010), NoEvidence::Slow);
    check_mood(Mood::Busy, millis(15_010), NoEvidence::Slow);
}

#[test]
fn evidence_that_is_too_long_is_none() {
    let mut town = Town::new();
    town.tpm.borrow_mut().bytes = MAX_EVIDENCE_BYTES - 31;
    let client = town.ask(1);
    town.pass(millis(220));
    town.check_refused(client, NoEvidence::Failed);
}

#[track_caller]
fn check_violation(plaintexts: &[&[u8]], violation: Violation) {
    let mut town = Town::new();
    let client = town.add(LISTED, &[PROTOCOL], 64 << 10);
    for plaintext in plaintexts {
        town.worlds[client].tls.send(plaintext);
        town.settle();
    }
    assert!(town.plaintext(client).is_empty() && town.worlds[client].tls.is_closed);
    let outcome = town.end(client);
    assert_eq!(outcome.reason, Reason::Violation(violation));
    assert!(outcome.to_string().starts_with("attestation request: "), "{outcome}");
    assert!(!town.worlds[client].is_dialled());
    // The desk has forgotten it.
    let next = town.ask(2);
    town.pass(millis(1000));
    town.check_evidence(next, &[2]);
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let request = request(1);
    check_violation(&[&33u32.to_be_bytes()], Violation::Length(33));
    check_violation(&[&[0; 4]], Violation::Length(0));
    check_violation(&[b"GET / HTTP/1.1\r\n\r\n"], Violation::Length(0x4745_5420));
    check_violation(&[&[0xff; 16_000]], Violation::Length(u32::MAX));
    check_violation(&[&[&request[..], b"more"].concat()], Violation::Early);
    check_violation(&[&request, b"m"], Violation::Early);
    check_violation(&[&request, &request], Violation::Early);
    check_violation(&[&request[..35], &[1, 1]], Violation::Early);
}

#[test]
fn data_while_the_answer_goes_out_ends_the_connection() {
    let mut town = Town::new();
    let client = town.add(LISTED, &[PROTOCOL], 3000);
    town.worlds[client].tls.send(&request(3));
    town.settle();
    town.worlds[client].client_chunk = 0;
    town.pass(millis(220));
    town.worlds[client].tls.send(b"impatient");
    town.settle();
    let outcome = town.end(client);
    assert_eq!(outcome.reason, Reason::Violation(Violation::Early));
}

#[test]
fn a_request_must_come_before_the_handshakes_deadline() {
    for sent in [0, 1, 4, 35] {
        let mut town = Town::new();
        let client = town.add(LISTED, &[PROTOCOL], 64 << 10);
        if sent > 0 {
            town.worlds[client].tls.send(&request(1)[..sent]);
        }
        town.settle();
        town.pass(LIMITS.handshake - millis(1));
        assert!(!town.worlds[client].tls.is_closed);
        town.pass(millis(1));
        assert!(town.worlds[client].tls.is_closed && town.plaintext(client).is_empty());
        assert_eq!(town.end(client).reason, Reason::RequestDeadline);
    }
}

#[test]
fn who_does_not_read_its_evidence_is_not_waited_for() {
    let mut town = Town::new();
    let mut stuck = Vec::new();
    for nonce in 0..2 {
        let client = town.add(LISTED, &[PROTOCOL], 3000);
        town.worlds[client].tls.send(&request(nonce));
        town.settle();
        town.worlds[client].client_chunk = 0;
        town.pass(millis(600));
        stuck.push(client);
    }
    // Two answers are kept; a third is not begun before one of them is gone.
    let third = town.ask(3);
    town.pass(millis(1000));
    assert_eq!(town.tpm.borrow().quotes.len(), 2);
    town.pass(LIMITS.handshake);
    town.check_evidence(third, &[3]);
    for client in stuck {
        assert_eq!(town.end(client).reason, Reason::AnswerDeadline);
    }
}

#[test]
fn no_more_wait_than_may() {
    let mut town = Town::new();
    town.tpm.borrow_mut().mood = Mood::Hangs;
    for nonce in 0..64 {
        town.ask(nonce);
    }
    let one_more = town.ask(64);
    town.check_refused(one_more, NoEvidence::Crowded);
}

#[test]
fn whoever_leaves_leaves_no_gap() {
    let mut town = Town::new();
    let (first, second) = (town.ask(1), town.ask(2));
    let third = town.ask(3);
    // The one that looks after the TPM goes while the quote runs, and so does one of the queue.
    town.worlds[first].client.abort();
    town.worlds[second].client.abort();
    town.settle();
    assert_eq!(town.worlds[first].outcome.unwrap().reason, Reason::ClientReset);
    town.pass(millis(1000));
    town.check_evidence(third, &[3]);
    assert_eq!(town.desk.counters().answered, 1);
}

#[test]
fn clients_that_do_not_ask_never_meet_the_desk() {
    let mut town = Town::new();
    let client = town.add(LISTED, &[b"h2"], 64 << 10);
    assert_eq!(town.worlds[client].tls.protocol(), None);
    town.worlds[client].tls.send(&request(1));
    town.settle();
    assert_eq!(town.worlds[client].backend().take(100), request(1));
    assert_eq!(town.desk.counters(), Counters::default());
}
