//! `NAME.efi`: what UEFI firmware loads, and the digest by which it measures that.

use std::fmt;
use std::mem::offset_of;
use std::ops::Range;

use abi::image::MAGIC;
use authenticode::{
    AttributeCertificateIterator, PeOffsetError, PeOffsets, PeTrait, authenticode_digest,
};
use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_SCN_MEM_EXECUTE, IMAGE_SCN_MEM_WRITE, ImageDataDirectory,
    ImageNtHeaders64, ImageOptionalHeader64,
};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile};
use ring::digest::{Context, SHA256};

use super::{Load, NotAnImage, Signature};
use crate::units::wide;

/// The most sections that a PE file may have here; an image has some twelve.
const MAX_SECTIONS: usize = 96;

/// The most signatures in a file.
const MAX_SIGNATURES: usize = 16;

/// The manifest's bytes, and everything that is loaded.
pub(super) fn loads(file: &[u8]) -> Result<(&[u8], Vec<Load<'_>>), NotAnImage> {
    let pe = parse(file).map_err(NotAnImage::Format)?;
    let sections = || pe.section_table().iter();
    let origin = sections().map(|section| section.virtual_address.get(LE)).min();
    let origin = origin.ok_or(NotAnImage::NoManifest)?;
    let mut found = Vec::new();
    let mut manifest = None;
    for section in sections() {
        let offset = u64::from(section.virtual_address.get(LE).saturating_sub(origin));
        let length = u64::from(section.virtual_size.get(LE));
        let bytes = section.pe_data(file);
        let bytes = bytes.map_err(|_| NotAnImage::Incomplete { offset, length })?;
        let flags = section.characteristics.get(LE).0;
        let is_fixed = flags & (IMAGE_SCN_MEM_EXECUTE.0 | IMAGE_SCN_MEM_WRITE.0) == 0;
        // The manifest begins a section (kernel/boot/boot.ld), the first that begins like it.
        if is_fixed && manifest.is_none() && bytes.starts_with(&MAGIC.to_le_bytes()) {
            manifest = Some(bytes);
        }
        found.push(Load { offset, bytes });
    }
    Ok((manifest.ok_or(NotAnImage::NoManifest)?, found))
}

fn parse(file: &[u8]) -> Result<PeFile<'_, ImageNtHeaders64>, object::Error> {
    PeFile::<ImageNtHeaders64>::parse(file)
}

/// A PE file as firmware sees it before it starts it.
#[derive(Debug)]
pub struct Efi {
    /// The SHA-256 by which firmware measures it: of everything but its checksum and signatures.
    pub digest: [u8; 32],
    /// Its signatures, in order.
    pub signatures: Vec<Signature>,
}

/// Why a file is not one that firmware would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEfi {
    /// It is no PE file for a 64-bit machine.
    Format(object::Error),
    /// A place that its headers name is not in it.
    Place,
    /// A signature cannot be read.
    Signature,
    /// It has more parts than any image.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many at least.
        count: usize,
    },
}

impl fmt::Display for NotEfi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(error) => write!(f, "no 64-bit PE file: {error}"),
            Self::Place => write!(f, "a place in the PE headers is not in the file"),
            Self::Signature => write!(f, "the table of signatures cannot be read"),
            Self::TooMany { what, count } => write!(f, "{count} {what} are too many"),
        }
    }
}

impl std::error::Error for NotEfi {}

impl Efi {
    /// Reads what firmware looks at.
    ///
    /// # Errors
    ///
    /// [`NotEfi`] with the first thing that firmware would refuse, or that we cannot follow it in.
    pub fn parse(file: &[u8]) -> Result<Self, NotEfi> {
        let pe = parse(file).map_err(NotEfi::Format)?;
        let sections = pe.section_table().len();
        if sections > MAX_SECTIONS {
            return Err(NotEfi::TooMany { what: "sections", count: sections });
        }
        let view = View { file, pe };
        let mut hash = Hash(Context::new(&SHA256));
        authenticode_digest(&view, &mut hash).map_err(|_| NotEfi::Place)?;
        let digest = hash.0.finish().as_ref().try_into().map_err(|_| NotEfi::Place)?;
        let table = AttributeCertificateIterator::new(&view).map_err(|_| NotEfi::Signature)?;
        let mut signatures = Vec::new();
        for certificate in table.into_iter().flatten() {
            if signatures.len() == MAX_SIGNATURES {
                return Err(NotEfi::TooMany { what: "signatures", count: MAX_SIGNATURES });
            }
            let certificate = certificate.map_err(|_| NotEfi::Signature)?;
            signatures.push(Signature::parse(&certificate)?);
        }
        Ok(Self { digest, signatures })
    }
}

/// SHA-256, as the digest takes it.
struct Hash(Context);

impl digest::Update for Hash {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// The places in a PE file that the digest goes by.
struct View<'a> {
    file: &'a [u8],
    pe: PeFile<'a, ImageNtHeaders64>,
}

impl View<'_> {
    /// Where the optional header begins, behind the DOS header, the signature and the file header.
    fn optional_header(&self) -> Option<usize> {
        let at = usize::try_from(self.pe.dos_header().nt_headers_offset()).ok()?;
        at.checked_add(offset_of!(ImageNtHeaders64, optional_header))
    }
}

fn usize_of(number: u32) -> Result<usize, PeOffsetError> {
    usize::try_from(number).map_err(|_| PeOffsetError)
}

fn range(start: u32, length: u32) -> Result<Range<usize>, PeOffsetError> {
    let start = usize_of(start)?;
    Ok(start..start.checked_add(usize_of(length)?).ok_or(PeOffsetError)?)
}

impl PeTrait for View<'_> {
    fn data(&self) -> &[u8] {
        self.file
    }

    fn num_sections(&self) -> usize {
        self.pe.section_table().len()
    }

    fn section_data_range(&self, index: usize) -> Result<Range<usize>, PeOffsetError> {
        let section = self.pe.section_table().section(object::SectionIndex(index));
        let section = section.map_err(|_| PeOffsetError)?;
        range(section.pointer_to_raw_data.get(LE), section.size_of_raw_data.get(LE))
    }

    fn certificate_table_range(&self) -> Result<Option<Range<usize>>, PeOffsetError> {
        let Some(directory) = self.pe.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY) else {
            return Ok(None);
        };
        range(directory.virtual_address.get(LE), directory.size.get(LE)).map(Some)
    }

    fn offsets(&self) -> Result<PeOffsets, PeOffsetError> {
        let header = self.optional_header().ok_or(PeOffsetError)?;
        let at = |offset: usize| header.checked_add(offset).ok_or(PeOffsetError);
        let check_sum = at(offset_of!(ImageOptionalHeader64, check_sum))?;
        let entry = size_of::<ImageDataDirectory>();
        let entries = entry.checked_mul(IMAGE_DIRECTORY_ENTRY_SECURITY).ok_or(PeOffsetError)?;
        let before =
            size_of::<ImageOptionalHeader64>().checked_add(entries).ok_or(PeOffsetError)?;
        let security_data_dir = at(before)?;
        let after_header = usize_of(self.pe.nt_headers().optional_header().size_of_headers())?;
        if wide(after_header) > wide(self.file.len()) {
            return Err(PeOffsetError);
        }
        Ok(PeOffsets {
            check_sum,
            after_check_sum: check_sum.checked_add(4).ok_or(PeOffsetError)?,
            security_data_dir,
            after_security_data_dir: security_data_dir.checked_add(entry).ok_or(PeOffsetError)?,
            after_header,
        })
    }
}
