//! Reading ELF files: what of one matters to an image, checked.

use std::fmt;

use abi::{Span, image::MAX_SERVICE_BYTES, page_up};
use object::LittleEndian as LE;
use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};

/// What the CPU may do with a loaded part. Writable *and* executable cannot be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and execute.
    Execute,
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
}

/// A `PT_LOAD` of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) address: u64,
    pub(crate) physical: u64,
    pub(crate) bytes: &'a [u8],
    pub(crate) memory_bytes: u64,
    pub(crate) access: Access,
}

impl Load<'_> {
    /// The addresses it takes in memory. Their end was checked when the file was read.
    pub(crate) fn span(&self) -> Span {
        Span::new(self.address, self.memory_bytes)
    }

    /// The addresses of the bytes that are in the file.
    pub(crate) fn file_span(&self) -> Span {
        Span::new(self.address, self.bytes.len() as u64)
    }

    /// The bytes at `span`, if all of them are in the file.
    pub(crate) fn at(&self, span: Span) -> Option<&[u8]> {
        let start = usize::try_from(span.start.checked_sub(self.address)?).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(span.length).ok()?)?)
    }
}

/// A `PT_NOTE` of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    pub(crate) span: Span,
    pub(crate) alignment: u64,
    /// Whether it holds a PVH entry point.
    pub(crate) is_pvh: bool,
    /// The entry point for UEFI firmware that it holds.
    pub(crate) efi_entry: Option<u64>,
}

/// A section that takes memory.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) flags: u64,
    pub(crate) is_in_file: bool,
}

/// An ELF file, as far as an image is concerned.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    pub(crate) is_position_independent: bool,
    pub(crate) entry: u64,
    /// Ascending by address, none overlapping another, none empty.
    pub(crate) loads: Vec<Load<'a>>,
    pub(crate) notes: Vec<Note>,
    pub(crate) relro: Option<Span>,
    pub(crate) dynamic: Vec<(i64, u64)>,
    pub(crate) sections: Vec<Section>,
}

