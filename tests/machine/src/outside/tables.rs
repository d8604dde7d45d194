//! Walks four levels of page tables, as a CPU would (Intel SDM 3A, 4.5).

use super::{Finding, Memory, PAGE};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// In a leaf: the translation outlives `mov cr3`.
const GLOBAL: u64 = 1 << 8;
/// Bits that nobody but software reads: 9 to 11, and 52 to 62.
const IGNORED: u64 = 0xe00 | 0x7ff << 52;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// One page of 4 KiB, 2 MiB or 1 GiB, with the rights that all levels together give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its virtual address.
    pub virt: u64,
    /// Its frame.
    pub phys: u64,
    /// Its size.
    pub bytes: u64,
    /// Where the entry is.
    pub entry: u64,
    /// Whether ring 3 has it.
    pub is_user: bool,
    /// Whether it may be written.
    pub is_writable: bool,
    /// Whether it may be executed.
    pub is_executable: bool,
    /// Whether it bypasses the caches, as device registers do.
    pub is_uncached: bool,
}

impl Leaf {
    /// Whether a physical address lies in it.
    pub fn holds(&self, phys: u64) -> bool {
        (self.phys..self.phys + self.bytes).contains(&phys)
    }

    /// Whether it shares a byte with `start..end` of physical memory.
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        self.phys < end && start < self.phys + self.bytes
    }

    /// The right in letters: the ring, then what it may do, then how it is cached.
    pub fn rights(&self) -> String {
        let ring = if self.is_user { 3 } else { 0 };
        let access = match (self.is_writable, self.is_executable) {
            (false, false) => "r--",
            (false, true) => "r-x",
            (true, false) => "rw-",
            (true, true) => "rwx",
        };
        let cache = if self.is_uncached { "uncached" } else { "write-back" };
        format!("ring {ring} {access} {cache}")
    }
}

/// Everything that the tables map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The pages, ascending by virtual address.
    pub leaves: Vec<Leaf>,
    /// The tables' frames, each once, the top one first.
    pub tables: Vec<u64>,
}

impl Walk {
    /// The pages whose frames share a byte with `start..end`.
    pub fn mapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Leaf> {
        self.leaves.iter().filter(move |leaf| leaf.overlaps(start, end))
    }

    /// The page at a virtual address.
    pub fn at(&self, virt: u64) -> Option<&Leaf> {
        let is_there = |leaf: &&Leaf| virt >= leaf.virt && virt - leaf.virt < leaf.bytes;
        self.leaves.iter().find(is_there)
    }
}

/// Walks the tables of `root` and says which entries no seal has.
pub fn walk(memory: &Memory, root: u64) -> (Walk, Vec<Finding>) {
    let mut walker = Walker { memory, walk: Walk::default(), findings: Vec::new() };
    if !root.is_multiple_of(PAGE) {
        walker.findings.push(Finding::Frame { phys: root, what: "CR3 has flags" });
    }
    walker.table(root & FRAME, 4, 0, Rights { writable: true, user: true, executable: true });
    (walker.walk, walker.findings)
}

#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    executable: bool,
}

impl Rights {
    /// What is left of the rights below an entry (Intel SDM 3A, 4.6.1).
    fn below(self, entry: u64) -> Self {
        Self {
            writable: self.writable && entry & WRITABLE != 0,
            user: self.user && entry & USER != 0,
            executable: self.executable && entry & NO_EXECUTE == 0,
        }
    }
}

struct Walker<'a> {
    memory: &'a Memory,
    walk: Walk,
    findings: Vec<Finding>,
}

impl Walker<'_> {
    fn table(&mut self, table: u64, level: u32, virt: u64, rights: Rights) {
        if self.walk.tables.contains(&table) {
            let what = "one table hangs in two places";
            return self.findings.push(Finding::Frame { phys: table, what });
        }
        self.walk.tables.push(table);
        for index in 0..512 {
            let place = table + 8 * index;
            let Some(entry) = self.memory.number::<8>(place) else {
                let what = "a table lies outside of memory";
                return self.findings.push(Finding::Frame { phys: table, what });
            };
            if entry != 0 {
                let virt = virt | index << (12 + 9 * (level - 1));
                self.entry(place, entry, level, virt, rights);
            }
        }
    }

    fn entry(&mut self, place: u64, entry: u64, level: u32, virt: u64, rights: Rights) {
        // Bit 47 goes on to the top (Intel SDM 1, 3.3.7.1).
        let virt = ((virt << 16) as i64 >> 16) as u64;
        let is_leaf = level == 1 || entry & LARGE != 0;
        if let Some(what) = fault(entry, level, is_leaf, virt) {
            self.findings.push(Finding::Page { virt, what });
        }
        let rights = rights.below(entry);
        if entry & PRESENT == 0 {
            return;
        }
        if !is_leaf {
            return self.table(entry & FRAME, level - 1, virt, rights);
        }
        let bytes = PAGE << (9 * (level - 1));
        self.walk.leaves.push(Leaf {
            virt,
            phys: entry & FRAME & !(bytes - 1),
            bytes,
            entry: place,
            is_user: rights.user,
            is_writable: rights.writable,
            is_executable: rights.executable,
            is_uncached: entry & UNCACHED == UNCACHED,
        });
    }
}

