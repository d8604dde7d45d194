//! The network: frames that nobody should send, in an order that nobody expects.
//!
//! Whatever comes, the limits hold, every frame that goes out is whole, what an application reads
//! is what its peer sent, and once everybody has let go, nothing is left.

mod card;
mod frame;
pub(crate) mod seeds;
mod world;

use frame::{ACK, PEER_IP, SYN, Segment};
use world::{PORT, World};

use crate::input::Input;

/// More events than this say nothing new.
const MAX_EVENTS: usize = 400;

/// Frames, time and what applications do, from the first moment on.
pub fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8());
    run(&mut world, &mut input);
}

/// The same, with a connection that is established already and has carried a byte each way.
pub fn established(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(input.u8() & 1);
    let mut segment = Segment {
        from: PEER_IP.to_bits(),
        from_port: 40_000,
        to_port: PORT,
        sequence: input.u32(),
        flags: SYN,
        window: 8000,
        options: vec![2, 4, 5, 0xb4],
        ..Segment::default()
    };
    world.deliver(segment.frame(frame::PEER_MAC));
    let answer = world.last_sent().expect("a SYN is answered");
    segment.sequence = segment.sequence.wrapping_add(1);
    (segment.acknowledged, segment.flags) = (answer.sequence.wrapping_add(1), ACK);
    segment.options.clear();
    world.deliver(segment.frame(frame::PEER_MAC));
    assert_eq!(world.streams(), 1, "the handshake is complete");
    segment.payload = vec![world::pattern(segment.sequence)];
    world.deliver(segment.frame(frame::PEER_MAC));
    run(&mut world, &mut input);
}

fn run(world: &mut World, input: &mut Input<'_>) {
    for _ in 0..MAX_EVENTS {
        if input.is_empty() {
            break;
        }
        world.event(input);
        world.round();
    }
    world.wind_down();
}
