//! Small ELF files for tests, told from a few lines.

use abi::image::{BYTES, SECTION};
use object::elf;

use super::write::{File, Section, Segment};

/// A segment of a sketched file.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) address: u64,
    pub(super) flags: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) memory_bytes: u64,
}

/// A sketched file.
#[derive(Clone)]
pub(super) struct Sketch {
    pub(super) kind: elf::FileType,
    pub(super) entry: u64,
    pub(super) loads: Vec<Load>,
    /// Program headers over addresses: type, start, length.
    pub(super) views: Vec<(elf::ProgramType, u64, u64)>,
    /// Sections over addresses: name, type, start, length.
    pub(super) sections: Vec<(&'static str, elf::SectionType, u64, u64)>,
}

pub(super) const READ: u32 = 4;
pub(super) const EXECUTE: u32 = 5;
pub(super) const WRITE: u32 = 6;

pub(super) fn load(address: u64, flags: u32, bytes: Vec<u8>) -> Load {
    let memory_bytes = bytes.len() as u64;
    Load { address, flags, bytes, memory_bytes }
}

impl Sketch {
    /// The file's bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut file = File::new(self.kind, self.entry, self.loads.len() + self.views.len());
        let mut offsets = Vec::new();
        for load in &self.loads {
            let offset = file.append(load.address, &load.bytes);
            offsets.push(offset);
            file.segment(Segment {
                kind: elf::PT_LOAD,
                flags: load.flags,
                offset,
                address: load.address,
                file_bytes: load.bytes.len() as u64,
                memory_bytes: load.memory_bytes,
                alignment: 4096,
            });
        }
        let place = |address: u64| {
            let loads = self.loads.iter().zip(&offsets);
            let mut holding = loads.filter(|(load, _)| {
                (load.address..load.address + load.memory_bytes).contains(&address)
            });
            holding.next().map_or(0, |(load, offset)| offset + address - load.address)
        };
        for &(kind, address, length) in &self.views {
            file.segment(Segment {
                kind,
                flags: READ,
                offset: place(address),
                address,
                file_bytes: length,
                memory_bytes: length,
                alignment: 4,
            });
        }
        for &(name, kind, address, bytes) in &self.sections {
            file.section(Section {
                name: name.to_owned(),
                kind,
                flags: elf::SHF_ALLOC.0,
                address,
                offset: place(address),
                bytes,
            });
        }
        file.finish()
    }
}

/// Where the sketched boot's manifest is.
pub(super) const BOOT_MANIFEST: u64 = 0x10_1010;

/// The last byte of the sketched boot's memory, and one.
pub(super) const BOOT_END: u64 = 0x10_5800;

/// The sketched boot's entry points: a PVH loader's, and UEFI firmware's.
pub(super) const BOOT_ENTRY: u64 = 0x10_0040;
pub(super) const BOOT_EFI_ENTRY: u64 = 0x10_0050;

/// Bytes of the sketched boot's notes.
const NOTES: u64 = 20 + 28;

/// A boot program: text with the notes in it, read-only data with the manifest's place, data.
pub(super) fn boot() -> Sketch {
    let mut text = Vec::new();
    let word = u32::from_le_bytes;
    let pvh = [4, 4, 18, word(*b"Xen\0"), BOOT_ENTRY as u32];
    let efi = [6, 8, 1, word(*b"Bull"), word(*b"a\0\0\0"), BOOT_EFI_ENTRY as u32, 0];
    for word in pvh.iter().chain(&efi) {
        text.extend_from_slice(&word.to_le_bytes());
    }
    text.resize(0x123, 0xf4);
    let mut data = load(0x10_2000, WRITE, vec![0xdd; 0x80]);
    data.memory_bytes = BOOT_END - 0x10_2000;
    Sketch {
        kind: elf::ET_EXEC,
        entry: BOOT_ENTRY,
        loads: vec![
            load(0x10_0000, EXECUTE, text),
            load(0x10_1000, READ, [vec![7; 16], vec![0; BYTES], vec![9; 16]].concat()),
            data,
        ],
        views: vec![(elf::PT_NOTE, 0x10_0000, NOTES)],
        sections: vec![
            (".note.pvh", elf::SHT_NOTE, 0x10_0000, NOTES),
            (".text", elf::SHT_PROGBITS, BOOT_ENTRY, 0xe3),
            (SECTION, elf::SHT_PROGBITS, BOOT_MANIFEST, BYTES as u64),
            (".bss", elf::SHT_NOBITS, 0x10_2080, BOOT_END - 0x10_2080),
        ],
    }
}

/// Words as bytes.
pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Where the sketched service's relocation table is.
pub(super) const TABLE: u64 = 0x10;

/// Where the sketched service's dynamic section is, and how long.
pub(super) const DYNAMIC: (u64, u64) = (0x2100, 8 * 16);

/// A service: read-only data with the table, text, relro with the dynamic section, data with bss.
pub(super) fn service() -> Sketch {
    let mut rodata = vec![0; 0x40];
    // Relocates 0x2000, then 0x2008 and 0x2018.
    rodata[0x10..0x20].copy_from_slice(&words(&[0x2000, 0b1011]));
    let mut relro = words(&[0x10, 0x1000, 0xffff_ffff_ffff, 0x3000]);
    relro.resize(0x100, 0);
    relro.extend_from_slice(&dynamic(&[(elf::DT_RELR, TABLE), (elf::DT_RELRSZ, 16)]));
    let mut relro = load(0x2000, WRITE, relro);
    relro.memory_bytes = 0x1000;
    let mut data = load(0x3000, WRITE, vec![0x5a; 0x1234]);
    data.memory_bytes = 0x5_0000;
    Sketch {
        kind: elf::ET_DYN,
        entry: 0x1004,
        loads: vec![load(0, READ, rodata), load(0x1000, EXECUTE, vec![0xcc; 0x234]), relro, data],
        views: vec![(elf::PT_GNU_RELRO, 0x2000, 0x1000), (elf::PT_DYNAMIC, DYNAMIC.0, DYNAMIC.1)],
        sections: vec![],
    }
}

/// A dynamic section of [`DYNAMIC`]'s length.
pub(super) fn dynamic(entries: &[(elf::DynamicTag, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, value) in entries {
        bytes.extend_from_slice(&tag.0.to_le_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.resize(usize::try_from(DYNAMIC.1).unwrap(), 0);
    bytes
}
