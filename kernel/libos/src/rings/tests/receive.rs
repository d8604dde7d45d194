//! Receiving from a device that behaves.

use std::collections::VecDeque;
use std::vec::Vec;

use abi::ring::{FRAME_BYTES, HEADER_BYTES};

use super::super::{DESCRIPTORS, FEATURE_GUEST_CSUM, ReceiveRing};
use super::device::Device;
use super::dice::Dice;
use super::{receive_memory, receive_pair};
use crate::link::{Checksum, Received, Receiver};

/// What the driver must get, in this order.
struct Sent {
    id: u16,
    frame: Vec<u8>,
    flags: u8,
}

/// Fills one buffer; the driver sees it with the next [`Device::show`].
fn complete(device: &mut Device, dice: &mut Dice, is_in_order: bool) -> Option<Sent> {
    let (id, descriptor) = device.choose(dice, is_in_order)?;
    assert_eq!(descriptor.flags, abi::ring::DEVICE_WRITES);
    let longest = u64::from(FRAME_BYTES) + 1;
    let length = if dice.one_in(100) { dice.below(longest) } else { dice.below(24) };
    let length = if dice.one_in(500) { u64::from(FRAME_BYTES) } else { length };
    let mut bytes: Vec<u8> = (0..u64::from(HEADER_BYTES)).map(|_| dice.next() as u8).collect();
    let flags = bytes[0];
    let first = dice.next() as u8;
    bytes.extend((0..length).map(|at| first.wrapping_add(at as u8)));
    device.memory.buffers.write(descriptor.offset, &bytes);
    device.put_used(u32::from(id), bytes.len() as u32);
    Some(Sent { id, frame: bytes.split_off(HEADER_BYTES as usize), flags })
}

fn check_received(ring: &ReceiveRing, received: &Received, sent: &Sent) {
    assert_eq!((received.index, received.length), (sent.id, sent.frame.len() as u16));
    let checksum = if sent.flags & 3 == 0 { Checksum::Unknown } else { Checksum::Trusted };
    assert_eq!(received.checksum, checksum);
    assert_eq!(ring.bytes(received), sent.frame);
}

/// Takes some frames, while the device writes into each buffer as soon as it was read.
fn read(ring: &mut ReceiveRing, device: &Device, shown: &mut VecDeque<Sent>, most: u64) {
    for _ in 0..most {
        let Some(received) = ring.next() else {
            assert!(shown.is_empty() && ring.fault().is_none(), "{:?}", ring.fault());
            return;
        };
        let sent = shown.pop_front().expect("a frame that was not sent");
        let place = device.memory.descriptor(received.index).offset;
        device.memory.buffers.write(place, &[0xbd; 32]);
        check_received(ring, &received, &sent);
        ring.release(received);
    }
}

/// How many frames went over.
fn run(seed: u64, steps: u32, is_in_order: bool) -> u64 {
    let memory = receive_memory();
    let (mut ring, mut device) = receive_pair(&memory);
    let mut dice = Dice(seed);
    let (mut hidden, mut shown) = (Vec::new(), VecDeque::new());
    let mut frames = 0;
    for _ in 0..steps {
        match dice.below(5) {
            0 => drop(device.accept()),
            1 => {
                let burst = dice.pick(&[1, 2, 7, 40, 256]);
                hidden.extend(
                    (0..burst).map_while(|_| complete(&mut device, &mut dice, is_in_order)),
                );
            }
            2 => {
                device.show();
                frames += hidden.len() as u64;
                shown.extend(hidden.drain(..));
            }
            3 => {
                let most = dice.pick(&[1, 3, 64, 300]);
                read(&mut ring, &device, &mut shown, most);
            }
            _ => ring.flush(),
        }
    }
    memory.check_guards();
    frames
}

#[test]
fn frames_arrive_as_the_device_wrote_them_past_every_wrap() {
    let wrapping = run(1, 12_500, true);
    assert!(wrapping > 65_536, "only {wrapping} frames");
    assert!(run(2, 4_000, false) > 10_000);
}

#[test]
fn every_buffer_is_offered_once_from_the_beginning() {
    let memory = receive_memory();
    let (mut ring, mut device) = receive_pair(&memory);
    assert_eq!(device.accept(), (0..DESCRIPTORS).collect::<Vec<_>>());
    assert!(memory.take_ring(), "the device is told of its buffers");
    assert_eq!(ring.next(), None);
    ring.flush();
    assert!(device.accept().is_empty());
}

#[test]
fn a_word_on_checksums_that_was_not_agreed_on_means_nothing() {
    for (features, expected) in [(0, Checksum::Unknown), (FEATURE_GUEST_CSUM, Checksum::Trusted)] {
        let memory = receive_memory();
        let mut ring = ReceiveRing::new(&memory.hand_over(true), features).unwrap();
        let mut device = Device::new(memory);
        device.accept();
        // A header whose flags say that the sum was found right, and an empty frame.
        let place = device.memory.descriptor(0).offset;
        device.memory.buffers.write(place, &[2; HEADER_BYTES as usize]);
        device.put_used(0, HEADER_BYTES + 60);
        device.show();
        assert_eq!(ring.next().map(|frame| frame.checksum), Some(expected));
    }
}
