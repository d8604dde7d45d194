//! Writes page tables. Who audits them shares no code with this.

use abi::{PAGE_BYTES, Span};
use seal_core::{Access, Cache, Ring};

use super::{Frames, LARGE_BYTES};
use crate::refusal::Refusal;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ENTRIES: u64 = 512;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Frames that hold page tables, the top one first.
pub(crate) struct Arena {
    frames: Frames,
    used_pages: u64,
}

/// What a page may do: the promise of its kind.
pub(crate) type Promise = (Access, Ring, Cache);

impl Arena {
    /// An arena with an empty top table.
    pub(crate) fn new(frames: Frames) -> Self {
        Self { frames, used_pages: 1 }
    }

    /// The top table's physical address.
    pub(crate) fn root(&self) -> u64 {
        self.frames.start()
    }

    /// Where the tables are.
    pub(crate) fn span(&self) -> Span {
        self.frames.span()
    }

    /// Maps a span to frames, in 2 MiB pages wherever one fits.
    ///
    /// Accessed and dirty are set from the start: the walker then never writes, so the tables work
    /// from read-only memory and their bytes never change.
    pub(crate) fn map(&mut self, virt: u64, phys: Span, promise: Promise) -> Result<(), Refusal> {
        self.map_bits(virt, phys, leaf_bits(promise))
    }

    /// Maps the first 4 GiB as boot knows them, but `sealed` read-only.
    pub(crate) fn map_for_boot(&mut self, sealed: Span) -> Result<(), Refusal> {
        let all = PRESENT | WRITABLE | ACCESSED | DIRTY;
        let end = sealed.end().unwrap_or(sealed.start);
        let rest = Span::new(end, super::REACH.length.saturating_sub(end));
        self.map_bits(0, Span::new(0, sealed.start), all)?;
        self.map_bits(sealed.start, sealed, all & !WRITABLE)?;
        self.map_bits(end, rest, all)
    }

    /// Maps a span in runs, each within one table, which is looked up once.
    fn map_bits(&mut self, virt: u64, phys: Span, bits: u64) -> Result<(), Refusal> {
        let mut done = 0;
        while done < phys.length {
            let (at, frame, left) =
                (virt.wrapping_add(done), phys.start + done, phys.length - done);
            let fits = (at | frame).is_multiple_of(LARGE_BYTES) && left >= LARGE_BYTES;
            let (size, level, kind) =
                if fits { (LARGE_BYTES, 2, LARGE) } else { (PAGE_BYTES, 1, 0) };
            // Small pages go on up to the next place where a large one could begin.
            let reach = size * ENTRIES;
            let run = (reach - at % reach).min(left - left % size);
            let table = self.table(at, level)?;
            let first = self.word(table, at, level);
            let slots = self.frames.words_mut().iter_mut().skip(first).take((run / size) as usize);
            for (slot, page) in slots.zip((frame..).step_by(size as usize)) {
                *slot = page | bits | kind;
            }
            done += run;
        }
        Ok(())
    }

    /// Puts these tables in force. Made by [`Arena::map_for_boot`], they map all that boot uses.
    pub(crate) fn enter(&self) {
        // SAFETY: text, data, stack and every frame of boot's lie below 4 GiB, where these tables
        // equal the ones in force but for the sealed tables, which nobody writes from here on.
        unsafe { crate::arch::controls::load_tables(self.root()) };
    }

    /// The table that holds `virt`'s entry of a level (1: 4 KiB pages), made if need be.
    fn table(&mut self, virt: u64, level: u32) -> Result<u64, Refusal> {
        let mut table = self.root();
        for above in (level + 1..=4).rev() {
            let entry = self.get(table, virt, above);
            table = if entry & PRESENT != 0 {
                entry & ADDRESS
            } else {
                let fresh = self.root() + self.used_pages * PAGE_BYTES;
                if !self.span().covers(&Span::new(fresh, PAGE_BYTES)) {
                    let limit = (self.span().length / PAGE_BYTES) as usize;
                    return Err(Refusal::Bound { what: "page tables", limit });
                }
                self.used_pages += 1;
                // Upper levels allow what any leaf below may need; the leaf decides.
                let user = if virt >> 63 == 0 { USER } else { 0 };
                self.set(table, virt, above, fresh | PRESENT | WRITABLE | user | ACCESSED);
                fresh
            };
        }
        Ok(table)
    }

    fn word(&self, table: u64, virt: u64, level: u32) -> usize {
        let index = virt >> (12 + 9 * (level - 1)) & 511;
        ((table - self.root()) / 8 + index) as usize
    }

    fn get(&mut self, table: u64, virt: u64, level: u32) -> u64 {
        let word = self.word(table, virt, level);
        self.frames.words_mut().get(word).copied().unwrap_or(0)
    }

    fn set(&mut self, table: u64, virt: u64, level: u32, entry: u64) {
        let word = self.word(table, virt, level);
        if let Some(slot) = self.frames.words_mut().get_mut(word) {
            *slot = entry;
        }
    }

    /// Ends writing: from here on the tables are only read.
    pub(crate) fn read_back(self) -> ReadBack {
        ReadBack { span: self.span() }
    }
}

fn leaf_bits((access, ring, cache): Promise) -> u64 {
    let rights = match access {
        Access::Execute => 0,
        Access::Read => NO_EXECUTE,
        Access::ReadWrite => NO_EXECUTE | WRITABLE,
    };
    let user = match ring {
        Ring::Service => USER,
        Ring::Gate => 0,
    };
    let cache = match cache {
        Cache::WriteBack => 0,
        Cache::Uncached => UNCACHED,
    };
    PRESENT | ACCESSED | DIRTY | rights | user | cache
}

/// The finished tables, read from memory word by word.
pub(crate) struct ReadBack {
    span: Span,
}

impl ReadBack {
    /// The top table's physical address.
    pub(crate) fn root(&self) -> u64 {
        self.span.start
    }
}

impl seal_core::Frames for ReadBack {
    fn table(&self, phys: u64) -> Option<&[u64; 512]> {
        if !phys.is_multiple_of(PAGE_BYTES) || !self.span.covers(&Span::new(phys, PAGE_BYTES)) {
            return None;
        }
        // SAFETY: the arena's frames, mapped one to one and by now read-only, so no view of ours
        // or anyone's can change them while this slice lives; aligned to a page.
        Some(unsafe { &*(phys as *const [u64; 512]) })
    }
}
