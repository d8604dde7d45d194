//! Writing an ELF file: program headers and sections over bytes whose places are already decided.

use abi::PAGE_BYTES;
use object::elf;

const FILE_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;

/// A program header; its bytes are in the file at `offset`.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: elf::ProgramType,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) alignment: u64,
}

/// A section header.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) kind: elf::SectionType,
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// An ELF file that is being put together.
#[derive(Debug)]
pub(crate) struct File {
    kind: elf::FileType,
    entry: u64,
    segment_slots: usize,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    bytes: Vec<u8>,
}

impl File {
    /// Begins a file with room for `segment_slots` program headers.
    pub(crate) fn new(kind: elf::FileType, entry: u64, segment_slots: usize) -> Self {
        let bytes = vec![0; FILE_HEADER_BYTES + segment_slots * PROGRAM_HEADER_BYTES];
        Self { kind, entry, segment_slots, segments: Vec::new(), sections: Vec::new(), bytes }
    }

    /// Appends bytes that are loaded at `address`, at an offset that is the same within a page.
    pub(crate) fn append(&mut self, address: u64, bytes: &[u8]) -> u64 {
        let page = usize::try_from(PAGE_BYTES).unwrap_or(1);
        let within = usize::try_from(address % PAGE_BYTES).unwrap_or(0);
        let offset = self.bytes.len().next_multiple_of(page) + within;
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(bytes);
        offset as u64
    }

    pub(crate) fn segment(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    pub(crate) fn section(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Writes the headers. A slot without a segment stays an empty `PT_NULL`.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        assert!(self.segments.len() <= self.segment_slots, "more segments than were announced");
        let (names, name_offsets) = self.names();
        let names_offset = self.bytes.len();
        self.bytes.extend_from_slice(&names);
        let table_offset = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(table_offset + SECTION_HEADER_BYTES, 0);
        let strings = Section {
            name: String::new(),
            kind: elf::SHT_STRTAB,
            flags: 0,
            address: 0,
            offset: names_offset as u64,
            bytes: names.len() as u64,
        };
        for (section, name) in self.sections.iter().chain([&strings]).zip(name_offsets) {
            self.bytes.extend_from_slice(&section_header(section, name));
        }
        let mut headers = file_header(&self, table_offset);
        for segment in &self.segments {
            headers.extend_from_slice(&program_header(segment));
        }
        for (to, from) in self.bytes.iter_mut().zip(headers) {
            *to = from;
        }
        self.bytes
    }

    /// The string table of the sections' names and where in it each is, the table's own last.
    fn names(&self) -> (Vec<u8>, Vec<u32>) {
        let mut table = vec![0];
        let mut offsets = Vec::new();
        for name in self.sections.iter().map(|s| s.name.as_str()).chain([".shstrtab"]) {
            offsets.push(u32::try_from(table.len()).unwrap_or(0));
            table.extend_from_slice(name.as_bytes());
            table.push(0);
        }
        (table, offsets)
    }
}

/// Bytes of a structure, field by field, little endian.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn half(mut self, value: usize) -> Self {
        self.0.extend_from_slice(&u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes());
        self
    }

    fn word(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn long(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
}

fn file_header(file: &File, table_offset: usize) -> Vec<u8> {
    let mut ident = Fields::default();
    ident.0.extend_from_slice(&elf::ELFMAG);
    ident.0.extend_from_slice(&[elf::ELFCLASS64.0, elf::ELFDATA2LSB.0, elf::EV_CURRENT.0]);
    ident.0.resize(16, 0);
    let sections = file.sections.len() + 2;
    ident
        .half(usize::from(file.kind.0))
        .half(usize::from(elf::EM_X86_64.0))
        .word(1)
        .long(file.entry)
        .long(FILE_HEADER_BYTES as u64)
        .long(table_offset as u64)
        .word(0)
        .half(FILE_HEADER_BYTES)
        .half(PROGRAM_HEADER_BYTES)
        .half(file.segment_slots)
        .half(SECTION_HEADER_BYTES)
        .half(sections)
        .half(sections - 1)
        .0
}

fn program_header(segment: &Segment) -> Vec<u8> {
    Fields::default()
        .word(segment.kind.0)
        .word(segment.flags)
        .long(segment.offset)
        .long(segment.address)
        .long(segment.address)
        .long(segment.file_bytes)
        .long(segment.memory_bytes)
        .long(segment.alignment)
        .0
}

fn section_header(section: &Section, name: u32) -> Vec<u8> {
    Fields::default()
        .word(name)
        .word(section.kind.0)
        .long(section.flags)
        .long(section.address)
        .long(section.offset)
        .long(section.bytes)
        .word(0)
        .word(0)
        .long(1)
        .long(0)
        .0
}
