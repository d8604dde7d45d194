//! What an image's file says of the memory it will become.

use std::fs;
use std::path::Path;

use object::{Object, ObjectSection};

use crate::Error;

/// `mov cr3, rax`: the tail's last instruction, after which the gate begins.
const MOV_CR3: [u8; 3] = [0x0f, 0x22, 0xd8];

/// How much of boot's code or text is looked for in memory.
const TRACE_BYTES: usize = 16;

/// A section of the file: its name, where it is loaded, its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The section's name.
    pub name: String,
    /// The physical address.
    pub start: u64,
    /// The bytes, whole pages where the service has them.
    pub bytes: Vec<u8>,
    /// How many bytes it takes in memory.
    pub length: u64,
}

impl Part {
    /// The first address after it.
    pub fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// An image, as far as it is still seen once the machine is sealed.
#[derive(Clone, Debug)]
pub struct Image {
    parts: Vec<Part>,
    entry: u64,
}

impl Image {
    /// Reads an image that `cargo xtask image` composed.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(Error::file(path))?;
        let none = || Error::NoEntry(path.to_owned());
        let file = object::File::parse(&*bytes).map_err(|_| none())?;
        let parts = file.sections().filter_map(|section| {
            let name = section.name().ok()?.to_owned();
            let bytes = section.data().ok()?.to_vec();
            Some(Part { name, start: section.address(), bytes, length: section.size() })
        });
        // Sections without an address are not loaded.
        let parts = parts.filter(|part| part.start != 0 && part.length != 0).collect();
        let image = Self { parts, entry: file.entry() };
        let is_whole = image.gate().is_some() && image.part(".configuration").is_some();
        if is_whole { Ok(image) } else { Err(none()) }
    }

    /// The same image where a machine has it: UEFI firmware loads it anywhere. It is found by the
    /// service's text, and whether the rest is there too is for the findings to say.
    pub fn found_in(mut self, walk: &super::Walk) -> Self {
        let text = self.part(".service.text").map(|text| text.start);
        let mut leaves = walk.leaves.iter().filter(|leaf| leaf.is_user && leaf.is_executable);
        if let (Some(linked), Some(leaf)) = (text, leaves.next()) {
            let distance = leaf.phys.wrapping_sub(linked);
            for part in &mut self.parts {
                part.start = part.start.wrapping_add(distance);
            }
            self.entry = self.entry.wrapping_add(distance);
        }
        self
    }

    /// A section by its name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// Boot itself: from its first byte to the last one of its zeroed data.
    pub fn boot(&self) -> (u64, u64) {
        let boot = self.parts.iter().filter(|part| !self.is_kept(part));
        let boot = boot.filter(|part| part.name != ".service.relocations");
        let (starts, ends): (Vec<u64>, Vec<u64>) = boot.map(|p| (p.start, p.end())).unzip();
        let first = starts.into_iter().min().unwrap_or(0);
        let last = ends.into_iter().max().unwrap_or(0);
        (first & !(super::PAGE - 1), last.next_multiple_of(super::PAGE))
    }

    fn is_kept(&self, part: &Part) -> bool {
        part.name.starts_with(".service.") || part.name == ".configuration"
    }

    /// The gate's bytes: all after the tail.
    pub fn gate(&self) -> Option<&[u8]> {
        let blob = &self.part(".boot.gate")?.bytes;
        let tail = blob.windows(MOV_CR3.len()).position(|window| window == MOV_CR3)?;
        blob.get(tail + MOV_CR3.len()..)
    }

    /// Bytes that give boot away wherever they lie, with a name each.
    pub fn traces(&self) -> Vec<(&'static str, Vec<u8>)> {
        let words = [&b"boot: refused"[..], b"boot wipes itself"];
        let mut traces: Vec<_> = words.map(|words| ("boot's words", words.to_vec())).into();
        let text = self.parts.iter().find(|p| (p.start..p.end()).contains(&self.entry));
        if let Some(text) = text {
            // The entry stub is boot's alone; further on are functions that every program has.
            let entry = usize::try_from(self.entry - text.start).unwrap_or(0);
            for at in [entry, entry + TRACE_BYTES, entry + 2 * TRACE_BYTES] {
                let trace = text.bytes.get(at..at + TRACE_BYTES).unwrap_or_default();
                traces.push(("boot's code", trace.to_vec()));
            }
        }
        traces
    }
}
