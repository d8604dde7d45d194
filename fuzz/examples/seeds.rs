//! Writes the seeds: `cargo run --manifest-path fuzz/Cargo.toml --example seeds -- [IMAGE]`.
//!
//! With an image that `cargo xtask image` wrote, the seed of `seal_image` is made anew as well, and
//! with `--hello` the recorded ClientHello. Both differ from run to run; everything else does not.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    for argument in std::env::args().skip(1) {
        if argument == "--hello" {
            fs::write(fuzz.join("src/client_hello.bin"), fuzz::seeds::client_hello())?;
        } else {
            let seed = fuzz::seeds::image(&fs::read(&argument)?);
            write(fuzz, "seal_image", "sealed", &seed)?;
        }
    }
    for (target, name, seed) in fuzz::seeds::all() {
        write(fuzz, target, name, &seed)?;
    }
    Ok(())
}

fn write(fuzz: &Path, target: &str, name: &str, seed: &[u8]) -> std::io::Result<()> {
    let folder = fuzz.join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), seed)
}
