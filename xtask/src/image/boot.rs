//! The boot program, as an image takes it in.

use abi::{Span, image::BYTES, image::SECTION};
use object::elf::{DT_RELA, DT_RELASZ};

use super::elf::{Access, Elf, Fault, Load, Note, Section};

/// A boot program with a place for a manifest.
pub(crate) struct Boot<'a> {
    pub(crate) entry: u64,
    /// Where UEFI firmware enters it.
    pub(crate) efi_entry: u64,
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
        let efi_entry = note.efi_entry.ok_or(Fault::NoEfiNote)?;
        let runs = |load: &Load| load.access == Access::Execute;
        if !elf.loads.iter().any(|load| runs(load) && load.file_span().contains(efi_entry)) {
            return Err(Fault::EfiEntry(efi_entry));
        }
        check_relocations(&elf)?;
        let Elf { entry, loads, sections, .. } = elf;
        Ok(Self { entry, efi_entry, loads, note, sections, manifest, span })
    }

    /// The section that holds the tail and the gate, if it has pages of its own.
    pub(crate) fn gate(&self) -> Option<Span> {
        let gate = self.sections.iter().find(|section| section.name == GATE)?.span;
        let next = self.sections.iter().map(|section| section.span.start);
        let next = next.filter(|start| *start > gate.start).min()?;
        let is_apart = abi::is_page_aligned(gate.start) && abi::is_page_aligned(next);
        (is_apart && gate.end()? <= next).then_some(gate)
    }
}

/// The section that holds the tail and the gate.
const GATE: &str = ".gate";

/// Checks that the entry stub can apply every relocation of boot's own, and that whoever does not
/// move it need not.
fn check_relocations(elf: &Elf) -> Result<(), Fault> {
    const ENTRY_BYTES: usize = 24;
    /// `R_X86_64_RELATIVE`.
    const RELATIVE: u64 = 8;
    let span = Span::new(elf.dynamic(DT_RELA).unwrap_or(0), elf.dynamic(DT_RELASZ).unwrap_or(0));
    let table = if span.length == 0 { Some(&[][..]) } else { elf.at(span) };
    let table = table.ok_or(Fault::RelocationTable(span))?;
    for entry in table.chunks(ENTRY_BYTES) {
        let word = |at: usize| entry.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (Some(address), Some(kind), Some(addend)) = (word(0), word(8), word(16)) else {
            return Err(Fault::RelocationTable(span));
        };
        if kind != RELATIVE {
            return Err(Fault::Relocation { address, kind: kind & 0xffff_ffff });
        }
        let writable = elf.loads.iter().filter(|load| load.access == Access::ReadWrite);
        let mut bytes = writable.filter_map(|load| load.at(Span::new(address, 8)));
        if bytes.next() != Some(&addend.to_le_bytes()) {
            return Err(Fault::RelocationTarget(address));
        }
    }
    Ok(())
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
