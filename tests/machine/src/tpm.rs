//! A TPM 2.0 for a machine: swtpm, with a state of its own.
//!
//! A TPM is made once for each process that runs tests, with keys and certificates of an authority
//! that is made with it; every machine gets a copy of it. So all of them have the same keys, and
//! what one does to its registers or its memory no other one sees.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Error;
use crate::process::{self, Process};

/// How long making a TPM may take: it makes prime numbers.
const SETUP_TIMEOUT: Duration = Duration::from_secs(120);

/// How long swtpm may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How a machine talks to its TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// A command response buffer.
    Crb,
    /// A FIFO.
    Tis,
}

impl Interface {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Crb, Self::Tis];

    /// QEMU's name of the device.
    pub(crate) const fn device(self) -> &'static str {
        match self {
            Self::Crb => "tpm-crb",
            Self::Tis => "tpm-tis",
        }
    }
}

/// A TPM that was made and never used, and the authority that vouches for it.
#[derive(Debug)]
struct Pristine {
    folder: TempDir,
}

/// Made by the first who asks.
static PRISTINE: Mutex<Option<Pristine>> = Mutex::new(None);

/// The state of a TPM: a folder that it has for itself. Whoever holds it can start a machine with it
/// again and again, as if it had been off in between.
#[derive(Debug)]
pub struct State {
    folder: TempDir,
}

impl State {
    /// A TPM as its maker left it.
    ///
    /// # Errors
    ///
    /// [`Error`] if swtpm's tools cannot make one.
    pub fn new() -> Result<Self, Error> {
        let folder = TempDir::with_prefix("bulla-tpm-").map_err(Error::file(Path::new("/tmp")))?;
        let mut pristine = PRISTINE.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match pristine.take() {
            Some(made) => made,
            None => Pristine::make("sha256")?,
        };
        for name in ["tpm", "ca"] {
            copy(&made.folder.path().join(name), &folder.path().join(name))?;
        }
        *pristine = Some(made);
        Ok(Self { folder })
    }

    /// A TPM of its own, with these PCR banks, such as `sha1,sha256`.
    ///
    /// # Errors
    ///
    /// [`Error`] if swtpm's tools cannot make one.
    pub fn with_banks(banks: &str) -> Result<Self, Error> {
        Pristine::make(banks).map(|made| Self { folder: made.folder })
    }

    /// Where swtpm keeps it (`tpm2-00.permall`), with the endorsement keys' certificates beside it
    /// (`ek-rsa2048.crt`, `ek-secp384r1.crt`, both DER).
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }

    /// The certificates, PEM, that vouch for the endorsement keys' certificates: the root's, and the
    /// one between.
    pub fn authorities(&self) -> [PathBuf; 2] {
        ["swtpm-localca-rootca-cert.pem", "issuercert.pem"]
            .map(|name| self.folder.path().join("ca").join(name))
    }

    /// What the TPM says of itself that lasts over power-off: `TPMA_PERMANENT` (TPM 2.0 Library
    /// Part 2, 8.6). No machine may have it at the time.
    ///
    /// # Errors
    ///
    /// [`Error`] if swtpm does not start or does not answer.
    pub fn permanent_attributes(&self) -> Result<u32, Error> {
        // TPM2_GetCapability: TPM_CAP_TPM_PROPERTIES, TPM_PT_PERMANENT, one of them.
        const ASK: [u8; 22] =
            [0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 6, 0, 0, 2, 0, 0, 0, 0, 1];
        // Header, that there is more, and the capability, a count and the property again.
        const HEAD: [u8; 23] =
            [0x80, 1, 0, 0, 0, 27, 0, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 2, 0];
        let socket = self.folder.path().join("orders");
        let mut command = process::tied("swtpm");
        command.args(["socket", "--tpm2", "--terminate", "--flags"]);
        command.args(["not-need-init,startup-clear", "--server"]);
        command.arg(format!("type=unixio,path={}", socket.display()));
        let _tpm = Tpm::run(command, &self.folder(), &socket, START_TIMEOUT)?;
        let mut answer = [0; 27];
        let mut talk = || {
            let mut stream = UnixStream::connect(&socket)?;
            stream.set_read_timeout(Some(START_TIMEOUT))?;
            stream.write_all(&ASK)?;
            stream.read_exact(&mut answer)
        };
        talk().map_err(Error::file(&socket))?;
        let _ = fs::remove_file(&socket);
        match answer.split_last_chunk() {
            Some((head, value)) if *head == HEAD => Ok(u32::from_be_bytes(*value)),
            _ => {
                let source = std::io::Error::other(format!("it answers {answer:02x?}"));
                Err(Error::Start { program: "swtpm".to_owned(), source })
            }
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir(to).map_err(Error::file(to))?;
    for entry in fs::read_dir(from).map_err(Error::file(from))? {
        let entry = entry.map_err(Error::file(from))?;
        let file = to.join(entry.file_name());
        fs::copy(entry.path(), &file).map_err(Error::file(&file))?;
    }
    Ok(())
}

impl Pristine {
    fn make(banks: &str) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("bulla-tpm-").map_err(Error::file(Path::new("/tmp")))?;
        make(folder.path(), banks, true)?;
        Ok(Self { folder })
    }
}

