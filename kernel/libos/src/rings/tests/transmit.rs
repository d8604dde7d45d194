//! Sending to a device that behaves: which buffer, which class, which bytes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::vec::Vec;

use abi::ring::{
    FRAME_BYTES, FULL_BUFFERS, FULL_CLASSES, HEADER_BYTES, SMALL_BUFFERS, SMALL_CLASS,
};

use super::super::transmit::FEW;
use super::super::{Queue, TransmitRing};
use super::device::Device;
use super::dice::Dice;
use super::{transmit_memory, transmit_pair};
use crate::link::{PartialChecksum, Transmitter};

/// A frame on its way, as the device must see it.
struct Sent {
    class: u32,
    bytes: Vec<u8>,
}

/// What the driver has, by its own rule.
struct Model {
    small: usize,
    full: usize,
    /// Classes of what the device has finished and the driver has not collected.
    finished: Vec<u32>,
    sent: VecDeque<Sent>,
}

impl Model {
    fn new() -> Self {
        let (small, full) = (usize::from(SMALL_BUFFERS), usize::from(FULL_BUFFERS));
        Self { small, full, finished: Vec::new(), sent: VecDeque::new() }
    }

    fn has_room(&mut self) -> bool {
        if self.full < FEW {
            for class in self.finished.drain(..) {
                *(if class == SMALL_CLASS { &mut self.small } else { &mut self.full }) += 1;
            }
        }
        self.full > 0
    }

    /// The smallest class that holds so many bytes and has a free buffer.
    fn send(&mut self, bytes: Vec<u8>) {
        let length = bytes.len() as u32;
        let class = if length <= SMALL_CLASS && self.small > 0 {
            self.small -= 1;
            SMALL_CLASS
        } else {
            self.full -= 1;
            *FULL_CLASSES.iter().find(|class| **class >= length).unwrap()
        };
        self.sent.push_back(Sent { class, bytes });
    }
}

/// Sends random bytes and says what the device must see, without padding.
fn send(ring: &mut TransmitRing, dice: &mut Dice, length: usize) -> Vec<u8> {
    let checksum = dice
        .one_in(3)
        .then(|| PartialChecksum { start: dice.next() as u16, offset: dice.next() as u16 });
    let mut bytes = std::vec![0; HEADER_BYTES as usize];
    if let Some(PartialChecksum { start, offset }) = checksum {
        // virtio 1.2 section 5.1.6: flags at 0, csum_start at 6, csum_offset at 8.
        bytes[0] = 1;
        bytes[6..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..10].copy_from_slice(&offset.to_le_bytes());
    }
    let first = dice.next() as u8;
    bytes.extend((0..length).map(|at| first.wrapping_add(at as u8)));
    let frame = &bytes[HEADER_BYTES as usize..];
    ring.transmit(length, |room| {
        assert_eq!(room.len(), length);
        room.copy_from_slice(frame);
        ((), checksum)
    });
    bytes
}

/// The device reads what it was offered, and leaves dirt behind where that is allowed.
fn check_offered(device: &mut Device, model: &mut Model) {
    for id in device.accept() {
        let descriptor = device.memory.descriptor(id);
        let Sent { class, bytes } = model.sent.pop_front().expect("a frame that was not sent");
        assert_eq!((descriptor.flags, descriptor.length), (0, class), "{} bytes", bytes.len());
        let mut seen = std::vec![0; class as usize];
        device.memory.buffers.read(descriptor.offset, &mut seen);
        let (frame, padding) = seen.split_at(bytes.len());
        assert_eq!(frame, bytes);
        assert!(padding == &[0; 2048][..padding.len()], "padding is zeros");
    }
}

fn random_length(dice: &mut Dice) -> usize {
    let edge = dice.pick(&[128, 256, 512, 768, 1024, 1280, 1526]) - 12;
    let any = dice.below(u64::from(FRAME_BYTES) + 1) as usize;
    let near = (edge + dice.below(3) as usize).saturating_sub(1).min(FRAME_BYTES as usize);
    let small = dice.below(110) as usize;
    match dice.below(16) {
        0 => any,
        1 | 2 => near,
        _ => small,
    }
}

