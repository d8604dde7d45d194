//! Images that the demonstration and the tests make for one run: a proxy, and probes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use abi::configuration::OnStop;

use crate::build::{self, Guest};
use crate::image::{self, BuildDate, Composed, Settings};
use crate::steps::{Error, while_doing};

/// The port that a sample's proxy serves.
pub const PORT: u16 = 443;

/// The backend that the files in `tests/configs` name: the gateway of QEMU's user network, which
/// is our loopback. The port differs in each run.
const BACKEND: &str = "\"10.0.2.2:8080\"";

/// Bytes of a probe's heap: enough for the whole program to be laid out as a service is.
const PROBE_HEAP_BYTES: u64 = 1 << 20;

/// Whom clients of a sample trust.
pub fn authority() -> PathBuf {
    configs().join("authority.pem")
}

fn configs() -> PathBuf {
    build::root().join("tests/configs")
}

/// A file of `tests/configs`, changed for one run.
#[derive(Clone, Copy, Debug)]
pub struct Proxy<'a> {
    /// The file's name without its ending.
    pub config: &'a str,
    /// Where its backend listens on our loopback.
    pub backend: SocketAddr,
    /// What is replaced by what in its text, besides the backend.
    pub changes: &'a [(&'a str, &'a str)],
}

impl Proxy<'_> {
    /// The changed text.
    fn text(&self, text: &str) -> Result<String, Error> {
        let backend = format!("\"10.0.2.2:{}\"", self.backend.port());
        let mut text = text.to_owned();
        for (from, to) in self.changes.iter().copied().chain([(BACKEND, backend.as_str())]) {
            if !text.contains(from) {
                return Err(Error::Failed(format!("{}.toml does not say {from}", self.config)));
            }
            text = text.replace(from, to);
        }
        Ok(text)
    }

    /// Composes the image in `folder`: the file for the direct path, whose place is returned, and
    /// the one for UEFI firmware beside it ([`disk`] makes a disk of that).
    ///
    /// # Errors
    ///
    /// [`Error`] if a file cannot be read or written or the image cannot be composed.
    pub fn image(&self, guest: &Guest, folder: &Path) -> Result<PathBuf, Error> {
        let path = configs().join(self.config).with_extension("toml");
        let text = fs::read_to_string(&path).map_err(while_doing(path.display()))?;
        let date = BuildDate::now()?;
        let edge = image::edge::parse(&path, &self.text(&text)?, date.unix_s)
            .map_err(|error| Error::Failed(error.to_string()))?;
        write(&image::edge_image(&edge, guest, date)?, &folder.join("edge-proxy.elf"))
    }
}

/// Composes the probe that will do `act`, in `folder`, as [`Proxy::image`] does.
///
/// # Errors
///
/// [`Error`] if a file cannot be read or written or the image cannot be composed.
pub fn probe(guest: &Guest, act: &str, folder: &Path) -> Result<PathBuf, Error> {
    let settings = Settings {
        heap_bytes: PROBE_HEAP_BYTES,
        stack_bytes: image::STACK_BYTES,
        on_stop: OnStop::Reset,
        needs_nic: true,
        build_unix_s: BuildDate::now()?.unix_s,
    };
    let composed = image::probe_image(guest, &settings, act.as_bytes())?;
    write(&composed, &folder.join(format!("probe-{act}.elf")))
}

/// A disk in the place of an image's file, with the image for UEFI firmware that lies beside it.
///
/// # Errors
///
/// [`Error`] if a file cannot be read or written.
pub fn disk(
    image: &Path,
    key_file: Option<&[u8]>,
    challenge: Option<&[u8]>,
) -> Result<PathBuf, Error> {
    let efi = image.with_extension("efi");
    let efi = fs::read(&efi).map_err(while_doing(efi.display()))?;
    let path = image.with_extension("img");
    let contents = image::Contents { efi: &efi, key_file, challenge };
    let disk = image::disk(&contents).map_err(while_doing(path.display()))?;
    fs::write(&path, disk).map_err(while_doing(path.display()))?;
    Ok(path)
}

/// Writes the image for the direct path, whose place is returned, and the one for UEFI firmware
/// beside it.
fn write(image: &Composed, path: &Path) -> Result<PathBuf, Error> {
    fs::write(path, &image.bytes).map_err(while_doing(path.display()))?;
    let efi = path.with_extension("efi");
    fs::write(&efi, &image.efi).map_err(while_doing(efi.display()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(changes: &[(&str, &str)], expected: Result<&str, &str>) {
        let backend = "127.0.0.1:9".parse().unwrap();
        let proxy = Proxy { config: "demo", backend, changes };
        let text = proxy.text("address = \"10.0.2.2:8080\"\nconnections = 7\n");
        let text = text.map_err(|error| error.to_string());
        assert_eq!(text.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn only_what_is_there_can_be_changed() {
        check(&[], Ok("address = \"10.0.2.2:9\"\nconnections = 7\n"));
        check(&[("= 7", "= 8")], Ok("address = \"10.0.2.2:9\"\nconnections = 8\n"));
        check(&[("= 9", "= 8")], Err("demo.toml does not say = 9"));
    }

    #[test]
    fn every_sample_is_a_good_configuration() {
        let backend = "127.0.0.1:9".parse().unwrap();
        for config in ["demo", "small", "thousand"] {
            let path = configs().join(config).with_extension("toml");
            let text = fs::read_to_string(&path).unwrap();
            let text = Proxy { config, backend, changes: &[] }.text(&text).unwrap();
            let edge = image::edge::parse(&path, &text, 1_800_000_000).unwrap();
            assert_eq!(edge.config.backend.port(), 9);
            assert_eq!(edge.config.listeners[0].port, PORT);
        }
    }
}
