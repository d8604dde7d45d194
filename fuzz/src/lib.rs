//! Fuzz targets: each is a function of bytes that panics if a promise is broken.
//!
//! `cargo xtask fuzz` calls them from libFuzzer, `cargo xtask test` with the seeds in `corpus/`, the
//! inputs in `regressions/` and some thousands of mutations of both. All of a target's decisions
//! come from its bytes, so an input that once broke something breaks it every time.

#![forbid(unsafe_code)]

mod attest;
mod client_hello;
mod encodings;
mod firmware;
mod input;
mod key_file;
mod net;
mod proxy;
mod rings;
mod seal;
pub mod seeds;
mod tls;
mod tpm;

#[cfg(test)]
mod replay;

pub use self::attest::{
    event_log as attest_event_log, evidence as attest_evidence, policy as attest_policy,
    quote as attest_quote,
};
pub use self::client_hello::hello as tls_client_hello;
pub use self::encodings::{
    configuration_header as abi_configuration_header, edge_config, log_escape,
    manifest as abi_manifest,
};
pub use self::firmware::{
    acpi as firmware_acpi, event_log as firmware_event_log, memory_map as firmware_memory_map,
    pvh as firmware_pvh,
};
pub use self::key_file::payload as key_file_payload;
pub use self::net::{established as net_established, frames as net_frames};
pub use self::proxy::steps as proxy_steps;
pub use self::rings::rings;
pub use self::seal::image::image as seal_image;
pub use self::seal::registers::{
    controls as seal_controls, descriptors as seal_descriptors, gdt as seal_gdt, idt as seal_idt,
    tss as seal_tss,
};
pub use self::seal::tables::tables as seal_tables;
pub use self::tls::{incoming as tls_incoming, records as tls_records};
pub use self::tpm::{answers as tpm_answers, key_file as tpm_key_file};

/// A target by its name, which is also the name of its program and of its folders.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 29] = [
    ("abi_configuration_header", abi_configuration_header),
    ("abi_manifest", abi_manifest),
    ("attest_event_log", attest_event_log),
    ("attest_evidence", attest_evidence),
    ("attest_policy", attest_policy),
    ("attest_quote", attest_quote),
    ("edge_config", edge_config),
    ("firmware_acpi", firmware_acpi),
    ("firmware_event_log", firmware_event_log),
    ("firmware_memory_map", firmware_memory_map),
    ("firmware_pvh", firmware_pvh),
    ("key_file_payload", key_file_payload),
    ("log_escape", log_escape),
    ("net_established", net_established),
    ("net_frames", net_frames),
    ("proxy_steps", proxy_steps),
    ("rings", rings),
    ("seal_controls", seal_controls),
    ("seal_descriptors", seal_descriptors),
    ("seal_gdt", seal_gdt),
    ("seal_idt", seal_idt),
    ("seal_image", seal_image),
    ("seal_tables", seal_tables),
    ("seal_tss", seal_tss),
    ("tls_client_hello", tls_client_hello),
    ("tls_incoming", tls_incoming),
    ("tls_records", tls_records),
    ("tpm_answers", tpm_answers),
    ("tpm_key_file", tpm_key_file),
];
