//! The service's relative relocations: what boot will add its random base to.

use abi::image::{Manifest, Segment, SegmentAccess};
use abi::{PAGE_BYTES, Span, page_up};

use crate::file::File;
use crate::property::{Complaints, Name, Property};
use crate::units::bytes_of;

/// Checks every relocation (gABI, "Relative Relocation Table").
pub(crate) fn check(file: &File<'_>, manifest: &Manifest) -> Property {
    let mut complaints = Complaints::default();
    let mut walk = Walk { manifest, file, last: None, count: 0 };
    let place = manifest.relocations;
    let table = file.origin().and_then(|origin| {
        let start = origin.checked_add(place.start)?;
        file.at(Span::new(start, place.length))
    });
    match table {
        Some(table) if table.len().is_multiple_of(8) => {
            if let Err(fault) = walk.table(table) {
                complaints.add(fault);
            }
        }
        Some(table) => complaints.add(format_args!("table has {} bytes", table.len())),
        None => complaints.add("table is not in the file"),
    }
    let facts = format!(
        "{} words, ascending, each in data that boot may change and pointing into the service",
        walk.count
    );
    complaints.about(Name::Relocations, facts)
}

struct Walk<'a> {
    manifest: &'a Manifest,
    file: &'a File<'a>,
    last: Option<u64>,
    count: u64,
}

impl Walk<'_> {
    /// Goes through the table up to the first word that boot must not change. Addresses have to
    /// ascend, so this ends after at most as many steps as the service has words.
    fn table(&mut self, table: &[u8]) -> Result<(), String> {
        let mut next: Option<u64> = None;
        for entry in table.as_chunks::<8>().0 {
            let entry = u64::from_le_bytes(*entry);
            if entry & 1 == 0 {
                self.word(entry)?;
                next = entry.checked_add(8);
                continue;
            }
            let start = next.ok_or("a bitmap comes before any address")?;
            for bit in 0..63_u64 {
                if entry >> bit >> 1 & 1 == 1 {
                    let address = start.checked_add(bit.saturating_mul(8));
                    self.word(address.ok_or("a bitmap runs off the address space")?)?;
                }
            }
            next = start.checked_add(63 * 8);
        }
        Ok(())
    }

    fn word(&mut self, address: u64) -> Result<(), String> {
        if self.last.is_some_and(|last| address <= last) {
            return Err(format!("relocations do not ascend at +{address:#x}"));
        }
        self.last = Some(address);
        self.count = self.count.saturating_add(1);
        let word = Span::new(address, 8);
        let holds =
            |segment: &&Segment| Span::new(segment.address, segment.file_bytes).covers(&word);
        let segment = self.manifest.segments.iter().flatten().find(holds);
        let segment = match segment.map(|segment| (segment, segment.access)) {
            Some((segment, SegmentAccess::ReadWrite | SegmentAccess::ReadAfterRelocation)) => {
                segment
            }
            Some(_) => return Err(format!("relocation of +{address:#x}, which nobody may change")),
            None => return Err(format!("relocation of +{address:#x}, which is no data")),
        };
        if !address.is_multiple_of(8) {
            return Err(format!("relocation of +{address:#x}, which is no whole word"));
        }
        let target = self.read(segment, address);
        // One past the last byte is an address that Rust's slices make.
        match target.filter(|target| *target <= self.end()) {
            Some(_) => Ok(()),
            None => Err(format!("relocation of +{address:#x} points out of the service")),
        }
    }

    /// The word as it is in the file.
    fn read(&self, segment: &Segment, address: u64) -> Option<u64> {
        let origin = self.file.origin()?;
        let start = origin.checked_add(segment.offset)?;
        let bytes = self.file.at(Span::new(start, segment.file_bytes))?;
        let within = Span::new(address.checked_sub(segment.address)?, 8);
        Some(u64::from_le_bytes(bytes_of(bytes, within)?.try_into().ok()?))
    }

    /// The service's end, in whole pages.
    fn end(&self) -> u64 {
        let ends = self.manifest.segments.iter().flatten();
        let end =
            ends.filter_map(|segment| segment.address.checked_add(segment.memory_bytes)).max();
        end.and_then(page_up).unwrap_or(PAGE_BYTES)
    }
}
