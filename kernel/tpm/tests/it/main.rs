//! The crate against models of both interfaces and against a real software TPM.

mod answers;
mod interfaces;
mod keys;
mod model;
mod owned;
mod raw;
mod real;
mod swtpm;
