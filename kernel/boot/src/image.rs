//! Our own image: the service and its configuration, checked before anything is done with them.

use abi::configuration::Header;
use abi::image::{Manifest, Segment, SegmentAccess};
use abi::{Span, page_up};

use crate::memory::{OwnImage, own_image};
use crate::refusal::Refusal;

/// The parts of the image that boot needs, each where the loader put it.
pub(crate) struct Image {
    own: OwnImage,
    manifest: Manifest,
    configuration: Header,
}

impl Image {
    /// Finds and checks the parts.
    pub(crate) fn find() -> Result<Self, Refusal> {
        let own = own_image();
        let manifest = Manifest::parse(own.manifest()).map_err(Refusal::Image)?;
        let outside = |name, span: Span| {
            let value = span.start;
            own.bytes(span).ok_or(Refusal::Image(abi::image::Malformed::Field { name, value }))
        };
        let section = outside("configuration", manifest.configuration)?;
        let configuration = Header::parse(section).map_err(Refusal::Configuration)?;
        for segment in manifest.segments.iter().flatten().filter(|segment| segment.file_bytes > 0) {
            let _bytes = outside("segment.offset", file_span(segment))?;
        }
        if manifest.relocations.length > 0 {
            let _bytes = outside("relocations", manifest.relocations)?;
        }
        Ok(Self { own, manifest, configuration })
    }

    /// All of the image, boot included, as physical addresses.
    pub(crate) fn span(&self) -> Span {
        let parts = [self.manifest.relocations, self.manifest.configuration];
        let segments = self.manifest.segments.iter().flatten().map(file_span);
        let end = parts
            .into_iter()
            .chain(segments)
            .filter_map(|part| page_up(part.end()?))
            .fold(self.own.boot().length, u64::max);
        Span::new(self.own.boot().start, end)
    }

    /// Boot's own part.
    pub(crate) fn boot(&self) -> Span {
        self.own.boot()
    }

    /// Shows the service as it lies in the image, not yet relocated: everything from boot's end to
    /// the configuration, zeros between the parts included.
    pub(crate) fn show_service<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Result<R, Refusal> {
        let start = self.own.boot().length;
        let end = self.manifest.configuration.start;
        let shown = Span::new(start, end.saturating_sub(start));
        let elsewhere =
            |value| Refusal::Image(abi::image::Malformed::Field { name: "configuration", value });
        // Whatever else is used of the image has to be in what is shown.
        let parts = self.segments().map(file_span).chain([self.manifest.relocations]);
        let outside = parts.filter(|part| part.length > 0).find(|part| !shown.covers(part));
        match outside {
            Some(part) => Err(elsewhere(part.start)),
            None => self.own.show(shown, look).ok_or(elsewhere(end)),
        }
    }

    /// The configuration section, header and payload.
    pub(crate) fn configuration_bytes(&self) -> &'static [u8] {
        // `find` has seen that it is there.
        self.own.bytes(self.manifest.configuration).unwrap_or(&[])
    }

    /// The header of the configuration section.
    pub(crate) fn configuration(&self) -> &Header {
        &self.configuration
    }

    /// The configuration section's pages.
    pub(crate) fn configuration_span(&self) -> Span {
        self.pages(self.manifest.configuration)
    }

    /// The relocation table's pages: needed once, wiped with boot.
    pub(crate) fn relocations_span(&self) -> Span {
        self.pages(self.manifest.relocations)
    }

    /// The service's segments, ascending.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.manifest.segments.iter().flatten()
    }

    /// The frames that hold a segment's bytes.
    pub(crate) fn segment_span(&self, segment: &Segment) -> Span {
        self.pages(file_span(segment))
    }

    /// The entry point, from the service's base.
    pub(crate) fn entry(&self) -> u64 {
        self.manifest.entry
    }

    /// Adds `base` to every word the service's relocation table names.
    ///
    /// The table is in RELR form: an even word names one place, an odd word is a bitmap of the 63
    /// words after the last place (gABI, "Relative Relocation Table").
    pub(crate) fn relocate(&self, base: u64) -> Result<(), Refusal> {
        let table = self.own.bytes(self.manifest.relocations).unwrap_or(&[]);
        let mut next = 0;
        let mut place = Place::default();
        for entry in table.as_chunks::<8>().0 {
            let entry = u64::from_le_bytes(*entry);
            if entry & 1 == 0 {
                self.relocate_word(entry, base, &mut place)?;
                next = entry.wrapping_add(8);
                continue;
            }
            let mut bits = entry >> 1;
            while bits != 0 {
                let skip = u64::from(bits.trailing_zeros());
                self.relocate_word(next.wrapping_add(skip * 8), base, &mut place)?;
                bits &= bits - 1;
            }
            next = next.wrapping_add(63 * 8);
        }
        Ok(())
    }

    fn relocate_word(&self, address: u64, base: u64, place: &mut Place) -> Result<(), Refusal> {
        let word = Span::new(address, 8);
        if !place.addresses.covers(&word) {
            *place = self.place_of(word).ok_or(Refusal::Relocation { offset: address })?;
        }
        let offset = address - place.addresses.start + place.offset;
        self.own.relocate(offset, base).ok_or(Refusal::Relocation { offset: address })
    }

    /// The writable segment that holds a word.
    fn place_of(&self, word: Span) -> Option<Place> {
        self.segments()
            .filter(|segment| {
                use SegmentAccess::{ReadAfterRelocation, ReadWrite};
                matches!(segment.access, ReadWrite | ReadAfterRelocation)
            })
            .map(|segment| Place {
                addresses: Span::new(segment.address, segment.file_bytes),
                offset: segment.offset,
            })
            .find(|place| place.addresses.covers(&word))
    }

    fn pages(&self, part: Span) -> Span {
        Span::new(self.own.boot().start + part.start, page_up(part.length).unwrap_or(0))
    }
}

/// Where a writable segment is: in the service, and in the image.
#[derive(Default)]
struct Place {
    addresses: Span,
    offset: u64,
}

fn file_span(segment: &Segment) -> Span {
    Span::new(segment.offset, segment.file_bytes)
}
