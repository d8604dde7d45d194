//! `seal`: see the usage in the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    seal::command::run(std::env::args_os())
}
