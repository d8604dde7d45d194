//! Builds the guest programs: boot, the applications and the probe, for their own target.
//!
//! Boot is built by itself: cargo would otherwise give it the features that the services want of a
//! shared dependency, among them a heap, which boot does not have. The standard library's
//! `core` and `alloc` are built with them, because no ready-made one has our target's features;
//! the pinned stable compiler does that when `RUSTC_BOOTSTRAP` is set, as the Linux kernel does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::steps::{self, Error};

/// The target's name, which is also cargo's folder for it.
const TARGET: &str = "x86_64-bulla";

/// The packages that run in the machine, one cargo invocation a line.
const PACKAGES: [&[&str]; 2] = [&["boot"], &["edge-proxy", "probe"]];

/// For ring's C: no red zone (an exception in ring 0 would overwrite it), and nothing that needs a
/// runtime we do not have.
const C_FLAGS: &str = "-mno-red-zone -fno-stack-protector -fcf-protection=none -ffreestanding";

/// The guest's ELF files, not yet composed into an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The program of ring 0.
    pub boot: PathBuf,
    /// The TLS edge proxy.
    pub edge_proxy: PathBuf,
    /// The program that does what is forbidden.
    pub probe: PathBuf,
}

/// The top folder of this checkout.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Where cargo keeps everything that is built. A relative folder counts from the checkout, because
/// cargo is started there.
pub fn target_dir() -> PathBuf {
    let host = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(host)
}

/// A checkout, and where its guest is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The top folder of the sources.
    pub root: PathBuf,
    /// Where the guest is built: beside the host's artefacts, never among them.
    pub target: PathBuf,
}

impl Tree {
    /// This checkout.
    pub fn ours() -> Self {
        Self { root: root(), target: target_dir().join("guest") }
    }

    /// Where the guest programs are once they are built.
    pub fn guest(&self) -> Guest {
        let folder = self.target.join(TARGET).join("release");
        Guest {
            boot: folder.join("boot"),
            edge_proxy: folder.join("edge-proxy"),
            probe: folder.join("probe"),
        }
    }

    /// The cargo command that builds boot alone, as [`guest`] does.
    ///
    /// # Errors
    ///
    /// [`Error`] if the compiler's sources cannot be installed.
    pub fn build_boot(&self) -> Result<Command, Error> {
        cargo_for_guest(self, "build", PACKAGES[0])
    }

    /// The cargo command that builds the services, as [`guest`] does.
    ///
    /// # Errors
    ///
    /// [`Error`] if the compiler's sources cannot be installed.
    pub fn build_services(&self) -> Result<Command, Error> {
        cargo_for_guest(self, "build", PACKAGES[1])
    }
}

/// Builds the guest programs, or finds that they are up to date.
///
/// # Errors
///
/// [`Error`] if the compiler's sources cannot be installed, or if the build fails; cargo has
/// printed why.
pub fn guest() -> Result<Guest, Error> {
    let tree = Tree::ours();
    for packages in PACKAGES {
        steps::run(&mut cargo_for_guest(&tree, "build", packages)?)?;
    }
    Ok(tree.guest())
}

/// Lints the guest programs for the target that they run on.
///
/// # Errors
///
/// [`Error`] as for [`guest`], or if there is a lint; cargo has printed it.
pub fn lint_guest() -> Result<(), Error> {
    for packages in PACKAGES {
        let mut command = cargo_for_guest(&Tree::ours(), "clippy", packages)?;
        command.args(["--", "--deny", "warnings"]);
        steps::run(&mut command)?;
    }
    Ok(())
}

fn cargo_for_guest(tree: &Tree, verb: &str, packages: &[&str]) -> Result<Command, Error> {
    let sysroot = ensure_rust_src()?;
    let mut command = steps::cargo(verb);
    command
        .current_dir(&tree.root)
        .args(["--release", "-Zjson-target-spec", "-Zbuild-std=core,alloc,compiler_builtins"])
        .arg("-Zbuild-std-features=compiler-builtins-mem")
        .arg("--target")
        .arg(tree.root.join("kernel").join(format!("{TARGET}.json")))
        .arg("--target-dir")
        .arg(&tree.target)
        .args(packages.iter().map(|package| format!("--package={package}")))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CFLAGS_x86_64_bulla", c_flags(tree))
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(tree, &sysroot));
    Ok(command)
}

/// What is at the left becomes the name at the right in everything the compilers write, so that an
/// image does not depend on where its checkout lies. A later line wins over an earlier one.
fn remappings(tree: &Tree, sysroot: &Path) -> Vec<(PathBuf, &'static str)> {
    vec![
        (cargo_home(), "/cargo"),
        (sysroot.join("lib/rustlib/src/rust"), "/rust"),
        (tree.root.clone(), "/bulla"),
        (tree.target.clone(), "/target"),
    ]
}

fn rust_flags(tree: &Tree, sysroot: &Path) -> OsString {
    let mut flags = OsString::new();
    for (from, to) in remappings(tree, sysroot) {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}

fn c_flags(tree: &Tree) -> OsString {
    let mut flags = OsString::from(C_FLAGS);
    for (from, to) in [(cargo_home(), "/cargo"), (tree.target.clone(), "/target")] {
        flags.push(" -ffile-prefix-map=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}

fn cargo_home() -> PathBuf {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(|| "/root".into())
}

/// Installs the sources of the standard library if they are missing, and returns the sysroot.
fn ensure_rust_src() -> Result<PathBuf, Error> {
    let mut print = Command::new("rustc");
    print.args(["--print", "sysroot"]).current_dir(root());
    let sysroot = PathBuf::from(steps::output(&mut print)?.trim_end());
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if fs::exists(&sources).unwrap_or(false) {
        return Ok(sysroot);
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", "rust-src"]).current_dir(root());
    steps::run(&mut add)?;
    Ok(sysroot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_is_renamed_in_what_the_compiler_writes() {
        let flags = rust_flags(&Tree::ours(), Path::new("/sysroot")).into_string().unwrap();
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert_eq!(flags.len(), 4);
        assert!(flags.iter().all(|flag| flag.starts_with("--remap-path-prefix=/")));
        assert!(flags.contains(&"--remap-path-prefix=/sysroot/lib/rustlib/src/rust=/rust"));
        assert!(flags.contains(&&*format!("--remap-path-prefix={}=/bulla", root().display())));
        assert!(flags.last().unwrap().ends_with("=/target"), "the innermost folder comes last");
    }
}
