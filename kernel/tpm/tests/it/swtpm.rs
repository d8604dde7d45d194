//! A software TPM of one test's own: made with certificates, in a folder of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use tempfile::TempDir;
use tpm::{Algorithm, Transport, TransportError};

/// Nothing takes longer; a test that hangs ends here.
const SECONDS: &str = "120";

pub(crate) struct Swtpm {
    folder: TempDir,
}

/// Runs a tool, with a deadline, and fails with what it says.
#[track_caller]
pub(crate) fn tool(folder: &Path, line: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("-k5").arg(SECONDS).args(line).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{line:?}: {text}");
    text
}

impl Swtpm {
    pub(crate) fn make() -> Self {
        Self::with("sha256", true)
    }

    /// One whose keys nobody vouches for.
    pub(crate) fn without_certificates() -> Self {
        Self::with("sha256", false)
    }

    /// One with these banks.
    pub(crate) fn with_banks(banks: &[Algorithm]) -> Self {
        let names = banks.iter().map(|bank| format!("{bank:?}").to_lowercase());
        Self::with(&names.collect::<Vec<_>>().join(","), false)
    }

    fn with(banks: &str, has_certificates: bool) -> Self {
        let folder = TempDir::with_prefix("bulla-tpm-").unwrap();
        machine::tpm::make(folder.path(), banks, has_certificates).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Switches it on, as firmware has started it or not.
    pub(crate) fn start(&self, is_started: bool) -> Running {
        let [socket, control] = ["data", "control"].map(|name| self.path(name));
        for path in [&socket, &control] {
            let _ = fs::remove_file(path);
        }
        let flags = if is_started { "not-need-init,startup-clear" } else { "not-need-init" };
        let mut command = Command::new("timeout");
        command.args(["-k5", SECONDS, "swtpm", "socket", "--tpm2", "--terminate"]);
        command.args(["--flags", flags]);
        command.arg("--tpmstate").arg(format!("dir={}", self.path("tpm").display()));
        command.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", control.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Running { stream: Some(stream), child }
    }
}

/// One power-on. Dropping it cuts the power.
pub(crate) struct Running {
    stream: Option<UnixStream>,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends when its connection does; `timeout` sees to it that it really does.
        drop(self.stream.take());
        let _ = self.child.wait();
    }
}

impl Transport for Running {
    fn transact<'a>(
        &mut self,
        command: &[u8],
        answer: &'a mut [u8],
    ) -> Result<&'a [u8], TransportError> {
        let stream = self.stream.as_mut().unwrap();
        stream.write_all(command).unwrap();
        stream.read_exact(&mut answer[..10]).unwrap();
        let bytes = u32::from_be_bytes(answer[2..6].try_into().unwrap()) as usize;
        stream.read_exact(&mut answer[10..bytes]).unwrap();
        Ok(&answer[..bytes])
    }
}
