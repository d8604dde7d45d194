//! The service, cut into parts that each have one right.

use abi::image::{MAX_SEGMENTS, MAX_SERVICE_BYTES, SegmentAccess};
use abi::{PAGE_BYTES, Span, is_page_aligned, page_up};
use object::elf;

use super::elf::{Access, Elf, Fault, Load};

/// A run of the service's pages with one right.
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) access: SegmentAccess,
    /// From [`Part::address`] on; what follows them in memory is zero.
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory_bytes: u64,
}

/// A service: a static position independent executable, linked for address 0.
pub(crate) struct Service {
    pub(crate) entry: u64,
    /// Ascending by address, no two in one page.
    pub(crate) parts: Vec<Part>,
    /// The relative relocations in RELR form.
    pub(crate) relocations: Vec<u8>,
}

impl Service {
    pub(crate) fn parse(data: &[u8]) -> Result<Self, Fault> {
        let elf = Elf::parse(data)?;
        if !elf.is_position_independent {
            return Err(Fault::Kind(elf::ET_EXEC.0));
        }
        refuse_foreign_work(&elf)?;
        let parts = cut(&elf)?;
        let relocations = relative_relocations(&elf)?.to_vec();
        check_targets(&relocations, &parts)?;
        Ok(Self { entry: elf.entry, parts, relocations })
    }
}

/// Refuses everything a dynamic loader or a C runtime would have to do: there is none.
fn refuse_foreign_work(elf: &Elf) -> Result<(), Fault> {
    if elf.dynamic(elf::DT_NEEDED).is_some() {
        return Err(Fault::Dependency);
    }
    for tag in [elf::DT_INIT_ARRAYSZ, elf::DT_PREINIT_ARRAYSZ, elf::DT_INIT] {
        if elf.dynamic(tag).is_some_and(|value| value != 0) {
            return Err(Fault::Initialisers);
        }
    }
    let tables = [
        (elf::DT_RELA, elf::DT_RELASZ),
        (elf::DT_REL, elf::DT_RELSZ),
        (elf::DT_JMPREL, elf::DT_PLTRELSZ),
    ];
    for (start, length) in tables {
        let length = elf.dynamic(length).unwrap_or(0);
        if length == 0 {
            continue;
        }
        // Both kinds of entry begin with the address and go on with the type in the low half.
        let start = elf.dynamic(start).unwrap_or(0);
        let entry = elf.at(Span::new(start, 16)).and_then(words_of).unwrap_or_default();
        let address = entry.first().copied().unwrap_or(start);
        let kind = entry.get(1).map_or(0, |info| info & 0xffff_ffff);
        return Err(Fault::Relocation { address, kind });
    }
    Ok(())
}

fn cut(elf: &Elf) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    let mut relro = elf.relro;
    for load in &elf.loads {
        let before = relro.filter(|relro| load.span().overlaps(relro));
        if before.is_some() {
            relro = None;
        }
        cut_load(load, before, &mut parts)?;
    }
    if let Some(Span { start, .. }) = relro.filter(|relro| relro.length > 0) {
        return Err(Fault::Relro(start));
    }
    let mut free = 0;
    for part in &parts {
        if part.address < free {
            return Err(Fault::Overlap(part.address));
        }
        let end = part.address.checked_add(part.memory_bytes).and_then(page_up);
        free = end.filter(|end| *end <= MAX_SERVICE_BYTES).ok_or(Fault::TooLarge(part.address))?;
    }
    if parts.len() > MAX_SEGMENTS {
        return Err(Fault::TooManySegments(parts.len()));
    }
    Ok(parts)
}

