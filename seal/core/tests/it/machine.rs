//! A machine to audit: a layout, and page tables written by code that only tests have.

use std::collections::HashMap;

use seal_core::{
    Access, Cache, Draft, ENTRIES, Frames, Kind, Layout, Region, Ring, TPM_REGISTERS, Violation,
};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const LARGE_PAGE: u64 = 2 << 20;
pub(crate) const PHYSICAL_BITS: u32 = 40;

pub(crate) const SERVICE_BASE: u64 = 0x0000_3a5f_1234_0000;
pub(crate) const GATE_BASE: u64 = 0xffff_ffff_8000_0000;

/// The page tables of the fixed sample: 64 frames at 1 MiB.
pub(crate) const TABLES: Region = region(Kind::PageTables, GATE_BASE + 0x10_0000, 0x10_0000, 64);

pub(crate) const fn region(kind: Kind, virt: u64, phys: u64, pages: u64) -> Region {
    Region { kind, virt, phys, length: pages * PAGE }
}

/// A layout like boot's, with every kind once and four gate stacks.
pub(crate) fn sample() -> Vec<Region> {
    const HEAP: u64 = SERVICE_BASE + 0x8c_0000; // a multiple of 2 MiB
    let mut regions = vec![
        region(Kind::ServiceText, SERVICE_BASE, 0x20_0000, 5),
        region(Kind::ServiceRodata, SERVICE_BASE + 0x5000, 0x20_5000, 3),
        region(Kind::ServiceRelro, SERVICE_BASE + 0x8000, 0x20_8000, 1),
        region(Kind::ServiceData, SERVICE_BASE + 0x9000, 0x20_9000, 1),
        region(Kind::ServiceBss, SERVICE_BASE + 0xa000, 0x20_a000, 2),
        region(Kind::Configuration, SERVICE_BASE + 0x2_0000, 0x21_0000, 1),
        region(Kind::Stack, SERVICE_BASE + 0x3_0000, 0x22_0000, 4),
        region(Kind::PacketBuffers, SERVICE_BASE + 0x4_0000, 0x23_0000, 6),
        region(Kind::DescriptorTable, SERVICE_BASE + 0x5_0000, 0x24_0000, 1),
        region(Kind::AvailableRing, SERVICE_BASE + 0x5_1000, 0x24_1000, 1),
        region(Kind::UsedRing, SERVICE_BASE + 0x5_2000, 0x24_2000, 1),
        region(Kind::Doorbell, SERVICE_BASE + 0x6_0000, 0xfe00_3000, 1),
        region(Kind::Kvmclock, SERVICE_BASE + 0x6_1000, 0x24_3000, 1),
        region(Kind::GenerationId, SERVICE_BASE + 0x6_2000, 0x7f_f000, 1),
        region(Kind::BootRecord, SERVICE_BASE + 0x6_8000, 0x26_0000, 24),
        region(Kind::Heap, HEAP, 0x40_0000, 512 + 3),
        region(Kind::GateText, GATE_BASE + 0x1000, 0x24_4000, 1),
        region(Kind::GateData, GATE_BASE + 0x2000, 0x24_5000, 1),
        region(Kind::Idt, GATE_BASE + 0x3000, 0x24_6000, 1),
        region(Kind::Gdt, GATE_BASE + 0x4000, 0x24_7000, 1),
        region(Kind::Tss, GATE_BASE + 0x5000, 0x24_8000, 1),
        region(Kind::CrashRecord, GATE_BASE + 0x6000, 0x24_9000, 1),
        region(Kind::LocalApic, GATE_BASE + 0x7000, 0xfee0_0000, 1),
        region(Kind::TpmRegisters, GATE_BASE + 0x8000, TPM_REGISTERS, 1),
        region(Kind::TpmAnswer, GATE_BASE + 0x9000, 0x24_a000, 1),
        region(Kind::DeviceRegisters, GATE_BASE + 0xa000, 0xfeb0_2000, 1),
        TABLES,
    ];
    for stack in 0..4 {
        let (virt, phys) = (GATE_BASE + 0x1_0000 + stack * 0x2000, 0x25_0000 + stack * PAGE);
        regions.push(region(Kind::GateStack, virt, phys, 1));
    }
    regions
}

pub(crate) fn layout(regions: &[Region]) -> Result<Layout, Violation> {
    let mut draft = Draft::new(PHYSICAL_BITS);
    for region in regions {
        draft.push(*region)?;
    }
    draft.finish()
}

/// The end of the gate stack with a number of the sample.
pub(crate) const fn stack_end(number: u64) -> u64 {
    GATE_BASE + 0x1_1000 + number * 0x2000
}

/// Xorshift (Marsaglia 2003): enough for tests, and the same numbers in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Page tables in memory that does not exist.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) root: u64,
    pub(crate) tables: HashMap<u64, [u64; ENTRIES]>,
    next_frame: u64,
}

impl Frames for Memory {
    fn table(&self, phys: u64) -> Option<&[u64; ENTRIES]> {
        self.tables.get(&phys)
    }
}

impl Memory {
    /// Writes what a layout promises, with leaves as large as they can be.
    pub(crate) fn write(layout: &Layout) -> Self {
        let root = layout.page_tables().phys;
        let mut memory = Self { root, tables: HashMap::new(), next_frame: root };
        memory.allocate();
        for region in layout.regions() {
            memory.map(region);
        }
        memory
    }

