//! The file's segments: whole, apart from each other, and with one right each.

use abi::{PAGE_BYTES, Span, is_page_aligned, page_up};

use crate::file::{File, Rights, Segment, Use};
use crate::property::{Complaints, Name, Property};
use crate::units::bytes_of;

/// A loaded part of the image, as the report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The section that begins it, or nothing.
    pub name: String,
    /// Its first address.
    pub address: u64,
    /// Its bytes in the file.
    pub file_bytes: u64,
    /// Its bytes in memory.
    pub memory_bytes: u64,
    /// What its program header lets the CPU do.
    pub rights: Rights,
}

/// What is loaded.
pub(crate) fn parts(file: &File<'_>) -> Vec<Part> {
    let part = |load: &Segment| Part {
        name: file.name_at(load.address).unwrap_or_default().to_owned(),
        address: load.address,
        file_bytes: load.file_bytes,
        memory_bytes: load.memory_bytes,
        rights: load.rights,
    };
    file.loads().map(part).collect()
}

/// Checks that the segments are what a loader can load without doing anything else.
pub(crate) fn check(file: &File<'_>) -> Property {
    let mut complaints = Complaints::default();
    complaints.unless(file.is_executable, || "no ET_EXEC file".to_owned());
    for complaint in &file.complaints {
        complaints.add(complaint);
    }
    for segment in &file.segments {
        match segment.kind {
            Use::Load => check_load(file, segment, &mut complaints),
            Use::Note => check_note(file, segment, &mut complaints),
            Use::Nothing => {}
            // PT_DYNAMIC, PT_INTERP, PT_TLS: work for a loader, and there is none.
            Use::Other(kind) => complaints.add(format_args!("program header of type {kind:#x}")),
        }
    }
    check_apart(file, &mut complaints);
    check_entry(file, &mut complaints);
    let count = file.loads().count();
    complaints.unless(count > 0, || "nothing is loaded".to_owned());
    let facts = format!(
        "{count} segments, page aligned, apart from each other in the file and in memory, zeros up \
         to the next page; entry {:#x} in boot's text; nothing for a dynamic loader to do",
        file.entry
    );
    complaints.about(Name::Segments, facts)
}

fn check_load(file: &File<'_>, load: &Segment, complaints: &mut Complaints) {
    let at = load.address;
    let is_aligned = is_page_aligned(at) && is_page_aligned(load.offset);
    complaints.unless(is_aligned && load.alignment == PAGE_BYTES, || {
        format!("segment {at:#x} is not page aligned")
    });
    complaints.unless(load.physical == at, || {
        format!("segment {at:#x} is loaded at {:#x}", load.physical)
    });
    complaints.unless(load.rights.read, || format!("segment {at:#x} cannot be read"));
    let is_sound = load.file_bytes <= load.memory_bytes
        && load.memory_bytes > 0
        && load.in_memory().end().and_then(page_up).is_some();
    complaints.unless(is_sound, || format!("segment {at:#x} has impossible sizes"));
    if bytes_of(file.bytes, load.in_file()).is_none() {
        complaints.add(format_args!("segment {at:#x} ends beyond the file"));
        return;
    }
    let padding = padding_of(load.in_file());
    let is_zero = bytes_of(file.bytes, padding).is_some_and(|pad| pad.iter().all(|b| *b == 0));
    complaints.unless(is_zero, || format!("segment {at:#x} is not padded with zeros"));
}

/// What follows a span up to the end of its last page.
pub(crate) fn padding_of(span: Span) -> Span {
    let end = span.end().unwrap_or(u64::MAX);
    let page_end = page_up(end).unwrap_or(end);
    Span::new(end, page_end.saturating_sub(end))
}

fn check_note(file: &File<'_>, note: &Segment, complaints: &mut Complaints) {
    let load = file.loads().find(|load| load.loaded().covers(&note.in_memory()));
    let is_there = load.is_some_and(|load| {
        let within = note.address.checked_sub(load.address);
        within.and_then(|at| load.offset.checked_add(at)) == Some(note.offset)
    });
    complaints.unless(is_there, || format!("note {:#x} is not in a loaded segment", note.address));
}

fn check_apart(file: &File<'_>, complaints: &mut Complaints) {
    let pages = |span: Span| {
        let start = span.start.saturating_sub(span.start % PAGE_BYTES);
        let end = span.end().and_then(page_up).unwrap_or(u64::MAX);
        Span::new(start, end.saturating_sub(start))
    };
    let loads: Vec<_> = file.loads().collect();
    for (index, first) in loads.iter().enumerate() {
        for second in loads.iter().skip(index).skip(1) {
            let share_memory = pages(first.in_memory()).overlaps(&pages(second.in_memory()));
            let share_bytes = first.file_bytes > 0
                && second.file_bytes > 0
                && pages(first.in_file()).overlaps(&pages(second.in_file()));
            complaints.unless(!share_memory && !share_bytes, || {
                format!("segments {:#x} and {:#x} overlap", first.address, second.address)
            });
        }
    }
}

fn check_entry(file: &File<'_>, complaints: &mut Complaints) {
    let first_text = file.loads().find(|load| load.rights.execute);
    let is_inside = first_text.is_some_and(|text| text.loaded().contains(file.entry));
    complaints.unless(is_inside, || format!("entry {:#x} is not in boot's text", file.entry));
}

/// Checks that nothing is writable and executable.
pub(crate) fn check_write_xor_execute(file: &File<'_>) -> Property {
    let mut complaints = Complaints::default();
    for load in file.loads() {
        complaints.unless(!(load.rights.write && load.rights.execute), || {
            format!("segment {:#x} is writable and executable", load.address)
        });
    }
    for section in &file.sections {
        complaints.unless(!(section.is_writable && section.is_executable), || {
            format!("section {} is writable and executable", section.name)
        });
    }
    let count = |wanted: Rights| file.loads().filter(|load| load.rights == wanted).count();
    let facts = format!(
        "{} segments r-x, {} rw-, {} r--, none writable and executable",
        count(Rights::EXECUTE),
        count(Rights::READ_WRITE),
        count(Rights::READ)
    );
    complaints.about(Name::WriteXorExecute, facts)
}
