//! A software TPM of one test's own, with endorsement certificates from a CA of its own, and
//! tpm2-tools to give it orders.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a TPM may take to start.
const START: Duration = Duration::from_secs(30);

/// How many pairs of ports are tried.
const PORTS: u16 = 64;

/// A running TPM; it ends with this value.
pub(crate) struct Swtpm {
    pub(crate) folder: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        stop(&mut self.process);
    }
}

impl Swtpm {
    /// Makes a TPM and starts it.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        machine::tpm::make(folder.path(), "sha256", true).unwrap();
        for attempt in 0..PORTS {
            let pid = u16::try_from(std::process::id() % 3000).unwrap();
            let port = 20_000 + (pid * 4 + attempt * 130) % 12_000;
            if let Some(process) = start(folder.path(), port) {
                return Self { folder, process, port };
            }
        }
        panic!("no pair of ports is free");
    }

    /// A file of its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a tool in its folder.
    pub(crate) fn output(&self, tool: &str, arguments: &[&str]) -> Output {
        let tcti = format!("swtpm:host=127.0.0.1,port={}", self.port);
        let mut command = Command::new("timeout");
        command.args(["30", tool]).args(arguments).current_dir(self.folder.path());
        command.env("TPM2TOOLS_TCTI", tcti).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a tool that has to succeed, and frees what it left in the TPM's memory.
    #[track_caller]
    pub(crate) fn run(&self, tool: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.output(tool, arguments);
        assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
        assert!(self.output("tpm2_flushcontext", &["-t"]).status.success());
        output.stdout
    }
}

/// Starts it on two ports, or says that they are not free.
fn start(folder: &Path, port: u16) -> Option<Child> {
    for port in [port, port + 1] {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    }
    let address = |port| format!("type=tcp,port={port},bindaddr=127.0.0.1");
    let mut process = Command::new("timeout")
        .args(["--foreground", "120", "swtpm", "socket", "--tpm2", "--flags"])
        .args(["not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", folder.join("tpm").display()))
        .args(["--server", &address(port), "--ctrl", &address(port + 1)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + START;
    while Instant::now() < deadline {
        if process.try_wait().unwrap().is_some() {
            return None;
        }
        // The control port: the other one takes one client, and that is the first tool.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return Some(process);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    stop(&mut process);
    None
}

/// Ends it. It is `timeout` that we started: it hands the signal on, which it could not do with
/// the one that Rust would send.
fn stop(process: &mut Child) {
    // It may have ended by itself.
    let _sent = Command::new("kill").arg(process.id().to_string()).output();
    let _status = process.wait();
}
