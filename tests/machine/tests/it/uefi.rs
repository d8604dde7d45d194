//! The other door: UEFI firmware starts the same image, with a TPM and without one.

use std::fs;
use std::path::{Path, PathBuf};

use machine::outside::{Image, Snapshot, walk};
use machine::tpm::{Interface, State};
use machine::{Backend, Firmware, Machine, Net};
use tempfile::TempDir;
use xtask::image::{self, BuildDate};
use xtask::samples::{self, PORT, Proxy};
use xtask::weakened;

use crate::outside::copies_of_the_key;
use crate::support::{GUEST, PATIENCE, Site, UEFI_MEMORY_MIB, is_long, programs, wait_until};

/// Debian's example key for Secure Boot, and its password.
const SNAKEOIL: &str = "/usr/share/ovmf/PkKek-1-snakeoil";
const PASSWORD: &str = "pass:snakeoil";

/// How many bytes of log boot took, from the line that says so.
fn log_bytes(machine: &Machine) -> u64 {
    let line = machine.wait_for("boot: from UEFI:", PATIENCE).unwrap();
    line.split(' ').find_map(|word| word.parse().ok()).unwrap()
}

#[test]
fn a_disk_is_booted_sealed_and_serves() {
    let backend = Backend::start().unwrap();
    let site = Site::boot_uefi("demo", backend.address(), |builder| builder);
    site.machine.wait_for("READY", PATIENCE).unwrap();
    assert_eq!(log_bytes(&site.machine), 0, "nothing measures on a machine without a TPM");
    site.goes_on();
}

#[test]
fn on_a_machine_with_a_tpm_boot_takes_the_log_of_what_was_measured() {
    let backend = Backend::start().unwrap();
    let mut lengths = Vec::new();
    for interface in [Interface::Crb, Interface::Tis] {
        let site = Site::boot_uefi("demo", backend.address(), |builder| builder.tpm(interface));
        site.machine.wait_for("READY", PATIENCE).unwrap();
        lengths.push(log_bytes(&site.machine));
        site.goes_on();
    }
    // Some twenty events of a hundred bytes, and the two of the farewell.
    assert!(lengths[0] > 2000 && lengths[0] == lengths[1], "{lengths:?}");
}

#[test]
fn a_tpm_that_has_been_used_starts_again() {
    let backend = Backend::start().unwrap();
    let state = State::new().unwrap();
    for _ in 0..2 {
        let site = Site::boot_uefi("small", backend.address(), |builder| {
            builder.tpm_with(Interface::Crb, state.folder())
        });
        site.machine.wait_for("READY", PATIENCE).unwrap();
        assert!(log_bytes(&site.machine) > 2000);
    }
}

#[test]
fn files_beside_the_image_are_taken_along() {
    let backend = Backend::start().unwrap();
    let disk =
        |image: PathBuf| samples::disk(&image, Some(&[1; 300]), Some(&[2; 8 << 10])).unwrap();
    let site = Site::boot_from("small", backend.address(), disk, |builder| {
        builder.firmware(Firmware::Uefi).memory_mib(UEFI_MEMORY_MIB)
    });
    let line = site.machine.wait_for("boot: from UEFI:", PATIENCE).unwrap();
    assert!(line.ends_with("key file 300 bytes, challenge 8192 bytes"), "{line}");
    site.machine.wait_for("READY", PATIENCE).unwrap();
}

/// An image in a folder, its files as [`Proxy::image`] leaves them.
struct Made {
    elf: PathBuf,
    backend: Backend,
    folder: TempDir,
}

