//! The verifier against vectors from elsewhere, and against every way we know to fool one.

mod bytes;
mod forged;
mod logs;
mod policies;
mod quotes;
mod sample;
mod vectors;
