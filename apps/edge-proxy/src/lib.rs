//! The TLS edge proxy: terminates TLS and forwards the plaintext to a TCP backend.
//!
//! This is the part that knows no machine: it works on anything that is a
//! [`Stream`](libos::stream::Stream), so tests run it on lists of bytes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod attest;
mod connection;
pub mod counted;
pub mod identity;
mod outcome;
mod route;
#[cfg(target_os = "none")]
pub mod server;

pub use self::connection::{Connection, MIN_ROOM, Progress, serve};
pub use self::outcome::{Attested, Opening, Outcome, Reason};
pub use self::route::{Limits, Route, Workspace};
