//! Page tables of any contents, for a layout of any regions.
//!
//! Whatever the audit accepts, a second walk, by the CPU's rules and without seal-core's, finds to
//! map what the layout says and nothing else.

use std::collections::BTreeMap;

use seal_core::{Access, Cache, Draft, ENTRIES, Frames, Kind, Layout, Region, Ring, audit};

use crate::input::Input;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const PHYSICAL_BITS: u32 = 40;
const MAX_REGIONS: u8 = 10;
const TABLE_PAGES: u64 = 128;
const MAX_EDITS: usize = 64;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const UNCACHED: u64 = 0x18;
const USED: u64 = 0x60;
const LARGE: u64 = 0x80;
const EXECUTE_DISABLE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Page tables by frame.
struct Memory {
    root: u64,
    next: u64,
    tables: BTreeMap<u64, Box<[u64; ENTRIES]>>,
}

impl Frames for Memory {
    fn table(&self, phys: u64) -> Option<&[u64; ENTRIES]> {
        self.tables.get(&phys).map(|table| &**table)
    }
}

/// What a page is mapped to: its frame and the rights that all levels together give.
type Mapping = (u64, u64, u64);

/// Tables for a layout, then changed.
pub fn tables(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(layout) = layout(&mut input) else { return };
    let mut memory = Memory::write(&layout, input.is_set());
    let mut root = memory.root;
    for _ in 0..MAX_EDITS {
        if input.is_empty() {
            break;
        }
        memory.edit(&mut input, &mut root);
    }
    let result = audit(&memory, root, &layout);
    assert_eq!(audit(&memory, root, &layout), result);
    match result {
        Ok(audited) => {
            assert_eq!(audited.regions() as usize, layout.regions().len());
            let mut mapped = Vec::new();
            memory.walk(root, 4, 0, USER | WRITABLE, &mut mapped);
            assert!(mapped == promised(&layout), "the audit accepts what was not promised");
        }
        Err(violation) => assert!(!violation.to_string().is_empty()),
    }
}

/// A layout of regions near each other, or anywhere, if it can be sealed.
fn layout(input: &mut Input<'_>) -> Option<Layout> {
    let mut draft = Draft::new(PHYSICAL_BITS);
    let (mut lower, mut upper, mut phys) = (PAGE, 0xffff_8000_0000_0000, 64 * PAGE);
    let count = input.u8() % MAX_REGIONS;
    for index in 0..=count {
        let is_last = index == count;
        let kind = if is_last { Kind::PageTables } else { input.choice(&Kind::ALL) };
        let (_, ring, _) = kind.promise();
        let virt = if ring == Ring::Service { &mut lower } else { &mut upper };
        let (shape, gap, pages) = (input.u8(), u64::from(input.u8()), u64::from(input.u8()));
        *virt += (PAGE * (gap & 15)) << (9 * (shape & 3));
        phys += PAGE * (gap >> 4);
        if shape & 4 != 0 {
            *virt = virt.next_multiple_of(LARGE_PAGE);
            phys = phys.next_multiple_of(LARGE_PAGE);
        }
        let pages = if is_last { TABLE_PAGES } else { pages % 7 + u64::from(shape >> 7) * 512 };
        let mut region = Region { kind, virt: *virt, phys, length: pages * PAGE };
        if shape & 0x38 == 0x38 {
            // Anything, to see it refused.
            (region.virt, region.phys) = (input.u64(), input.u64());
            region.length = if input.is_set() { input.u64() } else { region.length };
        }
        *virt += region.length.min(1 << 30);
        phys += region.length.min(1 << 30);
        if let Err(violation) = draft.push(region) {
            assert!(!violation.to_string().is_empty());
        }
    }
    match draft.finish() {
        // A region that came from anywhere may be too large to write tables for.
        Ok(layout) => {
            let pages: u64 = layout.regions().iter().map(|region| region.length / PAGE).sum();
            (pages < 8192 && layout.page_tables().length == TABLE_PAGES * PAGE).then_some(layout)
        }
        Err(violation) => {
            assert!(!violation.to_string().is_empty());
            None
        }
    }
}

/// The rights of a leaf.
fn rights(kind: Kind) -> u64 {
    let (access, ring, cache) = kind.promise();
    let access = match access {
        Access::Execute => 0,
        Access::Read => EXECUTE_DISABLE,
        Access::ReadWrite => EXECUTE_DISABLE | WRITABLE,
    };
    let ring = if ring == Ring::Service { USER } else { 0 };
    access | ring | if cache == Cache::Uncached { UNCACHED } else { 0 }
}

/// Every page that a layout promises, ascending.
fn promised(layout: &Layout) -> Vec<Mapping> {
    let pages = |region: &Region| {
        let Region { kind, virt, phys, length } = *region;
        (0..length).step_by(PAGE as usize).map(move |at| (virt + at, phys + at, rights(kind)))
    };
    layout.regions().iter().flat_map(pages).collect()
}

