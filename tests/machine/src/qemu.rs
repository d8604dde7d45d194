//! One machine: QEMU with one image, its console, its monitor and its forwarded ports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Error;
use crate::console::Console;
use crate::counter::{Counter, Counts};
use crate::process::{self, Process};
use crate::tpm::{self, Tpm};

/// Where Debian puts OVMF, UEFI firmware for QEMU.
const OVMF: &str = "/usr/share/OVMF";

/// The hardware address of every machine's card.
pub const MAC: &str = "52:54:00:77:00:02";

/// The guest's address in QEMU's user network.
pub const USER_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// The gateway of QEMU's user network. What the guest sends there reaches our loopback.
pub const USER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// How long a machine may live if nobody says otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);

/// How long the monitor has for an answer; saving gigabytes of memory takes a while.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest answer of the monitor.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// What the monitor says when it listens.
const PROMPT: &[u8] = b"(qemu) ";

/// The mainboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chipset {
    /// An i440FX of 1996, with PCI.
    Pc,
    /// A Q35 of 2007, with PCI Express.
    Q35,
    /// QEMU's own, without PCI: virtio devices have registers in memory and a line each. Whatever
    /// firmware is chosen, but for UEFI, it is qboot.
    Microvm,
}

/// What runs before the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// Minimal, in 64 KiB; it assigns no addresses to devices.
    Qboot,
    /// QEMU's usual one.
    SeaBios,
    /// UEFI: boots a disk (`NAME.img`) as firmware does, or starts a file (`NAME.efi`) that QEMU
    /// hands it. Starting takes some seconds.
    Uefi,
    /// The same with Secure Boot: only what Debian's example key ("snakeoil") has signed.
    UefiSecureBoot,
}

impl Firmware {
    /// OVMF's code and its variables as they leave the factory. The build with 2 MiB measures
    /// three times less than the one with 4 MiB, which alone has variables with a key.
    fn ovmf(self) -> Option<[PathBuf; 2]> {
        let files = match self {
            Self::Qboot | Self::SeaBios => return None,
            Self::Uefi => ["OVMF_CODE.fd", "OVMF_VARS.fd"],
            Self::UefiSecureBoot => ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.snakeoil.fd"],
        };
        Some(files.map(|file| Path::new(OVMF).join(file)))
    }
}

/// What the machine's card is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// There is no card.
    None,
    /// A tap device of this name, which must exist.
    Tap(String),
    /// QEMU's own network, which needs no rights; these guest ports are reachable from us.
    User {
        /// The guest's TCP ports.
        ports: Vec<u16>,
    },
}

/// A machine that has not been started yet.
#[derive(Clone, Debug)]
pub struct Builder {
    image: PathBuf,
    chipset: Chipset,
    memory_mib: u64,
    firmware: Firmware,
    net: Net,
    cpu: String,
    deadline: Duration,
    counts: bool,
    tpm: Option<(tpm::Interface, Option<PathBuf>)>,
    extra: Vec<String>,
}

impl Builder {
    /// Chooses the mainboard.
    pub fn chipset(mut self, chipset: Chipset) -> Self {
        self.chipset = chipset;
        self
    }

    /// Sets the memory.
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Chooses what runs before the image.
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// Plugs the card into something.
    pub fn net(mut self, net: Net) -> Self {
        self.net = net;
        self
    }

    /// Sets QEMU's CPU model, such as `max,-smap`.
    pub fn cpu(mut self, cpu: &str) -> Self {
        self.cpu = cpu.to_owned();
        self
    }

    /// Sets after which time the machine is killed.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Counts the instructions that the guest executes; see [`Machine::counts`].
    pub fn counting(mut self) -> Self {
        self.counts = true;
        self
    }

    /// Gives it a TPM as its maker left it, which lives as long as the machine.
    pub fn tpm(mut self, interface: tpm::Interface) -> Self {
        self.tpm = Some((interface, None));
        self
    }

    /// Gives it a TPM with the state in a folder ([`tpm::State::folder`]), which stays afterwards.
    pub fn tpm_with(mut self, interface: tpm::Interface, state: impl Into<PathBuf>) -> Self {
        self.tpm = Some((interface, Some(state.into())));
        self
    }

