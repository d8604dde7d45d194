//! A device that does what it likes: a named fault, then silence.

use std::collections::BTreeSet;
use std::format;
use std::string::ToString;
use std::vec::Vec;

use super::super::{DESCRIPTORS, DeviceFault, ReceiveRing, TransmitRing};
use super::device::Device;
use super::dice::Dice;
use super::memory::Memory;
use super::watch;
use super::{receive_memory, receive_pair, transmit_memory, transmit_pair};
use crate::link::{Receiver, Transmitter};

/// What the next look at the used ring must give, worked out from the device's memory alone.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Nothing,
    Completion { id: u16, length: u32 },
    Fault(DeviceFault),
}

/// What the driver may believe: which ids are out, and how many it took back.
struct Model {
    memory: Memory,
    out: BTreeSet<u16>,
    /// What the device was not told of yet.
    waiting: BTreeSet<u16>,
    taken: u16,
    checks_length: bool,
}

impl Model {
    fn new(memory: &Memory, out: BTreeSet<u16>, checks_length: bool) -> Self {
        let waiting = BTreeSet::new();
        Self { memory: memory.clone(), out, waiting, taken: 0, checks_length }
    }

    /// No two descriptors that are out name one buffer.
    fn check_buffers(&self) {
        let buffers: BTreeSet<_> =
            self.out.iter().map(|id| self.memory.descriptor(*id).offset).collect();
        assert_eq!(buffers.len(), self.out.len(), "a buffer was offered twice: {:?}", self.out);
    }

    fn expect(&mut self) -> Expected {
        let ahead = i32::from(self.memory.used_index()) - i32::from(self.taken);
        let ahead = ahead.rem_euclid(65_536) as u16;
        if ahead == 0 {
            return Expected::Nothing;
        }
        if ahead > self.memory.available_index().wrapping_sub(self.taken) {
            return Expected::Fault(DeviceFault::Index { moved: ahead });
        }
        let (id, length) = self.memory.used_element(self.taken);
        self.taken = self.taken.wrapping_add(1);
        if id >= 256 {
            return Expected::Fault(DeviceFault::Id { id });
        }
        let id = id as u16;
        if !self.out.remove(&id) {
            return Expected::Fault(DeviceFault::NotOffered { id });
        }
        if self.checks_length && !(12..=1526).contains(&length) {
            return Expected::Fault(DeviceFault::Length { length });
        }
        Expected::Completion { id, length }
    }
}

/// One piece of nonsense, or none.
fn misbehave(device: &mut Device, dice: &mut Dice) {
    let memory = device.memory.clone();
    let honest = dice.below(1527 - 12) as u32 + 12;
    let length = dice.pick(&[honest, 0, 11, 12, 1526, 1527, 2048, 1 << 31, u32::MAX]);
    let anything = dice.next() as u32;
    match dice.below(40) {
        0 => memory.set_used_index(dice.next() as u16),
        1 => memory.set_used_index(memory.used_index().wrapping_sub(dice.below(300) as u16)),
        2 => memory.set_used_index(memory.used_index().wrapping_add(dice.below(400) as u16)),
        3 => device.put_used(dice.pick(&[256, 257, 65_535, 65_536, u32::MAX, anything]), honest),
        4 => device.put_used(dice.below(256) as u32, length),
        5 => memory.set_available_event(anything as u16),
        6 => memory.used.put(0, anything as u16),
        7 => device.show(),
        8 => {
            let start = dice.below(memory.buffers.span().length / 2 - 64) * 2;
            memory.buffers.write(start, &anything.to_le_bytes().repeat(16));
        }
        9 => memory.set_used_element(anything as u16, dice.next() as u32, length),
        10 => memory.set_used_element(anything as u16, dice.below(256) as u32, honest),
        _ => {
            let (is_honest, is_single) = (!dice.one_in(40), !dice.one_in(20));
            if let Some((id, descriptor)) = device.choose(dice, false) {
                let header = [dice.next() as u8, dice.next() as u8];
                memory.buffers.write(descriptor.offset, &header);
                device.put_used(u32::from(id), if is_honest { honest } else { length });
                if !is_single {
                    device.put_used(u32::from(id), honest);
                }
                device.show();
            }
        }
    }
}

/// What both rings have in common.
trait Ring {
    /// Looks at one completion, or at all there are; the rest is compared here.
    fn look(&mut self, model: &mut Model);
    fn fault(&self) -> Option<DeviceFault>;
    fn flush(&mut self);
    fn ask_for_interrupt(&mut self) -> bool;
}

