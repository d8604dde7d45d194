//! Decides what the sealed address space is, and audits what was written.
//!
//! Boot writes page tables and descriptor tables from a [`Layout`]; the audits here read the bytes
//! back from memory and decode them on their own. Writer and auditor share no code, so that one
//! mistake cannot hide in both. Every byte an audit reads is hostile: it ends in bounded time, it
//! takes no heap, and no contents make it panic.
//!
//! The order in which boot uses this crate is the order of the argument:
//!
//! 1. [`Draft`] collects [`Region`]s and refuses what cannot be sealed: a [`Layout`];
//! 2. [`audit`] walks every entry of every page table: an [`Audited`];
//! 3. [`audit_gdt`], [`audit_idt`], [`audit_tss`] and [`audit_descriptors`] read the other tables;
//! 4. [`audit_controls`] compares the CPU's registers, read last;
//! 5. a [`SealRecord`] says in one hash each what was sealed, for the TPM to vouch for.
//!
//! A [`Violation`] names addresses of the machine it was found in. Boot prints it and stops, so the
//! random base it gives away is the base of a machine that never serves.

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod bits;
mod controls;
mod descriptors;
mod gates;
mod kind;
mod layout;
mod record;
mod row;
mod segments;
mod tables;
mod violation;

pub use controls::{Controls, Promised, TableRegister, audit_controls, audit_drop};
pub use descriptors::audit_descriptors;
pub use gates::{
    DOUBLE_FAULT_STACK, IDT_BYTES, IDT_LIMIT, IdtFacts, MACHINE_CHECK_STACK, NMI_STACK, audit_idt,
};
pub use kind::{Access, Cache, Kind, Ring};
pub use layout::{Draft, Layout, MAX_REGIONS, MAX_TABLES, Region, TPM_REGISTERS};
pub use record::{Malformed, SEAL_RECORD_BYTES, SealRecord};
pub use row::{Place, Rights, Row, write_canonical};
pub use segments::{
    GDT_BYTES, GDT_HEAD, GDT_LIMIT, INTERRUPT_STACKS, IO_MAP_BASE, KERNEL_CODE, KERNEL_DATA,
    Stacks, TASK_STATE, TSS_BYTES, TSS_LIMIT, USER_CODE, USER_DATA, audit_gdt, audit_tss,
};
pub use tables::{Audited, ENTRIES, Frames, audit};
pub use violation::{Fault, Violation};
