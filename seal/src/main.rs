//! Proves a seal from the image file alone.

fn main() {}
