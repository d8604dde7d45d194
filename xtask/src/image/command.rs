//! `cargo xtask image`: an image file from an application and its configuration.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::compose::{Composed, Settings, compose};
use super::disk::{Contents, MAX_FILE_BYTES, disk};
use super::edge::{self, Edge};
use super::memory::{describe, memory};
use super::units;
use crate::build::Guest;
use crate::steps::{Error, while_doing};

/// Bytes of the service's stack. It serves in one thread, and its deepest path is a handshake.
pub const STACK_BYTES: u64 = 256 << 10;

/// The one application there is so far.
const EDGE_PROXY: &str = "edge-proxy";

/// Where the date in an image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildDate {
    /// Seconds since 1970-01-01 UTC.
    pub unix_s: u64,
    /// Whether `SOURCE_DATE_EPOCH` set it (reproducible-builds.org), or this machine's clock.
    pub is_given: bool,
}

impl BuildDate {
    /// The date for an image that is composed now.
    ///
    /// # Errors
    ///
    /// [`Error`] if `SOURCE_DATE_EPOCH` is set and not a number of seconds.
    pub fn now() -> Result<Self, Error> {
        Self::from_variable(std::env::var_os("SOURCE_DATE_EPOCH"))
    }

    fn from_variable(given: Option<OsString>) -> Result<Self, Error> {
        let Some(given) = given else {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            return Ok(Self { unix_s: since.as_secs(), is_given: false });
        };
        match given.to_str().and_then(|text| text.parse().ok()) {
            Some(unix_s) => Ok(Self { unix_s, is_given: true }),
            None => Err(Error::Failed(format!(
                "SOURCE_DATE_EPOCH is {given:?}; remedy: set it to seconds since 1970, or unset it"
            ))),
        }
    }
}

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    config: PathBuf,
    out: PathBuf,
    disk: Option<DiskOptions>,
}

/// What the disk holds besides the image.
#[derive(Debug, Default, PartialEq, Eq)]
struct DiskOptions {
    key_file: Option<PathBuf>,
    challenge: Option<PathBuf>,
}

/// Composes an image as the arguments say and prints what it needs.
///
/// `guest` builds the programs; it is called once the configuration has been found good.
///
/// # Errors
///
/// [`Error::Usage`] if the arguments are wrong, else what is wrong with configuration or programs.
pub fn command(
    arguments: impl IntoIterator<Item = OsString>,
    guest: impl FnOnce() -> Result<Guest, Error>,
) -> Result<(), Error> {
    let options = parse(arguments)?;
    let date = BuildDate::now()?;
    let edge = edge::read(&options.config, date.unix_s)
        .map_err(|error| Error::Failed(error.to_string()))?;
    for warning in &edge.warnings {
        eprintln!("xtask: warning: {}: {warning}", options.config.display());
    }
    let beside = options.disk.as_ref().map(read_beside).transpose()?;
    let guest = guest()?;
    let image = edge_image(&edge, &guest, date)?;
    write(&options.out, &image, &guest)?;
    let disk = match &beside {
        Some(beside) => Some(write_disk(&options.out, &image.efi, beside)?),
        None => None,
    };
    print!("{}", report(&edge, &image, disk.as_deref(), date));
    Ok(())
}

/// The files that go beside the image, read before anything is built.
struct Beside {
    key_file: Option<Vec<u8>>,
    challenge: Option<Vec<u8>>,
}

fn read_beside(options: &DiskOptions) -> Result<Beside, Error> {
    let read = |path: &Option<PathBuf>| path.as_deref().map(read_file_beside).transpose();
    Ok(Beside { key_file: read(&options.key_file)?, challenge: read(&options.challenge)? })
}

