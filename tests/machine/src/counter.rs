//! Counts guest instructions, so that a test can compare work instead of time.
//!
//! QEMU's TCG plugin interface runs our small C file `plugin/icount.c` inside QEMU; the numbers
//! are in a file that both sides can see. Only exact with one CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::process::{self, Process};

const SOURCE: &str = include_str!("../plugin/icount.c");

const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);

/// Instructions executed by a guest since its entry point first ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions, without those of `repeated`.
    pub instructions: u64,
    /// Turns of repeated string instructions, which a CPU counts as one instruction each.
    pub repeated: u64,
    /// Instructions of the firmware, before the entry point.
    pub firmware: u64,
}

/// The counter of one machine.
#[derive(Debug)]
pub(crate) struct Counter {
    plugin: PathBuf,
    file: PathBuf,
    entry: u64,
}

impl Counter {
    /// Compiles the plugin and makes its file in `folder`.
    pub(crate) fn new(folder: &Path, image: &Path) -> Result<Self, Error> {
        let bytes = fs::read(image).map_err(Error::file(image))?;
        let entry = pvh_entry(&bytes).ok_or_else(|| Error::NoEntry(image.to_path_buf()))?;
        let source = folder.join("icount.c");
        let plugin = folder.join("icount.so");
        let file = folder.join("counters");
        fs::write(&source, SOURCE).map_err(Error::file(&source))?;
        fs::write(&file, [0; 40]).map_err(Error::file(&file))?;
        let mut compiler = process::tied("gcc");
        compiler.args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]);
        compiler.arg(&plugin).arg(&source);
        let status = Process::start(compiler, COMPILE_TIMEOUT)?.wait(COMPILE_TIMEOUT)?;
        if !status.success() {
            let source = std::io::Error::other(format!("gcc: {status}"));
            return Err(Error::File { path: plugin, source });
        }
        Ok(Self { plugin, file, entry })
    }

    /// What QEMU's `-plugin` wants to hear.
    pub(crate) fn argument(&self) -> String {
        let (plugin, file) = (self.plugin.display(), self.file.display());
        format!("{plugin},counters={file},entry={:#x}", self.entry)
    }

    /// Reads the counters while the guest runs.
    pub(crate) fn read(&self) -> Result<Counts, Error> {
        let bytes = fs::read(&self.file).map_err(Error::file(&self.file))?;
        let mut words = [0; 5];
        for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        }
        let [all, repeated, all_before, repeated_before, has_begun] = words;
        Ok(if has_begun == 0 {
            Counts { firmware: all, ..Counts::default() }
        } else {
            Counts {
                instructions: all - all_before,
                repeated: repeated - repeated_before,
                firmware: all_before,
            }
        })
    }
}

/// The address in an ELF file's note `XEN_ELFNOTE_PHYS32_ENTRY` (18, owner "Xen"), by its bytes:
/// a note is name size, descriptor size, type, name, descriptor.
fn pvh_entry(image: &[u8]) -> Option<u64> {
    const OWNER_AND_TYPE: &[u8] = b"\x12\0\0\0Xen\0";
    let at = image.windows(OWNER_AND_TYPE.len()).position(|window| window == OWNER_AND_TYPE)?;
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let sizes = (word(at.checked_sub(8)?)?, word(at - 4)?);
    let low = u64::from(word(at + 8)?);
    match sizes {
        (4, 4) => Some(low),
        (4, 8) => Some(low | u64::from(word(at + 12)?) << 32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_entry_in_the_note() {
        let note = b"....\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x40\x00\x20\x00";
        assert_eq!(pvh_entry(note), Some(0x20_0040));
        assert_eq!(pvh_entry(&note[..note.len() - 1]), None);
        let wide = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\x40\x00\x20\x00\x01\0\0\0";
        assert_eq!(pvh_entry(wide), Some(0x1_0020_0040));
        assert_eq!(pvh_entry(b"no note here"), None);
        assert_eq!(pvh_entry(b"\x12\0\0\0Xen\0\x40\x00\x20\x00"), None);
    }
}