impl Memory {
    fn write(layout: &Layout, has_large: bool) -> Self {
        let root = layout.page_tables().phys;
        let mut memory = Self { root, next: root, tables: BTreeMap::new() };
        memory.allocate();
        for region in layout.regions() {
            let mut done = 0;
            while done < region.length {
                let (virt, phys) = (region.virt + done, region.phys + done);
                let fits = (virt | phys).is_multiple_of(LARGE_PAGE);
                let is_large = has_large && fits && region.length - done >= LARGE_PAGE;
                let bits = PRESENT | USED | rights(region.kind);
                let (level, size, bytes) =
                    if is_large { (2, LARGE, LARGE_PAGE) } else { (1, 0, PAGE) };
                if let Some(slot) = memory.slot(virt, level) {
                    *slot = phys | bits | size;
                }
                done += bytes;
            }
        }
        memory
    }

    fn allocate(&mut self) -> u64 {
        let frame = self.next;
        self.next += PAGE;
        self.tables.insert(frame, Box::new([0; ENTRIES]));
        frame
    }

    /// The entry for an address in a table of a level; tables on the way are made.
    fn slot(&mut self, virt: u64, level: u32) -> Option<&mut u64> {
        let mut frame = self.root;
        for above in (level + 1..=4).rev() {
            let entry = self.tables.get(&frame)?[index(virt, above)];
            let below = if entry == 0 { self.allocate() } else { entry & FRAME };
            let user = if virt >> 63 == 0 { USER } else { 0 };
            self.tables.get_mut(&frame)?[index(virt, above)] =
                below | PRESENT | WRITABLE | 0x20 | user;
            frame = below;
        }
        Some(&mut self.tables.get_mut(&frame)?[index(virt, level)])
    }

    fn edit(&mut self, input: &mut Input<'_>, root: &mut u64) {
        let first = self.place(input);
        let Some(entry) = self.at(first) else { return };
        let changed = match input.u8() % 10 {
            0 => 0,
            1 | 2 => entry ^ 1 << (input.u8() % 64),
            3 => entry.wrapping_add(PAGE * u64::from(input.u8())),
            4 => input.u64(),
            5 => {
                let frame = self.root + PAGE * u64::from(input.u8());
                entry & !FRAME | frame
            }
            6 => {
                *root = if input.is_set() { input.u64() } else { first.0 };
                return;
            }
            7 => return self.split(first),
            _ => {
                // Two entries change places: what was promised is there, but elsewhere.
                let second = self.place(input);
                let Some(other) = self.at(second) else { return };
                self.set(second, entry);
                other
            }
        };
        self.set(first, changed);
    }

    /// A place in some table, more often one that is in use.
    fn place(&self, input: &mut Input<'_>) -> (u64, usize) {
        let number = usize::from(input.u8()) % self.tables.len();
        let Some((frame, table)) = self.tables.iter().nth(number) else { return (0, 0) };
        let wanted = usize::from(input.u16());
        let used: Vec<usize> = (0..ENTRIES).filter(|index| table[*index] != 0).collect();
        let is_used = wanted & 1 == 0 && !used.is_empty();
        (*frame, if is_used { used[(wanted >> 1) % used.len()] } else { (wanted >> 1) % ENTRIES })
    }

    fn at(&self, (frame, index): (u64, usize)) -> Option<u64> {
        self.tables.get(&frame).map(|table| table[index])
    }

    fn set(&mut self, (frame, index): (u64, usize), entry: u64) {
        if let Some(table) = self.tables.get_mut(&frame) {
            table[index] = entry;
        }
    }

    /// Makes small leaves of a large one, which changes nothing that is mapped.
    fn split(&mut self, place: (u64, usize)) {
        let Some(entry) = self.at(place).filter(|entry| entry & LARGE != 0) else { return };
        let below = self.allocate();
        for at in 0..ENTRIES {
            self.set((below, at), (entry & !LARGE).wrapping_add(PAGE * at as u64));
        }
        self.set(place, below | PRESENT | WRITABLE | 0x20 | entry & USER);
    }

    /// All that is mapped, as the CPU finds it (Intel SDM 3A, 4.5 and 4.6).
    fn walk(&self, frame: u64, level: u32, base: u64, above: u64, mapped: &mut Vec<Mapping>) {
        let Some(table) = self.table(frame) else { return };
        assert!(mapped.len() <= 1 << 16, "what was accepted maps without end");
        for (at, entry) in table.iter().enumerate().filter(|(_, entry)| *entry & PRESENT != 0) {
            let mut virt = base | (at as u64) << (12 + 9 * (level - 1));
            if level == 4 && at >= ENTRIES / 2 {
                virt |= 0xffff << 48;
            }
            let granted = above & entry & (USER | WRITABLE);
            let rights = granted | (above | entry) & EXECUTE_DISABLE;
            if level > 1 && entry & LARGE == 0 {
                self.walk(entry & FRAME, level - 1, virt, rights, mapped);
                continue;
            }
            let bytes = PAGE << (9 * (level - 1));
            for at in (0..bytes).step_by(PAGE as usize) {
                mapped.push((virt + at, (entry & FRAME) + at, rights | entry & UNCACHED));
            }
        }
    }
}

fn index(virt: u64, level: u32) -> usize {
    (virt >> (12 + 9 * (level - 1)) & 511) as usize
}
