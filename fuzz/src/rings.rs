//! The rings against a device that does anything its memory lets it do, between any two accesses of
//! the driver.
//!
//! Whatever it does, there is a named fault or a frame that is lost, and nothing else: no access
//! outside the shared spans, no descriptor taken back that was not offered, none offered twice, no
//! frame that changes while it is read. After a fault the ring stands still. As long as the device
//! keeps to the rules there is no fault, and every frame arrives as it was sent.

pub(crate) mod seeds;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use abi::ring::{FRAME_BYTES, HEADER_BYTES, RECEIVE_DESCRIPTORS};
use libos::link::{Checksum, PartialChecksum, Receiver, Transmitter};
use libos::rings::software::{DeviceSide, interleave};
use libos::rings::{DeviceFault, ReceiveRing, TransmitRing};

use crate::input::Input;

/// More events than this say nothing new.
const MAX_EVENTS: usize = 400;

/// Both queues have as many.
const DESCRIPTORS: usize = RECEIVE_DESCRIPTORS as usize;

const HEADER: usize = HEADER_BYTES as usize;

/// One ring, and one device.
pub fn rings(data: &[u8]) {
    let _seen = play(data);
}

/// How an input ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Frames that were read, or published to be sent.
    frames: usize,
    fault: Option<DeviceFault>,
}

fn play(data: &[u8]) -> Seen {
    let mut input = Input::new(data);
    let kind = input.u8();
    let has_feature = kind & 2 != 0;
    if kind & 1 == 0 {
        let (ring, side) = DeviceSide::with_receive_ring(has_feature);
        run(Receiving { ring, has_feature, read: 0 }, Device::new(side, true), &mut input)
    } else {
        let (ring, side) = DeviceSide::with_transmit_ring(has_feature);
        run(Sending::new(ring, has_feature), Device::new(side, false), &mut input)
    }
}

/// What the device does at one moment.
#[derive(Clone, Copy)]
enum Act {
    /// Nothing.
    Wait,
    /// Takes note of what was published.
    Accept,
    /// Gives back one that it holds, as the rules say, with so many bytes of a frame.
    Complete { place: u8, bytes: u16 },
    /// Wishes for a bell; any wish is allowed.
    Wish { event: u16 },
    /// Moves its index anywhere.
    Jump { index: u16 },
    /// Writes any element, without moving its index.
    Element { slot: u16, id: u32, length: u32 },
    /// Gives back anything.
    GiveBack { id: u32, length: u32 },
    /// Writes into a receive buffer, whoever has it.
    Scribble { id: u8, byte: u8 },
}

impl Act {
    fn read(input: &mut Input<'_>) -> Self {
        match input.u8() % 9 {
            0 => Self::Wait,
            1 => Self::Accept,
            2 | 3 => Self::Complete { place: input.u8(), bytes: input.u16() },
            4 => Self::Wish { event: input.u16() },
            5 => Self::Jump { index: input.u16() },
            6 => Self::Element { slot: input.u16(), id: input.u32(), length: input.u32() },
            // Mostly near what exists: other numbers are refused at once.
            7 => Self::GiveBack { id: u32::from(input.u16() % 300), length: input.u16().into() },
            _ => Self::Scribble { id: input.u8(), byte: input.u8() },
        }
    }
}

/// The device, and what it did by the rules.
struct Device {
    side: DeviceSide,
    is_receive: bool,
    /// Whether it has kept to the rules.
    is_honest: bool,
    held: VecDeque<u16>,
    seen: u16,
    used: u16,
    /// The frames that an honest device has delivered and nobody has read: descriptor, contents.
    delivered: VecDeque<(u16, Vec<u8>)>,
}

