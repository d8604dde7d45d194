//! The audit of the page tables, read back from memory.

use abi::{PAGE_BYTES, Span, is_page_aligned};

use crate::kind::{Access, Cache, Kind, Ring};
use crate::layout::{Layout, MAX_TABLES, Region};
use crate::violation::Violation;

/// Entries in a page table of any level.
pub const ENTRIES: usize = 512;

/// Entries looked at in one go for being zero: most of a table is.
const RUN: usize = 8; // and `run_bytes` below

// Intel SDM 3A, tables 4-15 to 4-20.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// In a level 2 or 3 entry. At level 1 the same bit chooses from the page attribute table.
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// One bit for each table an audit may meet.
const SEEN_WORDS: usize = 64;
const _: () = assert!(MAX_TABLES == 64 * 64);

/// Reads page tables.
pub trait Frames {
    /// The page table at a physical address, or `None` if it cannot be read.
    ///
    /// The audit only asks for frames in the layout's region of page tables, by page.
    fn table(&self, phys: u64) -> Option<&[u64; ENTRIES]>;
}

/// Proof that page tables are what a layout promised, with facts for the report.
///
/// Only [`audit`] can make one.
///
/// ```compile_fail,E0451
/// let forged = seal_core::Audited { tables: 1, small_leaves: 0, large_leaves: 0, regions: 0 };
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Audited {
    tables: u32,
    small_leaves: u32,
    large_leaves: u32,
    regions: u32,
}

impl Audited {
    /// How many page tables there are.
    pub fn tables(&self) -> u32 {
        self.tables
    }

    /// How many leaves of 4 KiB there are.
    pub fn small_leaves(&self) -> u32 {
        self.small_leaves
    }

    /// How many leaves of 2 MiB there are.
    pub fn large_leaves(&self) -> u32 {
        self.large_leaves
    }

    /// How many regions they make up.
    pub fn regions(&self) -> u32 {
        self.regions
    }
}

/// Walks every entry of every table from `root`, and compares with what `layout` promised.
///
/// Every bit counts. An entry that is not present is zero. An entry that leads to a table is
/// present, writable and accessed, a user entry in the service's half and a supervisor entry in the
/// gate's, and nothing else: what a page may be used for is decided by its leaf alone. A leaf is
/// present, accessed and dirty, has the frame and the rights of its region, and nothing else. Every
/// page of every region has its leaf, no other page has one, and each table is used once, by one
/// parent. Whether a leaf is large is the writer's choice, where region and frames allow it.
///
/// # Errors
///
/// The first [`Violation`], going up through the address space.
pub fn audit(frames: &dyn Frames, root: u64, layout: &Layout) -> Result<Audited, Violation> {
    let mut walk = Walk::new(frames, layout);
    walk.table(Level::Four, root, 0)?;
    walk.finish()
}

/// How far a table is from the leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    One,
    Two,
    Three,
    Four,
}

impl Level {
    const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// How many bytes of the address space one entry is in charge of.
    const fn entry_bytes(self) -> u64 {
        match self {
            Self::One => PAGE_BYTES,
            Self::Two => 2 << 20,
            Self::Three => 1 << 30,
            Self::Four => 1 << 39,
        }
    }

    const fn below(self) -> Option<Self> {
        match self {
            Self::One => None,
            Self::Two => Some(Self::One),
            Self::Three => Some(Self::Two),
            Self::Four => Some(Self::Three),
        }
    }
}

/// A walk up through the address space. It descends four levels and no further, whatever it reads.
struct Walk<'a> {
    frames: &'a dyn Frames,
    page_tables: Span,
    seen: [u64; SEEN_WORDS],
    regions: core::slice::Iter<'a, Region>,
    next: Option<Promise>,
    facts: Audited,
}

/// What the next leaf has to be.
///
/// Regions are sorted as the walk goes, so at every step exactly one leaf may come next. That makes
/// "nothing missing, nothing more, nothing twice" one comparison.
struct Promise {
    kind: Kind,
    virt: u64,
    phys: u64,
    remaining: u64,
    bits: u64,
}

impl Promise {
    fn new(region: &Region) -> Self {
        let (access, ring, cache) = region.kind.promise();
        let access = match access {
            Access::Execute => 0,
            Access::Read => EXECUTE_DISABLE,
            Access::ReadWrite => EXECUTE_DISABLE | WRITABLE,
        };
        let ring = match ring {
            Ring::Service => USER,
            Ring::Gate => 0,
        };
        let cache = match cache {
            Cache::WriteBack => 0,
            Cache::Uncached => WRITE_THROUGH | CACHE_DISABLE,
        };
        Self {
            kind: region.kind,
            virt: region.virt,
            phys: region.phys,
            remaining: region.length,
            bits: PRESENT | ACCESSED | DIRTY | access | ring | cache,
        }
    }

    /// Checks a leaf against the promise, and moves the promise past it.
    #[inline(always)]
    fn keep(&mut self, level: Level, virt: u64, entry: u64) -> Result<(), Violation> {
        let bytes = level.entry_bytes();
        let Self { kind, remaining, phys, .. } = *self;
        if virt != self.virt {
            let is_early = virt < self.virt;
            let missing = Violation::Missing { kind, virt: self.virt };
            return Err(if is_early { Violation::Unpromised { virt, entry } } else { missing });
        }
        if bytes > remaining {
            return Err(Violation::LargeLeafStraddles { kind, virt, remaining });
        }
        // Otherwise the frame's low bits would pass for an entry's reserved ones. A layout has
        // whole pages only, so small leaves have no such bits.
        if level != Level::One && phys & bytes.wrapping_sub(1) != 0 {
            return Err(Violation::LargeLeafMisaligned { virt, promised: phys });
        }
        let size = if level == Level::One { 0 } else { LARGE };
        let promised = phys | self.bits | size;
        if entry != promised {
            return Err(Violation::Entry { level: level.number(), virt, found: entry, promised });
        }
        self.virt = virt.wrapping_add(bytes);
        self.phys = phys.wrapping_add(bytes);
        self.remaining = remaining.wrapping_sub(bytes);
        Ok(())
    }
}

