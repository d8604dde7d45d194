//! The machines that an image boots on, and those that it refuses in one line.

use machine::qemu::Builder;
use machine::{Backend, Chipset, Firmware, Machine, body};

use crate::support::{PATIENCE, SMALL, Site, client, probe, wait_until};

#[track_caller]
fn serves_on(chipset: Chipset, firmware: Firmware, memory_mib: u64) {
    // Sixteen connections are all that sixteen MiB have room for.
    let config = if memory_mib == 16 { "small" } else { "demo" };
    let backend = Backend::start().unwrap();
    let site = Site::start_as(config, backend.address(), |builder| {
        builder.chipset(chipset).firmware(firmware).memory_mib(memory_mib)
    });
    let config = client::config(&site);
    let mut open: Vec<_> = (0..15).map(|_| client::connect_as(&site, &config)).collect();
    site.goes_on();
    for stream in &mut open {
        let body = client::get(stream, &format!("/bytes/{SMALL}"));
        assert_eq!(body, body::bytes(SMALL));
    }
}

#[test]
fn serves_on_q35_with_seabios() {
    serves_on(Chipset::Q35, Firmware::SeaBios, 64);
}

#[test]
fn serves_on_q35_with_qboot() {
    serves_on(Chipset::Q35, Firmware::Qboot, 64);
}

#[test]
fn serves_on_pc_with_seabios() {
    serves_on(Chipset::Pc, Firmware::SeaBios, 64);
}

#[test]
fn serves_on_pc_with_qboot() {
    serves_on(Chipset::Pc, Firmware::Qboot, 64);
}

#[test]
fn serves_on_microvm() {
    serves_on(Chipset::Microvm, Firmware::Qboot, 64);
}

#[test]
fn serves_in_16_mib() {
    serves_on(Chipset::Q35, Firmware::SeaBios, 16);
    serves_on(Chipset::Pc, Firmware::Qboot, 16);
}

#[test]
fn serves_below_and_above_the_hole_for_devices() {
    // 2 GiB and 3.5 GiB lie on both sides of where the boards put their devices.
    for memory_mib in [256, 2048, 3584, 8192] {
        serves_on(Chipset::Q35, Firmware::SeaBios, memory_mib);
    }
    serves_on(Chipset::Pc, Firmware::Qboot, 8192);
}

#[test]
fn seals_itself_on_both_boards_with_both_firmwares_and_any_memory() {
    for chipset in [Chipset::Q35, Chipset::Pc] {
        for firmware in [Firmware::SeaBios, Firmware::Qboot] {
            // 2 GiB and 3.5 GiB lie on both sides of where the boards put their devices.
            for memory_mib in [16, 17, 64, 1024, 2048, 3584, 4096, 8192] {
                let machine = probe("control", |builder| {
                    builder.chipset(chipset).firmware(firmware).memory_mib(memory_mib)
                });
                let end = machine.wait_for("PROBE control: end", PATIENCE);
                end.unwrap_or_else(|error| {
                    panic!("{chipset:?}, {firmware:?}, {memory_mib} MiB: {error}")
                });
            }
        }
    }
}

/// The I/O APICs' lines that are not masked, in QEMU's words:
/// `  pin 23 0x0000000000008031 dest=0 vec=49  active-hi level        fixed  physical`.
fn open_lines(machine: &Machine) -> Vec<String> {
    let listed = machine.monitor("info pic").unwrap();
    assert!(listed.contains("ioapic0"), "{listed}");
    let lines = listed.lines().map(str::trim).filter(|line| line.starts_with("pin "));
    lines.filter(|line| !line.contains(" masked ")).map(str::to_owned).collect()
}

#[test]
fn only_a_card_on_no_bus_has_an_interrupt_line() {
    let control = |chipset| {
        let machine = probe("control", |b| b.chipset(chipset).extra_args(["-no-shutdown"]));
        machine.wait_for("PROBE control: end", PATIENCE).unwrap();
        open_lines(&machine)
    };
    for chipset in [Chipset::Q35, Chipset::Pc] {
        assert_eq!(control(chipset), Vec::<String>::new(), "{chipset:?}");
    }
    let open = control(Chipset::Microvm);
    assert!(
        open.len() == 1 && open[0].contains("vec=49 ") && open[0].contains("level"),
        "{open:?}"
    );
}

