//! Bells and interrupts: each exactly when it was asked for, and none that is lost.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst, fence};
use std::boxed::Box;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{thread, vec::Vec};

use super::super::{AVAILABLE_EVENT, DESCRIPTORS, INDEX, Queue, ReceiveRing, USED_EVENT};
use super::device::Device;
use super::dice::Dice;
use super::watch::{Event, interleave, take_rings, trace};
use super::{receive_memory, receive_pair, transmit_memory, transmit_pair};
use crate::link::{Receiver, Transmitter};

#[test]
fn the_bell_rings_exactly_when_the_device_wishes() {
    let memory = receive_memory();
    let mut queue = Queue::new(&memory.hand_over(true)).unwrap();
    for old in [0, 1, 127, 32_767, 65_279, 65_280, 65_400, 65_534, 65_535_u16] {
        for count in [1, 2, 3, 100, 255, DESCRIPTORS] {
            for near in 0..600_u16 {
                // Near the batch, and a few wishes far from it.
                let event = old.wrapping_add(near).wrapping_sub(300);
                let event = if near % 50 == 0 { event.wrapping_add(20_000) } else { event };
                (queue.published, queue.next_available) = (old, old.wrapping_add(count));
                memory.set_available_event(event);
                queue.publish();
                assert_eq!(memory.available_index(), old.wrapping_add(count));
                // Virtio 1.2 section 2.7.10.1: an entry of this batch is the event.
                let is_wanted = (0..count).any(|entry| old.wrapping_add(entry) == event);
                assert_eq!(memory.take_ring(), is_wanted, "{old} + {count}, event {event}");
                queue.publish();
                assert!(!memory.take_ring(), "nothing new, and a bell");
            }
        }
    }
    memory.check_guards();
}

#[test]
fn bells_and_interrupts_follow_the_wishes_past_every_wrap() {
    let memory = transmit_memory();
    let (mut ring, mut device) = transmit_pair(&memory);
    let mut dice = Dice(7);
    let mut published = 0_u16;
    let mut frames = 0;
    while frames < 150_000 {
        let wish = dice.pick(&[0, 0, 1, 5, 60_000, 65_535]);
        let event = device.seen().wrapping_add(wish);
        device.wish_for_bell(event);
        let count = dice.below(32) as u16;
        for _ in 0..count {
            assert!(ring.has_room());
            ring.transmit(20, |frame| (frame.fill(1), None));
        }
        ring.flush();
        let is_wanted = (0..count).any(|entry| published.wrapping_add(entry) == event);
        assert_eq!(memory.take_ring(), is_wanted);
        published = published.wrapping_add(count);
        frames += u32::from(count);
        device.accept();

        ring.collect();
        let wants_interrupt = dice.one_in(2);
        if wants_interrupt {
            assert!(!ring.ask_for_interrupt());
        } else {
            ring.ask_for_none();
        }
        let mut completed = 0;
        while let Some((id, _)) = device.choose(&mut dice, false) {
            device.put_used(u32::from(id), 0);
            completed += 1;
        }
        device.show();
        assert_eq!(device.interrupts(), wants_interrupt && completed > 0);
    }
    memory.check_guards();
}

/// Every way to put so many steps of the device before, between and behind so many accesses:
/// for each step the number of the access before which it happens, ascending.
fn interleavings(steps: usize, accesses: u32) -> Vec<Vec<u32>> {
    let mut all = std::vec![Vec::new()];
    for _ in 0..steps {
        all = all
            .into_iter()
            .flat_map(|places: Vec<u32>| {
                let first = places.last().copied().unwrap_or(0);
                (first..=accesses).map(move |place| [places.as_slice(), &[place]].concat())
            })
            .collect();
    }
    all
}

/// Does the device's steps before the accesses that the plan says.
struct Plan {
    places: Vec<u32>,
    done: usize,
    step: Box<dyn FnMut(usize)>,
}

impl Plan {
    fn advance(&mut self, access: u32) {
        while self.places.get(self.done).is_some_and(|place| *place <= access) {
            (self.step)(self.done);
            self.done += 1;
        }
    }
}

/// Runs the driver with the device's steps in between, and those that are left behind it.
fn run_as_planned<R>(
    places: &[u32],
    driver: impl FnOnce() -> R,
    step: impl FnMut(usize) + 'static,
) -> R {
    let plan = Plan { places: places.to_vec(), done: 0, step: Box::new(step) };
    let plan = Rc::new(RefCell::new(plan));
    let during = Rc::clone(&plan);
    let result = interleave(driver, move |access| during.borrow_mut().advance(access));
    plan.borrow_mut().advance(u32::MAX);
    result
}

#[test]
fn no_interleaving_of_a_completion_and_falling_asleep_loses_the_wake_up() {
    let memory = receive_memory();
    for start in [0, 1, 255, 32_767, 65_534, 65_535_u16] {
        for batch in [1, 2, 9] {
            // Element, index, look at the event: three steps round two accesses.
            for plan in interleavings(3, 2) {
                memory.reset();
                let mut queue = Queue::new(&memory.hand_over(true)).unwrap();
                (queue.next_used, queue.published) = (start, start.wrapping_add(DESCRIPTORS));
                memory.set_used_index(start);
                queue.ask_for_none();
                let was_interrupted = Rc::new(RefCell::new(false));
                let (flag, device) = (Rc::clone(&was_interrupted), memory.clone());
                let step = move |number| match number {
                    0 => device.set_used_element(start, 0, 60),
                    1 => device.set_used_index(start.wrapping_add(batch)),
                    _ => {
                        let event = device.used_event();
                        let is_wanted = (0..batch).any(|entry| start.wrapping_add(entry) == event);
                        *flag.borrow_mut() = is_wanted;
                    }
                };
                let stays_awake = run_as_planned(&plan, || queue.ask_for_interrupt(), step);
                let is_woken = *was_interrupted.borrow();
                assert!(stays_awake || is_woken, "{start}, {batch}, {plan:?}: asleep for ever");
            }
        }
    }
}

