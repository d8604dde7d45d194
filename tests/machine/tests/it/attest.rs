//! Attestation, live: UEFI firmware, a TPM, our image, and `attest` on the other side.

mod machine_in_the_middle;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use attest_core::evidence::Evidence;
use attest_core::measured::BANK;
use attest_core::pcrs::Pcrs;
use attest_core::policy::Hex;
use machine::tpm::{Interface, State};
use machine::{Backend, Firmware, body};
use tempfile::TempDir;
use xtask::build;
use xtask::samples::{self, PORT, Proxy};

use crate::support::{GUEST, PATIENCE, SMALL, Site, UEFI_MEMORY_MIB, client, is_long};

/// What `tests/configs/demo.toml` says about the key, and how it ends.
const IN_IMAGE: &str =
    "certificates = \"sealed.test.pem\"\nkey = \"sealed.test.key.pem\"\nkey_origin = \"image\"";

const EPHEMERAL: &str = "key_origin = \"ephemeral\"\nnames = [\"sealed.test\"]";

const SEALED: &str =
    "key_origin = \"sealed\"\nissuer = \"authority.pem\"\nnames = [\"sealed.test\"]";

/// Everybody on QEMU's user network may ask.
const LOG: &str = "[log]";
const ALLOW: &str = "[attestation]\nallow = [\"10.0.2.0/24\"]\n\n[log]";

/// The tool, built once.
static ATTEST: LazyLock<PathBuf> = LazyLock::new(|| build::attest().unwrap());

/// What the tool said.
struct Said {
    status: i32,
    text: String,
}

fn attest(arguments: &[&str]) -> Said {
    let output = Command::new(&*ATTEST).args(arguments).output().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Said { status: output.status.code().unwrap(), text }
}

/// The same, where nothing may go wrong.
#[track_caller]
fn attest_well(arguments: &[&str]) -> String {
    let Said { status, text } = attest(arguments);
    assert_eq!(status, 0, "attest {arguments:?}: {text}");
    text
}

/// An image with its disk, and what was predicted of it.
struct Lab {
    folder: TempDir,
    backend: Backend,
}

impl Lab {
    /// Composes `NAME.efi` and `NAME.img` with this key, and reference values for it.
    fn new(key: &str) -> Self {
        let lab = Self {
            folder: TempDir::with_prefix("bulla-attest-").unwrap(),
            backend: Backend::start().unwrap(),
        };
        let backend = lab.backend.address();
        let proxy = Proxy { config: "demo", backend, changes: &[(IN_IMAGE, key), (LOG, ALLOW)] };
        let elf = proxy.image(&GUEST, lab.folder.path()).unwrap();
        samples::disk(&elf, None, None).unwrap();
        lab.policy(&lab.text("edge-proxy.efi"), &lab.text("policy.json"));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Reference values of an image on this disk, for a TPM that somebody pinned or enrolled.
    fn policy(&self, image: &str, policy: &str) {
        let disk = self.text("edge-proxy.img");
        let mut arguments = vec!["policy", "new", image, "--disk", &disk, "--output", policy];
        arguments.extend(["--platform-trust", "unknown", "--platform-trust", "vtpm-host"]);
        attest_well(&arguments);
    }

    /// Boots a disk, and does not wait.
    fn boot(&self, disk: &Path, tpm: &State, interface: Interface) -> Site {
        let folder = tpm.folder();
        let machine = machine::Machine::builder(disk)
            .firmware(Firmware::Uefi)
            .memory_mib(UEFI_MEMORY_MIB)
            .net(machine::Net::User { ports: vec![PORT] })
            .tpm_with(interface, folder)
            .start()
            .unwrap();
        Site::on(machine)
    }

    /// Boots a disk until it serves.
    #[track_caller]
    fn serve(&self, disk: &Path, tpm: &State, interface: Interface) -> Site {
        let site = self.boot(disk, tpm, interface);
        site.machine.wait_for("READY", PATIENCE).unwrap();
        site
    }

    /// A disk with a changed image, or with files beside it.
    fn disk(
        &self,
        name: &str,
        efi: &[u8],
        key: Option<&[u8]>,
        challenge: Option<&[u8]>,
    ) -> PathBuf {
        let efi_path = self.path(name).with_extension("efi");
        fs::write(&efi_path, efi).unwrap();
        samples::disk(&efi_path, key, challenge).unwrap()
    }

    fn efi(&self) -> Vec<u8> {
        fs::read(self.path("edge-proxy.efi")).unwrap()
    }

    /// Fetches evidence, and pins the key in it: an operator's first boot.
    #[track_caller]
    fn pin(&self, site: &Site, evidence: &str, identity: &str) {
        let address = site.address().to_string();
        attest_well(&["enroll", "ask", &address, "--output", evidence]);
        let bytes = fs::read(evidence).unwrap();
        assert!(bytes.len() < 128 << 10, "{} bytes of evidence", bytes.len());
        let ak = self.text("ak.pub");
        fs::write(&ak, evidence_in(&bytes).ak).unwrap();
        attest_well(&["enroll", "pin", "--ak", &ak, "--output", identity]);
    }

    fn verify(&self, address: SocketAddr, policy: &str, identity: &str) -> Said {
        let address = address.to_string();
        attest(&["verify", &address, "--policy", policy, "--identity", identity])
    }
}

fn evidence_in(bytes: &[u8]) -> Evidence<'_> {
    Evidence::decode(bytes).unwrap()
}

