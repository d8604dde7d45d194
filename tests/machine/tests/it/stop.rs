//! A machine that stops does what its image says, and says first where it was.

use std::fs;
use std::thread;
use std::time::Duration;

use abi::configuration::OnStop;
use machine::{Machine, Net};
use tempfile::TempDir;
use xtask::image::{self, Settings};

use crate::support::{GUEST, PATIENCE};

/// Long enough for a machine to boot again, or to end.
const A_WHILE: Duration = Duration::from_secs(3);

/// Boots the control probe, which ends, on a QEMU that lets a reset be a reset.
fn machine(on_stop: OnStop, chipset: machine::Chipset) -> Machine {
    let settings = Settings {
        heap_bytes: 1 << 20,
        stack_bytes: image::STACK_BYTES,
        on_stop,
        needs_nic: true,
        build_unix_s: 1_795_564_800,
    };
    let folder = TempDir::with_prefix("bulla-stop-").unwrap();
    let path = folder.path().join("probe.elf");
    fs::write(&path, image::probe_image(&GUEST, &settings, b"control").unwrap().bytes).unwrap();
    let machine = Machine::builder(path)
        .chipset(chipset)
        .net(Net::User { ports: Vec::new() })
        .extra_args(["-action", "reboot=reset"])
        .start()
        .unwrap();
    machine.wait_for("STOP reason=00 rip=service+", PATIENCE).unwrap();
    machine
}

fn boots(machine: &Machine) -> usize {
    machine.console().text().matches("PROBE control: end of program").count()
}

const CHIPSETS: [machine::Chipset; 2] = [machine::Chipset::Q35, machine::Chipset::Pc];

#[test]
fn a_stop_powers_off_where_the_image_says_so() {
    for chipset in CHIPSETS {
        let machine = machine(OnStop::PowerOff, chipset);
        assert!(machine.wait_for_off(PATIENCE).unwrap().success());
        assert_eq!(boots(&machine), 1);
    }
}

#[test]
fn a_stop_boots_the_same_image_again_where_the_image_says_so() {
    for chipset in CHIPSETS {
        let machine = machine(OnStop::Reset, chipset);
        let first = machine.console().mark();
        machine.console().wait_since(first, "PROBE control: end of program", PATIENCE).unwrap();
        assert!(boots(&machine) >= 2, "it came up sealed once more");
    }
}

#[test]
fn a_stop_halts_for_good_where_the_image_says_so() {
    let machine = machine(OnStop::Halt, machine::Chipset::Q35);
    thread::sleep(A_WHILE);
    assert!(machine.process().ended().is_none(), "it neither resets nor powers off");
    assert_eq!(boots(&machine), 1);
    let registers = machine.monitor("info registers").unwrap();
    assert!(registers.contains("HLT=1") && registers.contains("CPL=0"), "{registers}");
}
