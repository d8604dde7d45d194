//! `cargo xtask demo`: a sealed machine in front of a real web server, from nothing to a verdict.

mod attestation;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use machine::process::{self, POLL};
use machine::site::NAME;
use machine::{Machine, Net, Nginx, body};
use tempfile::TempDir;

use crate::build::{self, Guest};
use crate::install;
use crate::samples::{self, PORT, Proxy};
use crate::steps::{self, Error, while_doing};

/// The demonstration's bodies, in bytes.
const SIZES: [usize; 2] = [1 << 10, 16 << 20];

/// What the demonstration lets the machine attempt, in words.
const ACTS: [(&str, &str); 4] = [
    ("write_text", "overwrite its own code"),
    ("execute_heap", "run code that it wrote"),
    ("write_page_table", "change a mapping"),
    ("mov_cr3", "load other page tables"),
];

/// A machine boots in less than a second here; a slow one may take its time.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a kept machine stays up if nobody ends it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Shows the whole thing once; with `keeps` it then stays up until Ctrl-C.
///
/// # Errors
///
/// [`Error`] with what did not work.
pub fn run(keeps: bool) -> Result<(), Error> {
    say("1. The programs that are needed");
    install::tools()?;
    say("2. Building boot, the proxy and a probe (a minute or two the first time)");
    let guest = build::guest()?;
    let folder = TempDir::with_prefix("bulla-demo-").map_err(while_doing("temporary folder"))?;
    say("3. A web server and an image in front of it");
    let nginx = Nginx::start(&SIZES)?;
    println!("nginx serves {} at {}", nginx.files().display(), nginx.address());
    let proxy = Proxy { config: "demo", backend: nginx.address(), changes: &[] };
    let image = proxy.image(&guest, folder.path())?;
    println!("{} is tests/configs/demo.toml in front of it", image.display());
    say("4. The machine boots and seals itself");
    let builder = Machine::builder(image).net(Net::User { ports: vec![PORT] }).deadline(KEPT);
    let machine = builder.start()?;
    let ready = machine.wait_for("READY", BOOT_TIMEOUT);
    print!("{}", indented(&machine.console().text()));
    ready?;
    say("5. Requests through the machine");
    let client = Client::new(&machine)?;
    for size in SIZES {
        client.download(size, folder.path())?;
    }
    client.upload(&nginx, folder.path())?;
    say("6. What the machine can no longer do, tried by a program inside it");
    for (act, words) in ACTS {
        attempt(&guest, act, words, folder.path())?;
    }
    let stage = attestation::Stage {
        attest: build::attest()?,
        guest: &guest,
        backend: nginx.address(),
        folder: folder.path(),
        step: Cell::new(6),
    };
    attestation::run(&stage)?;
    say("How to go on");
    if keeps {
        println!("The machine stays up until Ctrl-C:\n  {}", client.command_line(SIZES[0]));
        return keep(&machine);
    }
    println!(
        "cargo xtask demo --keep                     the same, and it stays up for your own curl\n\
         cargo xtask image edge-proxy --config F --out DIR   an image of your own\n\
         cargo xtask run edge-proxy --config F       boots it here, the console on the terminal\n\
         cargo run -p attest -- help                 the verifier's tool\n\
         cargo xtask test                            everything that is claimed, checked"
    );
    Ok(())
}

fn say(title: &str) {
    println!("\n{title}");
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  | {line}\n")).collect()
}

fn keep(machine: &Machine) -> Result<(), Error> {
    let mut said = machine.console().mark();
    while machine.process().ended().is_none() {
        if process::check_interrupt().is_err() {
            println!("\nended; nothing is left running");
            return Ok(());
        }
        let new = machine.console().mark();
        if new != said {
            print!("{}", indented(&machine.console().since(said)));
            said = new;
        }
        thread::sleep(10 * POLL);
    }
    Err(Error::Failed(format!("the machine ended:\n{}", machine.console().text())))
}

/// Lets a probe do what is forbidden and shows what became of it.
fn attempt(guest: &Guest, act: &str, words: &str, folder: &Path) -> Result<(), Error> {
    let image = samples::probe(guest, act, folder)?;
    let machine = Machine::builder(image).net(Net::User { ports: Vec::new() }).start()?;
    machine.wait_for_off(BOOT_TIMEOUT)?;
    let console = machine.console().text();
    match console.lines().find(|line| line.starts_with("CRASH")) {
        Some(record) => {
            println!("{words:24} {record}");
            Ok(())
        }
        None => Err(Error::Failed(format!("{act} was not stopped:\n{console}"))),
    }
}

/// A user with curl.
struct Client {
    port: u16,
    authority: PathBuf,
}

impl Client {
    fn new(machine: &Machine) -> Result<Self, Error> {
        let forwarded = machine.address(PORT);
        let address = forwarded.ok_or_else(|| Error::Failed(format!("no way to port {PORT}")))?;
        Ok(Self { port: address.port(), authority: samples::authority() })
    }

    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "300"])
            .args(["--resolve", &format!("{NAME}:{}:127.0.0.1", self.port)])
            .arg("--cacert")
            .arg(&self.authority);
        curl
    }

    fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}/{path}", self.port)
    }

    fn command_line(&self, size: usize) -> String {
        let authority = self.authority.display();
        let (port, url) = (self.port, self.url(&size.to_string()));
        format!("curl --resolve {NAME}:{port}:127.0.0.1 --cacert {authority} {url}")
    }

    fn download(&self, size: usize, folder: &Path) -> Result<(), Error> {
        let file = folder.join("download");
        let mut curl = self.curl();
        steps::run(curl.arg("--output").arg(&file).arg(self.url(&size.to_string())))?;
        let bytes = fs::read(&file).map_err(while_doing(file.display()))?;
        same(&format!("GET {size} bytes"), &bytes, size)
    }

    fn upload(&self, nginx: &Nginx, folder: &Path) -> Result<(), Error> {
        let size = SIZES[1];
        let file = folder.join("upload");
        fs::write(&file, body::bytes(size)).map_err(while_doing(file.display()))?;
        steps::run(self.curl().arg("--upload-file").arg(&file).arg(self.url("upload/demo")))?;
        let stored = nginx.files().join("upload/demo");
        let bytes = fs::read(&stored).map_err(while_doing(stored.display()))?;
        same(&format!("PUT {size} bytes"), &bytes, size)
    }
}

fn same(what: &str, seen: &[u8], size: usize) -> Result<(), Error> {
    let (seen, expected) = (body::sha256(seen), body::sha256(&body::bytes(size)));
    if seen == expected {
        println!("{what:20} sha256 {seen}, as it should be");
        return Ok(());
    }
    Err(Error::Failed(format!("{what}: sha256 {seen} instead of {expected}")))
}