#[test]
fn no_interleaving_of_an_offer_and_the_device_falling_asleep_loses_the_bell() {
    let memory = transmit_memory();
    for start in [0, 1, 255, 32_767, 65_534, 65_535_u16] {
        for batch in [1, 2, 96] {
            // The device says what it waits for, then looks once more: two steps, three accesses.
            for plan in interleavings(2, 3) {
                memory.reset();
                let mut queue = Queue::new(&memory.hand_over(false)).unwrap();
                (queue.published, queue.next_available) = (start, start.wrapping_add(batch));
                memory.available.put(2, start);
                memory.set_available_event(start.wrapping_sub(1));
                let has_seen = Rc::new(RefCell::new(false));
                let (flag, device) = (Rc::clone(&has_seen), memory.clone());
                let step = move |number| match number {
                    0 => device.set_available_event(start),
                    _ => *flag.borrow_mut() = device.available_index() != start,
                };
                run_as_planned(&plan, || queue.publish(), step);
                let has_seen = *has_seen.borrow();
                assert!(memory.take_ring() || has_seen, "{start}, {batch}, {plan:?}: never sent");
            }
        }
    }
}

#[test]
fn a_full_fence_stands_between_what_we_say_and_what_we_then_look_at() {
    let memory = transmit_memory();
    let mut queue = Queue::new(&memory.hand_over(false)).unwrap();
    let [available, used] = [&memory.available, &memory.used].map(|block| block.span().start);
    queue.offer(0);
    // The index, then the device's wish; a bell, because the wish is for entry 0.
    let index_then_wish = [
        Event::Write(available + INDEX),
        Event::Fence,
        Event::Read(used + AVAILABLE_EVENT),
        Event::Write(memory.doorbell.span().start),
    ];
    assert_eq!(trace(|| queue.publish()), index_then_wish);
    // Our wish, then the device's index.
    let wish_then_index =
        [Event::Write(available + USED_EVENT), Event::Fence, Event::Read(used + INDEX)];
    assert_eq!(trace(|| assert!(!queue.ask_for_interrupt())), wish_then_index);
}

#[test]
fn the_gate_rings_a_bell_that_is_nobodys_memory() {
    let memory = transmit_memory();
    let mut handed_over = memory.hand_over(false);
    handed_over.doorbell = 0;
    let mut queue = Queue::new(&handed_over).unwrap();
    queue.offer(0);
    let events = trace(|| queue.publish());
    assert_eq!(events.last(), Some(&Event::Notify(1)));
    assert_eq!(take_rings(), 1);
    // The page of a bell that is somebody's was not touched, nor was it rung for nothing.
    assert!(!memory.take_ring());
    assert_eq!(trace(|| queue.publish()), []);
}

/// How many frames the two threads hand over one by one.
const FRAMES: u32 = 20_000;
/// How long nothing may move before a wake-up counts as lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waits until something is so; `false` if it never is.
fn wait(is_so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    for round in 0_u32.. {
        if is_so() {
            return true;
        }
        if round % 64 == 63 {
            thread::yield_now();
        }
        if round % 1024 == 1023 && start.elapsed() > PATIENCE {
            return false;
        }
        spin_loop();
    }
    false
}

/// Sends a frame as soon as the last one was read, and interrupts only if it is asked to.
fn send_one_by_one(mut device: Device, read: &AtomicU32, interrupt: &AtomicBool) {
    let mut dice = Dice(8);
    for frame in 0..FRAMES {
        assert!(wait(|| read.load(SeqCst) == frame), "frame {frame} was never read");
        (0..dice.below(60)).for_each(|_| spin_loop());
        device.accept();
        let (id, _) = device.choose(&mut dice, false).expect("a buffer");
        device.put_used(u32::from(id), 60);
        device.show();
        fence(SeqCst);
        if device.interrupts() {
            interrupt.store(true, SeqCst);
        }
    }
}

/// Reads until there is nothing left, asks, sleeps.
fn read_and_sleep(ring: &mut ReceiveRing, read: &AtomicU32, interrupt: &AtomicBool) {
    let mut frames = 0;
    while frames < FRAMES {
        while let Some(received) = ring.next() {
            ring.release(received);
            frames += 1;
            ring.flush();
            read.store(frames, SeqCst);
        }
        assert_eq!(ring.fault(), None);
        interrupt.store(false, SeqCst);
        if frames < FRAMES && !ring.ask_for_interrupt() {
            assert!(wait(|| interrupt.load(SeqCst)), "no wake-up after frame {frames}");
        }
    }
}

#[test]
fn two_cores_hand_over_every_frame_without_a_lost_wake_up() {
    let memory = receive_memory();
    let (mut ring, device) = receive_pair(&memory);
    let read = Arc::new(AtomicU32::new(0));
    let interrupt = Arc::new(AtomicBool::new(false));
    let other = {
        let (read, interrupt) = (Arc::clone(&read), Arc::clone(&interrupt));
        thread::spawn(move || send_one_by_one(device, &read, &interrupt))
    };
    read_and_sleep(&mut ring, &read, &interrupt);
    other.join().unwrap();
    memory.check_guards();
}
