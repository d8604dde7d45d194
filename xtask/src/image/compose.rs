//! Composing an image: boot's own segments, the service's parts, its relocations, a configuration.
//!
//! Everything is placed in memory behind boot's last byte, each part on pages of its own, so that
//! boot can use it where the loader put it. The same input gives the same bytes.

use std::fmt;

use abi::configuration::{self, Header, MAX_PAYLOAD_BYTES, OnStop};
use abi::image::{MAX_SEGMENTS, Manifest, SECTION, SegmentAccess};
use abi::{PAGE_BYTES, Span, page_up};
use object::elf;

use super::boot::Boot;
use super::elf::{Access, Fault, Load};
use super::service::{Part, Service};
use super::{pe, write};

/// What boot reads of a configuration; the payload's size is added when it is composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the heap, whole pages.
    pub heap_bytes: u64,
    /// Bytes of the service's stack, whole pages.
    pub stack_bytes: u64,
    /// What happens after a stop.
    pub on_stop: OnStop,
    /// Whether the service needs a NIC.
    pub needs_nic: bool,
    /// When the image was built, in seconds since 1970-01-01 UTC.
    pub build_unix_s: u64,
}

/// An image, ready to be booted.
#[derive(Clone, PartialEq, Eq)]
pub struct Composed {
    /// The file for the direct path: an ELF file.
    pub bytes: Vec<u8>,
    /// The file for UEFI firmware: a PE file that loads the same bytes.
    pub efi: Vec<u8>,
    /// What boot will find in it.
    pub manifest: Manifest,
    /// The header of its configuration section.
    pub header: Header,
    /// The memory that the loaded file takes, from boot's first byte.
    pub loaded: Span,
}

impl fmt::Debug for Composed {
    /// Leaves the bytes out: a private key may be among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Composed")
            .field("bytes", &self.bytes.len())
            .field("efi", &self.efi.len())
            .field("manifest", &self.manifest)
            .field("header", &self.header)
            .field("loaded", &self.loaded)
            .finish()
    }
}

/// Why an image could not be composed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The boot program is not one.
    Boot(Fault),
    /// The composed manifest is not one that boot would take.
    Manifest(abi::image::Malformed),
    /// The configuration is larger than boot would take.
    Payload(u64),
    /// The service is not one.
    Service(Fault),
    /// The settings are not ones that boot would take.
    Settings(configuration::Malformed),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(fault) => write!(f, "boot: {fault}"),
            Self::Manifest(malformed) => write!(f, "{malformed}"),
            Self::Payload(bytes) => {
                write!(f, "the configuration has {bytes} bytes, more than {MAX_PAYLOAD_BYTES}")
            }
            Self::Service(fault) => write!(f, "service: {fault}"),
            Self::Settings(malformed) => write!(f, "{malformed}"),
        }
    }
}

impl std::error::Error for ImageError {}

/// Makes one file of boot, a service and its configuration.
///
/// # Errors
///
/// [`ImageError`] with the first thing that boot could not or must not take.
pub fn compose(
    boot_elf: &[u8],
    service_elf: &[u8],
    settings: &Settings,
    payload: &[u8],
) -> Result<Composed, ImageError> {
    let boot = Boot::parse(boot_elf).map_err(ImageError::Boot)?;
    let service = Service::parse(service_elf).map_err(ImageError::Service)?;
    let (header, section) = configuration_section(settings, payload)?;

    let mut places = Places::after(&boot);
    let segments = places.put_service(&service.parts);
    let names = (".service.relocations", ".srelr");
    let relocations = places.put(names, Access::Read, &service.relocations);
    let configuration = places.put((".configuration", ".config"), Access::Read, &section);
    let manifest = Manifest { entry: service.entry, relocations, configuration, segments };
    let encoded = manifest.encode();
    Manifest::parse(&encoded).map_err(ImageError::Manifest)?;

    let loaded = places.loaded();
    let bytes = write_file(&boot, &encoded, &places.pieces);
    let efi = write_efi(&boot, &encoded, &places.pieces);
    Ok(Composed { bytes, efi, manifest, header, loaded })
}

fn configuration_section(
    settings: &Settings,
    payload: &[u8],
) -> Result<(Header, Vec<u8>), ImageError> {
    let payload_bytes = payload.len() as u64;
    if payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(ImageError::Payload(payload_bytes));
    }
    let Settings { heap_bytes, stack_bytes, on_stop, needs_nic, build_unix_s } = *settings;
    let header =
        Header { heap_bytes, stack_bytes, on_stop, needs_nic, build_unix_s, payload_bytes };
    let mut section = header.encode().to_vec();
    section.extend_from_slice(payload);
    // The reader in boot has the last word on what a header may say.
    Header::parse(&section).map_err(ImageError::Settings)?;
    Ok((header, section))
}