    /// A new table with no entry.
    pub(crate) fn allocate(&mut self) -> u64 {
        let frame = self.next_frame;
        self.next_frame += PAGE;
        self.tables.insert(frame, [0; ENTRIES]);
        frame
    }

    fn map(&mut self, region: &Region) {
        let mut done = 0;
        while done < region.length {
            let (virt, phys) = (region.virt + done, region.phys + done);
            let is_large =
                (virt | phys).is_multiple_of(LARGE_PAGE) && region.length - done >= LARGE_PAGE;
            let (level, bytes) = if is_large { (2, LARGE_PAGE) } else { (1, PAGE) };
            *self.slot(virt, level) = leaf(region.kind, phys, is_large);
            done += bytes;
        }
    }

    /// The entry for an address in a table of a level; tables on the way are made.
    pub(crate) fn slot(&mut self, virt: u64, level: u32) -> &mut u64 {
        let mut frame = self.root;
        for above in (level + 1..=4).rev() {
            let index = index_of(virt, above);
            if self.tables[&frame][index] == 0 {
                let below = self.allocate();
                self.tables.get_mut(&frame).unwrap()[index] = below | upper(virt);
            }
            frame = self.tables[&frame][index] & 0x000f_ffff_ffff_f000;
        }
        &mut self.tables.get_mut(&frame).unwrap()[index_of(virt, level)]
    }

    /// The places of all entries: table by table, each with what it holds.
    pub(crate) fn entries(&self) -> Vec<(u64, usize, u64)> {
        let mut frames: Vec<u64> = self.tables.keys().copied().collect();
        frames.sort_unstable();
        let of = |frame: u64| {
            self.tables[&frame].iter().enumerate().map(move |(index, e)| (frame, index, *e))
        };
        frames.into_iter().flat_map(of).collect()
    }

    pub(crate) fn set(&mut self, frame: u64, index: usize, entry: u64) {
        self.tables.get_mut(&frame).unwrap()[index] = entry;
    }
}

fn index_of(virt: u64, level: u32) -> usize {
    (virt >> (12 + 9 * (level - 1)) & 511) as usize
}

/// An entry that leads to a table, without its frame.
pub(crate) fn upper(virt: u64) -> u64 {
    if virt >> 63 == 0 { 0x27 } else { 0x23 }
}

/// The entry of a page, by the table in DESIGN section 1.
pub(crate) fn leaf(kind: Kind, phys: u64, is_large: bool) -> u64 {
    let (access, ring, cache) = kind.promise();
    let access = match access {
        Access::Execute => 0x61,
        Access::Read => 0x8000_0000_0000_0061,
        Access::ReadWrite => 0x8000_0000_0000_0063,
    };
    let ring = if ring == Ring::Service { 0x4 } else { 0 };
    let cache = if cache == Cache::Uncached { 0x18 } else { 0 };
    phys + access + ring + cache + if is_large { 0x80 } else { 0 }
}

/// A layout that nobody thought of: some kinds, some sizes, some places.
pub(crate) fn random_regions(random: &mut Random) -> Vec<Region> {
    let mut phys = PAGE + random.below(1 << 20) * PAGE;
    let mut lower = PAGE + random.below(1 << 34) * PAGE;
    let mut upper = 0xffff_8000_0000_0000 + random.below(1 << 34) * PAGE;
    let mut regions: Vec<Region> = Vec::new();
    for _ in 0..4 + random.below(12) {
        let kind = Kind::ALL[random.below(Kind::ALL.len() as u64) as usize];
        // There is one TPM at most, at the one place where TPMs are.
        let is_second = kind == Kind::TpmRegisters && regions.iter().any(|it| it.kind == kind);
        if kind != Kind::PageTables && !is_second {
            regions.push(random_region(random, kind, &mut lower, &mut upper, &mut phys));
        }
    }
    regions.push(random_region(random, Kind::PageTables, &mut lower, &mut upper, &mut phys));
    regions
}

fn random_region(
    random: &mut Random,
    kind: Kind,
    lower: &mut u64,
    upper: &mut u64,
    phys: &mut u64,
) -> Region {
    let (_, ring, cache) = kind.promise();
    let virt = if ring == Ring::Service { lower } else { upper };
    // A hole of at least a page, now and then one that needs tables of its own.
    *virt +=
        PAGE * (1 + random.below(8)) + (random.below(6) / 5) * random.below(1 << 30) / PAGE * PAGE;
    *phys += PAGE * random.below(4);
    let pages = match (kind, cache) {
        (Kind::PageTables, _) => 96,
        (_, Cache::Uncached) => 1,
        (Kind::Heap, _) => {
            *virt = virt.next_multiple_of(LARGE_PAGE);
            *phys = phys.next_multiple_of(LARGE_PAGE);
            512 * random.below(3) + 1 + random.below(5)
        }
        _ => 1 + random.below(6),
    };
    let frame = if kind == Kind::TpmRegisters { TPM_REGISTERS } else { *phys };
    let region = region(kind, *virt, frame, pages);
    *virt += region.length;
    *phys += region.length;
    region
}