/// What is wrong with an entry that is not zero.
fn fault(entry: u64, level: u32, is_leaf: bool, virt: u64) -> Option<&'static str> {
    // Bit 7 of a small leaf and bit 12 of a large one choose from the page attribute table.
    let attribute = if level == 1 { LARGE } else { 1 << 12 };
    let low = if level > 1 { (PAGE << (9 * (level - 1))) - 2 * PAGE } else { 0 };
    let rules = [
        (entry & PRESENT == 0, "an entry that is not present is not zero"),
        (entry & USER != 0 && virt >> 63 == 1, "an entry of ring 0's half is open to ring 3"),
        (entry & IGNORED != 0, "a bit that only software reads is set"),
        (entry & ACCESSED == 0, "the accessed bit is not preset"),
        (is_leaf && entry & DIRTY == 0, "the dirty bit is not preset"),
        (!is_leaf && entry & (DIRTY | GLOBAL | UNCACHED) != 0, "a table has a leaf's bits"),
        (is_leaf && entry & GLOBAL != 0, "the page is global"),
        (is_leaf && entry & attribute != 0, "the page chooses another memory type"),
        (is_leaf && ![0, UNCACHED].contains(&(entry & UNCACHED)), "the page is half cached"),
        (level == 4 && is_leaf, "a leaf in the top table"),
        (is_leaf && entry & FRAME & low & !attribute != 0, "a large page is not aligned"),
    ];
    rules.into_iter().find(|(is_broken, _)| *is_broken).map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table at each of the first pages, one below the other, and a leaf in the last.
    fn tables(entries: &[(u64, u64)]) -> Memory {
        let mut bytes = vec![0; 0x5000];
        for &(phys, entry) in entries {
            let at = phys as usize;
            bytes[at..at + 8].copy_from_slice(&entry.to_le_bytes());
        }
        Memory(bytes)
    }

    const GOOD: [(u64, u64); 4] = [
        (0x1000 + 8 * 511, 0x2023),
        (0x2000 + 8 * 511, 0x3023),
        (0x3000 + 8 * 510, 0x4023),
        (0x4000 + 8 * 2, NO_EXECUTE | 0x9_9061),
    ];

    #[test]
    fn finds_a_page_at_its_address() {
        let (walk, findings) = walk(&tables(&GOOD), 0x1000);
        assert_eq!(findings, []);
        assert_eq!(walk.tables, [0x1000, 0x2000, 0x3000, 0x4000]);
        let [leaf] = walk.leaves[..] else { panic!("{walk:?}") };
        assert_eq!((leaf.virt, leaf.phys, leaf.bytes), (0xffff_ffff_ffc0_2000, 0x9_9000, PAGE));
        assert_eq!(leaf.rights(), "ring 0 r-- write-back");
        assert!(walk.at(0xffff_ffff_ffc0_2fff).is_some() && walk.at(0).is_none());
    }

    #[track_caller]
    fn check(change: (u64, u64), expected: &str) {
        let mut entries = GOOD.to_vec();
        entries.push(change);
        let (_, findings) = walk(&tables(&entries), 0x1000);
        let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(text.iter().any(|line| line.contains(expected)), "{text:?}");
    }

    #[test]
    fn finds_entries_that_no_seal_has() {
        check((0x4010, 0x9_9060), "not present is not zero");
        check((0x4010, 0x9_9041), "accessed bit");
        check((0x4010, 0x9_9021), "dirty bit");
        check((0x4010, 0x9_9161), "global");
        check((0x4010, 0x9_90e1), "another memory type");
        check((0x4010, 0x9_9069), "half cached");
        check((0x4010, 0x9_9261), "only software reads");
        check((0x4010, 1 << 59 | 0x9_9061), "only software reads");
        check((0x4010, 0x9_9065), "open to ring 3");
        check((0x3ff8, 0x4027), "open to ring 3");
        check((0x1000, 0x2023), "hangs in two places");
        check((0x3000, 0x8023), "outside of memory");
        check((0x3000, 0x20_30e1), "another memory type");
        check((0x3000, 0x20_20e1), "not aligned");
        check((0x1000, 0xe1), "top table");
        check((0x3000, 0x8063), "a leaf's bits");
    }
}