/// Whole pages that are loaded behind boot.
struct Piece {
    name: String,
    /// Its name where a name has eight bytes.
    short_name: &'static str,
    address: u64,
    access: Access,
    bytes: Vec<u8>,
}

/// The memory behind boot, handed out page by page.
struct Places {
    start: u64,
    next: u64,
    pieces: Vec<Piece>,
}

impl Places {
    fn after(boot: &Boot) -> Self {
        let start = boot.span.start;
        // Reading the file has made sure that its end can be rounded up.
        let next = boot.span.end().and_then(page_up).unwrap_or(u64::MAX);
        Self { start, next, pieces: Vec::new() }
    }

    /// Places bytes and says where they are in the image. No bytes take no page.
    fn put(
        &mut self,
        (name, short_name): (&str, &'static str),
        access: Access,
        bytes: &[u8],
    ) -> Span {
        let place = Span::new(self.next - self.start, bytes.len() as u64);
        if bytes.is_empty() {
            return place;
        }
        let mut pages = bytes.to_vec();
        pages.resize(bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
        let address = self.next;
        self.next += pages.len() as u64;
        let name = name.to_owned();
        self.pieces.push(Piece { name, short_name, address, access, bytes: pages });
        place
    }

    fn put_service(&mut self, parts: &[Part]) -> [Option<abi::image::Segment>; MAX_SEGMENTS] {
        let mut segments = [None; MAX_SEGMENTS];
        for (slot, part) in segments.iter_mut().zip(parts) {
            let (names, access) = match part.access {
                SegmentAccess::Execute => ((".service.text", ".stext"), Access::Execute),
                SegmentAccess::Read => ((".service.rodata", ".srodata"), Access::Read),
                SegmentAccess::ReadAfterRelocation => {
                    ((".service.relro", ".srelro"), Access::ReadWrite)
                }
                SegmentAccess::ReadWrite => ((".service.data", ".sdata"), Access::ReadWrite),
            };
            let place = self.put(names, access, &part.bytes);
            *slot = Some(abi::image::Segment {
                offset: place.start,
                address: part.address,
                file_bytes: place.length,
                memory_bytes: part.memory_bytes,
                access: part.access,
            });
        }
        segments
    }

    fn loaded(&self) -> Span {
        Span::new(self.start, self.next - self.start)
    }
}

fn write_file(boot: &Boot, manifest: &[u8], pieces: &[Piece]) -> Vec<u8> {
    let slots = 1 + boot.loads.len() + pieces.len();
    let mut file = write::File::new(elf::ET_EXEC, boot.entry, slots);
    let mut offsets = Vec::new();
    for load in &boot.loads {
        let bytes = with_manifest(load, boot.manifest, manifest);
        offsets.push(file.append(load.address, &bytes));
    }
    // Loaders look for the note before they look at anything else.
    file.segment(write::Segment {
        kind: elf::PT_NOTE,
        flags: elf::PF_R.0,
        offset: offset_of(boot, &offsets, boot.note.span.start),
        address: boot.note.span.start,
        file_bytes: boot.note.span.length,
        memory_bytes: boot.note.span.length,
        alignment: boot.note.alignment,
    });
    for (load, offset) in boot.loads.iter().zip(&offsets) {
        let file_bytes = load.bytes.len() as u64;
        let (address, memory_bytes) = (load.address, load.memory_bytes);
        file.segment(load_segment(load.access, *offset, address, file_bytes, memory_bytes));
    }
    for section in &boot.sections {
        file.section(boot_section(boot, section, &offsets));
    }
    for piece in pieces {
        let (address, bytes) = (piece.address, piece.bytes.len() as u64);
        let offset = file.append(address, &piece.bytes);
        file.segment(load_segment(piece.access, offset, address, bytes, bytes));
        file.section(write::Section {
            name: piece.name.clone(),
            kind: elf::SHT_PROGBITS,
            flags: section_flags(piece.access),
            address,
            offset,
            bytes,
        });
    }
    file.finish()
}

/// The same bytes at the same distances, for UEFI firmware.
fn write_efi(boot: &Boot, manifest: &[u8], pieces: &[Piece]) -> Vec<u8> {
    let origin = boot.span.start;
    let mut sections = Vec::new();
    for load in &boot.loads {
        let name = match load.access {
            Access::Execute => ".text",
            Access::Read => ".rodata",
            Access::ReadWrite => ".data",
        };
        let whole = pe::Section {
            name,
            offset: load.address - origin,
            access: load.access,
            bytes: with_manifest(load, boot.manifest, manifest),
            memory_bytes: load.memory_bytes,
        };
        match boot.gate().filter(|gate| gate.start == load.address) {
            Some(gate) => sections.extend(cut_gate(whole, gate.length)),
            None => sections.push(whole),
        }
    }
    sections.extend(pieces.iter().map(|piece| pe::Section {
        name: piece.short_name,
        offset: piece.address - origin,
        access: piece.access,
        bytes: piece.bytes.clone(),
        memory_bytes: piece.bytes.len() as u64,
    }));
    pe::write(boot.efi_entry - origin, &sections)
}

/// Makes a section of the gate at a segment's beginning, so that its end can be seen, and one of
/// the pages behind it.
fn cut_gate(mut whole: pe::Section, gate_bytes: u64) -> Vec<pe::Section> {
    let pages = page_up(gate_bytes).unwrap_or(gate_bytes).min(whole.bytes.len() as u64);
    let rest = whole.bytes.split_off(usize::try_from(pages).unwrap_or(usize::MAX));
    let behind = pe::Section {
        name: whole.name,
        offset: whole.offset + pages,
        access: whole.access,
        memory_bytes: whole.memory_bytes - pages,
        bytes: rest,
    };
    whole.bytes.truncate(usize::try_from(gate_bytes).unwrap_or(usize::MAX));
    whole.name = ".gate";
    whole.memory_bytes = gate_bytes;
    let is_there = behind.memory_bytes > 0;
    [whole].into_iter().chain(is_there.then_some(behind)).collect()
}

fn with_manifest(load: &Load, place: Span, manifest: &[u8]) -> Vec<u8> {
    let mut bytes = load.bytes.to_vec();
    if load.file_span().covers(&place) {
        let at = usize::try_from(place.start - load.address).unwrap_or(usize::MAX);
        for (to, from) in bytes.iter_mut().skip(at).zip(manifest) {
            *to = *from;
        }
    }
    bytes
}

/// Where in the file the bytes of an address of boot's are; 0 for one that has none.
fn offset_of(boot: &Boot, offsets: &[u64], address: u64) -> u64 {
    let found = boot.loads.iter().zip(offsets).find(|(load, _)| load.span().contains(address));
    found.map_or(0, |(load, offset)| offset + (address - load.address))
}

fn load_segment(
    access: Access,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
) -> write::Segment {
    let flags = match access {
        Access::Execute => elf::PF_R.0 | elf::PF_X.0,
        Access::Read => elf::PF_R.0,
        Access::ReadWrite => elf::PF_R.0 | elf::PF_W.0,
    };
    let kind = elf::PT_LOAD;
    write::Segment { kind, flags, offset, address, file_bytes, memory_bytes, alignment: PAGE_BYTES }
}

fn section_flags(access: Access) -> u64 {
    match access {
        Access::Execute => elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0,
        Access::Read => elf::SHF_ALLOC.0,
        Access::ReadWrite => elf::SHF_ALLOC.0 | elf::SHF_WRITE.0,
    }
}

fn boot_section(boot: &Boot, section: &super::elf::Section, offsets: &[u64]) -> write::Section {
    let is_note = section.name.starts_with(".note");
    let is_known_by_name = is_note || section.name == SECTION;
    let name =
        if is_known_by_name { section.name.clone() } else { format!(".boot{}", section.name) };
    let kind = match (section.is_in_file, is_note) {
        (false, _) => elf::SHT_NOBITS,
        (true, true) => elf::SHT_NOTE,
        (true, false) => elf::SHT_PROGBITS,
    };
    let address = section.span.start;
    let load = boot.loads.iter().find(|load| load.span().contains(address));
    // A linker calls its dynamic section writable even where no segment lets anyone write it.
    let is_writable = load.is_some_and(|load| load.access == Access::ReadWrite);
    let writable = if is_writable { elf::SHF_WRITE.0 } else { 0 };
    write::Section {
        name,
        kind,
        flags: section.flags & (elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0) | writable,
        address,
        offset: offset_of(boot, offsets, address),
        bytes: section.span.length,
    }
}