impl Made {
    fn new() -> Self {
        let backend = Backend::start().unwrap();
        let folder = TempDir::with_prefix("bulla-uefi-").unwrap();
        let proxy = Proxy { config: "small", backend: backend.address(), changes: &[] };
        let elf = proxy.image(&GUEST, folder.path()).unwrap();
        Self { elf, backend, folder }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn efi(&self) -> PathBuf {
        self.elf.with_extension("efi")
    }

    fn start(&self, file: &Path, firmware: Firmware, extra: &[&str]) -> Machine {
        let builder = Machine::builder(file).firmware(firmware).memory_mib(UEFI_MEMORY_MIB);
        let builder = builder.net(Net::User { ports: vec![PORT] });
        builder.extra_args(extra.iter().copied()).start().unwrap()
    }
}

/// Firmware reads the file into one place, the image into another, and forgets both: no page of
/// boot, and no copy of the key but the service's, may be left anywhere in memory.
#[test]
fn a_machine_that_firmware_started_is_sealed_and_firmware_has_left_no_copy() {
    let made = Made::new();
    let disk = samples::disk(&made.elf, Some(b"sealed"), None).unwrap();
    let site = Site::on(made.start(&disk, Firmware::Uefi, &[]));
    site.machine.wait_for("READY", PATIENCE).unwrap();
    site.goes_on();
    let seen = Snapshot::take(&site.machine, UEFI_MEMORY_MIB).unwrap();
    let (walk, _) = walk(&seen.memory, seen.registers.cr3);
    let linked = Image::read(&made.elf).unwrap();
    let image = linked.clone().found_in(&walk);
    assert_ne!(image.boot(), linked.boot(), "firmware has put it where it was linked");
    let findings = seen.findings(&image);
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let console = site.machine.console().text();
    assert!(lines.is_empty(), "{}\n{console}", lines.join("\n"));
    assert_eq!(seen.addresses_in(&console), [0_u64; 0], "{console}");
    assert!(!copies_of_the_key(&seen, &walk).is_empty(), "the configuration has the key");
    assert_eq!(seen.memory.find(b"boot: refused"), [0_u64; 0], "a text of boot's");
    drop(made.backend);
}

#[test]
fn a_command_line_is_refused_because_nobody_measures_it() {
    let made = Made::new();
    let machine = made.start(&made.efi(), Firmware::Uefi, &["-append", "quiet"]);
    let line = machine.wait_for("boot: refused:", PATIENCE).unwrap();
    assert!(line.contains("a command line of 12 bytes was given"), "{line}");
    wait_until("the machine halts", || {
        machine.monitor("info registers").is_ok_and(|registers| registers.contains("HLT=1"))
    });
    assert!(!machine.console().text().contains("seal:"));
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let outcome = programs::run(program, arguments, b"");
    assert!(outcome.is_success, "{program}: {}", outcome.complaints);
}

/// Signs the image as whoever owns the machine would.
fn sign(made: &Made) -> PathBuf {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let key = text(&made.place("signer.key"));
    let (protected, certificate) = (format!("{SNAKEOIL}.key"), format!("{SNAKEOIL}.pem"));
    run("openssl", &["rsa", "-in", &protected, "-passin", PASSWORD, "-out", &key]);
    fs::create_dir(made.place("signed")).unwrap();
    let signed = made.place("signed/edge-proxy.efi");
    let out = text(&signed);
    let arguments = ["--key", &key, "--cert", &certificate, "--output", &out, &text(&made.efi())];
    let outcome = programs::run("sbsign", &arguments, b"");
    assert!(outcome.is_success, "{}", outcome.complaints);
    assert!(!outcome.complaints.contains("warning"), "{}", outcome.complaints);
    run("sbverify", &["--cert", &certificate, &out]);
    signed
}

#[test]
fn secure_boot_starts_a_signed_image_and_no_other() {
    let made = Made::new();
    let signed = samples::disk(&sign(&made), None, None).unwrap();
    let machine = made.start(&signed, Firmware::UefiSecureBoot, &[]);
    machine.wait_for("READY", PATIENCE).unwrap();
    drop(machine);
    let unsigned = samples::disk(&made.elf, None, None).unwrap();
    let machine = made.start(&unsigned, Firmware::UefiSecureBoot, &[]);
    machine.wait_for("Access Denied", PATIENCE).unwrap();
    assert!(!machine.console().text().contains("boot:"), "{}", machine.console().text());
}

/// The other checkout is a copy in another folder; its service is built there with `--long`.
#[test]
fn two_folders_give_the_same_bytes() {
    let folder = TempDir::with_prefix("bulla-elsewhere-").unwrap();
    let mut elsewhere = GUEST.clone();
    elsewhere.boot = folder.path().join("boot");
    if is_long() {
        elsewhere.edge_proxy = folder.path().join("edge-proxy");
    }
    let service = is_long().then_some(elsewhere.edge_proxy.as_path());
    weakened::build_elsewhere(&elsewhere.boot, service).unwrap();
    let date = BuildDate { unix_s: 1_795_564_800, is_given: true };
    let config = xtask::build::root().join("tests/configs/small.toml");
    let edge = image::edge::read(&config, date.unix_s).unwrap();
    let here = image::edge_image(&edge, &GUEST, date).unwrap();
    let there = image::edge_image(&edge, &elsewhere, date).unwrap();
    assert!(here.efi == there.efi, "the images for UEFI firmware differ");
    assert!(here.bytes == there.bytes, "the images for the direct path differ");
}