impl Device {
    fn new(side: DeviceSide, is_receive: bool) -> Rc<RefCell<Self>> {
        let (held, delivered) = (VecDeque::new(), VecDeque::new());
        let device = Self { side, is_receive, is_honest: true, held, seen: 0, used: 0, delivered };
        Rc::new(RefCell::new(device))
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Wait => {}
            Act::Accept => self.accept(),
            Act::Complete { place, bytes } => self.complete(place, bytes),
            Act::Wish { event } => self.side.set_available_event(event),
            Act::Jump { index } => {
                self.is_honest = false;
                self.used = index;
                self.side.set_used_index(index);
            }
            Act::Element { slot, id, length } => {
                self.is_honest = false;
                self.side.set_used_element(slot, id, length);
            }
            Act::GiveBack { id, length } => {
                self.is_honest = false;
                self.give_back(id, length);
            }
            // A device that writes where no descriptor lets it write is beyond what rings can stop.
            Act::Scribble { id, byte } if self.is_receive => {
                self.is_honest = false;
                self.side.write_buffer(id.into(), &[byte; 2048]);
            }
            Act::Scribble { .. } => {}
        }
    }

    /// A queue's worth at most: a liar's count may be behind by any number.
    fn accept(&mut self) {
        let published = self.side.available_index().wrapping_sub(self.seen);
        for _ in 0..published.min(RECEIVE_DESCRIPTORS) {
            self.held.push_back(self.side.available_id(self.seen));
            self.seen = self.seen.wrapping_add(1);
        }
        self.held.truncate(DESCRIPTORS);
    }

    fn complete(&mut self, place: u8, bytes: u16) {
        if self.held.is_empty() {
            return;
        }
        let place = usize::from(place) % self.held.len();
        let Some(id) = self.held.remove(place) else { return };
        let bytes = usize::from(bytes) % (FRAME_BYTES as usize + 1);
        let mut length = 0;
        if self.is_receive {
            let frame: Vec<u8> = (0..bytes).map(|at| (at as u8) ^ (self.used as u8)).collect();
            self.side.write_buffer(id, &[&[0; HEADER][..], &frame].concat());
            self.delivered.push_back((id, frame));
            length = (HEADER + bytes) as u32;
        }
        self.give_back(id.into(), length);
    }

    fn give_back(&mut self, id: u32, length: u32) {
        self.side.set_used_element(self.used, id, length);
        self.used = self.used.wrapping_add(1);
        self.side.set_used_index(self.used);
    }
}

/// The driver's side: a ring, and what is known about it.
trait Driver {
    /// Does one thing that the program above a ring does.
    fn step(&mut self, number: u8, input: &mut Input<'_>) -> Call;
    /// What the ring says of its device.
    fn fault(&self) -> Option<DeviceFault>;
    /// Publishes, so that everything can be looked at.
    fn flush(&mut self);
    /// Does what was decided, while the device acts, and checks what can be checked at once.
    fn call(&mut self, call: &Call, moment: Moment, offers: &mut Offers);
    /// Looks at a descriptor that was just published.
    fn published(&mut self, id: u16, device: &Device, offers: &mut Offers);
    /// Looks at the ring once everything was given back.
    fn wound_down(&mut self, device: &Device);
    /// Frames that were read, or published to be sent.
    fn frames(&self) -> usize;
}

/// What the driver is about to do.
enum Call {
    Take,
    Flush,
    Sleep,
    Send { bytes: u16, byte: u8, sum: Option<PartialChecksum> },
}

/// When the device acts during a call, and how.
struct Moment {
    device: Rc<RefCell<Device>>,
    access: u32,
    act: Act,
}

impl Moment {
    /// Runs the driver with the device's act before one of its accesses.
    fn during<R>(&self, driver: impl FnOnce() -> R) -> R {
        let (device, access, act) = (Rc::clone(&self.device), self.access, self.act);
        interleave(driver, move |now| {
            if now == access {
                device.borrow_mut().act(act);
            }
        })
    }
}

/// Which descriptors the device was offered and the driver has not taken back.
struct Offers {
    is_offered: [bool; DESCRIPTORS],
    seen: u16,
}

fn run(mut driver: impl Driver, device: Rc<RefCell<Device>>, input: &mut Input<'_>) -> Seen {
    let mut offers = Offers { is_offered: [false; DESCRIPTORS], seen: 0 };
    look_at_published(&mut driver, &device.borrow(), &mut offers);
    for _ in 0..MAX_EVENTS {
        if input.is_empty() {
            break;
        }
        let number = input.u8();
        if number & 1 == 0 {
            device.borrow_mut().act(Act::read(input));
            continue;
        }
        let call = driver.step(number >> 1, input);
        let (access, act) = (u32::from(input.u8() % 8), Act::read(input));
        let before = driver.fault();
        let moment = Moment { device: Rc::clone(&device), access, act };
        driver.call(&call, moment, &mut offers);
        let device = device.borrow();
        if let Some(fault) = before {
            assert_eq!(driver.fault(), Some(fault), "a fault is for good");
            assert_eq!(device.side.available_index(), offers.seen, "a faulty ring stands still");
        }
        look_at_published(&mut driver, &device, &mut offers);
        check_honesty(&driver, &device);
    }
    let seen = Seen { frames: driver.frames(), fault: driver.fault() };
    wind_down(&mut driver, &device, &mut offers);
    seen
}

fn check_honesty(driver: &impl Driver, device: &Device) {
    if device.is_honest {
        assert_eq!(driver.fault(), None, "an honest device is accused");
    }
}

fn look_at_published(driver: &mut impl Driver, device: &Device, offers: &mut Offers) {
    let count = device.side.available_index().wrapping_sub(offers.seen);
    assert!(usize::from(count) <= DESCRIPTORS, "the available index moved by {count}");
    for _ in 0..count {
        let id = device.side.available_id(offers.seen);
        assert!(usize::from(id) < DESCRIPTORS, "descriptor {id} was offered");
        offers.seen = offers.seen.wrapping_add(1);
        driver.published(id, device, offers);
        offers.is_offered[usize::from(id)] = true;
    }
    // Once at most, with the queue's own number.
    let _has_rung = device.side.take_ring();
}

/// An honest device gives everything back, and nothing is lost.
fn wind_down(driver: &mut impl Driver, device: &Rc<RefCell<Device>>, offers: &mut Offers) {
    driver.flush();
    look_at_published(driver, &device.borrow(), offers);
    let mut device = device.borrow_mut();
    if device.is_honest {
        device.accept();
        while !device.held.is_empty() {
            device.complete(0, 60);
        }
        driver.wound_down(&device);
        check_honesty(driver, &device);
    }
    device.side.check_guards();
}

/// A ring of received frames.
struct Receiving {
    ring: ReceiveRing,
    has_feature: bool,
    read: usize,
}

impl Driver for Receiving {
    fn step(&mut self, number: u8, _: &mut Input<'_>) -> Call {
        match number % 4 {
            0 => Call::Flush,
            1 => Call::Sleep,
            _ => Call::Take,
        }
    }

