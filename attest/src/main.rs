//! `attest`: see the usage in the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    attest::command::run(std::env::args_os())
}