impl Ring for ReceiveRing {
    fn look(&mut self, model: &mut Model) {
        match (model.expect(), self.next()) {
            (Expected::Nothing, None) => assert_eq!(self.fault(), None),
            (Expected::Fault(fault), None) => assert_eq!(self.fault(), Some(fault)),
            (Expected::Completion { id, length }, Some(received)) => {
                assert_eq!((received.index, u32::from(received.length)), (id, length - 12));
                assert_eq!(self.bytes(&received).len(), length as usize - 12);
                self.release(received);
                model.waiting.insert(id);
            }
            (expected, received) => panic!("{expected:?}, but got {received:?}"),
        }
    }

    fn fault(&self) -> Option<DeviceFault> {
        self.fault()
    }

    fn flush(&mut self) {
        self.flush();
    }

    fn ask_for_interrupt(&mut self) -> bool {
        self.ask_for_interrupt()
    }
}

impl Ring for TransmitRing {
    fn look(&mut self, model: &mut Model) {
        let fault = loop {
            match model.expect() {
                Expected::Nothing => break None,
                Expected::Fault(fault) => break Some(fault),
                Expected::Completion { .. } => {}
            }
        };
        self.collect();
        assert_eq!(self.fault(), fault);
        assert!(fault.is_none() || !self.has_room());
        // Offers something, so that there is something to give back.
        while model.out.len() + model.waiting.len() < 60 && self.has_room() {
            self.transmit(100 * (model.waiting.len() % 12), |frame| (frame.fill(9), None));
            let last = self.queue.next_available.wrapping_sub(1);
            model.waiting.insert(model.memory.available_id(last));
        }
    }

    fn fault(&self) -> Option<DeviceFault> {
        self.fault()
    }

    fn flush(&mut self) {
        self.flush();
    }

    fn ask_for_interrupt(&mut self) -> bool {
        self.ask_for_interrupt()
    }
}

/// Plays one machine's life; how many steps it lasted and how it ended.
fn play(
    ring: &mut impl Ring,
    device: &mut Device,
    model: &mut Model,
    dice: &mut Dice,
) -> (u64, Option<DeviceFault>) {
    for step in 0..400 {
        match dice.below(8) {
            0 => {
                ring.flush();
                model.out.append(&mut model.waiting);
                if !model.checks_length {
                    model.check_buffers();
                }
                watch::take_rings();
            }
            1 => {
                let has_something = ring.ask_for_interrupt();
                assert_eq!(has_something, device.memory.used_index() != model.taken);
            }
            2 => device.accept_again(),
            3 | 4 => ring.look(model),
            _ => misbehave(device, dice),
        }
        if let Some(fault) = ring.fault() {
            check_stillness(ring, device, dice, fault);
            return (step, Some(fault));
        }
    }
    (400, None)
}

/// After a fault nothing moves, whatever the device does.
fn check_stillness(ring: &mut impl Ring, device: &mut Device, dice: &mut Dice, fault: DeviceFault) {
    let before = device.memory.driver_side();
    let mut model = Model::new(&device.memory, BTreeSet::new(), false);
    for _ in 0..4 {
        misbehave(device, dice);
        model.taken = device.memory.used_index();
        ring.flush();
        assert!(ring.ask_for_interrupt(), "a fault is no reason to sleep");
        assert_eq!(ring.fault(), Some(fault));
    }
    assert!(device.memory.driver_side() == before, "the ring moved after {fault}");
}

fn tally(counts: &mut [u32; 5], fault: Option<DeviceFault>) {
    let kind = match fault {
        None => 0,
        Some(DeviceFault::Id { .. }) => 1,
        Some(DeviceFault::Index { .. }) => 2,
        Some(DeviceFault::Length { .. }) => 3,
        Some(DeviceFault::NotOffered { .. }) => 4,
    };
    counts[kind] += 1;
}

#[test]
fn nonsense_on_the_receive_queue_is_a_named_fault() {
    let (memory, mut dice, mut counts) = (receive_memory(), Dice(5), [0; 5]);
    for _ in 0..2_000 {
        memory.reset();
        let (mut ring, mut device) = receive_pair(&memory);
        device.accept_again();
        let mut model = Model::new(&memory, (0..DESCRIPTORS).collect(), true);
        let (_, fault) = play(&mut ring, &mut device, &mut model, &mut dice);
        if fault.is_some() {
            assert_eq!(ring.next(), None);
        }
        tally(&mut counts, fault);
    }
    memory.check_guards();
    assert!(counts[1..].iter().all(|count| *count > 50), "{counts:?}");
}