impl<'a> Walk<'a> {
    fn new(frames: &'a dyn Frames, layout: &'a Layout) -> Self {
        let mut regions = layout.regions().iter();
        let next = regions.next().map(Promise::new);
        Self {
            frames,
            page_tables: layout.page_tables().physical_span(),
            seen: [0; SEEN_WORDS],
            regions,
            next,
            facts: Audited { tables: 0, small_leaves: 0, large_leaves: 0, regions: 0 },
        }
    }

    fn finish(self) -> Result<Audited, Violation> {
        match self.next {
            Some(Promise { kind, virt, .. }) => Err(Violation::Missing { kind, virt }),
            None => Ok(self.facts),
        }
    }

    fn table(&mut self, level: Level, frame: u64, base: u64) -> Result<(), Violation> {
        self.enter(level, frame, base)?;
        let table = self.frames.table(frame).ok_or(Violation::TableUnreadable { frame })?;
        let is_empty = match level {
            // Most entries are small leaves, so their walk is compiled for them alone.
            Level::One => self.entries(Level::One, table, base)?,
            above => self.entries(above, table, base)?,
        };
        if is_empty {
            return Err(Violation::EmptyTable { level: level.number(), virt: base, frame });
        }
        Ok(())
    }

    /// Checks every entry of a table. Returns whether all are zero.
    #[inline(always)]
    fn entries(
        &mut self,
        level: Level,
        table: &[u64; ENTRIES],
        base: u64,
    ) -> Result<bool, Violation> {
        let entry_bytes = level.entry_bytes();
        let run_bytes = entry_bytes.wrapping_mul(8);
        let mut virt = base;
        let mut is_empty = true;
        for run in table.as_chunks::<RUN>().0 {
            if run.iter().fold(0, |all, entry| all | entry) == 0 {
                virt = virt.wrapping_add(run_bytes);
                continue;
            }
            is_empty = false;
            for &entry in run {
                if entry != 0 {
                    self.entry(level, virt, entry)?;
                }
                virt = virt.wrapping_add(entry_bytes);
            }
        }
        Ok(is_empty)
    }

    /// Checks that a table is where tables are, and that it is met for the first time.
    fn enter(&mut self, level: Level, frame: u64, virt: u64) -> Result<(), Violation> {
        let level = level.number();
        let outside = Violation::TableOutside { level, virt, frame };
        if !is_page_aligned(frame) || !self.page_tables.contains(frame) {
            return Err(outside);
        }
        let index = frame.wrapping_sub(self.page_tables.start) / PAGE_BYTES;
        let word = usize::try_from(index / 64).map_err(|_| outside)?;
        let seen = self.seen.get_mut(word).ok_or(outside)?;
        let bit = 1 << (index % 64);
        if *seen & bit != 0 {
            return Err(Violation::SharedTable { level, virt, frame });
        }
        *seen |= bit;
        self.facts.tables = self.facts.tables.saturating_add(1);
        Ok(())
    }

    #[inline(always)]
    fn entry(&mut self, level: Level, virt: u64, entry: u64) -> Result<(), Violation> {
        let number = level.number();
        let virt = if level == Level::Four { canonical(virt) } else { virt };
        if entry & PRESENT == 0 {
            return Err(Violation::NotZero { level: number, virt, entry });
        }
        match (level.below(), entry & LARGE != 0) {
            (None, _) | (Some(Level::One), true) => self.leaf(level, virt, entry),
            (Some(_), true) => Err(Violation::HugeLeaf { level: number, virt, entry }),
            (Some(below), false) => {
                let frame = entry & FRAME;
                let promised = frame | PRESENT | WRITABLE | ACCESSED | user_half(virt);
                if entry != promised {
                    return Err(Violation::Entry { level: number, virt, found: entry, promised });
                }
                self.table(below, frame, virt)
            }
        }
    }

    #[inline(always)]
    fn leaf(&mut self, level: Level, virt: u64, entry: u64) -> Result<(), Violation> {
        // Asked of the bits alone, so that no layout and no kind can excuse it.
        if entry & (WRITABLE | EXECUTE_DISABLE) == WRITABLE {
            return Err(Violation::WritableAndExecutable { virt, entry });
        }
        let Some(promise) = &mut self.next else {
            return Err(Violation::Unpromised { virt, entry });
        };
        promise.keep(level, virt, entry)?;
        let leaves = match level {
            Level::One => &mut self.facts.small_leaves,
            _ => &mut self.facts.large_leaves,
        };
        // 4096 tables have two million entries, so this does not wrap.
        *leaves = leaves.wrapping_add(1);
        if promise.remaining == 0 {
            self.facts.regions = self.facts.regions.saturating_add(1);
            self.next = self.regions.next().map(Promise::new);
        }
        Ok(())
    }
}

/// The address with bit 47 carried on upwards (Intel SDM 1, 3.3.7.1).
const fn canonical(virt: u64) -> u64 {
    if virt & 1 << 47 == 0 { virt } else { virt | 0xffff << 48 }
}

/// The user bit that an entry on the way to `virt` has: the service's half is the lower one.
const fn user_half(virt: u64) -> u64 {
    if virt & 1 << 63 == 0 { USER } else { 0 }
}