/// Makes one part of a segment, or two where its beginning is read-only after relocation.
fn cut_load(load: &Load, relro: Option<Span>, parts: &mut Vec<Part>) -> Result<(), Fault> {
    let access = match load.access {
        Access::Execute => SegmentAccess::Execute,
        Access::Read => SegmentAccess::Read,
        Access::ReadWrite => SegmentAccess::ReadWrite,
    };
    let address = load.address - load.address % PAGE_BYTES;
    // The segment's first page begins before the segment where it is not page aligned.
    let lead = load.address - address;
    let mut bytes = vec![0; usize::try_from(lead).unwrap_or(0)];
    bytes.extend_from_slice(load.bytes);
    let mut part = Part { address, access, bytes, memory_bytes: load.memory_bytes + lead };
    let Some(relro) = relro else {
        parts.push(part.read_only_in_full());
        return Ok(());
    };
    let relro_end = relro.end().ok_or(Fault::Relro(relro.start))?;
    let begins_with_it = relro.start - relro.start % PAGE_BYTES == address;
    if part.access != SegmentAccess::ReadWrite || !begins_with_it {
        return Err(Fault::Relro(relro.start));
    }
    let is_whole = page_up(relro_end) >= page_up(address + part.memory_bytes);
    if is_whole {
        part.access = SegmentAccess::ReadAfterRelocation;
        parts.push(part.read_only_in_full());
        return Ok(());
    }
    if !is_page_aligned(relro_end) {
        return Err(Fault::Relro(relro_end));
    }
    let first_bytes = relro_end - address;
    let at = usize::try_from(first_bytes).unwrap_or(usize::MAX).min(part.bytes.len());
    let rest = part.bytes.split_off(at);
    let first =
        Part { access: SegmentAccess::ReadAfterRelocation, memory_bytes: first_bytes, ..part };
    parts.push(first.read_only_in_full());
    parts.push(Part {
        address: relro_end,
        access: SegmentAccess::ReadWrite,
        bytes: rest,
        memory_bytes: load.memory_bytes + lead - first_bytes,
    });
    Ok(())
}

impl Part {
    /// Puts all of a part that nobody may write into the file: only what is there is measured.
    fn read_only_in_full(mut self) -> Self {
        if self.access != SegmentAccess::ReadWrite {
            self.bytes.resize(usize::try_from(self.memory_bytes).unwrap_or(0), 0);
        }
        self
    }

    /// The eight bytes at `address` as a number, if boot may change them.
    fn relocatable(&self, address: u64) -> Option<u64> {
        let may_change =
            matches!(self.access, SegmentAccess::ReadWrite | SegmentAccess::ReadAfterRelocation);
        let at = usize::try_from(address.checked_sub(self.address)?).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(8)?).filter(|_| may_change)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

fn relative_relocations<'a>(elf: &'a Elf) -> Result<&'a [u8], Fault> {
    let start = elf.dynamic(elf::DT_RELR).unwrap_or(0);
    let span = Span::new(start, elf.dynamic(elf::DT_RELRSZ).unwrap_or(0));
    if span.length == 0 {
        return Ok(&[]);
    }
    let table = elf.at(span).filter(|_| span.length.is_multiple_of(8));
    table.ok_or(Fault::RelocationTable(span))
}

/// Checks that boot can apply every relocation: it points at a word that may be changed, and that
/// word is an address of the service.
///
/// The form is the gABI's "Relative Relocation Table": an even word is an address, an odd one says
/// in its 63 upper bits which of the words that follow it are relocated too.
fn check_targets(table: &[u8], parts: &[Part]) -> Result<(), Fault> {
    let end = parts.last().map_or(0, |part| part.address + part.memory_bytes);
    let check = |address: u64| {
        let word = parts.iter().find_map(|part| part.relocatable(address));
        match word {
            Some(word) if word <= end && address.is_multiple_of(8) => Ok(()),
            _ => Err(Fault::RelocationTarget(address)),
        }
    };
    let mut next: u64 = 0;
    for word in words_of(table).unwrap_or_default() {
        if word & 1 == 0 {
            check(word)?;
            next = word.wrapping_add(8);
            continue;
        }
        for bit in 1..64 {
            if word >> bit & 1 == 1 {
                check(next.wrapping_add((bit - 1) * 8))?;
            }
        }
        next = next.wrapping_add(63 * 8);
    }
    Ok(())
}

fn words_of(bytes: &[u8]) -> Option<Vec<u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}