/// Reads a file that boot would take, and no more than that of any other.
fn read_file_beside(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let file = fs::File::open(path).map_err(while_doing(path.display()))?;
    let mut bytes = Vec::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(while_doing(path.display()))?;
    if bytes.is_empty() || bytes.len() > MAX_FILE_BYTES {
        let what = if bytes.is_empty() { "is empty" } else { "is too long" };
        return Err(Error::Failed(format!(
            "{}: {what}; boot reads 1 to {MAX_FILE_BYTES} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Writes the disk and returns its bytes.
fn write_disk(folder: &Path, efi: &[u8], beside: &Beside) -> Result<Vec<u8>, Error> {
    let path = folder.join(format!("{EDGE_PROXY}.img"));
    let contents = Contents {
        efi,
        key_file: beside.key_file.as_deref(),
        challenge: beside.challenge.as_deref(),
    };
    let disk = disk(&contents).map_err(while_doing(path.display()))?;
    replace(&path, &disk, true)?;
    Ok(disk)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, Error> {
    use lexopt::prelude::{Long, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut app, mut config, mut out) = (None, None, None);
    let (mut wants_disk, mut beside) = (false, DiskOptions::default());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Long("out") => out = Some(PathBuf::from(parser.value()?)),
            Long("disk") => wants_disk = true,
            Long("key-file") => beside.key_file = Some(PathBuf::from(parser.value()?)),
            Long("challenge") => beside.challenge = Some(PathBuf::from(parser.value()?)),
            Value(name) if app.is_none() => app = Some(name),
            other => return Err(other.unexpected().into()),
        }
    }
    let usage = |text: &str| Error::Usage(format!("image: {text}"));
    match app {
        Some(app) if app == EDGE_PROXY => {}
        Some(app) => return Err(usage(&format!("no application {app:?}; there is {EDGE_PROXY}"))),
        None => return Err(usage(&format!("which application? for instance {EDGE_PROXY}"))),
    }
    let config = config.ok_or_else(|| usage("--config FILE is missing"))?;
    let out = out.ok_or_else(|| usage("--out DIR is missing"))?;
    if !wants_disk && beside != DiskOptions::default() {
        return Err(usage("--key-file and --challenge go onto a disk; add --disk"));
    }
    Ok(Options { config, out, disk: wants_disk.then_some(beside) })
}

/// An edge proxy's image, of a configuration and the built programs.
///
/// # Errors
///
/// [`Error`] if a program cannot be read or is not one that boot would take.
pub fn edge_image(edge: &Edge, guest: &Guest, date: BuildDate) -> Result<Composed, Error> {
    let settings = Settings {
        heap_bytes: edge.budget.heap(),
        stack_bytes: STACK_BYTES,
        on_stop: edge.on_stop,
        needs_nic: true,
        build_unix_s: date.unix_s,
    };
    let payload = edge.config.encode().map_err(while_doing("configuration"))?;
    compose_files(&guest.boot, &guest.edge_proxy, &settings, &payload)
}

/// A probe's image: the same boot, another service, and a payload that says what it does.
///
/// # Errors
///
/// As for [`edge_image`].
pub fn probe_image(guest: &Guest, settings: &Settings, payload: &[u8]) -> Result<Composed, Error> {
    compose_files(&guest.boot, &guest.probe, settings, payload)
}

fn compose_files(
    boot: &Path,
    service: &Path,
    settings: &Settings,
    payload: &[u8],
) -> Result<Composed, Error> {
    let read = |path: &Path| fs::read(path).map_err(while_doing(path.display()));
    let (boot_elf, service_elf) = (read(boot)?, read(service)?);
    let what = format!("{} with {}", boot.display(), service.display());
    compose(&boot_elf, &service_elf, settings, payload).map_err(while_doing(what))
}

/// The digest of a file, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Writes the image for both doors, and beside it the programs with their symbols for `symbolize`.
fn write(folder: &Path, image: &Composed, guest: &Guest) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(while_doing(folder.display()))?;
    let place = |suffix: &str| folder.join(format!("{EDGE_PROXY}.{suffix}"));
    let copies = [("boot.debug", &guest.boot), ("service.debug", &guest.edge_proxy)];
    for (suffix, from) in copies {
        let bytes = fs::read(from).map_err(while_doing(from.display()))?;
        replace(&place(suffix), &bytes, false)?;
    }
    // The image holds the private key, so nobody but its owner may read it.
    replace(&place("efi"), &image.efi, true)?;
    replace(&place("elf"), &image.bytes, true)
}

/// Puts a file in the place of another, whole or not at all.
fn replace(path: &Path, bytes: &[u8], is_secret: bool) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    let failed = || while_doing(path.display());
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    if !is_secret {
        let rights = fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(rights).map_err(failed())?;
    }
    file.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

fn report(edge: &Edge, image: &Composed, disk: Option<&[u8]>, date: BuildDate) -> String {
    let budget = &edge.budget;
    let by = if date.is_given { "SOURCE_DATE_EPOCH" } else { "this machine's clock" };
    let file =
        |bytes: &[u8]| format!("{} MiB   sha256 {}", units::mib(bytes.len() as u64), digest(bytes));
    let rows = [
        ("edge-proxy.elf", file(&image.bytes)),
        ("edge-proxy.efi", file(&image.efi)),
        ("edge-proxy.img", disk.map_or_else(String::new, file)),
        ("memory", describe(&memory(image))),
        (
            "connections",
            format!(
                "{}, of which {} with a backend at once",
                budget.connections, budget.backend_connections
            ),
        ),
        (
            "heap",
            format!(
                "{} KiB for each connection, {} KiB more with a backend, {} KiB without any",
                budget.connection.div_ceil(1024),
                budget.backend_connection.div_ceil(1024),
                budget.base.div_ceil(1024)
            ),
        ),
        ("built", format!("{} by {by}", units::utc(date.unix_s))),
    ];
    let rows = rows.iter().filter(|(_, text)| !text.is_empty());
    rows.map(|(name, text)| format!("{name:<17}{text}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::build;
    use crate::image::sketch;

    #[track_caller]
    fn check_usage(line: &str, says: &str) {
        match parse(line.split_whitespace().map(OsString::from)) {
            Err(Error::Usage(seen)) => assert!(seen.contains(says), "{seen}"),
            other => panic!("expected a complaint about the arguments, not {other:?}"),
        }
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        let line = "edge-proxy --config a.toml --out=b";
        let options = parse(line.split(' ').map(OsString::from)).unwrap();
        assert_eq!(options, Options { config: "a.toml".into(), out: "b".into(), disk: None });
        let line = "edge-proxy --config a.toml --out b --disk --key-file k --challenge c";
        let options = parse(line.split(' ').map(OsString::from)).unwrap();
        let disk = DiskOptions { key_file: Some("k".into()), challenge: Some("c".into()) };
        assert_eq!(options.disk, Some(disk));
        check_usage("", "which application?");
        check_usage("iot --config a --out b", "no application \"iot\"; there is edge-proxy");
        check_usage("edge-proxy --out b", "--config FILE is missing");
        check_usage("edge-proxy --config a", "--out DIR is missing");
        check_usage("edge-proxy more --config a --out b", "more");
        check_usage("edge-proxy --config", "--config");
        check_usage("--verbose", "--verbose");
        check_usage("edge-proxy --config a --out b --key-file k", "add --disk");
        check_usage("edge-proxy --config a --out b --challenge c", "add --disk");
    }

    #[test]
    fn a_build_date_is_given_or_the_clocks() {
        let date = BuildDate::from_variable(Some("1795564800".into())).unwrap();
        assert_eq!(date, BuildDate { unix_s: 1_795_564_800, is_given: true });
        assert!(!BuildDate::from_variable(None).unwrap().is_given);
        for bad in ["", "-1", "yesterday", "1.5"] {
            let error = BuildDate::from_variable(Some(bad.into())).unwrap_err().to_string();
            assert!(error.contains("SOURCE_DATE_EPOCH") && error.contains("remedy"), "{error}");
        }
    }

    #[test]
    fn a_digest_is_the_standards() {
        // FIPS 180-4's example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc"), expected);
    }

    /// Programs in a folder, as a build would leave them.
    fn guest(folder: &Path) -> Guest {
        let write = |name: &str, bytes: Vec<u8>| {
            fs::write(folder.join(name), bytes).unwrap();
            folder.join(name)
        };
        let edge_proxy = write("edge-proxy", sketch::service().bytes());
        let probe = edge_proxy.clone();
        Guest { boot: write("boot", sketch::boot().bytes()), edge_proxy, probe }
    }

    #[test]
    fn writes_an_image_that_only_its_owner_reads_and_the_symbols_beside_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new/out");
        let config = build::root().join("tests/configs/small.toml");
        let arguments = ["edge-proxy".into(), "--config".into(), config.into(), "--out".into()];
        let arguments = arguments.into_iter().chain([out.clone().into()]);
        command(arguments, || Ok(guest(folder.path()))).unwrap();
        let rights =
            |name: &str| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(rights("edge-proxy.elf"), 0o600);
        assert_eq!(rights("edge-proxy.efi"), 0o600);
        assert_eq!(rights("edge-proxy.boot.debug"), 0o644);
        let debug = fs::read(out.join("edge-proxy.service.debug")).unwrap();
        assert_eq!(debug, sketch::service().bytes());
        assert_eq!(fs::read_dir(&out).unwrap().count(), 4, "nothing else is left behind");
    }

    fn arguments(out: &Path, more: &[&OsStr]) -> Vec<OsString> {
        let config = build::root().join("tests/configs/small.toml");
        let first = ["edge-proxy".into(), "--config".into(), config.into(), "--out".into()];
        let more = more.iter().map(|argument| argument.to_os_string());
        first.into_iter().chain([out.as_os_str().to_owned()]).chain(more).collect()
    }

    #[test]
    fn a_disk_is_written_if_one_is_wanted_with_the_files_that_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (out, key) = (folder.path().join("out"), folder.path().join("key"));
        fs::write(&key, b"sealed to one machine").unwrap();
        let more = [OsStr::new("--disk"), OsStr::new("--key-file"), key.as_os_str()];
        command(arguments(&out, &more), || Ok(guest(folder.path()))).unwrap();
        let disk = fs::read(out.join("edge-proxy.img")).unwrap();
        assert!(disk.windows(21).any(|seen| seen == b"sealed to one machine"));
        let efi = fs::read(out.join("edge-proxy.efi")).unwrap();
        assert!(disk.windows(efi.len()).any(|seen| seen == efi));
    }

    #[test]
    fn nothing_is_built_for_a_file_that_boot_would_not_take() {
        let folder = tempfile::tempdir().unwrap();
        let (out, key) = (folder.path().join("out"), folder.path().join("key"));
        let more = [OsStr::new("--disk"), OsStr::new("--key-file"), key.as_os_str()];
        for (bytes, says) in [(0, "key: is empty"), (MAX_FILE_BYTES + 1, "key: is too long")] {
            fs::write(&key, vec![1; bytes]).unwrap();
            let error = command(arguments(&out, &more), || panic!("built")).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        fs::remove_file(&key).unwrap();
        let error = command(arguments(&out, &more), || panic!("built")).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        assert!(!out.exists());
    }

    #[test]
    fn nothing_is_built_or_written_for_a_bad_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("edge.toml");
        fs::write(&config, "[network]\naddress = 3\n").unwrap();
        let out = folder.path().join("out");
        let arguments = ["edge-proxy".into(), "--config".into(), config.into(), "--out".into()];
        let arguments = arguments.into_iter().chain([out.clone().into()]);
        let error = command(arguments, || panic!("built")).unwrap_err().to_string();
        assert!(error.contains("edge.toml:2: network.address: a string belongs here"), "{error}");
        assert!(!out.exists());
    }

    #[test]
    fn the_report_says_size_digest_memory_and_connections() {
        let folder = tempfile::tempdir().unwrap();
        let date = BuildDate { unix_s: 1_795_564_800, is_given: true };
        let config = build::root().join("tests/configs/thousand.toml");
        let edge = edge::read(&config, date.unix_s).unwrap();
        let image = edge_image(&edge, &guest(folder.path()), date).unwrap();
        let text = report(&edge, &image, Some(b"disk"), date);
        let mib = memory(&image).mib();
        assert!(mib <= 56, "1,000 connections leave room in 64 MiB: {text}");
        for says in [
            &format!("edge-proxy.elf   0.04 MiB   sha256 {}\n", digest(&image.bytes)),
            &format!("edge-proxy.efi   0.05 MiB   sha256 {}\n", digest(&image.efi)),
            &format!("edge-proxy.img   0.00 MiB   sha256 {}\n", digest(b"disk")),
            &format!("memory           {mib} MiB needed: heap 47.63, stack 0.25,"),
            "connections      1000, of which 64 with a backend at once\n",
            "built            2026-11-25 00:00:00 UTC by SOURCE_DATE_EPOCH\n",
        ] {
            assert!(text.contains(says), "{says:?} in:\n{text}");
        }
    }

    #[test]
    fn a_probe_gets_its_payload_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            heap_bytes: 1 << 20,
            stack_bytes: STACK_BYTES,
            on_stop: abi::configuration::OnStop::Reset,
            needs_nic: false,
            build_unix_s: 1,
        };
        let image = probe_image(&guest(folder.path()), &settings, b"write-text").unwrap();
        assert_eq!(image.header.payload_bytes, 10);
        assert!(image.bytes.windows(10).any(|seen| seen == b"write-text"));
    }

    #[test]
    fn programs_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = guest(folder.path());
        guest.edge_proxy = guest.boot.clone();
        let date = BuildDate { unix_s: 1_795_564_800, is_given: true };
        let edge = edge::read(&build::root().join("tests/configs/small.toml"), date.unix_s);
        let error = edge_image(&edge.unwrap(), &guest, date).unwrap_err().to_string();
        assert!(error.contains("boot: service: ELF type 2"), "{error}");
    }
}