    /// Hands more arguments to QEMU.
    pub fn extra_args<I: IntoIterator<Item: Into<String>>>(mut self, extra: I) -> Self {
        self.extra.extend(extra.into_iter().map(Into::into));
        self
    }

    /// The QEMU command line, its serial port on standard output; and the forwarded ports.
    ///
    /// # Errors
    ///
    /// [`Error`] if no port is free.
    pub fn command(&self) -> Result<(Command, Vec<(u16, SocketAddr)>), Error> {
        let mut command = process::tied("qemu-system-x86_64");
        let machine = match self.chipset {
            Chipset::Pc => "pc",
            Chipset::Q35 => "q35",
            // With a clock to measure by and one that tells the date, as the others have.
            Chipset::Microvm => "microvm,acpi=on,pit=on,rtc=on",
        };
        command
            .args(["-machine", machine, "-accel", "tcg", "-cpu", &self.cpu, "-smp", "1"])
            .args(["-m", &self.memory_mib.to_string(), "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
            .stdin(Stdio::null());
        if self.chipset == Chipset::Microvm {
            // What virtio 1.0 replaced in 2016 is QEMU's default here.
            command.args(["-global", "virtio-mmio.force-legacy=off"]);
        }
        if self.firmware == Firmware::Qboot {
            command.args(["-bios", "qboot.rom"]);
        }
        self.load(&mut command)?;
        let forwards = self.plug(&mut command)?;
        command.args(&self.extra);
        Ok((command, forwards))
    }

    /// Puts the image where the firmware finds it.
    fn load(&self, command: &mut Command) -> Result<(), Error> {
        let ovmf = self.firmware.ovmf();
        for (unit, file) in ovmf.iter().flatten().enumerate() {
            if !file.exists() {
                return Err(Error::Firmware(file.clone()));
            }
            // What the firmware writes into its variables is gone with the machine.
            let mode = if unit == 0 { "readonly=on" } else { "snapshot=on" };
            let file = file.display();
            let drive = format!("if=pflash,format=raw,unit={unit},{mode},file={file}");
            command.args(["-drive", &drive]);
        }
        if ovmf.is_some() && self.image.extension().is_some_and(|extension| extension == "img") {
            let image = self.image.display();
            let drive = format!("if=none,id=d0,format=raw,readonly=on,file={image}");
            let device = "virtio-blk-pci,drive=d0,bootindex=0,romfile=";
            command.args(["-drive", &drive, "-device", device]);
        } else {
            command.arg("-kernel").arg(&self.image);
        }
        Ok(())
    }

    fn plug(&self, command: &mut Command) -> Result<Vec<(u16, SocketAddr)>, Error> {
        let mut forwards = Vec::new();
        let netdev = match &self.net {
            Net::None => return Ok(forwards),
            Net::Tap(name) => format!("tap,id=n0,ifname={name},script=no,downscript=no"),
            Net::User { ports } => {
                let mut netdev = String::from("user,id=n0");
                for &port in ports {
                    let host = free_port()?;
                    netdev += &format!(",hostfwd=tcp:{host}-{USER_GUEST}:{port}");
                    forwards.push((port, host));
                }
                netdev
            }
        };
        let device = match self.chipset {
            Chipset::Microvm => format!("virtio-net-device,netdev=n0,mac={MAC}"),
            Chipset::Pc | Chipset::Q35 => format!("virtio-net-pci,netdev=n0,mac={MAC},romfile="),
        };
        command.args(["-netdev", &netdev, "-device", &device]);
        Ok(forwards)
    }

    /// Starts the machine.
    ///
    /// # Errors
    ///
    /// [`Error`] if a file, a port or a process cannot be had.
    pub fn start(self) -> Result<Machine, Error> {
        let folder =
            TempDir::with_prefix("bulla-machine-").map_err(Error::file(Path::new("/tmp")))?;
        let monitor = folder.path().join("monitor");
        let (mut command, forwards) = self.command()?;
        command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        let counter = if self.counts {
            let counter = Counter::new(folder.path(), &self.image)?;
            command.arg("-plugin").arg(counter.argument());
            Some(counter)
        } else {
            None
        };
        let tpm = self.add_tpm(&mut command, folder.path())?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = Process::start(command, self.deadline)?;
        let (output, complaints) = {
            let mut child = process.child();
            (child.stdout.take(), child.stderr.take())
        };
        let read = |pipe: Option<_>| pipe.map(Console::read).unwrap_or_default();
        let console = read(output.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        let complaints = read(complaints.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        Ok(Machine { process, console, complaints, forwards, counter, monitor, tpm, folder })
    }

    fn add_tpm(
        &self,
        command: &mut Command,
        folder: &Path,
    ) -> Result<Option<(Tpm, Option<tpm::State>)>, Error> {
        let Some((interface, state)) = &self.tpm else { return Ok(None) };
        let own = if state.is_none() { Some(tpm::State::new()?) } else { None };
        let state = state.clone().or_else(|| own.as_ref().map(tpm::State::folder));
        let socket = folder.join("tpm");
        let tpm = Tpm::start(&state.unwrap_or_default(), &socket, self.deadline)?;
        let chardev = format!("socket,id=tpm,path={}", socket.display());
        let device = format!("{},tpmdev=tpm0", interface.device());
        command.args(["-chardev", &chardev, "-tpmdev", "emulator,id=tpm0,chardev=tpm"]);
        command.args(["-device", &device]);
        Ok(Some((tpm, own)))
    }
}

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub struct Machine {
    // Dropped first, so that nobody uses the folder when it goes.
    process: Process,
    console: Console,
    complaints: Console,
    forwards: Vec<(u16, SocketAddr)>,
    counter: Option<Counter>,
    monitor: PathBuf,
    tpm: Option<(Tpm, Option<tpm::State>)>,
    folder: TempDir,
}

impl Machine {
    /// A machine with this image and 64 MiB on a Q35 board with SeaBIOS and no card.
    pub fn builder(image: impl Into<PathBuf>) -> Builder {
        Builder {
            image: image.into(),
            chipset: Chipset::Q35,
            memory_mib: 64,
            firmware: Firmware::SeaBios,
            net: Net::None,
            cpu: "max".to_owned(),
            deadline: DEFAULT_DEADLINE,
            counts: false,
            tpm: None,
            extra: Vec::new(),
        }
    }

    /// What the machine says.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// What QEMU itself complains about.
    pub fn complaints(&self) -> String {
        self.complaints.text()
    }

    /// Where a guest port that [`Net::User`] names can be reached.
    pub fn address(&self, guest_port: u16) -> Option<SocketAddr> {
        self.forwards.iter().find(|(port, _)| *port == guest_port).map(|(_, host)| *host)
    }

    /// A folder that lives as long as the machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Takes the TPM's power, as if somebody had pulled it out.
    pub fn unplug_tpm(&mut self) {
        self.tpm = None;
    }

    /// QEMU's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until the machine is off; a reset counts, because QEMU is told not to boot again.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it stays on.
    pub fn wait_for_off(&self, timeout: Duration) -> Result<ExitStatus, Error> {
        let status = self.process.wait(timeout)?;
        // The pipe may still hold the last lines.
        self.console.wait_for_end(timeout)?;
        Ok(status)
    }

    /// Instructions executed so far, if the machine was built to count them.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the counter's file cannot be read.
    pub fn counts(&self) -> Result<Option<Counts>, Error> {
        self.counter.as_ref().map(Counter::read).transpose()
    }

    /// Waits for a line on the console, as [`Console::wait_for`] does; if QEMU ends instead, the
    /// error holds its complaints too.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] or [`Error::TimedOut`] if it never comes.
    pub fn wait_for(&self, part: &str, timeout: Duration) -> Result<String, Error> {
        self.console.wait_for(part, timeout).map_err(|error| match error {
            Error::Ended { awaited, console } => {
                Error::Ended { awaited, console: console + &self.complaints() }
            }
            other => other,
        })
    }

    /// Asks QEMU's monitor something, in the words of its manual, and returns the answer.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the monitor does not answer in time.
    pub fn monitor(&self, question: &str) -> Result<String, Error> {
        let file = || Error::file(&self.monitor);
        let mut stream = self.connect_to_monitor()?;
        stream.set_read_timeout(Some(MONITOR_TIMEOUT)).map_err(file())?;
        read_to_prompt(&mut stream).map_err(file())?;
        writeln!(stream, "{question}").map_err(file())?;
        let answer = read_to_prompt(&mut stream).map_err(file())?;
        // The monitor repeats the question, one character at a time, on a line of its own.
        Ok(answer.split_once("\r\n").map_or(String::new(), |(_, rest)| rest.replace('\r', "")))
    }

    /// QEMU makes the monitor's socket while it starts, so it may not be there yet.
    fn connect_to_monitor(&self) -> Result<UnixStream, Error> {
        let end = Instant::now() + MONITOR_TIMEOUT;
        loop {
            match UnixStream::connect(&self.monitor) {
                Ok(stream) => return Ok(stream),
                Err(error) if self.process.ended().is_some() || Instant::now() > end => {
                    return Err(Error::file(&self.monitor)(error));
                }
                Err(_) => process::check_interrupt()?,
            }
            thread::sleep(process::POLL);
        }
    }

    /// Copies physical memory into a file in the machine's folder.
    ///
    /// # Errors
    ///
    /// [`Error::Monitor`] if QEMU refuses.
    pub fn save_memory(&self, start: u64, bytes: u64) -> Result<PathBuf, Error> {
        let path = self.folder.path().join(format!("memory-{start:x}"));
        let answer = self.monitor(&format!("pmemsave {start} {bytes} \"{}\"", path.display()))?;
        if answer.trim().is_empty() { Ok(path) } else { Err(Error::Monitor(answer)) }
    }
}

/// Nothing follows the prompt until somebody asks again.
fn read_to_prompt(stream: &mut impl Read) -> std::io::Result<String> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let mut stream = stream.take(MAX_ANSWER_BYTES);
    while !answer.ends_with(PROMPT) {
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    answer.truncate(answer.len() - PROMPT.len());
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A TCP port of our loopback that nobody listens on.
///
/// # Errors
///
/// [`Error::Start`] if there is none.
pub fn free_port() -> Result<SocketAddr, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Start { program: "a listener on loopback".to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(builder: Builder, expected: &str) {
        let (command, _) = builder.command().unwrap();
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let line = words.join(" ");
        assert!(line.contains(expected), "{line} has no {expected}");
    }

    #[test]
    fn the_command_line_says_what_was_asked_for() {
        let builder = || Machine::builder("/i.elf");
        check(builder(), "-machine q35 -accel tcg -cpu max -smp 1 -m 64 -nodefaults");
        check(builder(), "-no-reboot -serial stdio -kernel /i.elf");
        check(builder().chipset(Chipset::Pc).memory_mib(16), "-machine pc -accel tcg");
        check(builder().memory_mib(16), "-m 16 ");
        check(builder().firmware(Firmware::Qboot), "-bios qboot.rom");
        check(builder().firmware(Firmware::Uefi), "unit=0,readonly=on,file=/usr/share/OVMF/OVMF_");
        check(builder().firmware(Firmware::Uefi), "unit=1,snapshot=on,file=/usr/share/OVMF/OVMF_");
        check(builder().firmware(Firmware::Uefi), "-kernel /i.elf");
        let disk = Machine::builder("/i.img").firmware(Firmware::UefiSecureBoot);
        check(disk, "file=/i.img -device virtio-blk-pci,drive=d0,bootindex=0");
        check(builder().cpu("max,-smap"), "-cpu max,-smap");
        check(builder().net(Net::Tap("tap0".to_owned())), "tap,id=n0,ifname=tap0,script=no");
        check(builder().net(Net::User { ports: vec![443] }), "-10.0.2.15:443 -device virtio-net");
        check(builder().extra_args(["-S"]), "-S");
    }

    #[test]
    fn a_machine_answers_its_monitor_and_dies_with_its_handle() {
        // Any file does: the machine is told not to run a single instruction.
        let machine = Machine::builder("/dev/null").extra_args(["-S"]).start().unwrap();
        let id = machine.process().id();
        // QEMU 7.2 refuses an image that is none; then its complaint must reach us.
        match machine.monitor("info status") {
            Ok(answer) => assert!(answer.contains("paused"), "{answer}"),
            Err(_) => {
                machine.wait_for_off(Duration::from_secs(20)).unwrap();
                assert!(!machine.complaints().is_empty());
            }
        }
        drop(machine);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
