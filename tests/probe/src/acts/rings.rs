//! The rings that the service shares with the device: what may be written there, and what comes of
//! it.

use core::sync::atomic::{Ordering, fence};

use core::time::Duration;

use abi::PAGE_BYTES;
use abi::handoff::Queue;
use libos::machine::Machine;

use super::notify::raw_notify;
use super::{Act, Effect};

pub(super) const ACTS: &[(&str, Act)] = &[
    ("ring_offer_all", |machine, _| offer_all(machine)),
    ("ring_offer", |machine, index| offer(machine, index as u16)),
    ("ring_jump", |machine, count| jump(machine, count as u16)),
    ("ring_all_bells", |machine, _| ring_all(machine)),
    ("ring_foreign_doorbell", |machine, number| ring(machine, number as u16)),
];

/// Every descriptor there is: the device may read and write packet buffers, and that is all.
fn offer_all(machine: &Machine) -> Effect {
    let queue = machine.handoff().nic.transmit;
    for index in 0..queue.descriptors as u16 {
        put(&queue, index, index);
    }
    publish(&queue, queue.descriptors as u16);
    settle(machine);
    match used(&queue) == queue.descriptors as u16 {
        true => Effect::None("the device took every descriptor"),
        false => Effect::Survived,
    }
}

/// One that does not exist: a conforming device stops and touches nothing.
fn offer(machine: &Machine, index: u16) -> Effect {
    let queue = machine.handoff().nic.transmit;
    put(&queue, 0, index);
    publish(&queue, 1);
    settle(machine);
    match used(&queue) {
        0 => Effect::None("the device took nothing"),
        _ => Effect::Survived,
    }
}

/// More descriptors than the ring has places. A device may stop, or go round and round: every place
/// names a descriptor that there is.
fn jump(machine: &Machine, count: u16) -> Effect {
    publish(&machine.handoff().nic.transmit, count);
    settle(machine);
    Effect::None("no place of the ring names anything else")
}

/// The bell of a queue that is not this one's, or of none.
fn ring(machine: &Machine, number: u16) -> Effect {
    write(machine.handoff().nic.receive.doorbell, number);
    settle(machine);
    Effect::None("a bell was rung")
}

/// Every place of the doorbell page, so every queue that the device has and every one it has not.
fn ring_all(machine: &Machine) -> Effect {
    let page = machine.handoff().nic.receive.doorbell & !(PAGE_BYTES - 1);
    for place in (0..PAGE_BYTES).step_by(2) {
        write(page + place, (place / 4) as u16);
    }
    settle(machine);
    Effect::None("every bell was rung")
}

/// Gives the device time to do what it will.
fn settle(machine: &Machine) {
    let end = machine.clock.now() + Duration::from_millis(20);
    while machine.clock.now() < end {
        machine.idle(end);
    }
}

/// How many descriptors the device has handed back.
fn used(queue: &Queue) -> u16 {
    // SAFETY: the used ring is mapped for reading, and its index is an aligned 16-bit word.
    unsafe { ((queue.used.start + 2) as *const u16).read_volatile() }
}

fn put(queue: &Queue, slot: u16, index: u16) {
    write(queue.available.start + 4 + 2 * u64::from(slot), index);
}

fn publish(queue: &Queue, count: u16) {
    fence(Ordering::SeqCst);
    write(queue.available.start + 2, count);
    fence(Ordering::SeqCst);
    match queue.doorbell {
        0 => _ = raw_notify(queue.number),
        doorbell => write(doorbell, queue.number as u16),
    }
}

fn write(address: u64, value: u16) {
    // SAFETY: the available ring and the doorbell are the service's to write, and the probe runs no
    // network of its own.
    unsafe { (address as *mut u16).write_volatile(value) };
}