/// Changes the first byte of the one place where these bytes are.
#[track_caller]
fn flip(image: &mut [u8], text: &[u8]) {
    let found: Vec<_> = (0..image.len()).filter(|at| image[*at..].starts_with(text)).collect();
    assert_eq!(found.len(), 1, "{} is not there once", String::from_utf8_lossy(text));
    image[found[0]] ^= 0x20;
}

#[test]
fn a_machine_is_enrolled_and_verified() {
    let lab = Lab::new(EPHEMERAL);
    let (tpm, img) = (State::new().unwrap(), lab.path("edge-proxy.img"));
    let roots = lab.text("roots");
    fs::create_dir(&roots).unwrap();
    for (index, certificate) in tpm.authorities().iter().enumerate() {
        fs::copy(certificate, Path::new(&roots).join(format!("{index}.pem"))).unwrap();
    }
    let (first, challenge) = (lab.text("first"), lab.text("challenge"));
    let (state, identity, policy) =
        (lab.text("state"), lab.text("id.json"), lab.text("policy.json"));
    {
        let site = lab.serve(&img, &tpm, Interface::Crb);
        let address = site.address().to_string();
        attest_well(&["enroll", "ask", &address, "--output", &first]);
        let mut begin = vec!["enroll", "begin", "--evidence", &first, "--roots", &roots];
        begin.extend(["--output", &challenge, "--state", &state]);
        attest_well(&begin);
    }
    // The challenge lies beside the image, and boot answers it.
    let asked = fs::read(&challenge).unwrap();
    let img = lab.disk("challenged", &lab.efi(), None, Some(&asked));
    let site = lab.serve(&img, &tpm, Interface::Tis);
    let (second, address) = (lab.text("second"), site.address().to_string());
    attest_well(&["enroll", "ask", &address, "--output", &second]);
    let mut finish = vec!["enroll", "finish", "--state", &state, "--evidence", &second];
    finish.extend(["--output", &identity]);
    attest_well(&finish);
    let said = lab.verify(site.address(), &policy, &identity);
    assert_eq!(said.status, 0, "{}", said.text);
    // Twice on one machine: each time another nonce and another connection.
    assert_eq!(lab.verify(site.address(), &policy, &identity).status, 0);
    site.goes_on_as("/bytes/1024");
}

