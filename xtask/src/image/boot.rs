//! The boot program, as an image takes it in.

use abi::{Span, image::BYTES, image::SECTION};

use super::elf::{Access, Elf, Fault, Load, Note, Section};

/// A boot program with a place for a manifest.
pub(crate) struct Boot<'a> {
    pub(crate) entry: u64,
    pub(crate) loads: Vec<Load<'a>>,
    pub(crate) note: Note,
    pub(crate) sections: Vec<Section>,
    /// Where the manifest goes.
    pub(crate) manifest: Span,
    /// The memory it takes, its zero-initialised data included.
    pub(crate) span: Span,
}

impl<'a> Boot<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, Fault> {
        let elf = Elf::parse(data)?;
        for Load { address, physical, .. } in elf.loads.iter().copied() {
            if physical != address {
                return Err(Fault::Physical { address, physical });
            }
        }
        let (Some(first), Some(last)) = (elf.loads.first(), elf.loads.last()) else {
            return Err(Fault::NoSegment);
        };
        // Offsets in a manifest are whole pages from the first byte, so that one has to begin a page.
        if !abi::is_page_aligned(first.address) {
            return Err(Fault::Unaligned(first.address));
        }
        let end = last.span().end().ok_or(Fault::Overlap(last.address))?;
        // A PVH loader enters it in 32-bit mode, and the rest of the image comes behind it.
        if end >= 1 << 32 {
            return Err(Fault::Beyond(end));
        }
        let span = Span::new(first.address, end - first.address);
        let manifest = manifest_place(&elf)?;
        let note = *elf.notes.iter().find(|note| note.is_pvh).ok_or(Fault::NoPvhNote)?;
        if elf.at(note.span).is_none() {
            return Err(Fault::NotePlace(note.span.start));
        }
        let Elf { entry, loads, sections, .. } = elf;
        Ok(Self { entry, loads, note, sections, manifest, span })
    }
}

fn manifest_place(elf: &Elf) -> Result<Span, Fault> {
    let section = elf.sections.iter().find(|s| s.name == SECTION).ok_or(Fault::NoManifest)?;
    let span = section.span;
    if span.length != BYTES as u64 {
        return Err(Fault::ManifestBytes(span.length));
    }
    let load = elf.loads.iter().find(|load| load.file_span().covers(&span));
    let bytes = match load {
        Some(load) if load.access == Access::Read && section.is_in_file => load.at(span),
        _ => None,
    };
    match bytes {
        None => Err(Fault::ManifestPlace(span.start)),
        Some(bytes) if bytes.iter().any(|byte| *byte != 0) => Err(Fault::ManifestTaken),
        Some(_) => Ok(span),
    }
}
