//! The programs that building, testing and showing need, and how they come onto a Debian machine.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::steps::{self, Error};

/// What must be there, and the Debian package that brings it. A name with a slash is a file.
const NEEDED: [(&str, &str); 19] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/qemu/qboot.rom", "qemu-system-data"),
    ("/usr/share/seabios/bios-256k.bin", "seabios"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "ovmf"),
    ("swtpm", "swtpm"),
    ("swtpm_setup", "swtpm-tools"),
    ("tpm2_eventlog", "tpm2-tools"),
    ("sbsign", "sbsigntool"),
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("gnutls-cli", "gnutls-bin"),
    ("wrk", "wrk"),
    ("gcc", "gcc"),
    ("as", "binutils"),
    ("ip", "iproute2"),
    ("git", "git"),
    ("setpriv", "util-linux"),
    ("/usr/lib/systemd/systemd-measure", "systemd"),
];

/// The toolchain's parts that cargo does not bring along.
const COMPONENTS: [(&str, &str); 2] = [("fmt", "rustfmt"), ("clippy", "clippy")];

/// Makes sure that every program is there, installing what is missing if we may.
///
/// # Errors
///
/// [`Error::Tools`] with the exact command, where only the user can run it.
pub fn tools() -> Result<(), Error> {
    let missing = missing(&NEEDED, is_there);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_root || !is_there("apt-get") {
        let remedy = format!("on Debian: sudo apt-get install {}", packages.join(" "));
        return Err(Error::Tools { missing: names(&missing), remedy });
    }
    eprintln!("installing {}", packages.join(", "));
    steps::run(apt().arg("update"))?;
    steps::run(apt().args(["install", "-y", "--no-install-recommends"]).args(&packages))?;
    if packages.contains(&"nginx") && Path::new("/run/systemd/system").exists() {
        eprintln!("note: Debian has started nginx as a service; `systemctl disable --now nginx`");
    }
    let missing = self::missing(&NEEDED, is_there);
    if missing.is_empty() {
        return Ok(());
    }
    let remedy = "the packages above were installed but did not bring it".to_owned();
    Err(Error::Tools { missing: names(&missing), remedy })
}

/// Makes sure that the toolchain can format and lint.
///
/// # Errors
///
/// [`Error::Command`] if rustup cannot add what is missing.
pub fn components() -> Result<(), Error> {
    for (verb, component) in COMPONENTS {
        if steps::output(steps::cargo(verb).arg("--version")).is_err() {
            let mut add = Command::new("rustup");
            steps::run(add.args(["component", "add", component]))?;
        }
    }
    Ok(())
}

type Need = (&'static str, &'static str);

fn missing(needed: &[Need], is_there: impl Fn(&str) -> bool) -> Vec<Need> {
    needed.iter().filter(|(name, _)| !is_there(name)).copied().collect()
}

fn names(missing: &[Need]) -> Vec<&'static str> {
    missing.iter().map(|(name, _)| *name).collect()
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // A question would never be answered: no step reads our input.
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_there(name: &str) -> bool {
    if name.contains('/') {
        return Path::new(name).exists();
    }
    // Debian keeps servers out of an ordinary user's path, where they can still be run.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).any(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let found = missing(&NEEDED, |name| name != "wrk" && name != "gnutls-cli");
        assert_eq!(found, [("gnutls-cli", "gnutls-bin"), ("wrk", "wrk")]);
        assert_eq!(missing(&NEEDED, |_| true), []);
    }

    #[test]
    fn programs_and_files_are_found_where_they_are() {
        assert!(is_there("sh") && is_there("/proc/self/exe"));
        assert!(!is_there("no-such-program") && !is_there("/no/such/file"));
    }
}