#[test]
fn seals_itself_without_pci_with_any_memory_and_with_other_virtio_devices() {
    let end = "PROBE control: end";
    for memory_mib in [16, 64, 2048, 4096] {
        let machine = probe("control", |b| b.chipset(Chipset::Microvm).memory_mib(memory_mib));
        machine.wait_for(end, PATIENCE).unwrap();
    }
    // They have a place before and behind the card's, which the image does not name.
    let others = ["-device", "virtio-rng-device", "-device", "virtio-balloon-device"];
    for (args, devices) in [(&others[..], 3), (&["-machine", "ioapic2=off"][..], 1)] {
        let shape = |b: Builder| b.chipset(Chipset::Microvm).extra_args(args.iter().copied());
        let machine = probe("control", shape);
        machine.wait_for(end, PATIENCE).unwrap();
        let fact = format!("1 of {devices} devices may master the bus, 1 interrupt lines open");
        machine.wait_for(&fact, PATIENCE).unwrap();
    }
}

/// The registers that devices have in memory, as QEMU lists them:
/// `BAR1: 32 bit memory at 0xe0004000 [0xe0004fff].`
fn registers(machine: &Machine) -> Vec<(u64, u64)> {
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let listed = machine.monitor("info pci").unwrap();
    let lines = listed.lines().filter(|line| line.contains("BAR") && line.contains(" memory at "));
    lines
        .filter_map(|line| line.split_once(" memory at ")?.1.split_once(" ["))
        .map(|(first, rest)| (hex(first), hex(rest.trim_end_matches(['.', ']']))))
        .filter(|(first, last)| first < last)
        .collect()
}

#[test]
fn no_two_devices_registers_share_an_address() {
    let backend = Backend::start().unwrap();
    for chipset in [Chipset::Q35, Chipset::Pc] {
        for firmware in [Firmware::SeaBios, Firmware::Qboot] {
            let site = Site::start_as("demo", backend.address(), |builder| {
                builder.chipset(chipset).firmware(firmware)
            });
            let mut all = registers(&site.machine);
            all.sort_unstable();
            assert!(all.len() >= 2, "{chipset:?}, {firmware:?}: {all:x?}");
            let is_apart = all.windows(2).all(|pair| pair[0].1 < pair[1].0);
            assert!(is_apart, "{chipset:?}, {firmware:?}: {all:x?}");
        }
    }
}

/// Waits for the one line that says why a machine did not come up.
#[track_caller]
fn refusal(machine: &Machine) -> String {
    let line = machine.wait_for("boot: refused:", PATIENCE).unwrap();
    wait_until("the machine halts", || {
        machine.monitor("info registers").is_ok_and(|registers| registers.contains("HLT=1"))
    });
    let text = machine.console().text();
    assert_eq!(text.matches("boot: refused:").count(), 1, "{text}");
    assert!(!text.contains("READY") && !text.contains("PROBE"), "{text}");
    line
}

#[test]
fn a_cpu_that_lacks_a_feature_is_refused_by_its_name() {
    for feature in ["nx", "smep", "smap", "rdrand", "aes", "pclmulqdq", "ssse3", "sse4.1"] {
        let machine = probe("control", |builder| builder.cpu(&format!("max,-{feature}")));
        let line = refusal(&machine);
        let plain = |text: &str| text.to_lowercase().replace(['.', '_', '-'], "");
        assert!(plain(&line).contains(&plain(feature)), "{feature} is not in {line:?}");
    }
}

#[test]
fn a_machine_without_pci_needs_a_card_with_registers_of_today() {
    let refused = |args: &[&str], reason: &str| {
        let shape = |b: Builder| b.chipset(Chipset::Microvm).extra_args(args.iter().copied());
        let line = refusal(&probe("control", shape));
        assert!(line.contains(reason), "{args:?}: {line}");
    };
    refused(&["-global", "virtio-mmio.force-legacy=on"], "virtio-net: its registers are legacy");
    // Nobody says where devices are, or which line is whose.
    refused(&["-machine", "acpi=off"], "none was found");
    refused(&["-machine", "pit=off"], "no clock");
}

#[test]
fn too_little_memory_is_refused_with_how_much_is_needed() {
    let backend = Backend::start().unwrap();
    let site = Site::boot("thousand", backend.address(), |builder| builder.memory_mib(16));
    let line = refusal(&site.machine);
    let reason = line.split_once("refused:").unwrap().1;
    assert!(reason.contains(|c: char| c.is_ascii_digit()), "{line:?} says no number");
    assert!(["MiB", "KiB", "bytes"].iter().any(|unit| reason.contains(unit)), "{line:?}");
}
