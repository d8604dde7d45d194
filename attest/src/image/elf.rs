//! `NAME.elf`: what a PVH loader would load.

use abi::image::SECTION;
use object::LittleEndian as LE;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::{Load, NotAnImage};

/// The manifest's bytes, and everything that is loaded.
pub(super) fn loads(file: &[u8]) -> Result<(&[u8], Vec<Load<'_>>), NotAnImage> {
    let header = FileHeader64::<LE>::parse(file).map_err(NotAnImage::Format)?;
    let programs = header.program_headers(LE, file).map_err(NotAnImage::Format)?;
    let loads = || programs.iter().filter(|program| program.p_type(LE) == PT_LOAD);
    let origin = loads().map(|load| load.p_vaddr(LE)).min().ok_or(NotAnImage::NoManifest)?;
    let mut found = Vec::new();
    for load in loads() {
        let (offset, length) = (load.p_vaddr(LE).saturating_sub(origin), load.p_filesz(LE));
        let bytes = load.data(LE, file).map_err(|()| NotAnImage::Incomplete { offset, length })?;
        found.push(Load { offset, bytes });
    }
    let sections = header.sections(LE, file).map_err(NotAnImage::Format)?;
    let manifest =
        sections.section_by_name(LE, SECTION.as_bytes()).ok_or(NotAnImage::NoManifest)?;
    let manifest = manifest.1.data(LE, file).map_err(NotAnImage::Format)?;
    Ok((manifest, found))
}
