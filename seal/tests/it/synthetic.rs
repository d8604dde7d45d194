//! A small image, written byte by byte, that holds every property until a test changes it.

use abi::configuration::{self, Header, OnStop};
use abi::image::{self, Manifest, Segment, SegmentAccess};
use abi::{PAGE_BYTES, Span};

/// Program header flags and types (gABI, "Program Header").
pub(crate) const R: u32 = 4;
pub(crate) const RW: u32 = 6;
pub(crate) const RX: u32 = 5;
pub(crate) const RWX: u32 = 7;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Where boot's first byte is.
const ORIGIN: u64 = 0x10_0000;

/// Boot's three segments take so many pages; behind them lie the service's parts.
const BOOT_PAGES: u64 = 4;

/// The tail: `mov rax, rsi; mov cr3, rax`.
const TAIL: [u8; 6] = [0x48, 0x89, 0xf0, 0x0f, 0x22, 0xd8];

/// The clean gate, in pieces that a test may put something between.
const DROP: [u8; 11] = [
    0x48, 0xc7, 0xc4, 0xd8, 0x8f, 0xc0, 0xff, // mov rsp, the gate's stack
    0x31, 0xc0, // xor eax, eax
    0x48, 0xcf, // iretq
];
const IDLE: [u8; 15] = [
    0xcc, 0xcc, 0xcc, // padding
    0x89, 0x0c, 0x25, 0x80, 0x03, 0xc1, 0xff, // mov [the timer's initial count], ecx
    0xfb, 0xf4, 0xfa, // sti; hlt; cli
    0x48, 0xcf, // iretq
];
const PRINT: [u8; 29] = [
    0x0f, 0x20, 0xd0, // mov rax, cr2
    0x66, 0x8b, 0x14, 0x25, 0x00, 0x40, 0xc0, 0xff, // mov dx, [the console's port]
    0x66, 0x83, 0xc2, 0x05, // add dx, 5
    0xec, // in al, dx
    0xa8, 0x20, // test al, 0x20
    0x74, 0xfb, // jz to the in
    0x66, 0x83, 0xea, 0x05, // sub dx, 5
    0x8a, 0x06, // mov al, [rsi]
    0xee, // out dx, al
    0x90, 0x90, // nop; nop
];
const DEAD: [u8; 8] = [
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xfa, 0xf4, // cli; hlt
    0xeb, 0xfc, // jmp to the cli
];
const TEXT: &[u8] = b"\r\nSTOP\0";

/// A program header with its bytes.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: u64,
    pub(crate) flags: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory_bytes: u64,
}

/// An image that is being put together.
pub(crate) struct Synthetic {
    pub(crate) entry: u64,
    pub(crate) tail: Vec<u8>,
    /// What stands between the tail and the gate: nothing.
    pub(crate) between: Vec<u8>,
    /// The gate's code but for the `lea` that finds its text.
    pub(crate) code: Vec<u8>,
    pub(crate) text: Vec<u8>,
    pub(crate) manifest: Manifest,
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) relocations: Vec<u64>,
    /// Program headers of other types.
    pub(crate) others: Vec<(u32, u64, u64)>,
    /// The last change, to the loads as they will be written.
    pub(crate) change_loads: fn(&mut Vec<Load>),
    pub(crate) gate_section: &'static str,
}

