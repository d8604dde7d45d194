//! Reading the file: program headers and sections as they are, before anything is believed.
//!
//! `NAME.elf` is read here, `NAME.efi` in [`crate::pe`]; from there on they are one.

use std::fmt;

use abi::Span;
use object::LittleEndian as LE;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use crate::pe;
use crate::units::{bytes_of, wide};

/// The most program headers an image may have; ours has ten.
const MAX_SEGMENTS: usize = 64;

/// The most sections an image may have; ours has some twenty.
const MAX_SECTIONS: usize = 256;

/// Why a file cannot be audited at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not an ELF file, or its headers contradict each other.
    Elf(object::Error),
    /// It is for another CPU, by the number that its format has for it.
    Machine(u16),
    /// It begins like a PE file and is none, or its headers contradict each other.
    Pe(object::Error),
    /// It is a PE file, but no UEFI application.
    Subsystem(u16),
    /// It has more headers than any image.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => write!(f, "no 64-bit little-endian ELF file: {error}"),
            Self::Machine(machine) => write!(f, "file for machine {machine}, not for x86-64"),
            Self::Pe(error) => write!(f, "no 64-bit PE file: {error}"),
            Self::Subsystem(number) => {
                write!(f, "PE file for subsystem {number}, not a UEFI application")
            }
            Self::TooMany { what, count } => write!(f, "file has {count} {what}"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// What a program header or a section lets the CPU do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

impl Rights {
    pub(crate) const READ: Self = Self { read: true, write: false, execute: false };
    pub(crate) const EXECUTE: Self = Self { read: true, write: false, execute: true };
    pub(crate) const READ_WRITE: Self = Self { read: true, write: true, execute: false };
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |is_so, letter| if is_so { letter } else { '-' };
        let (read, write) = (letter(self.read, 'r'), letter(self.write, 'w'));
        write!(f, "{read}{write}{}", letter(self.execute, 'x'))
    }
}

/// What a program header is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// `PT_LOAD`.
    Load,
    /// `PT_NOTE`.
    Note,
    /// `PT_NULL`.
    Nothing,
    /// Anything else, by its number.
    Other(u32),
}

/// A program header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: Use,
    pub(crate) rights: Rights,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) physical: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) alignment: u64,
}

impl Segment {
    /// Its place in the file.
    pub(crate) const fn in_file(&self) -> Span {
        Span::new(self.offset, self.file_bytes)
    }

    /// Its addresses.
    pub(crate) const fn in_memory(&self) -> Span {
        Span::new(self.address, self.memory_bytes)
    }

    /// The addresses whose bytes are in the file.
    pub(crate) const fn loaded(&self) -> Span {
        Span::new(self.address, self.file_bytes)
    }
}

/// A section.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) address: u64,
    /// Its place in the file, if it has one.
    pub(crate) in_file: Option<Span>,
    pub(crate) is_writable: bool,
    pub(crate) is_executable: bool,
}

/// An image's file.
#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) is_executable: bool,
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) sections: Vec<Section>,
    /// What is wrong with the wrapping itself.
    pub(crate) complaints: Vec<String>,
}

