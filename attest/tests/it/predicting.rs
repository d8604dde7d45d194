//! `attest predict`.

use std::fs;
use std::path::Path;
use std::process::Command;

use attest::predict::Variables;

use crate::image::Sketch;
use crate::{Run, attest, shell, text, vector};

/// What an image's PCR holds, by a run's JSON.
fn pcr(run: &Run, pcr: u64, when: &str) -> String {
    let json = run.json();
    let pcrs = json["pcrs"].as_array().unwrap();
    let found = pcrs.iter().find(|it| it["pcr"] == pcr && it["when"] == when).unwrap();
    found["sha256"].as_str().unwrap().to_owned()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    text(path)
}

/// What systemd-measure foretells of PCR 11.
fn systemd(folder: &Path, sketch: &Sketch, phase: &str) -> String {
    let linux = write(folder, "linux", &sketch.service);
    let cmdline = write(folder, "cmdline", &sketch.configuration());
    let output = Command::new("/usr/lib/systemd/systemd-measure")
        .args(["calculate", "--bank=sha256"])
        .args([format!("--linux={linux}"), format!("--cmdline={cmdline}")])
        .arg(format!("--phase={phase}"))
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    out.trim().strip_prefix("11:sha256=").unwrap_or_else(|| panic!("{out}")).to_owned()
}

#[test]
fn systemd_measure_foretells_the_same_pcr_11() {
    let folder = tempfile::tempdir().unwrap();
    let sketch = Sketch::new();
    for (name, file) in [("x.efi", sketch.efi()), ("x.elf", sketch.elf())] {
        let image = write(folder.path(), name, &file);
        let run = attest(&["predict", &image, "--json"]).ends(0);
        assert_eq!(pcr(&run, 11, "booting"), systemd(folder.path(), &sketch, ":"), "{name}");
        assert_eq!(pcr(&run, 11, "sealed"), systemd(folder.path(), &sketch, "sealed"), "{name}");
    }
}

#[test]
fn each_part_of_an_image_changes_its_own_pcrs() {
    let folder = tempfile::tempdir().unwrap();
    let of = |change: fn(&mut Sketch)| {
        let mut sketch = Sketch::new();
        change(&mut sketch);
        let image = write(folder.path(), "x.efi", &sketch.efi());
        let run = attest(&["predict", &image, "--json"]).ends(0);
        [(4, "always"), (11, "booting"), (12, "booting"), (7, "always")]
            .map(|(number, when)| pcr(&run, number, when))
    };
    let plain = of(|_| {});
    let check = |change: fn(&mut Sketch), expected: [bool; 4]| {
        let changed = of(change);
        let differs: Vec<_> = plain.iter().zip(&changed).map(|(a, b)| a != b).collect();
        assert_eq!(differs, expected);
    };
    check(|it| it.boot = 0xcd, [true, false, false, false]);
    check(|it| it.service[7] ^= 1, [true, true, false, false]);
    check(|it| *it.service.last_mut().unwrap() ^= 1, [true, true, false, false]);
    check(|it| it.payload[0] ^= 1, [true, true, true, false]);
}

#[test]
fn secure_boot_is_foretold_by_who_signed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(folder.path().join(name));
    let image = write(folder.path(), "x.efi", &Sketch::new().efi());
    let script = "
        for who in good other; do
            openssl req -x509 -newkey rsa:2048 -nodes -keyout $who.key -out $who.pem -days 99 -subj /CN=$who 2>/dev/null
            openssl x509 -in $who.pem -outform der -out $who.der
            sbsign --key $who.key --cert $who.pem --output $who.efi x.efi 2>/dev/null
        done";
    shell(folder.path(), script);
    let good = fs::read(at("good.der")).unwrap();
    write(folder.path(), "vars.fd", &variables(&good, true));
    let run =
        attest(&["predict", &at("good.efi"), "--secure-boot", &at("vars.fd"), "--json"]).ends(0);
    let signed = pcr(&run, 7, "always");
    let off = attest(&["predict", &at("good.efi"), "--json"]).ends(0);
    assert_ne!(signed, pcr(&off, 7, "always"));
    // A signature is not measured into PCR 4.
    assert_eq!(pcr(&run, 4, "always"), pcr(&off, 4, "always"));
    for unknown in [&at("other.efi"), &image] {
        attest(&["predict", unknown, "--secure-boot", &at("vars.fd")]).ends(1).says("nobody in db");
    }
    // A signature that is moved to another image.
    let mut moved = fs::read(at("good.efi")).unwrap();
    moved[0x1010] ^= 1;
    let moved = write(folder.path(), "moved.efi", &moved);
    attest(&["predict", &moved, "--secure-boot", &at("vars.fd")]).ends(1).says("nobody in db");
    write(folder.path(), "open.fd", &variables(&good, false));
    attest(&["predict", &image, "--secure-boot", &at("open.fd")]).ends(0).says("Secure Boot off");
    attest(&["predict", &image, "--secure-boot", &image])
        .ends(1)
        .says("not a store of UEFI variables");
}