impl Synthetic {
    /// An image that is sealed.
    pub(crate) fn new() -> Self {
        let segment = |page: u64, address, pages: u64, memory_pages: u64, access| {
            Some(Segment {
                offset: (BOOT_PAGES + page) * PAGE_BYTES,
                address,
                file_bytes: pages * PAGE_BYTES,
                memory_bytes: memory_pages * PAGE_BYTES,
                access,
            })
        };
        let mut segments = [None; image::MAX_SEGMENTS];
        segments[0] = segment(0, 0, 1, 1, SegmentAccess::Read);
        segments[1] = segment(1, 0x1000, 2, 2, SegmentAccess::Execute);
        segments[2] = segment(3, 0x3000, 1, 1, SegmentAccess::ReadAfterRelocation);
        // A text that ends in the middle of its last page.
        let text = segments[1].as_mut().unwrap();
        (text.file_bytes, text.memory_bytes) = (0x1020, 0x1020);
        segments[3] = segment(4, 0x4000, 1, 3, SegmentAccess::ReadWrite);
        let relocations = vec![0x3000, 0b1011, 0x4008];
        let payload = b"not a secret".to_vec();
        Self {
            entry: ORIGIN + 0x20,
            tail: TAIL.to_vec(),
            between: Vec::new(),
            code: [&DROP[..], &IDLE, &PRINT, &DEAD].concat(),
            text: TEXT.to_vec(),
            manifest: Manifest {
                entry: 0x1010,
                relocations: Span::new((BOOT_PAGES + 5) * PAGE_BYTES, 0),
                configuration: Span::new((BOOT_PAGES + 6) * PAGE_BYTES, 0),
                segments,
            },
            header: Header {
                heap_bytes: 4 << 20,
                stack_bytes: 64 << 10,
                on_stop: OnStop::PowerOff,
                needs_nic: true,
                build_unix_s: 1_700_000_000,
                payload_bytes: payload.len() as u64,
            },
            payload,
            relocations,
            others: Vec::new(),
            change_loads: |_| {},
            gate_section: ".boot.gate",
        }
    }

    /// The gate: the drop, a `lea` of the text, the rest of the code, the text.
    pub(crate) fn gate(&self) -> Vec<u8> {
        let mut gate = self.code.clone();
        let after_drop = DROP.len() + 3;
        let is_whole = gate.len() > after_drop;
        if is_whole && !self.text.is_empty() {
            let rest = gate.len() - after_drop;
            let mut lea = vec![0x48, 0x8d, 0x35];
            lea.extend((rest as u32).to_le_bytes());
            gate.splice(after_drop..after_drop, lea);
        }
        gate.extend(&self.text);
        gate
    }

    /// Puts code in front of the gate's end.
    pub(crate) fn add_code(&mut self, code: &[u8]) {
        let at = self.code.len() - DEAD.len();
        self.code.splice(at..at, code.iter().copied());
    }

    /// The file for UEFI firmware, its wrapping changed by a test.
    pub(crate) fn build_efi(mut self, change: impl FnOnce(&mut Wrapping)) -> Vec<u8> {
        let blob = [&self.tail[..], &self.between, &self.gate()].concat();
        let (mut loads, manifest) = self.loads(&blob);
        loads[1].bytes = blob;
        loads.insert(2, Load { address: ORIGIN + 2 * PAGE_BYTES, bytes: manifest, ..loads[1] });
        for load in &mut loads[1..3] {
            load.memory_bytes = load.bytes.len() as u64;
        }
        (self.change_loads)(&mut loads);
        let names = [".text", ".gate", ".rodata", ".data", ".srodata", ".stext", ".srelro"];
        let names = names.into_iter().chain([".sdata", ".srelr", ".config"]);
        let mut wrapping = Wrapping::new(self.entry, names.map(str::to_owned).zip(loads));
        change(&mut wrapping);
        wrapping.write()
    }

    /// The file.
    pub(crate) fn build(mut self) -> Vec<u8> {
        let blob = [&self.tail[..], &self.between, &self.gate()].concat();
        let (mut loads, manifest) = self.loads(&blob);
        let manifest_at = blob.len().next_multiple_of(8);
        let rodata = &mut loads[1];
        rodata.bytes.resize(manifest_at, 0);
        rodata.bytes.extend(manifest);
        rodata.memory_bytes = rodata.bytes.len() as u64;
        (self.change_loads)(&mut loads);
        let sections = [
            (self.gate_section, ORIGIN + PAGE_BYTES, blob.len() as u64),
            (image::SECTION, ORIGIN + PAGE_BYTES + manifest_at as u64, image::BYTES as u64),
        ];
        write(self.entry, &loads, &self.others, &sections)
    }