/// What is wrong with an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends beyond the memory that a loader fills.
    Beyond(u64),
    /// It needs a dynamic loader.
    Dependency,
    /// Its entry point is not in a part that may execute.
    Entry(u64),
    /// It is not a well-formed ELF file.
    Format(object::Error),
    /// The entry point for UEFI firmware is not in a part that may execute.
    EfiEntry(u64),
    /// It has initialisers, which nobody would run.
    Initialisers,
    /// It is neither an executable nor a position independent executable.
    Kind(u16),
    /// It is for another CPU.
    Machine(u16),
    /// Its manifest's place is not as long as a manifest.
    ManifestBytes(u64),
    /// Its manifest's place is not in the file, or may be written.
    ManifestPlace(u64),
    /// Its manifest's place is not empty.
    ManifestTaken,
    /// It has no place for a manifest.
    NoManifest,
    /// It has no note with an entry point for UEFI firmware.
    NoEfiNote,
    /// It has nothing to load.
    NoSegment,
    /// It has no PVH entry point.
    NoPvhNote,
    /// Its PVH note is not part of what is loaded.
    NotePlace(u64),
    /// Two of its segments want the same memory.
    Overlap(u64),
    /// It is to be loaded at another address than it is linked for.
    Physical {
        /// Where it is linked.
        address: u64,
        /// Where it would be loaded.
        physical: u64,
    },
    /// It has a relocation that is not a relative one in RELR form.
    Relocation {
        /// What it relocates.
        address: u64,
        /// The relocation's type, as the psABI numbers them.
        kind: u64,
    },
    /// The relocation table is not in the file or not a whole number of words.
    RelocationTable(Span),
    /// A relative relocation points at something that boot must not change, or past the end.
    RelocationTarget(u64),
    /// Its "read only after relocation" part is not whole pages at the start of a segment.
    Relro(u64),
    /// It has thread-local storage.
    ThreadLocal,
    /// It takes more memory than a service may.
    TooLarge(u64),
    /// It has more segments than a manifest holds.
    TooManySegments(usize),
    /// A segment's bytes are not in the file, or more than its memory holds.
    Truncated(u64),
    /// Its first byte is not the first of a page.
    Unaligned(u64),
    /// A segment is writable and executable.
    WritableAndExecutable(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beyond(end) => write!(f, "it ends at {end:#x}, beyond the first 4 GiB"),
            Self::Dependency => write!(f, "it needs a dynamic loader; link it statically"),
            Self::Entry(at) => write!(f, "entry point {at:#x} is not in an executable segment"),
            Self::Format(error) => write!(f, "{error}"),
            Self::EfiEntry(at) => {
                write!(f, "UEFI entry point {at:#x} is not in an executable segment")
            }
            Self::Initialisers => write!(f, "it has initialisers that nobody would run"),
            Self::Kind(kind) => write!(f, "ELF type {kind} is not an executable"),
            Self::Machine(machine) => write!(f, "ELF machine {machine} is not x86-64"),
            Self::ManifestBytes(bytes) => {
                write!(f, "section {} has {bytes} bytes", abi::image::SECTION)?;
                write!(f, " and a manifest has {}", abi::image::BYTES)
            }
            Self::ManifestPlace(at) => {
                write!(f, "section {} at {at:#x}", abi::image::SECTION)?;
                write!(f, " is not read-only data of the file")
            }
            Self::ManifestTaken => write!(f, "its manifest is already filled in"),
            Self::NoManifest => write!(f, "it has no section {}", abi::image::SECTION),
            Self::NoEfiNote => write!(f, "it has no note with an entry point for UEFI firmware"),
            Self::NoSegment => write!(f, "it has nothing to load"),
            Self::NoPvhNote => write!(f, "it has no note with a PVH entry point"),
            Self::NotePlace(at) => write!(f, "the PVH note at {at:#x} is not loaded"),
            Self::Overlap(at) => write!(f, "two segments want the page at {at:#x}"),
            Self::Physical { address, physical } => {
                write!(f, "it is linked for {address:#x} but would be loaded at {physical:#x}")
            }
            Self::Relocation { address, kind } => {
                write!(f, "relocation of type {kind} at {address:#x} is not in RELR form;")?;
                write!(f, " link it with -z pack-relative-relocs and nothing undefined")
            }
            Self::RelocationTable(Span { start, length }) => {
                write!(f, "the relocation table at {start:#x}, {length} bytes, is not in the file")
            }
            Self::RelocationTarget(at) => {
                write!(f, "relative relocation at {at:#x} leads out of the writable segments")
            }
            Self::Relro(at) => {
                write!(f, "the part that is read-only after relocation is not whole pages")?;
                write!(f, " at the start of a writable segment, at {at:#x}")
            }
            Self::ThreadLocal => write!(f, "it has thread-local storage"),
            Self::TooLarge(bytes) => {
                write!(f, "it takes {bytes} bytes of memory, more than {MAX_SERVICE_BYTES}")
            }
            Self::TooManySegments(count) => {
                write!(f, "it has {count} segments, more than {}", abi::image::MAX_SEGMENTS)
            }
            Self::Truncated(at) => {
                write!(f, "the bytes of the segment at {at:#x} are not all in the file")
            }
            Self::Unaligned(at) => write!(f, "its first byte {at:#x} does not begin a page"),
            Self::WritableAndExecutable(at) => {
                write!(f, "the segment at {at:#x} is writable and executable")
            }
        }
    }
}

impl std::error::Error for Fault {}

impl From<object::Error> for Fault {
    fn from(error: object::Error) -> Self {
        Self::Format(error)
    }
}

impl<'a> Elf<'a> {
    /// Reads a file and refuses what neither boot nor a service may be.
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, Fault> {
        let header = elf::FileHeader64::<LE>::parse(data)?;
        let endian = header.endian()?;
        if header.e_machine(endian) != elf::EM_X86_64 {
            return Err(Fault::Machine(header.e_machine(endian).0));
        }
        let is_position_independent = match header.e_type(endian) {
            elf::ET_DYN => true,
            elf::ET_EXEC => false,
            other => return Err(Fault::Kind(other.0)),
        };
        let mut file = Self {
            is_position_independent,
            entry: header.e_entry(endian),
            loads: Vec::new(),
            notes: Vec::new(),
            relro: None,
            dynamic: Vec::new(),
            sections: read_sections(header, data)?,
        };
        for program_header in header.program_headers(endian, data)? {
            file.take(program_header, data)?;
        }
        file.check_loads()?;
        Ok(file)
    }