#[test]
fn what_is_predicted_is_what_the_tpm_holds() {
    let lab = Lab::new(EPHEMERAL);
    let tpm = State::new().unwrap();
    for interface in Interface::ALL {
        let site = lab.serve(&lab.path("edge-proxy.img"), &tpm, interface);
        let (evidence, identity) = (lab.text("evidence"), lab.text("id.json"));
        lab.pin(&site, &evidence, &identity);
        let bytes = fs::read(&evidence).unwrap();
        let evidence = evidence_in(&bytes);
        let held = Pcrs::parse(evidence.pcrs).unwrap();
        let mut arguments =
            vec!["predict".to_owned(), lab.text("edge-proxy.efi"), "--disk".to_owned()];
        arguments.push(lab.text("edge-proxy.img"));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let predicted = attest_well(&arguments);
        for pcr in [2, 3, 4, 5, 7, 11] {
            let value = Hex(held.value(BANK, pcr).unwrap().to_vec()).to_string();
            let line = predicted.lines().find(|line| line.contains(&value));
            let number = line.and_then(|line| line.split_whitespace().next());
            let same = pcr.to_string();
            // PCR 2 and 3 hold the same.
            let is_said = number == Some(&same) || (pcr == 3 && number == Some("2"));
            assert!(is_said, "{interface:?}: PCR {pcr} holds {value}, not in\n{predicted}");
        }
        // PCR 12 follows from the configuration and the record.
        let said = lab.verify(site.address(), &lab.text("policy.json"), &identity);
        assert_eq!(said.status, 0, "{interface:?}: {}", said.text);
        check_with_tools(&lab, &evidence);
    }
}