    /// What is loaded, and the manifest that goes behind the gate.
    fn loads(&mut self, blob: &[u8]) -> (Vec<Load>, Vec<u8>) {
        let table: Vec<u8> = self.relocations.iter().flat_map(|word| word.to_le_bytes()).collect();
        let section = [&self.header.encode()[..], &self.payload].concat();
        if self.manifest.relocations.length == 0 {
            self.manifest.relocations.length = table.len() as u64;
        }
        if self.manifest.configuration.length == 0 {
            self.manifest.configuration.length = section.len() as u64;
        }
        let page = PAGE_BYTES as usize;
        let mut text = vec![0; 2 * page];
        text[0x10] = 0xc3;
        let load = |page_number: u64, flags, bytes: &[u8]| Load {
            address: ORIGIN + page_number * PAGE_BYTES,
            flags,
            bytes: bytes.to_vec(),
            memory_bytes: bytes.len() as u64,
        };
        let pages = |bytes: &[u8]| {
            let mut pages = bytes.to_vec();
            pages.resize(bytes.len().next_multiple_of(page), 0);
            pages
        };
        let mut loads = vec![
            load(0, RX, &[0x90; 0x123]),
            load(1, R, blob),
            load(3, RW, &[0; 0x10]),
            load(4, R, &vec![0x11; page]),
            load(5, RX, &text),
            load(7, RW, &vec![0; page]),
            load(8, RW, &vec![0; page]),
            load(9, R, &pages(&table)),
            load(10, R, &pages(&section)),
        ];
        loads[2].memory_bytes = PAGE_BYTES;
        (loads, self.manifest.encode().to_vec())
    }
}

/// A PE file around the same loads, written from the format's description and not from the tool that
/// writes images.
pub(crate) struct Wrapping {
    pub(crate) machine: u16,
    pub(crate) flags: u16,
    pub(crate) entry: u32,
    pub(crate) section_alignment: u32,
    pub(crate) header_bytes: u32,
    pub(crate) subsystem: u16,
    pub(crate) directories: [(u32, u32); 16],
    pub(crate) sections: Vec<Wrapped>,
    /// What a signer appends.
    pub(crate) appended: Vec<u8>,
}

/// A section of a PE file.
pub(crate) struct Wrapped {
    pub(crate) name: String,
    pub(crate) address: u32,
    pub(crate) memory_bytes: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) flags: u32,
}

impl Wrapping {
    fn new(entry: u64, loads: impl Iterator<Item = (String, Load)>) -> Self {
        let relative = |address: u64| (address - ORIGIN + PAGE_BYTES) as u32;
        let flags = |flags: u32| match flags {
            RX => 0x6000_0020,
            RW => 0xc000_0040,
            R => 0x4000_0040,
            _ => 0xe000_0060,
        };
        let mut sections: Vec<_> = loads
            .map(|(name, load)| Wrapped {
                name,
                address: relative(load.address),
                memory_bytes: load.memory_bytes as u32,
                bytes: load.bytes,
                flags: flags(load.flags),
            })
            .collect();
        let last = sections.last().unwrap();
        let address = (last.address + last.memory_bytes).next_multiple_of(4096);
        let bytes = [0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0].to_vec();
        let name = ".reloc".to_owned();
        sections.push(Wrapped { name, address, memory_bytes: 12, bytes, flags: 0x4200_0040 });
        let mut directories = [(0, 0); 16];
        directories[5] = (address, 12);
        Self {
            machine: 0x8664,
            flags: 0x22,
            entry: relative(entry),
            section_alignment: 4096,
            header_bytes: 4096,
            subsystem: 10,
            directories,
            sections,
            appended: Vec::new(),
        }
    }

    pub(crate) fn section(&mut self, name: &str) -> &mut Wrapped {
        self.sections.iter_mut().find(|section| section.name == name).unwrap()
    }

