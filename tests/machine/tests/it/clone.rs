//! A machine that is cloned or rolled back parts from its other self.

use std::time::{Duration, Instant};
use std::{fs, thread};

use machine::qemu::Builder;
use machine::{Backend, Machine, Net, body};
use tempfile::TempDir;
use xtask::samples::{PORT, Proxy};

use crate::support::{GUEST, PATIENCE, SMALL, Site, client};

/// Two identities that QEMU gives a machine through ACPI (docs/specs/vmgenid).
const BEFORE: &str = "vmgenid,guid=11111111-1111-4111-8111-111111111111";
const AFTER: &str = "vmgenid,guid=22222222-2222-4222-8222-222222222222";

#[test]
fn a_restored_machine_drops_its_connections_and_serves_new_ones() {
    let backend = Backend::start().unwrap();
    let folder = TempDir::with_prefix("bulla-clone-").unwrap();
    let proxy = Proxy { config: "demo", backend: backend.address(), changes: &[] };
    let image = proxy.image(&GUEST, folder.path()).unwrap();
    let build = |identity: &str| -> Builder {
        Machine::builder(&image)
            .net(Net::User { ports: vec![PORT] })
            .deadline(Duration::from_secs(600))
            .extra_args(["-device", identity])
    };

    let first = Site::on(build(BEFORE).start().unwrap());
    first.machine.wait_for("VM generation id true", PATIENCE).unwrap();
    first.machine.wait_for("READY", PATIENCE).unwrap();
    let mut held = client::connect(&first);
    assert_eq!(client::get(&mut held, &format!("/bytes/{SMALL}")), body::bytes(SMALL));

    let state = folder.path().join("state");
    first.machine.monitor(&format!("migrate \"exec:cat > {}\"", state.display())).unwrap();
    wait_until_saved(&first.machine);
    first.machine.process().kill();
    assert!(fs::metadata(&state).unwrap().len() > 1 << 20, "a machine is larger than that");

    let incoming = format!("exec:cat {}", state.display());
    let second = Site::on(build(AFTER).extra_args(["-incoming", &incoming]).start().unwrap());
    second.machine.wait_for("was cloned or restored: all connections dropped", PATIENCE).unwrap();
    second.machine.wait_for("client reset", PATIENCE).unwrap();
    second.goes_on();
}

fn wait_until_saved(machine: &Machine) {
    let start = Instant::now();
    while !machine.monitor("info migrate").unwrap().contains("completed") {
        assert!(start.elapsed() < PATIENCE, "QEMU does not save the machine");
        thread::sleep(Duration::from_millis(50));
    }
}
