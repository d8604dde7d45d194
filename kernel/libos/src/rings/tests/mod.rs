//! The rings against a device in software, friendly and hostile.
//!
//! Every access of the driver is watched and lies between guards (`super::software`), and the device
//! can act between any two of them.

mod device;
mod dice;
mod events;
mod faults;
mod receive;
mod transmit;

use self::device::Device;
use super::software::memory::{self, Memory};
use super::software::{receive_memory, transmit_memory, watch};
use super::{FEATURE_CSUM, FEATURE_GUEST_CSUM, ReceiveRing, TransmitRing};

fn receive_pair(memory: &Memory) -> (ReceiveRing, Device) {
    let ring = ReceiveRing::new(&memory.hand_over(true), FEATURE_GUEST_CSUM).unwrap();
    (ring, Device::new(memory.clone()))
}

fn transmit_pair(memory: &Memory) -> (TransmitRing, Device) {
    let ring = TransmitRing::new(&memory.hand_over(false), FEATURE_CSUM).unwrap();
    (ring, Device::new(memory.clone()))
}
