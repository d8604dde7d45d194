//! The ring 3 library: all of an operating system that a sealed service still needs.
//!
//! A heap, a clock, entropy, the NIC's rings, TCP/IP, TLS and an executor. There is no system call
//! to configure anything, because nothing is left that could be configured.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "hostile-device"))]
extern crate std;

#[cfg(all(feature = "hostile-device", target_os = "none"))]
compile_error!("`hostile-device` watches every access to the rings; it is for tests on the host");

#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "ring 3's side of the CPU")]
mod arch;
#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "the heap, and pages that boot mapped")]
pub mod memory;
#[cfg(any(test, feature = "hostile-device", target_os = "none"))]
#[allow(unsafe_code, reason = "memory shared with a device")]
pub mod rings;

pub mod attest;
pub mod clock;
#[cfg(target_os = "none")]
pub mod entropy;
pub mod executor;
pub mod link;
pub mod log;
#[cfg(target_os = "none")]
pub mod machine;
pub mod net;
#[cfg(target_os = "none")]
pub mod runtime;
pub mod sealed;
pub mod stream;
pub mod tls;

/// A panic is a bug of ours: it says where, and the machine stops.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    log::plain(format_args!("panic: {info}"));
    machine::stop(abi::gate::Stop::Panic)
}
