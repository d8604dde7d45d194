//! What is claimed of a machine, checked from outside it.
//!
//! Each test's name is a claim. `cargo xtask test` runs them all; sizes grow with `--long`.

mod attack;
mod attest;
mod audit;
mod clone;
mod evidence;
mod figures;
mod keys;
mod measured;
mod outside;
mod platform;
mod refuse;
mod seal;
mod serve;
mod sizes;
mod stop;
mod support;
mod uefi;
mod weakened;
