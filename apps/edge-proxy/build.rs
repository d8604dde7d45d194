//! Links the edge proxy as a service.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{here}/../../kernel/libos/service.ld");
    println!("cargo::rerun-if-changed={script}");
    // On the host the crate is only a library with tests.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    for argument in
        [&format!("-T{script}"), "-pie", "--no-dynamic-linker", "--pack-dyn-relocs=relr"]
    {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
