//! The second half of the demonstration: a machine with a TPM proves what it is.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use machine::tpm::{Interface, State};
use machine::{Firmware, Machine, Net};

use super::{BOOT_TIMEOUT, Client, indented, say};
use crate::build::Guest;
use crate::samples::{self, PORT, Proxy};
use crate::steps::{Error, while_doing};

/// What is changed in `tests/configs/demo.toml`: everybody on QEMU's user network may ask for
/// evidence, and the key is not in the image.
const ALLOW: (&str, &str) = ("[log]", "[attestation]\nallow = [\"10.0.2.0/24\"]\n\n[log]");
const KEY: &str =
    "certificates = \"sealed.test.pem\"\nkey = \"sealed.test.key.pem\"\nkey_origin = \"image\"";
const SEALED: &str =
    "key_origin = \"sealed\"\nissuer = \"authority.pem\"\nnames = [\"sealed.test\"]";
const EPHEMERAL: &str = "key_origin = \"ephemeral\"\nnames = [\"sealed.test\"]";

/// The text in which a byte of the service is changed: a line of its log.
const VICTIM: &[u8] = b"this machine was cloned or restored";

/// How many lines of a command's answer are shown: all but for a policy.
const SHOWN: usize = 12;

/// Firmware needs room of its own.
const MEMORY_MIB: u64 = 256;

/// What is needed again and again.
pub(super) struct Stage<'a> {
    pub(super) attest: PathBuf,
    pub(super) guest: &'a Guest,
    pub(super) backend: SocketAddr,
    pub(super) folder: &'a Path,
    pub(super) step: Cell<u32>,
}

impl Stage<'_> {
    fn next(&self, title: &str) {
        let step = self.step.get() + 1;
        self.step.set(step);
        say(&format!("{step}. {title}"));
    }

    fn text(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Shows a command, runs it, shows the first of what it says, and wants this exit status.
    fn attest(&self, arguments: &[&str], expected: i32) -> Result<(), Error> {
        let folder = format!("{}/", self.folder.display());
        let line = arguments.join(" ").replace(&folder, "");
        println!("$ attest {line}");
        let output = Command::new(&self.attest).args(arguments).output();
        let output = output.map_err(while_doing(self.attest.display()))?;
        let text = [&output.stdout[..], &output.stderr].concat();
        let text = String::from_utf8_lossy(&text).replace(&folder, "");
        let shown: Vec<&str> = text.lines().take(SHOWN).collect();
        print!("{}", indented(&shown.join("\n")));
        if output.status.code() == Some(expected) {
            return Ok(());
        }
        Err(Error::Failed(format!("attest ended with {}, not {expected}", output.status)))
    }

    /// Composes an image with this key, its disk, and reference values; gives the image for UEFI.
    fn image(&self, name: &str, key: &str) -> Result<PathBuf, Error> {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).map_err(while_doing(folder.display()))?;
        let changes = [(KEY, key), ALLOW];
        let proxy = Proxy { config: "demo", backend: self.backend, changes: &changes };
        let elf = proxy.image(self.guest, &folder)?;
        samples::disk(&elf, None, None)?;
        Ok(elf.with_extension("efi"))
    }

    fn policy(&self, image: &Path, policy: &str) -> Result<(), Error> {
        let (disk, image) = (image.with_extension("img"), image.display().to_string());
        let disk = disk.display().to_string();
        self.attest(&["policy", "new", &image, "--disk", &disk, "-o", policy], 0)
    }

    fn boot(&self, disk: &Path, tpm: &State) -> Result<Machine, Error> {
        let builder = Machine::builder(disk)
            .firmware(Firmware::Uefi)
            .memory_mib(MEMORY_MIB)
            .net(Net::User { ports: vec![PORT] })
            .deadline(super::KEPT)
            .tpm_with(Interface::Crb, tpm.folder());
        Ok(builder.start()?)
    }

    /// Boots until a line begins with `until`, and shows what was said of attestation.
    fn show(&self, disk: &Path, tpm: &State, until: &str) -> Result<(Machine, String), Error> {
        let machine = self.boot(disk, tpm)?;
        let waited = machine.wait_for(until, BOOT_TIMEOUT);
        let text = machine.console().text();
        let is_ours = |line: &&str| {
            ["boot:", "tls key", "edge-proxy:", "READY"].iter().any(|it| line.starts_with(it))
        };
        let lines: Vec<&str> = text.lines().filter(is_ours).collect();
        print!("{}", indented(&lines.join("\n")));
        waited?;
        let address = machine.address(PORT).map(|address| address.to_string());
        Ok((machine, address.unwrap_or_default()))
    }
}

