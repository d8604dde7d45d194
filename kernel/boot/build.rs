//! Links boot at its place in physical memory.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rerun-if-changed=boot.ld");
    println!("cargo::rustc-link-arg-bins=-T{here}/boot.ld");
    // Boot is position independent and its few pointers hold their linked values, so that a loader
    // that puts it where it was linked (the direct path) has nothing to relocate.
    for argument in ["-pie", "--no-dynamic-linker", "--apply-dynamic-relocs", "-znorelro"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
