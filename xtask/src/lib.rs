//! The project's own tasks. `cargo xtask` is the only entry point, on a laptop and in CI.

#![forbid(unsafe_code)]

pub mod attack;
pub mod build;
pub mod demo;
pub mod fuzz;
pub mod image;
pub mod install;
pub mod run;
pub mod samples;
pub mod steps;
pub mod symbolize;
pub mod test;
pub mod tidy;
pub mod weakened;
