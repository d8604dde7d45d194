//! Links the probe as a service.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{here}/../../kernel/libos/service.ld");
    println!("cargo::rerun-if-changed={script}");
    for argument in
        [&format!("-T{script}"), "-pie", "--no-dynamic-linker", "--pack-dyn-relocs=relr"]
    {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
