//! `cargo xtask tidy`: the rules that a compiler does not check, each cheap and never loosened.

mod claims;
mod fence;
mod source;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::build;
use crate::steps::{self, Error};

/// The longest source file, without its tests.
const MAX_LINES: usize = 500;

/// The largest file that may be committed, ever.
const MAX_BYTES: u64 = 200 << 10;

/// The only place dependencies come from.
const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// What would send a build elsewhere, were it in a cargo configuration.
const DETOURS: [&str; 4] = ["replace-with", "[source", "[registries", "[registry"];

/// Words for what was left undone. They are written apart so that this file may be read too.
const LEFTOVERS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// A file of the checkout.
pub(crate) struct File {
    /// From the top folder, with slashes.
    pub(crate) path: String,
    /// Its text, or nothing if it is not text.
    pub(crate) text: String,
    bytes: u64,
}

/// Checks the checkout and prints each complaint; `writes` brings the generated tables up to date.
///
/// # Errors
///
/// [`Error::Tests`] if there are complaints.
pub fn check(writes: bool) -> Result<(), Error> {
    let files = files()?;
    let inventory = fence::inventory(&files);
    if writes {
        claims::write_inventory(&build::root(), &inventory)?;
    }
    let mut complaints: Vec<String> = files.iter().flat_map(of_one_file).collect();
    complaints.extend(fence::complaints(&files));
    complaints.extend(claims::complaints(&build::root(), &files, &inventory));
    complaints.extend(large_objects()?);
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        failed => Err(Error::Tests { failed }),
    }
}

/// Everything that is committed, or would be.
fn files() -> Result<Vec<File>, Error> {
    let list = steps::output(git().args(["ls-files", "-co", "--exclude-standard"]))?;
    let root = build::root();
    let read = |path: &str| {
        let bytes = fs::read(root.join(path)).ok()?;
        let size = bytes.len() as u64;
        let text = String::from_utf8(bytes).unwrap_or_default();
        Some(File { path: path.to_owned(), text, bytes: size })
    };
    // A file that was deleted but not yet committed is listed and cannot be read.
    Ok(list.lines().filter_map(read).collect())
}

fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(build::root());
    git
}

fn of_one_file(file: &File) -> Vec<String> {
    let File { path, text, bytes } = file;
    let mut complaints = Vec::new();
    let mut complain = |what: &str| complaints.push(format!("{path}: {what}"));
    if *bytes > MAX_BYTES {
        complain(&format!("has {bytes} bytes, more than {MAX_BYTES}"));
    }
    for word in LEFTOVERS {
        if words(text).any(|seen| seen == word) {
            complain(&format!("says {word}; finish it, or file an issue"));
        }
    }
    if path.ends_with(".rs") {
        if !text.starts_with("//!") {
            complain("does not begin with `//!`");
        }
        let lines = source::lines_without_tests(path, text);
        if lines > MAX_LINES {
            complain(&format!("has {lines} lines without tests, more than {MAX_LINES}"));
        }
    }
    if path.ends_with("Cargo.lock") {
        let is_foreign = |line: &&str| line.starts_with("source = ") && *line != REGISTRY;
        for line in text.lines().filter(is_foreign) {
            complain(&format!("a dependency from elsewhere: {line}"));
        }
    }
    if path.ends_with(".cargo/config.toml") || path.ends_with("Cargo.toml") {
        for detour in DETOURS {
            if text.lines().any(|line| line.trim_start().starts_with(detour)) {
                complain(&format!("{detour} would send a build elsewhere"));
            }
        }
    }
    complaints
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// Objects of any commit up to this one that are too large: deleting such a file is too late.
fn large_objects() -> Result<Vec<String>, Error> {
    let filter = format!("--filter=blob:limit={}", MAX_BYTES + 1);
    let arguments = ["rev-list", "--objects", "--filter-print-omitted", &filter, "HEAD"];
    if !Path::new(&build::root()).join(".git").exists() {
        return Ok(Vec::new());
    }
    let list = steps::output(git().args(arguments))?;
    let omitted = list.lines().filter_map(|line| line.strip_prefix('~'));
    Ok(omitted
        .map(|object| format!("git object {object} has more than {MAX_BYTES} bytes"))
        .collect())
}

#[cfg(test)]
pub(crate) fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned(), bytes: text.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        assert_eq!(of_one_file(&file(path, text)), expected);
    }

    #[test]
    fn complains_about_what_is_untidy() {
        check("a.rs", "//! Fine.\n", &[]);
        check("a.rs", "// Not documented.\n", &["a.rs: does not begin with `//!`"]);
        let leftover = format!("a {}: later", LEFTOVERS[0]);
        let expected = format!("a.md: says {}; finish it, or file an issue", LEFTOVERS[0]);
        check("a.md", &leftover, &[&expected]);
        check("a.md", &format!("a {}_LIST", LEFTOVERS[0]), &[]);
        let long = format!("//! Long.\n{}", "//\n".repeat(MAX_LINES));
        check("a.rs", &long, &["a.rs: has 501 lines without tests, more than 500"]);
        check("Cargo.lock", &format!("{REGISTRY}\n"), &[]);
        let mirror = "source = \"sparse+https://mirror.example/\"";
        let expected = format!("Cargo.lock: a dependency from elsewhere: {mirror}");
        check("Cargo.lock", mirror, &[&expected]);
        let detour = ".cargo/config.toml: replace-with would send a build elsewhere";
        check(".cargo/config.toml", "replace-with = \"mirror\"", &[detour]);
    }

    #[test]
    fn this_checkout_has_files_and_no_large_objects() {
        assert!(files().unwrap().iter().any(|file| file.path == "xtask/src/tidy/mod.rs"));
        assert_eq!(large_objects().unwrap(), Vec::<String>::new());
    }
}
