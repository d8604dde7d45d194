//! How much work the machine does, in guest instructions: those do not depend on the host.
//!
//! Turns of repeated string instructions are counted apart, as a CPU would not count them.

use std::thread;
use std::time::Duration;

use machine::{Backend, Chipset, Firmware};

use crate::support::{SMALL, Site, client};

/// From the image's entry to READY.
const MOST_TO_BOOT: u64 = 1_000_000;

/// A full handshake and a request of 1 KiB, and the connection's end.
const MOST_PER_HANDSHAKE: u64 = 1_450_000;

/// A request of 1 KiB on an open connection. QEMU's user network completes no checksums and sends
/// acknowledgements in frames of their own; on a tap, where `docs/figures.md` measures, it is less.
const MOST_PER_REQUEST: u64 = 27_000;

/// What a quiet machine may do in a second.
const MOST_PER_QUIET_SECOND: u64 = 10_000;

fn instructions(site: &Site) -> u64 {
    site.machine.counts().unwrap().unwrap().instructions
}

/// How many instructions a machine executes in a second without traffic.
fn quiet_second(site: &Site) -> u64 {
    thread::sleep(Duration::from_secs(1));
    let before = instructions(site);
    thread::sleep(Duration::from_secs(2));
    (instructions(site) - before) / 2
}

#[test]
fn boot_handshake_and_request_cost_no_more_than_they_may() {
    let backend = Backend::start().unwrap();
    let site = Site::start_as("demo", backend.address(), |builder| {
        builder.memory_mib(256).firmware(Firmware::Qboot).counting()
    });
    let to_ready = instructions(&site);
    assert!(to_ready > 0 && to_ready <= MOST_TO_BOOT, "{to_ready} instructions to READY");

    let config = client::config(&site);
    let path = format!("/bytes/{SMALL}");
    let once = || {
        let mut stream = client::connect_as(&site, &config);
        client::get(&mut stream, &path);
        stream
    };
    // The first connection pays for what is made only once.
    let mut open = once();
    let rounds = 50;
    let each = |before: u64| (instructions(&site) - before) / rounds;

    let before = instructions(&site);
    (0..rounds).for_each(|_| drop(once()));
    let per_handshake = each(before);

    let before = instructions(&site);
    (0..rounds).for_each(|_| drop(client::get(&mut open, &path)));
    let per_request = each(before);

    let quiet = quiet_second(&site);

    println!(
        "instructions: {to_ready} to READY, {per_handshake} a handshake, {per_request} a request, \
         {quiet} in a quiet second"
    );
    assert!(per_handshake <= MOST_PER_HANDSHAKE, "{per_handshake} instructions a handshake");
    assert!(per_request <= MOST_PER_REQUEST, "{per_request} instructions a request");
    assert!(quiet <= MOST_PER_QUIET_SECOND, "{quiet} instructions in a quiet second");
}

/// A line that stays raised interrupts again and again: it falls if the gate acknowledges.
#[test]
fn a_machine_without_pci_sleeps_between_two_requests() {
    let backend = Backend::start().unwrap();
    let site = Site::start_as("demo", backend.address(), |builder| {
        builder.chipset(Chipset::Microvm).firmware(Firmware::Qboot).counting()
    });
    let to_ready = instructions(&site);
    let config = client::config(&site);
    let path = format!("/bytes/{SMALL}");
    let mut open = client::connect_as(&site, &config);
    client::get(&mut open, &path);
    let rounds = 50;
    let before = instructions(&site);
    (0..rounds).for_each(|_| drop(client::get(&mut open, &path)));
    let per_request = (instructions(&site) - before) / rounds;
    let quiet = quiet_second(&site);
    println!("microvm: {to_ready} to READY, {per_request} a request, {quiet} in a quiet second");
    assert!(to_ready > 0 && to_ready <= MOST_TO_BOOT, "{to_ready} instructions to READY");
    assert!(per_request <= MOST_PER_REQUEST, "{per_request} instructions a request");
    assert!(quiet <= MOST_PER_QUIET_SECOND, "{quiet} instructions in a quiet second");
}
