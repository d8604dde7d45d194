//! Two small images with the same parts: not ones that boot, but ones that are measured.

use abi::configuration::{Header, OnStop};
use abi::image::{MAX_SEGMENTS, Manifest, Segment, SegmentAccess};
use abi::{PAGE_BYTES, Span};

const PAGE: usize = PAGE_BYTES as usize;

/// Boot takes two pages: code, and the manifest.
const BOOT_PAGES: u64 = 2;

/// The parts of an image.
pub(crate) struct Sketch {
    pub(crate) boot: u8,
    /// Two pages: text, and relocations.
    pub(crate) service: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Sketch {
    pub(crate) fn new() -> Self {
        let mut service = vec![0x90; PAGE + 24];
        service.resize(2 * PAGE, 0);
        Self { boot: 0xcc, service, payload: b"listen = 443".to_vec() }
    }

    /// The configuration section: what is measured of it.
    pub(crate) fn configuration(&self) -> Vec<u8> {
        let header = Header {
            heap_bytes: 1 << 20,
            stack_bytes: 64 << 10,
            on_stop: OnStop::Reset,
            needs_nic: false,
            build_unix_s: 1_700_000_000,
            payload_bytes: self.payload.len() as u64,
        };
        [&header.encode()[..], &self.payload].concat()
    }

    fn manifest(&self) -> [u8; abi::image::BYTES] {
        let mut segments = [None; MAX_SEGMENTS];
        segments[0] = Some(Segment {
            offset: BOOT_PAGES * PAGE_BYTES,
            address: 0,
            file_bytes: PAGE_BYTES,
            memory_bytes: PAGE_BYTES,
            access: SegmentAccess::Execute,
        });
        let at = |page: u64, length| Span::new((BOOT_PAGES + page) * PAGE_BYTES, length);
        let configuration = at(2, self.configuration().len() as u64);
        Manifest { entry: 0, relocations: at(1, 24), configuration, segments }.encode()
    }

    /// What is loaded, one part behind the other: name, flags of a PE section, bytes.
    fn parts(&self) -> [(&'static str, u32, Vec<u8>); 5] {
        let (text, relocations) = self.service.split_at(PAGE);
        [
            (".text", 0x6000_0020, vec![self.boot; PAGE]),
            (".rodata", 0x4000_0040, self.manifest().to_vec()),
            (".stext", 0x6000_0020, text.to_vec()),
            (".srelr", 0x4000_0040, relocations.to_vec()),
            (".config", 0x4000_0040, self.configuration()),
        ]
    }

    /// As UEFI firmware takes it.
    pub(crate) fn efi(&self) -> Vec<u8> {
        let parts = self.parts();
        let mut file = b"MZ".to_vec();
        file.resize(60, 0);
        file.extend_from_slice(&64_u32.to_le_bytes());
        file.extend_from_slice(b"PE\0\0\x64\x86");
        file.extend_from_slice(&(parts.len() as u16).to_le_bytes());
        file.extend_from_slice(&[0; 12]);
        file.extend_from_slice(&[240, 0, 0x22, 0]);
        let optional = file.len();
        file.resize(optional + 240, 0);
        let mut put = |at: usize, value: u32| {
            file[optional + at..optional + at + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(0, 0x20b);
        for at in [16, 32, 36, 60] {
            put(at, PAGE as u32);
        }
        put(56, 7 * PAGE as u32);
        put(68, 10);
        put(108, 16);
        for (index, (name, flags, bytes)) in parts.iter().enumerate() {
            let mut field = [0; 8];
            field[..name.len()].copy_from_slice(name.as_bytes());
            file.extend_from_slice(&field);
            let (at, size) = ((index + 1) * PAGE, PAGE);
            for number in [bytes.len(), at, size, at, 0, 0, 0, *flags as usize] {
                file.extend_from_slice(&(number as u32).to_le_bytes());
            }
        }
        self.append(file)
    }

    /// As a PVH loader takes it.
    pub(crate) fn elf(&self) -> Vec<u8> {
        let parts = self.parts();
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
        let names_at = 64 + 56 * parts.len();
        let sections_at = names_at + 32;
        for number in [0x10_0000_u64, 64, sections_at as u64] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        for number in [0, 0, 64, 56, parts.len() as u16, 64, 3, 2] {
            file.extend_from_slice(&u16::to_le_bytes(number));
        }
        for (index, (_, _, bytes)) in parts.iter().enumerate() {
            let (at, size) = (((index + 1) * PAGE) as u64, bytes.len() as u64);
            let address = 0x10_0000 + at - PAGE_BYTES;
            file.extend_from_slice(&[1, 0, 0, 0, 4, 0, 0, 0]);
            for number in [at, address, address, size, size, PAGE_BYTES] {
                file.extend_from_slice(&number.to_le_bytes());
            }
        }
        file.extend_from_slice(b"\0.manifest\0.shstrtab\0");
        file.resize(sections_at + 64, 0);
        let manifest = [1_u64 | 1 << 32, 2, 0x10_1000, 2 * PAGE_BYTES, abi::image::BYTES as u64];
        let names = [11_u64 | 3 << 32, 0, 0, names_at as u64, 21];
        for section in [manifest, names] {
            let fields = section.into_iter().chain([0, 1, 0]);
            file.extend(fields.flat_map(u64::to_le_bytes));
        }
        self.append(file)
    }

    /// The parts behind a header of one page.
    fn append(&self, mut file: Vec<u8>) -> Vec<u8> {
        for (_, _, bytes) in self.parts() {
            file.resize(file.len().next_multiple_of(PAGE), 0);
            file.extend_from_slice(&bytes);
        }
        file.resize(file.len().next_multiple_of(PAGE), 0);
        file
    }
}