    fn write(&self) -> Vec<u8> {
        let mut file = vec![0; 4096];
        let mut table = Vec::new();
        for section in &self.sections {
            let at = file.len() as u32;
            file.extend(&section.bytes);
            file.resize(file.len().next_multiple_of(4096), 0);
            let mut name = section.name.clone().into_bytes();
            name.resize(8, 0);
            table.extend(name);
            let stored = file.len() as u32 - at;
            longs(&mut table, &[section.memory_bytes, section.address, stored, at, 0, 0, 0]);
            longs(&mut table, &[section.flags]);
        }
        let mut start = b"MZ".to_vec();
        start.resize(60, 0);
        longs(&mut start, &[64, u32::from_le_bytes(*b"PE\0\0")]);
        halves(&mut start, &[self.machine.into(), self.sections.len()]);
        longs(&mut start, &[0, 0, 0]);
        halves(&mut start, &[112 + 16 * 8, self.flags.into(), 0x20b, 0]);
        longs(&mut start, &[0, 0, 0, self.entry, 4096, 0, 0, self.section_alignment, 4096]);
        longs(&mut start, &[0, 0, 0, 0, file.len() as u32, self.header_bytes, 0]);
        halves(&mut start, &[self.subsystem.into(), 0]);
        longs(&mut start, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 16]);
        for (address, bytes) in self.directories {
            longs(&mut start, &[address, bytes]);
        }
        start.extend(table);
        file[..start.len()].copy_from_slice(&start);
        file.extend(&self.appended);
        file
    }
}

fn longs(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn write(
    entry: u64,
    loads: &[Load],
    others: &[(u32, u64, u64)],
    sections: &[(&str, u64, u64)],
) -> Vec<u8> {
    let page = PAGE_BYTES as usize;
    let mut file = vec![0; page];
    let mut headers = vec![program_header(PT_NOTE, R, page as u64, ORIGIN, 0x10, 0x10, 4)];
    let mut places = Vec::new();
    for load in loads {
        file.resize(file.len().next_multiple_of(page), 0);
        let offset = file.len() as u64;
        places.push((load.address, offset));
        let bytes = load.bytes.len() as u64;
        let Load { address, flags, memory_bytes, .. } = *load;
        headers.push(program_header(PT_LOAD, flags, offset, address, bytes, memory_bytes, 4096));
        file.extend(&load.bytes);
    }
    headers.extend(others.iter().map(|it| program_header(it.0, R, 0, it.1, it.2, it.2, 8)));
    file.resize(file.len().next_multiple_of(page), 0);
    let names_at = file.len() as u64;
    let mut names = vec![0];
    let mut table = vec![vec![0; 64]];
    for (name, address, bytes) in sections {
        let (start, offset) = places.iter().rev().find(|(start, _)| start <= address).unwrap();
        let header = section_header(names.len(), 1, *address, offset + address - start, *bytes);
        table.push(header);
        names.extend(name.bytes().chain([0]));
    }
    let name = names.len();
    names.extend(b".shstrtab\0");
    table.push(section_header(name, 3, 0, names_at, names.len() as u64));
    file.extend(&names);
    file.resize(file.len().next_multiple_of(8), 0);
    let table_at = file.len() as u64;
    let mut start = b"\x7fELF\x02\x01\x01".to_vec();
    start.resize(16, 0);
    halves(&mut start, &[2, 62]);
    start.extend(1_u32.to_le_bytes());
    words(&mut start, &[entry, 64, table_at]);
    start.extend(0_u32.to_le_bytes());
    halves(&mut start, &[64, 56, headers.len(), 64, table.len(), table.len() - 1]);
    start.extend(headers.concat());
    file[..start.len()].copy_from_slice(&start);
    file.extend(table.concat());
    file
}

fn program_header(
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    bytes: u64,
    memory_bytes: u64,
    alignment: u64,
) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend(flags.to_le_bytes());
    words(&mut header, &[offset, address, address, bytes, memory_bytes, alignment]);
    header
}

fn section_header(name: usize, kind: u32, address: u64, offset: u64, bytes: u64) -> Vec<u8> {
    let mut header = (name as u32).to_le_bytes().to_vec();
    header.extend(kind.to_le_bytes());
    words(&mut header, &[2, address, offset, bytes, 0, 1, 0]);
    header
}

fn halves(bytes: &mut Vec<u8>, values: &[usize]) {
    bytes.extend(values.iter().flat_map(|value| (*value as u16).to_le_bytes()));
}

fn words(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// The header's size, so that tests can find the payload.
pub(crate) const HEADER_BYTES: usize = configuration::HEADER_BYTES;