    fn fault(&self) -> Option<DeviceFault> {
        self.ring.fault()
    }

    fn flush(&mut self) {
        self.ring.flush();
    }

    fn call(&mut self, call: &Call, moment: Moment, offers: &mut Offers) {
        let had_fault = self.ring.fault().is_some();
        match call {
            Call::Flush => moment.during(|| self.ring.flush()),
            Call::Sleep => {
                let stays = moment.during(|| self.ring.ask_for_interrupt());
                assert!(stays || !had_fault, "sleeping beside a faulty device");
            }
            Call::Take | Call::Send { .. } => self.take(&moment, had_fault, offers),
        }
    }

    fn published(&mut self, id: u16, _: &Device, offers: &mut Offers) {
        assert!(!offers.is_offered[usize::from(id)], "receive descriptor {id} was offered twice");
    }

    fn wound_down(&mut self, device: &Device) {
        let mut frames = device.delivered.iter();
        while let Some(frame) = self.ring.next() {
            let (id, bytes) = frames.next().expect("a frame that was sent");
            assert_eq!((frame.index, self.ring.bytes(&frame)), (*id, &bytes[..]));
            self.ring.release(frame);
        }
        assert_eq!(frames.count(), 0, "frames were lost");
    }

    fn frames(&self) -> usize {
        self.read
    }
}

impl Receiving {
    fn take(&mut self, moment: &Moment, had_fault: bool, offers: &mut Offers) {
        let Some(frame) = moment.during(|| self.ring.next()) else { return };
        assert!(!had_fault, "a frame of a faulty device");
        self.read += 1;
        let offered = &mut offers.is_offered[usize::from(frame.index)];
        assert!(std::mem::take(offered), "descriptor {} was not offered", frame.index);
        assert!(u32::from(frame.length) <= FRAME_BYTES);
        assert!(self.has_feature || frame.checksum == Checksum::Unknown);
        let bytes = self.ring.bytes(&frame).to_vec();
        assert_eq!(bytes.len(), usize::from(frame.length));
        let mut device = moment.device.borrow_mut();
        let delivered = device.delivered.pop_front();
        if device.is_honest {
            assert_eq!(delivered, Some((frame.index, bytes)), "another frame than was sent");
        } else {
            device.side.write_buffer(frame.index, &[0x5a; 2048]);
            assert_eq!(self.ring.bytes(&frame), bytes, "the frame changed while it was read");
        }
        self.ring.release(frame);
    }
}

/// A ring of frames to be sent.
struct Sending {
    ring: TransmitRing,
    has_feature: bool,
    /// What was filled in and not published: headers and frames.
    filled: VecDeque<Vec<u8>>,
    published: usize,
}

impl Sending {
    fn new(ring: TransmitRing, has_feature: bool) -> Self {
        Self { ring, has_feature, filled: VecDeque::new(), published: 0 }
    }

