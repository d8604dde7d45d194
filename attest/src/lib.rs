//! `attest`: predicts what an image's measurements will be, enrols machines, seals keys to them,
//! and verifies what they say about themselves.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod client;
pub mod command;
mod commands;
mod endorsement;
pub mod enrolment;
mod error;
mod identity;
pub mod image;
mod input;
pub mod predict;
pub mod sealed_file;
pub mod tpm;
mod units;

pub use endorsement::{EkCertificate, Roots, Untrusted};
pub use error::{Class, Error};