/// Makes a TPM with these PCR banks in a folder: `tpm` is its state, and holds the endorsement
/// keys' certificates if it shall have any; `ca` is the authority that signed them.
///
/// # Errors
///
/// [`Error`] if swtpm's tools cannot make one.
pub fn make(folder: &Path, banks: &str, has_certificates: bool) -> Result<(), Error> {
    let (ca, tpm) = (folder.join("ca"), folder.join("tpm"));
    for each in [&ca, &tpm] {
        fs::create_dir(each).map_err(Error::file(each))?;
    }
    let place = |name: &str| ca.join(name).display().to_string();
    let (authority, options) = (place("localca.conf"), place("localca.options"));
    let setup = place("setup.conf");
    let texts = [
        (
            &authority,
            format!(
                "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
                ca.display(),
                place("signkey.pem"),
                place("issuercert.pem"),
                place("certserial")
            ),
        ),
        (
            &options,
            "--platform-manufacturer Bulla\n--platform-version 1\n--platform-model test\n"
                .to_owned(),
        ),
        (
            &setup,
            format!(
                "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {authority}\n\
                 create_certs_tool_options = {options}\nactive_pcr_banks = {banks}\n"
            ),
        ),
    ];
    for (path, text) in texts {
        fs::write(path, text).map_err(Error::file(Path::new(path)))?;
    }
    let log = ca.join("setup.log");
    let mut command = process::tied("swtpm_setup");
    command
        .args(["--tpm2", "--overwrite", "--vmid", "bulla", "--config", &setup])
        .arg("--tpm-state")
        .arg(format!("dir://{}", tpm.display()))
        .arg("--write-ek-cert-files")
        .arg(&tpm)
        .arg("--logfile")
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if has_certificates {
        command.args(["--create-ek-cert", "--create-platform-cert", "--lock-nvram"]);
    }
    let status = Process::start(command, SETUP_TIMEOUT)?.wait(SETUP_TIMEOUT)?;
    if !status.success() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let source = std::io::Error::other(format!("{status}\n{text}"));
        return Err(Error::Start { program: "swtpm_setup".to_owned(), source });
    }
    Ok(())
}

/// A running swtpm. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Tpm {
    _process: Process,
}

impl Tpm {
    /// Starts swtpm on a state and waits until it listens on `socket`. It ends by itself when QEMU
    /// does.
    pub(crate) fn start(state: &Path, socket: &Path, deadline: Duration) -> Result<Self, Error> {
        let mut command = process::tied("swtpm");
        command.args(["socket", "--tpm2", "--terminate", "--ctrl"]);
        command.arg(format!("type=unixio,path={}", socket.display()));
        Self::run(command, state, socket, deadline)
    }

    fn run(
        mut command: Command,
        state: &Path,
        socket: &Path,
        deadline: Duration,
    ) -> Result<Self, Error> {
        command
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::start(command, deadline)?;
        let end = Instant::now() + START_TIMEOUT;
        while !socket.exists() {
            process::check_interrupt()?;
            if let Some(status) = process.ended() {
                let source = std::io::Error::other(format!("{}: {status}", state.display()));
                return Err(Error::Start { program: "swtpm".to_owned(), source });
            }
            if Instant::now() > end {
                let what = "swtpm's socket".to_owned();
                return Err(Error::TimedOut { what, timeout: START_TIMEOUT });
            }
            thread::sleep(process::POLL);
        }
        Ok(Self { _process: process })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tpms_have_the_same_keys_and_a_state_each() {
        let (one, other) = (State::new().unwrap(), State::new().unwrap());
        assert_ne!(one.folder(), other.folder());
        for name in ["tpm2-00.permall", "ek-rsa2048.crt", "ek-secp384r1.crt"] {
            let read = |state: &State| fs::read(state.folder().join(name)).unwrap();
            assert_eq!(read(&one), read(&other), "{name}");
        }
        for path in one.authorities() {
            assert!(fs::read_to_string(path).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        }
    }

    #[test]
    fn swtpm_listens_and_dies_with_its_handle() {
        let state = State::new().unwrap();
        let socket = state.folder.path().join("socket");
        let tpm = Tpm::start(&state.folder(), &socket, START_TIMEOUT).unwrap();
        let id = tpm._process.id();
        assert!(Path::new(&format!("/proc/{id}")).exists());
        drop(tpm);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn a_tpm_that_cannot_listen_is_an_error() {
        let state = State::new().unwrap();
        let socket = state.folder.path().join("none/socket");
        let error = Tpm::start(&state.folder(), &socket, START_TIMEOUT).unwrap_err();
        assert!(error.to_string().contains("cannot start swtpm"), "{error}");
    }
}