#[test]
fn nonsense_on_the_transmit_queue_is_a_named_fault() {
    let (memory, mut dice, mut counts) = (transmit_memory(), Dice(6), [0; 5]);
    for _ in 0..2_000 {
        memory.reset();
        let (mut ring, mut device) = transmit_pair(&memory);
        let mut model = Model::new(&memory, BTreeSet::new(), false);
        let (_, fault) = play(&mut ring, &mut device, &mut model, &mut dice);
        if fault.is_some() {
            assert!(!ring.has_room());
        }
        tally(&mut counts, fault);
    }
    memory.check_guards();
    assert_eq!(counts[3], 0, "a length says nothing about a buffer that is only read");
    assert!([1, 2, 4].iter().all(|kind| counts[*kind] > 50), "{counts:?}");
}

#[test]
fn a_device_that_acts_between_any_two_accesses_changes_nothing_of_that() {
    let memory = receive_memory();
    for seed in 0..1_500 {
        memory.reset();
        let (mut ring, mut device) = receive_pair(&memory);
        device.accept_again();
        let mut dice = Dice(seed);
        let act = move |_| (0..dice.below(2)).for_each(|_| misbehave(&mut device, &mut dice));
        let faults = watch::interleave(|| live(&mut ring), act);
        assert!(faults.len() <= 1, "one fault, and for ever: {faults:?}");
    }
    memory.check_guards();
}

/// What a main loop does, and which faults it saw.
fn live(ring: &mut ReceiveRing) -> Vec<DeviceFault> {
    let mut faults = Vec::new();
    for _ in 0..100 {
        if let Some(received) = ring.next() {
            let first = ring.bytes(&received).to_vec();
            assert_eq!(first.len(), usize::from(received.length));
            ring.flush();
            assert!(ring.bytes(&received) == first, "a frame changed while it was read");
            ring.release(received);
        }
        ring.ask_for_interrupt();
        faults.extend(ring.fault());
    }
    faults.dedup();
    faults
}

/// Shows elements to a fresh receive queue, with an index that is right or wrong.
#[track_caller]
fn check(elements: &[(u32, u32)], index: u16, expected: Option<DeviceFault>, text: &str) {
    let memory = receive_memory();
    let (mut ring, mut device) = receive_pair(&memory);
    device.accept_again();
    for (slot, (id, length)) in (0..).zip(elements) {
        memory.set_used_element(slot, *id, *length);
    }
    memory.set_used_index(index);
    let frames = elements.iter().map_while(|_| ring.next()).count();
    assert_eq!(ring.next(), None);
    assert_eq!(ring.fault(), expected);
    assert_eq!(ring.fault().map(|fault| fault.to_string()).unwrap_or_default(), text);
    let good = elements.len() - usize::from(expected.is_some() && !elements.is_empty());
    assert_eq!(frames, good, "the frames before the fault are good");
    memory.check_guards();
}

#[test]
fn each_kind_of_nonsense_has_its_name() {
    use DeviceFault::{Id, Index, Length, NotOffered};
    check(&[], 0, None, "");
    check(&[(255, 12), (0, 1526)], 2, None, "");
    check(&[], 257, Some(Index { moved: 257 }), "used index moved by 257");
    check(&[], 65_535, Some(Index { moved: 65_535 }), "used index moved by 65535");
    check(&[(256, 60)], 1, Some(Id { id: 256 }), "used id 256 does not exist");
    check(&[(65_536, 60)], 1, Some(Id { id: 65_536 }), "used id 65536 does not exist");
    check(
        &[(7, 60), (u32::MAX, 60)],
        2,
        Some(Id { id: u32::MAX }),
        "used id 4294967295 does not exist",
    );
    check(&[(7, 60), (7, 60)], 2, Some(NotOffered { id: 7 }), "used id 7 was not offered");
    check(&[(1, 0)], 1, Some(Length { length: 0 }), "used length 0 is impossible");
    check(&[(1, 11)], 1, Some(Length { length: 11 }), "used length 11 is impossible");
    check(&[(1, 1527)], 1, Some(Length { length: 1527 }), "used length 1527 is impossible");
    check(
        &[(1, u32::MAX)],
        1,
        Some(Length { length: u32::MAX }),
        "used length 4294967295 is impossible",
    );
}

#[test]
fn a_transmit_buffer_that_comes_back_twice_is_a_fault() {
    let memory = transmit_memory();
    let (mut ring, _) = transmit_pair(&memory);
    for _ in 0..2 {
        ring.transmit(1000, |frame| (frame.fill(1), None));
    }
    ring.flush();
    let id = memory.available_id(0);
    for slot in 0..2 {
        memory.set_used_element(slot, u32::from(id), 0);
    }
    memory.set_used_index(2);
    ring.collect();
    assert_eq!(ring.fault(), Some(DeviceFault::NotOffered { id }));
    assert_eq!(ring.fault().unwrap().to_string(), format!("used id {id} was not offered"));
}