/// Other people's tools read the same log and accept the same quote.
fn check_with_tools(lab: &Lab, evidence: &Evidence<'_>) {
    let quoted = [("attest", evidence.quote), ("signature", evidence.signature)];
    for (name, bytes) in quoted {
        fs::write(lab.path(name), bytes).unwrap();
    }
    let sized = [&(evidence.ak.len() as u16).to_be_bytes()[..], evidence.ak].concat();
    fs::write(lab.path("ak.pub"), sized).unwrap();
    fs::write(lab.path("log"), evidence.log).unwrap();
    let tool = |program: &str, arguments: &[&str]| {
        let output =
            Command::new(program).args(arguments).current_dir(lab.folder.path()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let pem = tool("tpm2_print", &["-t", "TPM2B_PUBLIC", "-f", "pem", "ak.pub"]);
    fs::write(lab.path("ak.pem"), pem).unwrap();
    let quote = attest_core::tpms::Quote::parse(evidence.quote).unwrap();
    let qualifying = Hex(quote.extra_data.to_vec()).to_string();
    let mut arguments = vec!["-u", "ak.pem", "-m", "attest", "-s", "signature"];
    arguments.extend(["-g", "sha256", "-q", &qualifying]);
    tool("tpm2_checkquote", &arguments);
    // `  4 : 0x0123..` below `pcrs:`.
    let replayed = tool("tpm2_eventlog", &["log"]);
    let held = Pcrs::parse(evidence.pcrs).unwrap();
    let (_, pcrs) = replayed.split_once("pcrs:").unwrap();
    let mut count = 0;
    for (pcr, value) in pcrs.lines().filter_map(|line| line.split_once(" : 0x")) {
        let pcr: u8 = pcr.trim().parse().unwrap();
        let ours = Hex(held.value(BANK, pcr).unwrap().to_vec()).to_string();
        assert_eq!(value.trim().to_lowercase(), ours, "PCR {pcr}");
        count += 1;
    }
    assert!(count >= 10, "{replayed}");
}

#[test]
fn one_changed_byte_fails_by_its_components_name() {
    let lab = Lab::new(EPHEMERAL);
    let tpm = State::new().unwrap();
    let (evidence, identity) = (lab.text("evidence"), lab.text("id.json"));
    {
        let site = lab.serve(&lab.path("edge-proxy.img"), &tpm, Interface::Crb);
        lab.pin(&site, &evidence, &identity);
    }
    for (component, text) in [
        ("boot", &b"boot wipes itself and drops to ring 3"[..]),
        ("service", b"this machine was cloned or restored"),
        ("configuration", b"sealed.test"),
    ] {
        let mut changed = lab.efi();
        flip(&mut changed, text);
        let disk = lab.disk(component, &changed, None, None);
        let site = lab.serve(&disk, &tpm, Interface::Crb);
        let said = lab.verify(site.address(), &lab.text("policy.json"), &identity);
        assert_eq!(said.status, 5, "{component}: {}", said.text);
        // And nothing else is accused.
        let differs = said.text.lines().find_map(|line| line.strip_prefix("differs"));
        assert_eq!(differs.map(str::trim), Some(component), "{}", said.text);
    }
}

#[test]
fn another_tpm_is_not_trusted() {
    let lab = Lab::new(EPHEMERAL);
    let img = lab.path("edge-proxy.img");
    let (evidence, identity) = (lab.text("evidence"), lab.text("id.json"));
    let first = State::new().unwrap();
    {
        let site = lab.serve(&img, &first, Interface::Crb);
        lab.pin(&site, &evidence, &identity);
    }
    let other = State::with_banks("sha256").unwrap();
    let site = lab.serve(&img, &other, Interface::Crb);
    let said = lab.verify(site.address(), &lab.text("policy.json"), &identity);
    assert_eq!(said.status, 3, "{}", said.text);
}

#[test]
fn answers_that_are_relayed_or_replayed_are_refused() {
    let lab = Lab::new(EPHEMERAL);
    let tpm = State::new().unwrap();
    let site = lab.serve(&lab.path("edge-proxy.img"), &tpm, Interface::Crb);
    let (evidence, identity) = (lab.text("evidence"), lab.text("id.json"));
    lab.pin(&site, &evidence, &identity);
    let policy = lab.text("policy.json");
    // Somebody on the way, with a connection of its own to each side.
    let middle = machine_in_the_middle::start(site.address());
    let said = lab.verify(middle, &policy, &identity);
    assert_eq!(said.status, 4, "{}", said.text);
    // Yesterday's evidence for today's nonce.
    let [nonce, exporter, spki] = ["11", "22", "33"].map(|byte| byte.repeat(32));
    let mut replay = vec!["verify", "--evidence", &evidence, "--policy", &policy];
    replay.extend(["--identity", &identity, "--nonce", &nonce, "--exporter", &exporter]);
    replay.extend(["--spki", &spki]);
    let said = attest(&replay);
    assert_eq!(said.status, 4, "{}", said.text);
    // The direct way still holds.
    assert_eq!(lab.verify(site.address(), &policy, &identity).status, 0);
}

/// A certificate authority, or one's certificate and key, by openssl.
fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {complaint}");
}

/// Seals a key and a chain to this TPM and image.
#[track_caller]
fn seal_key(lab: &Lab, tpm: &State, chain: &Path, key: &Path, output: &str) -> Vec<u8> {
    let ek = tpm.folder().join("ek-secp384r1.crt");
    let [key, chain, ek] = [key, chain, &ek].map(|path| path.to_str().unwrap());
    let (image, disk, file) =
        (lab.text("edge-proxy.efi"), lab.text("edge-proxy.img"), lab.text(output));
    let mut arguments = vec!["seal-key", "--key", key, "--chain", chain, "--ek", ek];
    arguments.extend(["--image", &image, "--disk", &disk, "--output", &file]);
    attest_well(&arguments);
    fs::read(file).unwrap()
}

/// The certificate and the key of `tests/configs`.
fn identity_files() -> [PathBuf; 2] {
    let folder = samples::authority().parent().unwrap().to_owned();
    ["sealed.test.pem", "sealed.test.key.pem"].map(|name| folder.join(name))
}

#[test]
fn a_sealed_key_opens_in_its_image_only_and_after_every_power_cut() {
    let lab = Lab::new(SEALED);
    let tpm = State::new().unwrap();
    let [chain, key] = identity_files();
    let file = seal_key(&lab, &tpm, &chain, &key, "key.sealed");
    let disk = lab.disk("sealed", &lab.efi(), Some(&file), None);
    // The fourth power cut is where a TPM locks itself if one forgets to tell it.
    let boots = if is_long() { 11 } else { 5 };
    for boot in 0..boots {
        let site = lab.serve(&disk, &tpm, Interface::Crb);
        if boot == 0 {
            // The name on it is the one that clients trust.
            site.goes_on_as("/bytes/1024");
            let (evidence, identity) = (lab.text("evidence"), lab.text("id.json"));
            lab.pin(&site, &evidence, &identity);
            let said = lab.verify(site.address(), &lab.text("policy.json"), &identity);
            assert_eq!(said.status, 0, "{}", said.text);
            assert!(said.text.contains("sealed"), "{}", said.text);
        }
    }
    // One byte of the service is another: the TPM does not open it.
    let mut other = lab.efi();
    flip(&mut other, b"this machine was cloned or restored");
    let disk = lab.disk("other", &other, Some(&file), None);
    refuses(&lab.boot(&disk, &tpm, Interface::Crb));
    // Another TPM with the right image does not either.
    let stranger = State::with_banks("sha256").unwrap();
    let disk = lab.disk("sealed", &lab.efi(), Some(&file), None);
    refuses(&lab.boot(&disk, &stranger, Interface::Crb));
    // And without a file there is no key at all: nothing is made up.
    let disk = lab.disk("none", &lab.efi(), None, None);
    refuses(&lab.boot(&disk, &tpm, Interface::Crb));
}

/// The machine says why and serves nobody.
#[track_caller]
fn refuses(site: &Site) {
    let line = site.machine.wait_for("refused:", PATIENCE).unwrap();
    let text = site.machine.console().text();
    assert!(!text.contains("READY"), "{text}");
    assert!(line.contains("key"), "{line}");
}

#[test]
fn a_key_that_somebody_else_sealed_is_refused() {
    let lab = Lab::new(SEALED);
    let tpm = State::new().unwrap();
    let folder = lab.folder.path();
    // Right in every way but one: the name, the purpose, and an authority that nobody pinned.
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
    let mut authority = vec!["req", "-x509", "-subj", "/CN=another", "-keyout", "ca.key"];
    authority.extend(["-out", "ca.pem"]);
    authority.extend(curve);
    openssl(folder, &authority);
    let mut leaf = vec!["req", "-x509", "-subj", "/CN=sealed.test", "-CA", "ca.pem"];
    leaf.extend(["-CAkey", "ca.key", "-addext", "subjectAltName=DNS:sealed.test"]);
    leaf.extend(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "own.key"]);
    leaf.extend(["-out", "own.pem"]);
    leaf.extend(curve);
    openssl(folder, &leaf);
    let (chain, key) = (lab.path("own.pem"), lab.path("own.key"));
    let file = seal_key(&lab, &tpm, &chain, &key, "own.sealed");
    let disk = lab.disk("own", &lab.efi(), Some(&file), None);
    let site = lab.boot(&disk, &tpm, Interface::Crb);
    refuses(&site);
    let text = site.machine.console().text();
    assert!(text.contains("sealed key opened"), "the TPM did open it: {text}");
    assert!(text.contains("issuer"), "{text}");
}

