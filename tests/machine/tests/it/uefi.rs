//! The other door: UEFI firmware starts the same image, with a TPM and without one.

use machine::Backend;
use machine::tpm::Interface;

use crate::support::{PATIENCE, Site};

#[track_caller]
fn serves(tpm: Option<Interface>) -> Site {
    let backend = Backend::start().unwrap();
    let site = Site::boot_uefi("demo", backend.address(), |builder| match tpm {
        Some(interface) => builder.tpm(interface),
        None => builder,
    });
    site.machine.wait_for("READY", PATIENCE).unwrap();
    site.goes_on();
    println!("{}", site.machine.console().text());
    site
}

#[test]
fn a_disk_is_booted_sealed_and_serves() {
    serves(None);
}

#[test]
fn with_a_tpm_boot_takes_the_log_of_what_was_measured() {
    for interface in [Interface::Crb, Interface::Tis] {
        serves(Some(interface));
    }
}
