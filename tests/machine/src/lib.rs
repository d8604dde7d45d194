//! Runs images in QEMU, with everything around them that a test or a demonstration needs.
//!
//! Nothing here outlives its handle: each machine and each program has a folder of its own, a
//! deadline, and is killed by its number.

#![forbid(unsafe_code)]

pub mod backend;
pub mod body;
pub mod console;
mod counter;
mod error;
pub mod outside;
pub mod process;
pub mod qemu;
pub mod site;
pub mod tpm;

pub use backend::Backend;
pub use counter::Counts;
pub use error::Error;
pub use qemu::{Chipset, Firmware, Machine, Net};
pub use site::Nginx;
