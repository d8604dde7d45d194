//! What a connection holds on the heap, and that it gives everything back.

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

use edge_config::{Attestation, Prefix};
use edge_proxy::attest::{Desk, Leaf, MAX_EVIDENCE_BYTES, PROTOCOL, Progress, Visitor, Witness};
use libos::attest::Begin;
use libos::stream::Stream;
use libos::tls::INCOMING_BYTES;

#[allow(dead_code, reason = "this file belongs to all tests of the proxy")]
mod world;
use world::client::Wishes;
use world::{Answer, Place, World};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What an idle connection may hold besides TCP's buffers.
const IDLE_BYTES: usize = 8 << 10;

/// What a request and its answer may allocate: a handful of short-lived buffers in the library.
const ALLOCATIONS_PER_REQUEST: usize = 12;

/// A TPM that is never slow, and evidence as long as any.
struct Ready;

impl Witness for Ready {
    fn leaf(&self, nonce: &[u8; 32], _: &[u8; 32]) -> Leaf {
        *nonce
    }

    fn begin(&mut self, _: &[Leaf]) -> Begin {
        Begin::Started
    }

    fn poll(&mut self) -> Progress {
        Progress::Ready(vec![7; MAX_EVIDENCE_BYTES])
    }
}

/// A client that has asked for evidence and takes none of what it is sent.
fn asking(desk: &Desk) -> World {
    let wishes = Wishes { protocols: vec![PROTOCOL.to_vec()], ..Wishes::default() };
    let visitor = Visitor { desk: desk.clone(), peer: [10, 77, 0, 9].into() };
    let place = Place { to_client: 4096, visitor, wishes, ..Place::default() };
    let mut world = World::of(place);
    world.settle();
    world.client_chunk = 0;
    world.tls.send(&[&[0, 0, 0, 32][..], &[9; 32]].concat());
    world.settle();
    // Until TCP has the first of the answer.
    while world.client.link.borrow().pipes[1].bytes.is_empty() {
        world.pass_time();
        world.settle();
    }
    world
}

fn in_use() -> usize {
    let stats = GLOBAL.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// What the proxy's side of `world` holds: what is freed when it goes.
fn held(mut world: World) -> usize {
    world.settle();
    let before = in_use();
    world.task = None;
    before - in_use()
}

fn complete_one(number: usize) {
    let (mut world, mut backend) = World::used();
    match number % 5 {
        0 => backend.abort(),
        1 => world.client.abort(),
        2 => {
            world.tls.send(b"damaged");
            *world.tls.outgoing.last_mut().unwrap() ^= 1;
        }
        _ => {
            world.client_closes();
            backend.finish();
        }
    }
    world.settle();
    world.client.finish();
    world.wait();
}

// One test, because the counters count for the whole process.
#[test]
fn connections_hold_little_and_leave_nothing() {
    let mut fresh = World::new();
    fresh.settle();
    assert!(fresh.tls.is_open());
    let fresh = held(fresh);

    let (mut world, mut backend) = World::used();
    world.tls.send(&[1; 50_000]);
    world.settle();
    assert_eq!(backend.take(60_000).len(), 50_000);
    backend.write(&[2; 50_000]);
    world.settle();
    assert_eq!(world.tls.plaintext.len(), 50_000);
    let used = held(world);
    println!("held at rest: {fresh} bytes after the handshake, {used} after traffic");
    assert!(fresh < IDLE_BYTES && used < IDLE_BYTES, "{fresh} {used}");

    let mut unanswered = World::new();
    unanswered.dialer.answer.set(Answer::Stall);
    unanswered.settle();
    for _ in 0..4 {
        unanswered.tls.send(&[3; 16_384]);
    }
    let unanswered = held(unanswered);
    println!("held with a record nobody takes: {unanswered} bytes");
    assert!(unanswered < IDLE_BYTES + 16_384 + INCOMING_BYTES, "{unanswered}");

    let (mut world, mut backend) = World::used();
    for _ in 0..3 {
        world.tls.send(&[4; 400]);
        world.move_client();
        let region = Region::new(GLOBAL);
        while world.poll() {}
        backend.take(1000);
        backend.write(&[5; 1024]);
        while world.poll() {}
        let allocations = region.change().allocations;
        world.settle();
        println!("allocations for a request and its answer: {allocations}");
        assert!(allocations <= ALLOCATIONS_PER_REQUEST, "{allocations}");
    }
    drop((world, backend));

    let everybody = Prefix { address: [0, 0, 0, 0].into(), length: 0 };
    let config = Attestation { allow: vec![everybody], quotes_per_second: 50 };
    let desk = Desk::new(Box::new(Ready), config);
    let mut answering = asking(&desk);
    let before = in_use();
    answering.client_chunk = usize::MAX;
    answering.settle();
    assert_eq!(answering.tls.plaintext.len(), 4 + MAX_EVIDENCE_BYTES);
    answering.tls.plaintext = Vec::new();
    let freed = before - in_use();
    // TCP's buffers have grown meanwhile.
    assert!(freed > MAX_EVIDENCE_BYTES - (16 << 10), "{freed} bytes given back");
    let attested = held(answering);
    println!("held at rest after evidence: {attested} bytes");
    assert!(attested < IDLE_BYTES, "{attested}");

    complete_one(0);
    let before = in_use();
    for number in 0..500 {
        complete_one(number);
    }
    assert_eq!(in_use(), before);
}
