//! The rings that the service shares with the device: what may be written there, and what comes of
//! it.

use core::sync::atomic::{Ordering, fence};

use abi::handoff::Queue;
use libos::machine::Machine;

use super::{Act, Effect};

pub(super) const ACTS: &[(&str, Act)] = &[
    ("ring_offer_all", |machine, _| offer_all(machine)),
    ("ring_offer", |machine, index| offer(machine, index as u16)),
    ("ring_foreign_doorbell", |machine, number| ring(machine, number as u16)),
];

/// Every descriptor there is: the device may read and write packet buffers, and that is all.
fn offer_all(machine: &Machine) -> Effect {
    let queue = machine.handoff().nic.transmit;
    for index in 0..queue.descriptors as u16 {
        put(&queue, index, index);
    }
    publish(&queue, queue.descriptors as u16);
    Effect::None("every descriptor was offered at once")
}

/// One that does not exist: a conforming device stops and touches nothing.
fn offer(machine: &Machine, index: u16) -> Effect {
    let queue = machine.handoff().nic.transmit;
    put(&queue, 0, index);
    publish(&queue, 1);
    Effect::None("a descriptor that does not exist was offered")
}

/// The bell of a queue that is not this one's, or of none.
fn ring(machine: &Machine, number: u16) -> Effect {
    write(machine.handoff().nic.receive.doorbell, number);
    Effect::None("a bell was rung")
}

fn put(queue: &Queue, slot: u16, index: u16) {
    write(queue.available.start + 4 + 2 * u64::from(slot), index);
}

fn publish(queue: &Queue, count: u16) {
    fence(Ordering::SeqCst);
    write(queue.available.start + 2, count);
    fence(Ordering::SeqCst);
    write(queue.doorbell, queue.number as u16);
}

fn write(address: u64, value: u16) {
    // SAFETY: the available ring and the doorbell are the service's to write, and the probe runs no
    // network of its own.
    unsafe { (address as *mut u16).write_volatile(value) };
}
