//! The audits: of page tables and registers in boot, and of an image file by `seal`.

pub(crate) mod image;
pub(crate) mod registers;
pub(crate) mod seeds;
pub(crate) mod tables;
