//! The rings against a device in software, friendly and hostile.
//!
//! Every access of the driver is watched (`watch`), lies between guards (`memory`), and the device
//! can act between any two of them.

mod device;
mod dice;
mod events;
mod faults;
mod memory;
mod receive;
mod transmit;
pub(super) mod watch;

use abi::ring::{
    RECEIVE_BUFFER_BYTES, TRANSMIT_BUFFER_BYTES, receive_descriptor, transmit_descriptor,
};

use self::device::Device;
use self::memory::Memory;
use super::{FEATURE_CSUM, FEATURE_GUEST_CSUM, ReceiveRing, TransmitRing};

fn receive_memory() -> Memory {
    Memory::new(0, RECEIVE_BUFFER_BYTES, receive_descriptor)
}

fn transmit_memory() -> Memory {
    Memory::new(1, TRANSMIT_BUFFER_BYTES, transmit_descriptor)
}

fn receive_pair(memory: &Memory) -> (ReceiveRing, Device) {
    let ring = ReceiveRing::new(&memory.hand_over(true), FEATURE_GUEST_CSUM).unwrap();
    (ring, Device::new(memory.clone()))
}

fn transmit_pair(memory: &Memory) -> (TransmitRing, Device) {
    let ring = TransmitRing::new(&memory.hand_over(false), FEATURE_CSUM).unwrap();
    (ring, Device::new(memory.clone()))
}
