//! The manifest: where boot will look for the other parts, against what the program headers load.

use abi::image::{BYTES, Manifest, SECTION, SegmentAccess};
use abi::{Span, page_up};

use crate::file::{File, Rights, Segment};
use crate::property::{Complaints, Name, Property};
use crate::segments::padding_of;

/// Reads and checks the manifest. It is there even if the property does not hold, as long as it is
/// one at all.
pub(crate) fn check(file: &File<'_>) -> (Property, Option<Manifest>) {
    let mut complaints = Complaints::default();
    let manifest = read(file, &mut complaints);
    let (Some(manifest), Some(origin)) = (manifest, file.origin()) else {
        return (complaints.about(Name::Manifest, String::new()), manifest);
    };
    let mut taken = Vec::new();
    for (name, part, rights) in parts(&manifest) {
        if part.length == 0 {
            continue;
        }
        match matching(file, origin, part) {
            Some(load) if load.rights == rights => taken.push(load.address),
            Some(load) => complaints.add(format_args!(
                "{name} is loaded {}, but the manifest says {rights}",
                load.rights
            )),
            None => complaints.add(format_args!(
                "{name} at {:#x} is not a segment of its own of {} bytes",
                part.start, part.length
            )),
        }
        check_padding(file, origin, name, part, &mut complaints);
    }
    check_boot(file, &taken, &mut complaints);
    check_zeroed(&manifest, &mut complaints);
    let count = manifest.segments.iter().flatten().count();
    let facts = format!(
        "{count} service segments, relocations and configuration, each a loaded segment of its own \
         with the same right; entry +{:#x}",
        manifest.entry
    );
    (complaints.about(Name::Manifest, facts), Some(manifest))
}

fn read(file: &File<'_>, complaints: &mut Complaints) -> Option<Manifest> {
    let (section, bytes) = match file.section(SECTION) {
        Ok(found) => found,
        Err(fault) => {
            complaints.add(format_args!("section {SECTION} {fault}"));
            return None;
        }
    };
    let Ok(bytes) = <&[u8; BYTES]>::try_from(bytes) else {
        complaints.add(format_args!("section {SECTION} has {} bytes, not {BYTES}", bytes.len()));
        return None;
    };
    let load = file.load_of(Span::new(section.address, 1));
    complaints.unless(load.is_some_and(|load| load.rights == Rights::READ), || {
        format!("section {SECTION} is not read-only")
    });
    Manifest::parse(bytes).map_err(|malformed| complaints.add(malformed)).ok()
}

/// Every part that the manifest names: its name, its place from the origin, its right.
fn parts(manifest: &Manifest) -> impl Iterator<Item = (&'static str, Span, Rights)> {
    let segments = manifest.segments.iter().flatten().map(|segment| {
        let place = Span::new(segment.offset, segment.file_bytes);
        match segment.access {
            SegmentAccess::Execute => ("service text", place, Rights::EXECUTE),
            SegmentAccess::Read => ("service rodata", place, Rights::READ),
            SegmentAccess::ReadWrite => ("service data", place, Rights::READ_WRITE),
            SegmentAccess::ReadAfterRelocation => ("service relro", place, Rights::READ_WRITE),
        }
    });
    segments.chain([
        ("relocation table", manifest.relocations, Rights::READ),
        ("configuration", manifest.configuration, Rights::READ),
    ])
}

/// The segment that loads exactly a part's pages.
fn matching<'a>(file: &'a File<'_>, origin: u64, part: Span) -> Option<&'a Segment> {
    let address = origin.checked_add(part.start)?;
    let length = page_up(part.length)?;
    let is_it = |load: &&Segment| {
        load.address == address && load.file_bytes == length && load.memory_bytes == length
    };
    file.loads().find(is_it)
}

/// Boot maps a part's last page whole, so what is behind the part is in the machine too.
fn check_padding(
    file: &File<'_>,
    origin: u64,
    name: &str,
    part: Span,
    complaints: &mut Complaints,
) {
    let padding = padding_of(part);
    let start = origin.saturating_add(padding.start);
    let bytes = file.at(Span::new(start, padding.length));
    let is_zero = bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
    complaints.unless(is_zero, || format!("{name} is not followed by zeros up to its page's end"));
}

/// Checks that no part is named twice, and that what no part claims is boot's and lies below.
fn check_boot(file: &File<'_>, taken: &[u64], complaints: &mut Complaints) {
    let first_part = taken.iter().copied().min().unwrap_or(u64::MAX);
    for (index, address) in taken.iter().enumerate() {
        let is_again = taken.iter().take(index).any(|other| other == address);
        complaints.unless(!is_again, || format!("two parts lie at {address:#x}"));
    }
    for load in file.loads().filter(|load| !taken.contains(&load.address)) {
        let end = load.in_memory().end().unwrap_or(u64::MAX);
        complaints.unless(end <= first_part, || {
            format!("segment {:#x} is neither boot's nor in the manifest", load.address)
        });
    }
}

/// Boot maps zeroed memory behind one segment of the service, the last.
fn check_zeroed(manifest: &Manifest, complaints: &mut Complaints) {
    let zeroed = manifest.segments.iter().flatten().filter(|part| part.zeroed_bytes() > 0).count();
    complaints.unless(zeroed <= 1, || format!("{zeroed} segments have zeroed pages, not one"));
}
