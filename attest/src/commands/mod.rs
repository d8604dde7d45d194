//! One module a command: its options, and what it does.

pub(crate) mod predict;
pub(crate) mod seal_key;
