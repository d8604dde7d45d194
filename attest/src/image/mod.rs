//! An image file, cut into what is measured separately.

mod elf;
mod pe;
mod signed;

use std::fmt;

use abi::configuration::{self, Header};
use abi::image::{self, Manifest};
use abi::{Span, page_up};

use crate::units::{index, wide};

pub use pe::{Efi, NotEfi};
pub use signed::Signature;

/// Bytes of the file, and where they are loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    /// From boot's first byte.
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
}

/// Which way an image is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `NAME.efi`: firmware measures it.
    Efi,
    /// `NAME.elf`: nobody measures it but boot itself, so nobody is told who booted.
    Direct,
}

/// The parts that boot measures.
#[derive(Clone, Debug)]
pub struct Parts {
    /// How the image is started.
    pub kind: Kind,
    /// What goes into PCR 11 as `.linux`: all of the service and its relocations.
    pub service: Vec<u8>,
    /// What goes into PCR 11 as `.cmdline` and into PCR 12.
    pub configuration: Vec<u8>,
}

/// Why a file is not an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnImage {
    /// The configuration's header has no meaning.
    Configuration(configuration::Malformed),
    /// It is neither ELF nor PE, or its headers contradict each other.
    Format(object::Error),
    /// A part is not, or not whole, in the file.
    Incomplete {
        /// From boot's first byte.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// The manifest has no meaning.
    Manifest(image::Malformed),
    /// There is no manifest: it is some other program.
    NoManifest,
    /// The parts are not in the order in which they are measured.
    Order,
}

impl fmt::Display for NotAnImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(malformed) => write!(f, "{malformed}"),
            Self::Format(error) => write!(f, "neither an ELF nor a PE file for x86-64: {error}"),
            Self::Incomplete { offset, length } => {
                write!(f, "{length} bytes at {offset:#x} are not all in the file")
            }
            Self::Manifest(malformed) => write!(f, "{malformed}"),
            Self::NoManifest => write!(f, "no manifest in it: it is another program"),
            Self::Order => write!(f, "the configuration does not follow the service"),
        }
    }
}

impl std::error::Error for NotAnImage {}

/// Cuts an image, ELF or PE, into its parts.
///
/// # Errors
///
/// [`NotAnImage`] with the first thing that is wrong.
pub fn parts(file: &[u8]) -> Result<Parts, NotAnImage> {
    let kind = if file.starts_with(b"MZ") { Kind::Efi } else { Kind::Direct };
    let (manifest, loads) = match kind {
        Kind::Efi => pe::loads(file)?,
        Kind::Direct => elf::loads(file)?,
    };
    let manifest = manifest.first_chunk().ok_or(NotAnImage::NoManifest)?;
    let manifest = Manifest::parse(manifest).map_err(NotAnImage::Manifest)?;
    let service = service_place(&manifest).ok_or(NotAnImage::Order)?;
    let configuration = copy(&loads, manifest.configuration)?;
    Header::parse(&configuration).map_err(NotAnImage::Configuration)?;
    Ok(Parts { kind, service: copy(&loads, service)?, configuration })
}

/// From the first part behind boot to the configuration: what lies between is measured in one go,
/// so nothing of it can be left out.
fn service_place(manifest: &Manifest) -> Option<Span> {
    let end = manifest.configuration.start;
    let segments = manifest.segments.iter().flatten();
    let start = segments.clone().map(|segment| segment.offset).min()?;
    let is_within = |span: Span| {
        span.length == 0
            || (span.start >= start
                && page_up(span.length).and_then(|it| span.start.checked_add(it)) <= Some(end))
    };
    let mut all = segments
        .map(|segment| Span::new(segment.offset, segment.file_bytes))
        .chain([manifest.relocations]);
    all.all(is_within).then(|| end.checked_sub(start).map(|length| Span::new(start, length)))?
}

/// The bytes at a place, however many loads they are spread over.
fn copy(loads: &[Load<'_>], place: Span) -> Result<Vec<u8>, NotAnImage> {
    let incomplete = NotAnImage::Incomplete { offset: place.start, length: place.length };
    let end = place.end().ok_or(incomplete)?;
    let mut bytes = Vec::new();
    let mut next = place.start;
    // Each turn takes bytes of another load, so there are at most as many turns as loads.
    for _ in 0..=loads.len() {
        if next >= end {
            break;
        }
        let holds = |load: &&Load<'_>| {
            next.checked_sub(load.offset).is_some_and(|within| within < wide(load.bytes.len()))
        };
        let load = loads.iter().find(holds).ok_or(incomplete)?;
        let within = index(next.saturating_sub(load.offset));
        let wanted = index(end.saturating_sub(next));
        let rest = load.bytes.get(within..).ok_or(incomplete)?;
        let taken = rest.get(..wanted).unwrap_or(rest);
        bytes.extend_from_slice(taken);
        next = next.saturating_add(wide(taken.len()));
    }
    if next == end { Ok(bytes) } else { Err(incomplete) }
}
