//! Writing a PE file: the image for UEFI firmware, byte for byte what the ELF file loads.
//!
//! Source: Microsoft, "PE Format" (2024-07), and UEFI 2.10, section 2.1.1. The first page is the
//! header, every section begins a page in the file and in memory, and an address is as far from the
//! first section as it is from boot's first byte: boot finds all of its image as if it had been
//! loaded where it was linked. Nothing in the file tells when or where it was made.

use abi::PAGE_BYTES;

use super::elf::Access;

/// Where the header of the PE file begins: right behind the DOS header.
const SIGNATURE_AT: usize = 64;
const SECTION_HEADER_BYTES: usize = 40;
const OPTIONAL_HEADER_BYTES: usize = 240;

/// How many entries the table of directories has; all but one are empty.
const DIRECTORIES: u32 = 16;
/// Which of them names the base relocations.
const BASE_RELOCATIONS: u32 = 5;

const MACHINE_X86_64: u16 = 0x8664;
/// An executable whose addresses may have more than 31 bits. That its relocations are stripped is
/// *not* said: firmware would insist on its preferred address.
const FILE_FLAGS: u16 = 0x0002 | 0x0020;
const PE32_PLUS: u16 = 0x20b;
const EFI_APPLICATION: u16 = 10;
/// Goes anywhere; no section is writable and executable, so firmware may enforce that.
const DLL_FLAGS: u16 = 0x0040 | 0x0100;

const CODE: u32 = 0x6000_0020;
const READ_ONLY_DATA: u32 = 0x4000_0040;
const WRITABLE_DATA: u32 = 0xc000_0040;
const DISCARDABLE: u32 = 0x0200_0000;

/// A block of base relocations for page 0 with two entries of type "absolute": nothing to do. Some
/// firmware takes a file without any block for one that cannot be moved.
const NO_RELOCATIONS: [u8; 12] = [0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0];

/// What a section's name has at most.
const NAME_BYTES: usize = 8;

/// Pages that firmware loads.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    /// From boot's first byte.
    pub(crate) offset: u64,
    pub(crate) access: Access,
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory_bytes: u64,
}

/// A section's place in memory and in the file.
struct Place {
    address: u32,
    memory_bytes: u32,
    at: u32,
    file_bytes: u32,
    flags: u32,
}

/// Writes the file; `entry` counts from boot's first byte.
pub(crate) fn write(entry: u64, sections: &[Section]) -> Vec<u8> {
    let mut file = vec![0; narrow(PAGE_BYTES) as usize];
    let mut places = Vec::new();
    for section in sections {
        places.push(append(&mut file, section));
    }
    let end = places.last().map_or(PAGE_BYTES, place_end);
    let relocations = Section {
        name: ".reloc",
        offset: end - PAGE_BYTES,
        access: Access::Read,
        bytes: NO_RELOCATIONS.to_vec(),
        memory_bytes: NO_RELOCATIONS.len() as u64,
    };
    places.push(append(&mut file, &relocations));
    if let Some(place) = places.last_mut() {
        place.flags |= DISCARDABLE;
    }
    let names = sections.iter().chain([&relocations]).map(|section| section.name);
    let header = header(entry, &places, names);
    assert!(header.len() as u64 <= PAGE_BYTES, "more sections than the header has room for");
    for (to, from) in file.iter_mut().zip(header) {
        *to = from;
    }
    file
}

/// Appends a section's bytes, filled up to whole pages.
fn append(file: &mut Vec<u8>, section: &Section) -> Place {
    let at = file.len();
    file.extend_from_slice(&section.bytes);
    file.resize(file.len().next_multiple_of(narrow(PAGE_BYTES) as usize), 0);
    let flags = match section.access {
        Access::Execute => CODE,
        Access::Read => READ_ONLY_DATA,
        Access::ReadWrite => WRITABLE_DATA,
    };
    Place {
        address: narrow(section.offset + PAGE_BYTES),
        memory_bytes: narrow(section.memory_bytes),
        at: narrow(at as u64),
        file_bytes: narrow((file.len() - at) as u64),
        flags,
    }
}

fn place_end(place: &Place) -> u64 {
    (u64::from(place.address) + u64::from(place.memory_bytes)).next_multiple_of(PAGE_BYTES)
}

/// An image has at most 64 MiB of service and 16 of configuration, so every number fits.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn header<'a>(entry: u64, places: &[Place], names: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let of = |flags: u32| {
        let matching = places.iter().filter(move |place| place.flags & !DISCARDABLE == flags);
        matching.map(|place| place.file_bytes).sum::<u32>()
    };
    let text = places.iter().find(|place| place.flags == CODE).map_or(0, |place| place.address);
    let end = places.last().map_or(0, place_end);
    let mut file = Fields(b"MZ".to_vec());
    file.0.resize(SIGNATURE_AT - 4, 0);
    file = file
        .long(SIGNATURE_AT as u32)
        .bytes(b"PE\0\0")
        // The file header: no time, no symbols.
        .short(MACHINE_X86_64)
        .short(places.len() as u16)
        .zeros(12)
        .short(OPTIONAL_HEADER_BYTES as u16)
        .short(FILE_FLAGS)
        // The optional header: no linker's version, no preferred address, no checksum.
        .short(PE32_PLUS)
        .zeros(2)
        .long(of(CODE))
        .long(of(READ_ONLY_DATA) + of(WRITABLE_DATA))
        .long(0)
        .long(narrow(entry + PAGE_BYTES))
        .long(text)
        .zeros(8)
        .long(narrow(PAGE_BYTES))
        .long(narrow(PAGE_BYTES))
        .zeros(16)
        .long(narrow(end))
        .long(narrow(PAGE_BYTES))
        .long(0)
        .short(EFI_APPLICATION)
        .short(DLL_FLAGS)
        .zeros(36)
        .long(DIRECTORIES);
    for index in 0..DIRECTORIES {
        let named = places.last().filter(|_| index == BASE_RELOCATIONS);
        file = file.long(named.map_or(0, |place| place.address));
        file = file.long(named.map_or(0, |place| place.memory_bytes));
    }
    for (place, name) in places.iter().zip(names) {
        file = file.section(place, name);
    }
    file.0
}

/// Bytes of a structure, field by field, little endian.
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn short(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn long(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    fn section(self, place: &Place, name: &str) -> Self {
        let mut padded = [0; NAME_BYTES];
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let before = self.0.len();
        let fields = self
            .bytes(&padded)
            .long(place.memory_bytes)
            .long(place.address)
            .long(place.file_bytes)
            .long(place.at)
            .zeros(12)
            .long(place.flags);
        debug_assert_eq!(fields.0.len() - before, SECTION_HEADER_BYTES);
        fields
    }
}