impl<'a> File<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] if they are not those of an ELF file or of a UEFI application for this CPU.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        if bytes.starts_with(pe::MAGIC) { pe::parse(bytes) } else { Self::parse_elf(bytes) }
    }

    fn parse_elf(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let header = elf::FileHeader64::<LE>::parse(bytes).map_err(Unreadable::Elf)?;
        let endian = header.endian().map_err(Unreadable::Elf)?;
        let machine = header.e_machine(endian);
        if machine != elf::EM_X86_64 {
            return Err(Unreadable::Machine(machine.0));
        }
        let programs = header.program_headers(endian, bytes).map_err(Unreadable::Elf)?;
        bounded("program headers", programs.len(), MAX_SEGMENTS)?;
        let sections = header.sections(endian, bytes).map_err(Unreadable::Elf)?;
        bounded("sections", sections.len(), MAX_SECTIONS)?;
        let named = sections.iter().map(|section| {
            let name = sections.section_name(endian, section).unwrap_or_default();
            let in_file = section.file_range(endian).map(|(start, size)| Span::new(start, size));
            let flags = section.sh_flags(endian);
            let has = |flag: elf::SectionFlags| flags.0 & flag.0 != 0;
            Section {
                name: String::from_utf8_lossy(name).into_owned(),
                address: section.sh_addr(endian),
                in_file,
                is_writable: has(elf::SHF_WRITE),
                is_executable: has(elf::SHF_EXECINSTR),
            }
        });
        Ok(Self {
            bytes,
            is_executable: header.e_type(endian) == elf::ET_EXEC,
            entry: header.e_entry(endian),
            segments: programs.iter().map(|program| segment(program, endian)).collect(),
            sections: named.collect(),
            complaints: Vec::new(),
        })
    }

    /// The segments that take memory.
    pub(crate) fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == Use::Load)
    }

    /// The address of the image's first byte.
    pub(crate) fn origin(&self) -> Option<u64> {
        self.loads().map(|load| load.address).min()
    }

    /// The segment that has all of `span`, whether or not the bytes are in the file.
    pub(crate) fn load_of(&self, span: Span) -> Option<&Segment> {
        self.loads().find(|load| load.in_memory().covers(&span))
    }

    /// The bytes at a span of addresses, if all of them are in the file.
    pub(crate) fn at(&self, span: Span) -> Option<&'a [u8]> {
        if span.length == 0 {
            return Some(&[]);
        }
        let load = self.loads().find(|load| load.loaded().covers(&span))?;
        let start = load.offset.checked_add(span.start.checked_sub(load.address)?)?;
        bytes_of(self.bytes, Span::new(start, span.length))
    }

    /// The one section of this name, with its bytes.
    pub(crate) fn section(&self, name: &str) -> Result<(&Section, &'a [u8]), SectionFault> {
        let mut found = self.sections.iter().filter(|section| section.name == name);
        let section = found.next().ok_or(SectionFault::Absent)?;
        if found.next().is_some() {
            return Err(SectionFault::Several);
        }
        let span = section.in_file.ok_or(SectionFault::NoBytes)?;
        let bytes = bytes_of(self.bytes, span).ok_or(SectionFault::NoBytes)?;
        // What counts is what is loaded: the section has to be a name for exactly those bytes.
        let loaded = self.at(Span::new(section.address, wide(bytes.len())));
        match loaded {
            Some(loaded) if std::ptr::eq(loaded, bytes) => Ok((section, bytes)),
            _ => Err(SectionFault::NotLoaded),
        }
    }

    /// The name of the section that begins at an address.
    pub(crate) fn name_at(&self, address: u64) -> Option<&str> {
        let found = self.sections.iter().find(|s| s.address == address && !s.name.is_empty());
        found.map(|section| section.name.as_str())
    }
}

/// Why a section cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SectionFault {
    /// There is none of this name.
    Absent,
    /// Its bytes are not in the file.
    NoBytes,
    /// Its bytes are not the ones that are loaded at its address.
    NotLoaded,
    /// There are several of this name.
    Several,
}

impl fmt::Display for SectionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "is not in the file",
            Self::NoBytes => "has no bytes in the file",
            Self::NotLoaded => "is not what is loaded at its address",
            Self::Several => "is there more than once",
        })
    }
}

pub(crate) fn bounded(what: &'static str, count: usize, most: usize) -> Result<(), Unreadable> {
    if count > most { Err(Unreadable::TooMany { what, count }) } else { Ok(()) }
}

fn segment(program: &elf::ProgramHeader64<LE>, endian: LE) -> Segment {
    let kind = match program.p_type(endian) {
        elf::PT_LOAD => Use::Load,
        elf::PT_NOTE => Use::Note,
        elf::PT_NULL => Use::Nothing,
        other => Use::Other(other.0),
    };
    let flags = program.p_flags(endian).0;
    Segment {
        kind,
        rights: Rights {
            read: flags & elf::PF_R.0 != 0,
            write: flags & elf::PF_W.0 != 0,
            execute: flags & elf::PF_X.0 != 0,
        },
        offset: program.p_offset(endian),
        address: program.p_vaddr(endian),
        physical: program.p_paddr(endian),
        file_bytes: program.p_filesz(endian),
        memory_bytes: program.p_memsz(endian),
        alignment: program.p_align(endian),
    }
}