    fn send(&mut self, moment: &Moment, bytes: u16, byte: u8, sum: Option<PartialChecksum>) {
        let had_fault = self.ring.fault().is_some();
        if !moment.during(|| self.ring.has_room()) {
            return;
        }
        assert!(!had_fault, "room on a faulty device's ring");
        assert_eq!(self.ring.completes_checksums(), self.has_feature);
        let length = usize::from(bytes) % (FRAME_BYTES as usize + 1);
        self.ring.transmit(length, |frame| {
            frame.fill(byte);
            ((), sum)
        });
        let mut whole = vec![0; HEADER];
        if let Some(PartialChecksum { start, offset }) = sum {
            whole[0] = 1;
            whole[6..8].copy_from_slice(&start.to_le_bytes());
            whole[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        whole.resize(HEADER + length, byte);
        self.filled.push_back(whole);
    }
}

impl Driver for Sending {
    fn step(&mut self, number: u8, input: &mut Input<'_>) -> Call {
        match number % 4 {
            0 => Call::Flush,
            1 => Call::Sleep,
            _ => {
                let sum = input.is_set();
                let sum = sum.then(|| PartialChecksum { start: input.u16(), offset: input.u16() });
                Call::Send { bytes: input.u16(), byte: input.u8(), sum }
            }
        }
    }

    fn fault(&self) -> Option<DeviceFault> {
        self.ring.fault()
    }

    fn flush(&mut self) {
        self.ring.flush();
    }

    fn call(&mut self, call: &Call, moment: Moment, _: &mut Offers) {
        let had_fault = self.ring.fault().is_some();
        match call {
            Call::Flush => moment.during(|| self.ring.flush()),
            Call::Sleep => {
                let stays = moment.during(|| self.ring.ask_for_interrupt());
                assert!(stays || !had_fault, "sleeping beside a faulty device");
            }
            Call::Take => self.ring.ask_for_none(),
            Call::Send { bytes, byte, sum } => self.send(&moment, *bytes, *byte, *sum),
        }
    }

    fn published(&mut self, id: u16, device: &Device, _: &mut Offers) {
        let filled = self.filled.pop_front().expect("a frame that was filled in");
        let buffer = device.side.buffer(id);
        let (frame, padding) = buffer.split_at(filled.len().min(buffer.len()));
        assert_eq!(frame, filled, "another frame than was filled in");
        assert!(padding.iter().all(|byte| *byte == 0), "old bytes are sent behind a frame");
        self.published += 1;
    }

    fn wound_down(&mut self, _: &Device) {
        assert!(self.ring.has_room(), "buffers were lost");
    }

    fn frames(&self) -> usize {
        self.published
    }
}

#[cfg(test)]
mod tests {
    use super::seeds::{jump, lies, receiving, sending, strangers};
    use super::*;

    #[test]
    fn each_seed_gets_to_where_it_leads() {
        assert_eq!(play(&receiving()), Seen { frames: 12, fault: None });
        assert_eq!(play(&sending()), Seen { frames: 12, fault: None });
        let fault = Some(DeviceFault::Length { length: 0xffff });
        assert_eq!(play(&lies()), Seen { frames: 1, fault });
        let seen = play(&strangers());
        assert_eq!(seen.fault, Some(DeviceFault::NotOffered { id: 200 }), "{seen:?}");
        let fault = Some(DeviceFault::Index { moved: 0x8001 });
        assert_eq!(play(&jump()), Seen { frames: 0, fault });
    }
}