#[test]
fn direct_boot_opens_nothing_and_is_not_trusted() {
    // The same image by the other door, with the same TPM: nobody measured it.
    let lab = Lab::new(EPHEMERAL);
    let tpm = State::new().unwrap();
    let (evidence, identity) = (lab.text("evidence"), lab.text("id.json"));
    let direct = |lab: &Lab, firmware: Firmware| {
        let machine = machine::Machine::builder(lab.path("edge-proxy.elf"))
            .firmware(firmware)
            .net(machine::Net::User { ports: vec![PORT] })
            .tpm_with(Interface::Crb, tpm.folder())
            .start()
            .unwrap();
        Site::on(machine)
    };
    // qboot measures nothing; SeaBIOS does, and has no log of it that boot could hand on.
    for (firmware, class, check) in
        [(Firmware::Qboot, 5, "platform-trust"), (Firmware::SeaBios, 2, "log.replay")]
    {
        let site = direct(&lab, firmware);
        site.machine.wait_for("READY", PATIENCE).unwrap();
        lab.pin(&site, &evidence, &identity);
        let said = lab.verify(site.address(), &lab.text("policy.json"), &identity);
        assert_eq!(said.status, class, "{firmware:?}: {}", said.text);
        assert!(said.text.contains(check), "{firmware:?}: {}", said.text);
    }
    refuses(&direct(&Lab::new(SEALED), Firmware::Qboot));
}

impl Site {
    /// Fails unless the proxy serves a client that trusts whatever certificate there is.
    #[track_caller]
    fn goes_on_as(&self, path: &str) {
        let address = self.address().to_string();
        let url = format!("https://{address}{path}");
        let output = Command::new("curl").args(["-sSk", "-m", "60", &url]).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.stdout, body::bytes(SMALL), "{complaint}");
        let _ = client::dial(self);
    }
}
