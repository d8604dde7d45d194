//! Proves a seal from the image file alone.
//!
//! An image that `cargo xtask image` composed holds everything that decides what its machine will
//! be: boot, the gate, the service and the configuration. [`audit`] reads the file, trusts nothing
//! in it, and says for each [`Property`] whether it holds. It shares no code with boot, with the
//! composer or with the assembler: it was written from the formats and from the CPU's manuals.
//!
//! What it cannot show: that boot does what boot's source says. That is shown in the machine, by
//! boot's own audit and from outside by tests; this is the third, independent look.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod audit;
pub mod command;
mod configuration;
mod explain;
mod file;
pub mod gate;
pub mod json;
pub mod layout;
mod manifest;
mod pe;
mod property;
mod relocations;
pub mod scan;
mod segments;
mod service_text;
mod text;
mod units;

pub use audit::{Predicted, Report, audit};
pub use file::{Rights, Unreadable};
pub use property::{Name, Property};
pub use segments::Part;
pub use service_text::{Count, ServiceText};
