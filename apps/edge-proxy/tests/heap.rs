//! What a connection holds on the heap, and that it gives everything back.

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

use libos::stream::Stream;
use libos::tls::INCOMING_BYTES;

#[allow(dead_code, reason = "this file belongs to all tests of the proxy")]
mod world;
use world::{Answer, World};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What an idle connection may hold besides TCP's buffers.
const IDLE_BYTES: usize = 8 << 10;

/// What a request and its answer may allocate: a handful of short-lived buffers in the library.
const ALLOCATIONS_PER_REQUEST: usize = 12;

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

    complete_one(0);
    let before = in_use();
    for number in 0..500 {
        complete_one(number);
    }
    assert_eq!(in_use(), before);
}
