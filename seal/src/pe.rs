//! Reading the PE file that UEFI firmware starts: the same parts in another wrapping.
//!
//! Source: Microsoft, "PE Format" (2024-07), and UEFI 2.10, section 2.1.1. The sections become the
//! segments of an ELF file at the addresses that `NAME.elf` has them, so that every property is
//! judged by the same code and both files get the same verdict. What firmware would do beyond
//! loading sections is a complaint: there is nothing for it to do.

use abi::image::{BYTES, SECTION};
use abi::{PAGE_BYTES, Span};
use object::LittleEndian as LE;
use object::pe::{
    IMAGE_FILE_MACHINE_AMD64, IMAGE_SUBSYSTEM_EFI_APPLICATION, ImageDosHeader, ImageNtHeaders64,
    ImageSectionHeader,
};
use object::read::pe::{DataDirectories, ImageNtHeaders, ImageOptionalHeader};

use crate::file::{File, Rights, Section, Segment, Unreadable, Use, bounded};
use crate::units::{bytes_of, wide};

/// How the file begins.
pub(crate) const MAGIC: &[u8] = b"MZ";

/// The most sections an image may have; ours has eleven.
const MAX_SECTIONS: usize = 64;

/// Where `NAME.elf` has boot's first byte, which begins the page behind the header here.
const LINKED: u64 = 0x10_0000;

/// Each section, and what `NAME.elf` calls it.
const NAMES: [(&str, &str); 10] = [
    (".text", ".boot.text"),
    (".gate", ".boot.gate"),
    (".rodata", ".boot.rodata"),
    (".data", ".boot.data"),
    (".srodata", ".service.rodata"),
    (".stext", ".service.text"),
    (".srelro", ".service.relro"),
    (".sdata", ".service.data"),
    (".srelr", ".service.relocations"),
    (".config", ".configuration"),
];

/// The section that begins with the manifest.
const HOLDS_MANIFEST: &str = ".rodata";

/// The section that says that nothing has to be relocated, by a block without an effect: page 0,
/// twelve bytes, two entries of type "absolute".
const NO_RELOCATIONS: (&str, [u8; 12]) = (".reloc", [0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]);

/// Directories that may name something: signatures, which no firmware loads, and the block above.
const SIGNATURES: usize = 4;
const BASE_RELOCATIONS: usize = 5;

/// Relocations are stripped: firmware would insist on the preferred address.
const RELOCATIONS_STRIPPED: u16 = 1;

/// Flags of a section.
const EXECUTE: u32 = 1 << 29;
const READ: u32 = 1 << 30;
const WRITE: u32 = 1 << 31;

/// Reads the headers.
///
/// # Errors
///
/// [`Unreadable`] if they are not those of a 64-bit UEFI application for this CPU.
pub(crate) fn parse(bytes: &[u8]) -> Result<File<'_>, Unreadable> {
    let dos = ImageDosHeader::parse(bytes).map_err(Unreadable::Pe)?;
    let mut offset = u64::from(dos.nt_headers_offset());
    let (headers, directories) =
        ImageNtHeaders64::parse(bytes, &mut offset).map_err(Unreadable::Pe)?;
    let machine = headers.file_header().machine.get(LE);
    if machine != IMAGE_FILE_MACHINE_AMD64 {
        return Err(Unreadable::Machine(machine.0));
    }
    let optional = headers.optional_header();
    if optional.subsystem() != IMAGE_SUBSYSTEM_EFI_APPLICATION {
        return Err(Unreadable::Subsystem(optional.subsystem().0));
    }
    let table = headers.sections(bytes, offset).map_err(Unreadable::Pe)?;
    bounded("sections", table.len(), MAX_SECTIONS)?;
    let mut file = File {
        bytes,
        is_executable: true,
        entry: address(optional.address_of_entry_point()),
        segments: Vec::new(),
        sections: Vec::new(),
        complaints: Vec::new(),
    };
    for section in table.iter() {
        add(&mut file, section, u64::from(optional.section_alignment()));
    }
    if headers.file_header().characteristics.get(LE).0 & RELOCATIONS_STRIPPED != 0 {
        file.complaints.push("its relocations are stripped, so it cannot be moved".to_owned());
    }
    if u64::from(optional.size_of_headers()) > PAGE_BYTES {
        file.complaints.push("its header takes more than a page".to_owned());
    }
    check_directories(&mut file, &directories);
    Ok(file)
}

/// The address in `NAME.elf` of one in memory from the file's header on. The header's own are none.
fn address(relative: u32) -> u64 {
    LINKED.wrapping_sub(PAGE_BYTES).wrapping_add(u64::from(relative))
}

fn add(file: &mut File<'_>, section: &ImageSectionHeader, alignment: u64) {
    let name = String::from_utf8_lossy(section.raw_name()).into_owned();
    let flags = section.characteristics.get(LE).0;
    let (start, memory_bytes) = (section.virtual_address.get(LE), section.virtual_size.get(LE));
    // Firmware copies as much as is in the file and no more than the section has.
    let stored = section.size_of_raw_data.get(LE).min(memory_bytes);
    let in_file = Span::new(section.pointer_to_raw_data.get(LE).into(), stored.into());
    if name == NO_RELOCATIONS.0 {
        let is_empty = bytes_of(file.bytes, in_file) == Some(&NO_RELOCATIONS.1[..]);
        let is_inert = flags & (WRITE | EXECUTE) == 0;
        if !is_empty || !is_inert {
            file.complaints.push(format!("section {name} is not the block that does nothing"));
        }
        return;
    }
    let known = NAMES.iter().find(|(short, _)| *short == name);
    if known.is_none() {
        file.complaints.push(format!("section {name:?} is none of an image's"));
    }
    if u64::from(start) < PAGE_BYTES {
        file.complaints.push(format!("section {name:?} lies on the header"));
    }
    let rights = Rights {
        read: flags & READ != 0,
        write: flags & WRITE != 0,
        execute: flags & EXECUTE != 0,
    };
    let place = address(start);
    file.segments.push(Segment {
        kind: Use::Load,
        rights,
        offset: in_file.start,
        address: place,
        physical: place,
        file_bytes: in_file.length,
        memory_bytes: memory_bytes.into(),
        alignment,
    });
    let mut name_part = |name: &str, in_file: Span| {
        file.sections.push(Section {
            name: name.to_owned(),
            address: place,
            in_file: Some(in_file),
            is_writable: rights.write,
            is_executable: rights.execute,
        });
    };
    if let Some((_, long)) = known {
        name_part(long, in_file);
    }
    if name == HOLDS_MANIFEST {
        name_part(SECTION, Span::new(in_file.start, in_file.length.min(wide(BYTES))));
    }
}

/// Imports, exports, debug data: work for a loader, or bytes that nobody accounts for.
fn check_directories(file: &mut File<'_>, directories: &DataDirectories<'_>) {
    for (index, directory) in directories.iter().enumerate() {
        let is_empty = directory.virtual_address.get(LE) == 0 && directory.size.get(LE) == 0;
        if !is_empty && index != SIGNATURES && index != BASE_RELOCATIONS {
            file.complaints.push(format!("data directory {index} is not empty"));
        }
    }
    let bytes = directories.get(BASE_RELOCATIONS).map_or(0, |directory| directory.size.get(LE));
    if bytes != 0 && wide(NO_RELOCATIONS.1.len()) != u64::from(bytes) {
        file.complaints.push(format!("{bytes} bytes of relocations for firmware to apply"));
    }
}
