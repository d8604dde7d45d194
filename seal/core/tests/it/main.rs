//! The audits accept what was promised, and nothing else: every bit that a machine's tables and
//! registers consist of is changed here once, and every change is found.

mod controls;
mod descriptors;
mod gates;
mod layout;
mod machine;
mod record;
mod segments;
mod tables;