/// A store of variables as OVMF has it: PK, and db with one certificate.
fn variables(certificate: &[u8], has_platform_key: bool) -> Vec<u8> {
    const GLOBAL: &str = "61dfe48bca93d211aa0d00e098032b8c";
    const SECURITY: &str = "cbb219d73a3d9645a3bcdad00e67656f";
    let unhex = |text: &str| attest_core::policy::Hex::parse(text).unwrap().0;
    let size = 44 + certificate.len() as u32;
    let mut list = unhex("a159c0a5e494a74a87b5ab155c2bf072");
    for number in [size, 0, 16 + certificate.len() as u32] {
        list.extend_from_slice(&number.to_le_bytes());
    }
    list.extend_from_slice(&[7; 16]);
    list.extend_from_slice(certificate);
    let variable = |state: u8, vendor: &str, name: &str, data: &[u8]| {
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let mut bytes = vec![0xaa, 0x55, state, 0];
        bytes.resize(36, 0);
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&unhex(vendor));
        bytes.extend_from_slice(&name);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
        bytes
    };
    let mut store = unhex("782cf3aa7b949a43a1802e144ec37792");
    store.extend_from_slice(&(32_u32 << 10).to_le_bytes());
    store.extend_from_slice(&[0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
    if has_platform_key {
        store.extend(variable(0x3f, GLOBAL, "PK", &list));
    }
    // One that was deleted, and then the one that counts.
    store.extend(variable(0x3c, SECURITY, "db", b"old"));
    store.extend(variable(0x3f, SECURITY, "db", &list));
    store.resize(32 << 10, 0xff);
    let mut volume = vec![0; 16];
    volume.extend(unhex("8d2bf1ff96768b4ca9852747075b4f50"));
    volume.extend_from_slice(&(64_u64 << 10).to_le_bytes());
    volume.extend_from_slice(b"_FVH\0\0\0\0\x48\0");
    volume.resize(72, 0);
    volume.extend(store);
    volume
}

#[test]
fn survives_any_store_of_variables() {
    let store = variables(&[7; 40], true);
    let good = Variables::parse(&store).unwrap();
    assert!(good.is_secure() && good.allowed.ends_with(&[7; 40]));
    for length in (0..2000).chain([store.len() - 1]) {
        assert!(Variables::parse(&store[..length.min(store.len() - 1)]).is_err(), "{length}");
    }
    for at in 0..600 {
        for bit in 0..8 {
            let mut changed = store.clone();
            changed[at] ^= 1 << bit;
            let _refused = Variables::parse(&changed);
        }
    }
}

#[test]
fn a_disk_gives_pcr_5() {
    let folder = tempfile::tempdir().unwrap();
    let image = write(folder.path(), "x.efi", &Sketch::new().efi());
    let disk = vector("ovmf-swtpm/disk-gpt-34-sectors.bin");
    let run = attest(&["predict", &image, "--disk", &disk, "--json"]).ends(0);
    let expected = "1434506708c96e5d8bafc10c994f3a4fa1465c64c7eb4b95a202ef6ed47979a4";
    assert_eq!(pcr(&run, 5, "always"), expected);
    attest(&["predict", &image, "--disk", &image]).ends(1).says("no GUID partition table");
    let elf = write(folder.path(), "x.elf", &Sketch::new().elf());
    attest(&["predict", &elf, "--disk", &disk]).ends(1).says("without firmware's measurements");
}

#[test]
fn what_is_no_image_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |bytes: &[u8], says: &str| {
        let image = write(folder.path(), "bad", bytes);
        attest(&["predict", &image]).ends(1).says(says);
    };
    check(b"", "neither an ELF nor a PE file");
    check(b"MZ", "neither an ELF nor a PE file");
    check(&fs::read(vector("authenticode/tiny64.efi")).unwrap(), "no manifest in it");
    let good = Sketch::new();
    for file in [good.efi(), good.elf()] {
        check(&file[..file.len() - 4096], "");
        let at = file.windows(8).position(|it| it == b"BULLAIM\x01").unwrap();
        let mut changed = file.clone();
        changed[at] ^= 1;
        check(&changed, "");
        // The configuration is said to lie before the service.
        let mut changed = file.clone();
        changed[at + 33] = 0;
        check(&changed, "does not follow the service");
        let mut changed = file;
        changed[5 * 4096] ^= 1;
        check(&changed, "configuration begins with");
    }
}
