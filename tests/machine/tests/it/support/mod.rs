//! Machines, clients and programs for the tests.

pub(crate) mod client;
pub(crate) mod programs;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, process, thread};

use machine::qemu::Builder;
use machine::{Backend, Firmware, Machine, Net, Nginx};
use tempfile::TempDir;
use xtask::build::{self, Guest};
use xtask::samples::{self, PORT, Proxy};

/// Whatever a machine is asked for comes in this time, or never. QEMU shares two cores with us.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A body that fits into one packet.
pub(crate) const SMALL: usize = 1 << 10;

/// A body that fills every buffer on its way.
pub(crate) const LARGE: usize = 16 << 20;

/// The guest's programs, built once.
pub(crate) static GUEST: LazyLock<Guest> = LazyLock::new(|| build::guest().unwrap());

/// Memory of a machine with UEFI firmware, which takes some 50 MiB in several places.
pub(crate) const UEFI_MEMORY_MIB: u64 = 256;

/// A machine in front of a real nginx, which all tests share.
pub(crate) static NGINX: LazyLock<(Site, Nginx)> = LazyLock::new(|| {
    let nginx = Nginx::start(&[SMALL, LARGE]).unwrap();
    (Site::start(nginx.address()), nginx)
});

/// A machine in front of a backend that also does what none should, which all tests share.
pub(crate) static BACKEND: LazyLock<(Site, Backend)> = LazyLock::new(|| {
    let backend = Backend::start().unwrap();
    (Site::start(backend.address()), backend)
});

/// Whether the long sizes were asked for.
pub(crate) fn is_long() -> bool {
    env::var_os(xtask::test::LONG).is_some()
}

/// A machine that only rude clients talk to, so that its log is about them.
pub(crate) static RUDE: LazyLock<(Site, Backend)> = LazyLock::new(|| {
    let backend = Backend::start().unwrap();
    (Site::start(backend.address()), backend)
});

/// Two tests at a time share a machine, and every line of its log may be waited for.
const ROOMY: [(&str, &str); 2] = [
    ("backend_connections = 64", "backend_connections = 128"),
    ("level = \"debug\"", "level = \"debug\"\nlines_per_second = 10000"),
];

/// A machine with a proxy.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    authority: String,
}

/// A test that fails shows what its machine said, since the machine is gone afterwards.
impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the machine's end: {:?}", self.machine.process().ended());
            eprintln!("its console:\n{}", self.machine.console().text());
        }
    }
}

impl Site {
    /// Boots a proxy in front of `backend` and waits until it is READY.
    pub(crate) fn start(backend: SocketAddr) -> Self {
        Self::start_as("demo", backend, |builder| builder)
    }

    /// The same, of another file in `tests/configs`, on a machine that `shape` changes.
    pub(crate) fn start_as(
        config: &str,
        backend: SocketAddr,
        shape: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let site = Self::boot(config, backend, shape);
        site.machine.wait_for("READY", PATIENCE).unwrap();
        site
    }

    /// The same, without waiting for anything but QEMU.
    pub(crate) fn boot(
        config: &str,
        backend: SocketAddr,
        shape: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        Self::boot_from(config, backend, |image| image, shape)
    }

    /// The same from a disk, by UEFI firmware.
    pub(crate) fn boot_uefi(
        config: &str,
        backend: SocketAddr,
        shape: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let disk = |image: PathBuf| samples::disk(&image, None, None).unwrap();
        Self::boot_from(config, backend, disk, |builder| {
            shape(builder.firmware(Firmware::Uefi).memory_mib(UEFI_MEMORY_MIB))
        })
    }

    /// The same from what `file` makes of the image's file.
    pub(crate) fn boot_from(
        config: &str,
        backend: SocketAddr,
        file: impl FnOnce(PathBuf) -> PathBuf,
        shape: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let changes = if config == "demo" { &ROOMY[..] } else { &[] };
        Self::boot_changed(config, changes, backend, file, shape)
    }

    /// The same, with other changes to the configuration.
    pub(crate) fn boot_changed(
        config: &str,
        changes: &[(&str, &str)],
        backend: SocketAddr,
        file: impl FnOnce(PathBuf) -> PathBuf,
        shape: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let folder = TempDir::with_prefix("bulla-test-").unwrap();
        let proxy = Proxy { config, backend, changes };
        let image = file(proxy.image(&GUEST, folder.path()).unwrap());
        let builder = Machine::builder(image)
            .net(Net::User { ports: vec![PORT] })
            .deadline(Duration::from_secs(3600));
        let machine = shape(builder).start().unwrap();
        // It reads the image before the first instruction, and has when its monitor answers or
        // when it is gone; then the folder may go.
        let _ = machine.monitor("info status");
        Self::on(machine)
    }

    /// A machine that somebody else has started.
    pub(crate) fn on(machine: Machine) -> Self {
        let authority = samples::authority().to_str().unwrap().to_owned();
        Self { machine, authority }
    }

    /// Where the proxy can be reached.
    pub(crate) fn address(&self) -> SocketAddr {
        self.machine.address(PORT).unwrap()
    }

    /// The authority's file, as an argument.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// A file of this site's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.machine.folder().join(name)
    }

    /// Fails unless the proxy still serves everybody else.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        let mut stream = client::connect(self);
        assert_eq!(
            client::get(&mut stream, &format!("/bytes/{SMALL}")),
            machine::body::bytes(SMALL)
        );
    }
}

/// Boots a probe that will do `act`, on a machine that `shape` changes.
pub(crate) fn probe(act: &str, shape: impl FnOnce(Builder) -> Builder) -> Machine {
    let folder = TempDir::with_prefix("bulla-probe-").unwrap();
    let image = samples::probe(&GUEST, act, folder.path()).unwrap();
    let builder = Machine::builder(image).net(Net::User { ports: Vec::new() });
    let machine = shape(builder).start().unwrap();
    // As in `Site::boot`: it has read the image by now.
    let _ = machine.monitor("info status");
    machine
}

/// Lets us and our children have more than the usual 1,024 sockets, up to the hard limit.
pub(crate) fn raise_file_limit() {
    let ours = process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &ours, "--nofile=8192:"]).status();
    assert!(status.unwrap().success(), "no more than 1,024 open files are allowed here");
}

/// Reads a whole file.
#[track_caller]
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Looks again and again, but not for ever.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
