//! The commands against real files, a software TPM and a server of the tests' own.

mod swtpm;
mod wrapping;