/// How many frames went over.
fn run(seed: u64, steps: u32, is_in_order: bool) -> u64 {
    let memory = transmit_memory();
    memory.buffers.clear(0xee);
    let (mut ring, mut device) = transmit_pair(&memory);
    let (mut dice, mut model) = (Dice(seed), Model::new());
    let (mut hidden, mut frames) = (Vec::new(), 0);
    for _ in 0..steps {
        match dice.below(6) {
            0 | 1 => {
                for _ in 0..dice.pick(&[1, 2, 20, 100]) {
                    let has_room = ring.has_room();
                    assert_eq!(has_room, model.has_room());
                    if !has_room {
                        break;
                    }
                    let length = random_length(&mut dice);
                    model.send(send(&mut ring, &mut dice, length));
                    frames += 1;
                }
            }
            2 => ring.flush(),
            3 => check_offered(&mut device, &mut model),
            4 => {
                for _ in 0..dice.pick(&[1, 3, 96]) {
                    let Some((id, of)) = device.choose(&mut dice, is_in_order) else { break };
                    // The length means nothing for a buffer that the device only reads.
                    device.put_used(u32::from(id), dice.next() as u32);
                    hidden.push(of.length);
                }
            }
            _ => {
                device.show();
                model.finished.append(&mut hidden);
            }
        }
        assert_eq!(ring.fault(), None);
    }
    memory.check_guards();
    frames
}

#[test]
fn frames_leave_whole_in_the_smallest_class_with_zeros_behind() {
    let wrapping = run(3, 32_500, true);
    assert!(wrapping > 65_536, "only {wrapping} frames");
    assert!(run(4, 8_000, false) > 10_000);
}

#[test]
fn without_the_feature_no_checksum_is_left_to_the_device() {
    for (features, expected) in [(0, false), (1, true), (2, false), (u64::MAX, true)] {
        let memory = transmit_memory();
        let ring = TransmitRing::new(&memory.hand_over(false), features).unwrap();
        assert_eq!(ring.completes_checksums(), expected, "{features:#x}");
    }
}

#[test]
fn a_frame_without_room_or_too_long_is_our_own_bug() {
    let memory = transmit_memory();
    let (mut ring, mut device) = transmit_pair(&memory);
    let mut sent = |length| {
        catch_unwind(AssertUnwindSafe(|| ring.transmit(length, |room| (room.fill(7), None))))
            .is_ok()
    };
    assert!(!sent(FRAME_BYTES as usize + 1));
    assert!(!sent(usize::MAX));
    for _ in 0..FULL_BUFFERS {
        assert!(sent(FRAME_BYTES as usize));
    }
    assert!(!sent(FRAME_BYTES as usize));
    for _ in 0..SMALL_BUFFERS {
        assert!(sent(0));
    }
    assert!(!sent(0));
    ring.flush();
    assert_eq!(device.accept().len(), usize::from(FULL_BUFFERS + SMALL_BUFFERS));
    memory.check_guards();
}

#[test]
fn a_queue_that_is_not_as_agreed_is_refused() {
    let memory = transmit_memory();
    let good = memory.hand_over(false);
    assert!(Queue::new(&good).is_some());
    let check = |name, bend: fn(&mut abi::handoff::Queue)| {
        let mut bent = good;
        bend(&mut bent);
        assert!(TransmitRing::new(&bent, 0).is_none(), "{name}");
    };
    check("fewer descriptors", |queue| queue.descriptors = 128);
    check("more descriptors", |queue| queue.descriptors = 256 + 65_536);
    check("no such queue", |queue| queue.number = 65_536);
    check("no available ring", |queue| queue.available.start = 0);
    check("a short available ring", |queue| queue.available.length -= 1);
    check("a crooked available ring", |queue| queue.available.start += 1);
    check("an available ring off the end", |queue| queue.available.start = u64::MAX - 1);
    check("a short used ring", |queue| queue.used.length -= 1);
    check("a crooked used ring", |queue| queue.used.start += 2);
    check("short buffers", |queue| queue.buffers.length -= 1);
    check("buffers off the end", |queue| queue.buffers.length = u64::MAX);
    check("a crooked doorbell", |queue| queue.doorbell += 1);
    check("a doorbell off the end", |queue| queue.doorbell = u64::MAX - 1);
}
