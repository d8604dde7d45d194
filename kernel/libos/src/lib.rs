//! The ring 3 library: all of an operating system that a sealed service still needs.
//!
//! A heap, a clock, entropy, the NIC's rings, TCP/IP, TLS and an executor. There is no system call
//! to configure anything, because nothing is left that could be configured.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod clock;
pub mod link;
pub mod stream;