/// Enrols a machine, seals its key, verifies it, and changes a byte.
pub(super) fn run(stage: &Stage<'_>) -> Result<(), Error> {
    stage.next("A TPM, and a key that only this TPM gives to this image");
    let tpm = State::new()?;
    let sealed = stage.image("sealed", SEALED)?;
    let identity = samples::authority();
    let secrets = identity.parent().unwrap_or(&identity);
    let place = |path: PathBuf| path.display().to_string();
    let (key, chain) =
        (place(secrets.join("sealed.test.key.pem")), place(secrets.join("sealed.test.pem")));
    let ek = place(tpm.folder().join("ek-secp384r1.crt"));
    let (image, file) = (place(sealed.clone()), stage.text("key.sealed"));
    let disk = place(sealed.with_extension("img"));
    let mut arguments = vec!["seal-key", "--key", &key, "--chain", &chain, "--ek", &ek];
    arguments.extend(["--image", &image, "--disk", &disk, "-o", &file]);
    stage.attest(&arguments, 0)?;
    let file = fs::read(&file).map_err(while_doing("the sealed key"))?;

    stage.next("Firmware measures the image, boot measures its parts and opens the key");
    let disk = samples::disk(&sealed, Some(&file), None)?;
    let (evidence, challenge) = (stage.text("evidence"), stage.text("challenge"));
    let (state, roots) = (stage.text("state.json"), stage.text("roots"));
    fs::create_dir(&roots).map_err(while_doing("roots"))?;
    for (index, from) in tpm.authorities().iter().enumerate() {
        let to = Path::new(&roots).join(format!("{index}.pem"));
        fs::copy(from, to).map_err(while_doing(from.display()))?;
    }
    {
        let (machine, address) = stage.show(&disk, &tpm, "READY")?;
        Client::new(&machine)?.download(super::SIZES[0], stage.folder)?;
        stage.next("The machine is enrolled: a challenge that only its TPM can answer");
        stage.attest(&["enroll", "ask", &address, "-o", &evidence], 0)?;
        let mut begin = vec!["enroll", "begin", "--evidence", &evidence, "--roots", &roots];
        begin.extend(["-o", &challenge, "--state", &state]);
        stage.attest(&begin, 0)?;
    }
    let asked = fs::read(&challenge).map_err(while_doing("the challenge"))?;
    let disk = samples::disk(&sealed, Some(&file), Some(&asked))?;
    let (identity, policy) = (stage.text("machine.json"), stage.text("policy.json"));
    {
        let (_machine, address) = stage.show(&disk, &tpm, "READY")?;
        stage.attest(&["enroll", "ask", &address, "-o", &evidence], 0)?;
        let mut finish = vec!["enroll", "finish", "--state", &state];
        finish.extend(["--evidence", &evidence, "-o", &identity]);
        stage.attest(&finish, 0)?;
        stage.next("The machine is verified, over the very connection that it serves");
        stage.policy(&sealed, &policy)?;
        let verify = ["verify", &address, "--policy", &policy, "--identity", &identity];
        stage.attest(&verify, 0)?;
    }
    stage.next("One byte of the service is changed: the TPM keeps the key");
    let changed = change(&sealed)?;
    let disk = samples::disk(&changed, Some(&file), None)?;
    drop(stage.show(&disk, &tpm, "edge-proxy: refused")?);

    stage.next("The same byte, in an image that makes its own key: the verdict names what differs");
    let own = stage.image("own", EPHEMERAL)?;
    let policy = stage.text("own.json");
    stage.policy(&own, &policy)?;
    let disk = samples::disk(&change(&own)?, None, None)?;
    let (_machine, address) = stage.show(&disk, &tpm, "READY")?;
    let verify = ["verify", &address, "--policy", &policy, "--identity", &identity];
    stage.attest(&verify, 5)
}

/// A copy of an image with one changed byte in its service.
fn change(image: &Path) -> Result<PathBuf, Error> {
    let mut bytes = fs::read(image).map_err(while_doing(image.display()))?;
    let at = bytes.windows(VICTIM.len()).position(|it| it == VICTIM);
    let byte = at.and_then(|at| bytes.get_mut(at));
    let byte = byte.ok_or_else(|| Error::Failed("the service says something else".to_owned()))?;
    *byte ^= 0x20;
    let changed = image.with_file_name("changed.efi");
    fs::write(&changed, bytes).map_err(while_doing(changed.display()))?;
    Ok(changed)
}
