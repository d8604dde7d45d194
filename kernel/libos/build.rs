//! Assembles ring's assembly, which ring's own build script leaves out for `os = "none"`.
//!
//! ring packages the assembler files it generated for ELF systems; for a target without an operating
//! system it compiles none of them, yet its Rust code calls them. We assemble the very files of the
//! pinned version and link them beside it; ring itself stays unpatched.

use std::path::{Path, PathBuf};
use std::process::Command;

/// ring's version, as pinned in the workspace.
const RING: &str = "ring-0.17.14";

/// The packaged files for x86_64 ELF.
const FILES: [&str; 12] = [
    "aes-gcm-avx2-x86_64-elf.S",
    "aesni-gcm-x86_64-elf.S",
    "aesni-x86_64-elf.S",
    "chacha-x86_64-elf.S",
    "chacha20_poly1305_x86_64-elf.S",
    "ghash-x86_64-elf.S",
    "p256-x86_64-asm-elf.S",
    "sha256-x86_64-elf.S",
    "sha512-x86_64-elf.S",
    "vpaes-x86_64-elf.S",
    "x86_64-mont-elf.S",
    "x86_64-mont5-elf.S",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=service.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let ring = ring_sources();
    let mut build = cc::Build::new();
    build.include(ring.join("include")).include(ring.join("pregenerated"));
    build.files(FILES.map(|file| ring.join("pregenerated").join(file)));
    // ring names the version in its symbols through this header, which it generates for C.
    build.compile("ring_assembly");
}

/// Where cargo put ring: asked of cargo itself, so that a vendored or patched path works too.
fn ring_sources() -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        // Some other platform's crates may not have been fetched; ours were, to get here.
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-none"])
        .output()
        .expect("cargo metadata runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let end = text.find(&format!("{RING}/Cargo.toml\"")).unwrap_or_else(|| {
        panic!(
            "{RING} is not among the dependencies; build.rs and Cargo.toml must name one version ({})",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let start = text[..end].rfind('"').map_or(0, |quote| quote + 1);
    Path::new(&text[start..end]).join(RING)
}
