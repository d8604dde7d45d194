//! Images: one file of boot, a service and its configuration.
//!
//! [`compose()`] puts the file together, [`edge`] reads the edge proxy's configuration, and
//! [`command()`] is `cargo xtask image`.

mod boot;
mod command;
mod compose;
mod disk;
mod document;
pub mod edge;
#[cfg(test)]
mod edge_tests;
mod elf;
mod identity;
#[cfg(test)]
mod identity_tests;
mod memory;
mod pe;
mod service;
#[cfg(test)]
mod sketch;
#[cfg(test)]
mod tests;
mod units;
mod write;

pub use command::{BuildDate, STACK_BYTES, command, digest, edge_image, probe_image};
pub use compose::{Composed, ImageError, Settings, compose};
pub use disk::{Contents, MAX_FILE_BYTES, disk};
pub use document::{ConfigError, Problem};
pub use elf::{Access, Fault};
pub use identity::{Fault as IdentityFault, Warning};
pub use memory::{describe, memory};