    fn take(&mut self, header: &elf::ProgramHeader64<LE>, data: &'a [u8]) -> Result<(), Fault> {
        let span = Span::new(header.p_vaddr(LE), header.p_memsz(LE));
        match header.p_type(LE) {
            elf::PT_LOAD if span.length > 0 => self.loads.push(read_load(header, data)?),
            elf::PT_NOTE => self.notes.push(read_note(header, data)?),
            elf::PT_GNU_RELRO => self.relro = Some(span),
            elf::PT_TLS => return Err(Fault::ThreadLocal),
            elf::PT_INTERP => return Err(Fault::Dependency),
            elf::PT_DYNAMIC => {
                let entries = header.dynamic(LE, data)?.unwrap_or(&[]);
                let entries = entries.iter().map(|entry| (entry.d_tag(LE).0, entry.d_val(LE)));
                self.dynamic = entries.take_while(|(tag, _)| *tag != elf::DT_NULL.0).collect();
            }
            _ => {}
        }
        Ok(())
    }

    fn check_loads(&mut self) -> Result<(), Fault> {
        self.loads.sort_by_key(|load| load.address);
        let mut free = 0;
        for load in &self.loads {
            if load.address < free {
                return Err(Fault::Overlap(load.address));
            }
            free = load.span().end().ok_or(Fault::Overlap(load.address))?;
        }
        let first = self.loads.first().ok_or(Fault::NoSegment)?;
        let total = free - first.address;
        if total > MAX_SERVICE_BYTES || page_up(free).is_none() {
            return Err(Fault::TooLarge(total));
        }
        let runs =
            |load: &Load| load.access == Access::Execute && load.file_span().contains(self.entry);
        if !self.loads.iter().any(runs) {
            return Err(Fault::Entry(self.entry));
        }
        Ok(())
    }

    /// The value of a dynamic tag, if the file has it.
    pub(crate) fn dynamic(&self, tag: elf::DynamicTag) -> Option<u64> {
        self.dynamic.iter().find(|(seen, _)| *seen == tag.0).map(|(_, value)| *value)
    }

    /// The bytes at `span`, if all of them are in one segment of the file.
    pub(crate) fn at(&self, span: Span) -> Option<&[u8]> {
        self.loads.iter().find_map(|load| load.at(span))
    }
}

fn read_load<'a>(header: &elf::ProgramHeader64<LE>, data: &'a [u8]) -> Result<Load<'a>, Fault> {
    let (address, memory_bytes) = (header.p_vaddr(LE), header.p_memsz(LE));
    let bytes = header.data(LE, data).map_err(|()| Fault::Truncated(address))?;
    if bytes.len() as u64 > memory_bytes {
        return Err(Fault::Truncated(address));
    }
    let flags = header.p_flags(LE).0;
    let access = match (flags & elf::PF_W.0 != 0, flags & elf::PF_X.0 != 0) {
        (true, true) => return Err(Fault::WritableAndExecutable(address)),
        (true, false) => Access::ReadWrite,
        (false, true) => Access::Execute,
        (false, false) => Access::Read,
    };
    Ok(Load { address, physical: header.p_paddr(LE), bytes, memory_bytes, access })
}

fn read_note(header: &elf::ProgramHeader64<LE>, data: &[u8]) -> Result<Note, Fault> {
    /// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry point of the PVH boot protocol.
    const PVH: u32 = 18;
    /// Ours: the 64-bit entry point for UEFI firmware.
    const EFI: u32 = 1;
    let mut is_pvh = false;
    let mut efi_entry = None;
    if let Some(notes) = header.notes(LE, data)? {
        for note in notes {
            let note = note?;
            is_pvh |= note.name() == b"Xen" && note.n_type(LE).0 == PVH;
            if note.name() == b"Bulla" && note.n_type(LE).0 == EFI {
                efi_entry = note.desc().try_into().ok().map(u64::from_le_bytes);
            }
        }
    }
    let span = Span::new(header.p_vaddr(LE), header.p_memsz(LE));
    Ok(Note { span, alignment: header.p_align(LE), is_pvh, efi_entry })
}

fn read_sections(header: &elf::FileHeader64<LE>, data: &[u8]) -> Result<Vec<Section>, Fault> {
    let table = header.sections(LE, data)?;
    let mut sections = Vec::new();
    for section in table.iter() {
        let flags = section.sh_flags(LE).0;
        let span = Span::new(section.sh_addr(LE), section.sh_size(LE));
        if flags & elf::SHF_ALLOC.0 == 0 || span.length == 0 {
            continue;
        }
        let name = String::from_utf8_lossy(table.section_name(LE, section)?).into_owned();
        let is_in_file = section.sh_type(LE) != elf::SHT_NOBITS;
        sections.push(Section { name, span, flags, is_in_file });
    }
    Ok(sections)
}
