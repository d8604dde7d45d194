//! The crate against models of both interfaces and against a real software TPM.

mod answers;
mod interfaces;
mod model;
mod real;
mod swtpm;
