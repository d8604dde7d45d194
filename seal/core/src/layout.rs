//! What the sealed address space will be.

use abi::{PAGE_BYTES, Span, is_page_aligned};
use arrayvec::ArrayVec;

use crate::kind::{Cache, Kind, Ring};
use crate::violation::{Fault, Violation};

/// The most regions a layout may have.
pub const MAX_REGIONS: usize = 64;

/// The most page tables an audit can tell apart: 16 MiB of them.
pub const MAX_TABLES: u64 = 4096;

/// Where every PC's TPM has its registers (TCG PC Client Platform TPM Profile 1.06, 6.5.1).
pub const TPM_REGISTERS: u64 = 0xfed4_0000;

/// The first address that is not in the lower half: it is in no half (Intel SDM 1, 3.3.7.1).
const LOWER_END: u64 = 1 << 47;

/// The first address of the upper half.
const UPPER_START: u64 = !(LOWER_END.wrapping_sub(1));

/// A physical address never has more bits (Intel SDM 3A, 4.1.4).
const MAX_PHYSICAL_BITS: u32 = 52;

/// Pages with one purpose, contiguous in both address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// What it is for, and hence what may be done with it.
    pub kind: Kind,
    /// Its first virtual address.
    pub virt: u64,
    /// Its first physical address.
    pub phys: u64,
    /// Its size in bytes.
    pub length: u64,
}

impl Region {
    /// Its virtual addresses.
    pub const fn virtual_span(&self) -> Span {
        Span::new(self.virt, self.length)
    }

    /// Its physical addresses.
    pub const fn physical_span(&self) -> Span {
        Span::new(self.phys, self.length)
    }

    /// The first virtual address above it. Regions of a layout never wrap.
    pub const fn virtual_end(&self) -> u64 {
        self.virt.wrapping_add(self.length)
    }

    /// What is wrong with it, whatever else the layout holds.
    fn fault(&self, physical_bits: u32) -> Option<Fault> {
        let (_, ring, cache) = self.kind.promise();
        let (Some(virtual_end), Some(physical_end)) =
            (self.virtual_span().end(), self.physical_span().end())
        else {
            return Some(Fault::Wraps);
        };
        let is_lower = virtual_end <= LOWER_END;
        let is_upper = self.virt >= UPPER_START;
        let is_aligned = [self.virt, self.phys, self.length].into_iter().all(is_page_aligned);
        let faults = [
            (self.length == 0, Fault::Empty),
            (!is_aligned, Fault::Misaligned),
            (self.virt == 0 || self.phys == 0, Fault::PageZero),
            (!is_lower && !is_upper, Fault::NonCanonical),
            (is_lower != matches!(ring, Ring::Service), Fault::WrongHalf),
            (physical_end > 1_u64.wrapping_shl(physical_bits), Fault::BeyondMemory),
            // The next page of a device's registers is its configuration.
            (matches!(cache, Cache::Uncached) && self.length != PAGE_BYTES, Fault::ManyRegisters),
            (self.kind == Kind::TpmRegisters && self.phys != TPM_REGISTERS, Fault::NoTpm),
            (self.is_tables() && self.length > MAX_TABLES.saturating_mul(PAGE_BYTES), Fault::Long),
        ];
        faults.into_iter().find_map(|(is_so, fault)| is_so.then_some(fault))
    }

    fn is_tables(&self) -> bool {
        self.kind == Kind::PageTables
    }
}

/// A layout that is being put together.
#[derive(Clone, Debug)]
pub struct Draft {
    regions: ArrayVec<Region, MAX_REGIONS>,
    physical_bits: u32,
}

impl Draft {
    /// An empty draft for a CPU whose physical addresses have so many bits (MAXPHYADDR).
    pub fn new(physical_bits: u32) -> Self {
        Self { regions: ArrayVec::new(), physical_bits: physical_bits.min(MAX_PHYSICAL_BITS) }
    }

    /// Adds a region. The order does not matter.
    ///
    /// # Errors
    ///
    /// [`Violation`] if the region cannot be part of any layout, or if there are too many.
    pub fn push(&mut self, region: Region) -> Result<(), Violation> {
        if let Some(fault) = region.fault(self.physical_bits) {
            return Err(Violation::Region { region, fault });
        }
        let at = self.regions.partition_point(|other| other.virt < region.virt);
        self.regions.try_insert(at, region).map_err(|_| Violation::TooManyRegions(region))
    }

    /// The layout, once all regions are in it.
    ///
    /// # Errors
    ///
    /// [`Violation`] if regions overlap in either address space, touch where a guard page is due,
    /// or if there is not exactly one region of page tables.
    pub fn finish(self) -> Result<Layout, Violation> {
        for pair in self.regions.windows(2) {
            if let [below, above] = pair {
                check_neighbours(*below, *above)?;
            }
        }
        for (index, first) in self.regions.iter().enumerate() {
            for second in self.regions.iter().skip(index).skip(1) {
                if first.physical_span().overlaps(&second.physical_span()) {
                    return Err(Violation::SharedFrame { first: *first, second: *second });
                }
            }
        }
        let mut tables = self.regions.iter().filter(|region| region.is_tables());
        let page_tables = match (tables.next(), tables.next()) {
            (Some(only), None) => *only,
            (first, _) => return Err(Violation::PageTables { is_absent: first.is_none() }),
        };
        Ok(Layout { regions: self.regions, page_tables })
    }
}

/// Checks two regions with nothing between them.
fn check_neighbours(below: Region, above: Region) -> Result<(), Violation> {
    let needs_guard = below.kind.has_guard_above() || above.kind.has_guard_below();
    if below.virtual_end() > above.virt {
        return Err(Violation::SharedAddress { below, above });
    }
    if below.virtual_end() == above.virt && needs_guard {
        return Err(Violation::NoGuard { below, above });
    }
    Ok(())
}

/// What the sealed address space will be: every page of it, and nothing besides.
///
/// It exists only if it can be sealed: each address and each frame belongs to one region at most.
#[derive(Clone, Debug)]
pub struct Layout {
    regions: ArrayVec<Region, MAX_REGIONS>,
    page_tables: Region,
}

impl Layout {
    /// The regions, ascending by virtual address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds all page tables.
    pub fn page_tables(&self) -> Region {
        self.page_tables
    }

    /// The region of `kind` that holds all of `span`, by virtual address.
    pub fn holding(&self, kind: Kind, span: &Span) -> Option<&Region> {
        let holds = |region: &&Region| region.kind == kind && region.virtual_span().covers(span);
        self.regions.iter().find(holds)
    }
}
