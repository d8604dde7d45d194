//! Why a machine must not be sealed as it is.

use core::fmt;

use crate::kind::Kind;
use crate::layout::{MAX_REGIONS, MAX_TABLES, Region};

/// What is wrong with one region, whatever else the layout holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A frame has a higher address than the CPU can form.
    BeyondMemory,
    /// It has no bytes.
    Empty,
    /// It has more page tables than an audit can tell apart.
    Long,
    /// It has more than one page of a device's registers.
    ManyRegisters,
    /// An address or the length is not a whole number of pages.
    Misaligned,
    /// An address is in no half of the address space, or the region in both.
    NonCanonical,
    /// It is said to be the TPM's registers, which are elsewhere.
    NoTpm,
    /// It has page 0 or frame 0.
    PageZero,
    /// It runs off the end of an address space.
    Wraps,
    /// The service's in the upper half, or the gate's in the lower half.
    WrongHalf,
}

/// Why a machine must not be sealed as it is: what was found where, and what was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A virtqueue descriptor does not say what it was promised to say.
    Descriptor {
        /// Its index.
        index: u16,
        /// Which field.
        field: &'static str,
        /// What the field holds.
        found: u64,
        /// What it was promised to hold.
        promised: u64,
    },
    /// A virtqueue descriptor points outside the packet buffers.
    DescriptorOutside {
        /// Its index.
        index: u16,
        /// Where it points.
        address: u64,
        /// How many bytes the device may touch.
        length: u32,
    },
    /// A descriptor table has another number of descriptors than promised.
    DescriptorTable {
        /// Its size in bytes.
        bytes: usize,
    },
    /// A page table has no entry: it maps nothing, so somebody wants it for later.
    EmptyTable {
        /// Its level: 4 for the root, 1 for the one that holds small leaves.
        level: u8,
        /// The first virtual address it is in charge of.
        virt: u64,
        /// Its frame.
        frame: u64,
    },
    /// A page table entry differs from the one that was promised.
    Entry {
        /// The level of its table.
        level: u8,
        /// The first virtual address it is in charge of.
        virt: u64,
        /// The entry.
        found: u64,
        /// What it was promised to be.
        promised: u64,
    },
    /// A gate of the interrupt descriptor table differs from the one that was promised.
    Gate {
        /// Its vector.
        vector: u8,
        /// Which field.
        field: &'static str,
        /// What the field holds.
        found: u64,
        /// What it was promised to hold.
        promised: u64,
    },
    /// A gate of the interrupt descriptor table leads out of the gate's text.
    GateOutside {
        /// Its vector.
        vector: u8,
        /// Where it leads.
        target: u64,
    },
    /// A leaf of 1 GiB or more.
    HugeLeaf {
        /// The level of its table.
        level: u8,
        /// Its first virtual address.
        virt: u64,
        /// The entry.
        entry: u64,
    },
    /// A large leaf where the promised frames do not begin at a multiple of its size.
    LargeLeafMisaligned {
        /// Its first virtual address.
        virt: u64,
        /// The frame promised there.
        promised: u64,
    },
    /// A large leaf that is larger than what is left of its region.
    LargeLeafStraddles {
        /// The region's kind.
        kind: Kind,
        /// Its first virtual address.
        virt: u64,
        /// What is left of the region, in bytes.
        remaining: u64,
    },
    /// A page that was promised is not there.
    Missing {
        /// What it was promised as.
        kind: Kind,
        /// Its virtual address.
        virt: u64,
    },
    /// A vector that the machine needs has no gate.
    MissingGate {
        /// The vector.
        vector: u8,
    },
    /// Two regions touch where a page has to stay unmapped between them.
    NoGuard {
        /// The lower one.
        below: Region,
        /// The higher one.
        above: Region,
    },
    /// An entry is not present, yet not zero.
    NotZero {
        /// The level of its table.
        level: u8,
        /// The first virtual address it is in charge of.
        virt: u64,
        /// The entry.
        entry: u64,
    },
    /// A layout has no region of page tables, or several.
    PageTables {
        /// Whether it has none.
        is_absent: bool,
    },
    /// A region cannot be part of any layout.
    Region {
        /// The region.
        region: Region,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A register of the CPU holds something else than promised.
    Register {
        /// Its name.
        name: &'static str,
        /// What it holds.
        found: u64,
        /// What it was promised to hold.
        promised: u64,
    },
    /// A segment descriptor differs from the one that was promised.
    Segment {
        /// Its selector.
        selector: u16,
        /// Which field.
        field: &'static str,
        /// What the field holds.
        found: u64,
        /// What it was promised to hold.
        promised: u64,
    },
    /// The global descriptor table has another size than promised.
    SegmentTable {
        /// Its size in bytes.
        bytes: usize,
    },
    /// Two regions share a virtual address.
    SharedAddress {
        /// The one that begins lower.
        below: Region,
        /// The one that begins higher.
        above: Region,
    },
    /// Two regions share a frame.
    SharedFrame {
        /// One.
        first: Region,
        /// The other.
        second: Region,
    },
    /// A page table is used a second time.
    SharedTable {
        /// Its level at the second use.
        level: u8,
        /// The first virtual address of the second use.
        virt: u64,
        /// Its frame.
        frame: u64,
    },
    /// A page table lies outside the region of page tables.
    TableOutside {
        /// Its level.
        level: u8,
        /// The first virtual address it is in charge of.
        virt: u64,
        /// Its frame.
        frame: u64,
    },
    /// A page table cannot be read back.
    TableUnreadable {
        /// Its frame.
        frame: u64,
    },
    /// The task state segment differs from the one that was promised.
    TaskState {
        /// Which field.
        field: &'static str,
        /// What the field holds.
        found: u64,
        /// What it was promised to hold.
        promised: u64,
    },
    /// A stack in the task state segment is not the end of a gate stack, or two stacks are one.
    TaskStateStack {
        /// Which field.
        field: &'static str,
        /// Where it points.
        top: u64,
    },
    /// The layout has no room for this region.
    TooManyRegions(Region),
    /// A page is mapped that nobody promised.
    Unpromised {
        /// Its virtual address.
        virt: u64,
        /// Its entry.
        entry: u64,
    },
    /// A page is writable and executable.
    WritableAndExecutable {
        /// Its virtual address.
        virt: u64,
        /// Its entry.
        entry: u64,
    },
}

impl core::error::Error for Violation {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Descriptor { index, field, found, promised } => {
                write!(f, "descriptor {index} has {field} {found:#x}, promised {promised:#x}")
            }
            Self::DescriptorOutside { index, address, length } => write!(
                f,
                "descriptor {index} gives a device {length} bytes at {address:#x}, outside the \
                 packet buffers"
            ),
            Self::DescriptorTable { bytes } => {
                write!(f, "descriptor table has {bytes} bytes, another number than promised")
            }
            Self::EmptyTable { level, virt, frame } => {
                write!(f, "level {level} table {frame:#x} for {virt:#x} is empty")
            }
            Self::Entry { level, virt, found, promised } => {
                let name = differing_bits(found, promised);
                write!(
                    f,
                    "level {level} entry for {virt:#x} is {found:#x}, promised {promised:#x}: \
                     {name} differs"
                )
            }
            Self::Gate { vector, field, found, promised } => {
                write!(f, "IDT gate {vector:#x} has {field} {found:#x}, promised {promised:#x}")
            }
            Self::GateOutside { vector, target } => {
                write!(f, "IDT gate {vector:#x} leads to {target:#x}, outside the gate's text")
            }
            Self::HugeLeaf { level, virt, entry } => {
                write!(f, "level {level} entry for {virt:#x} is a leaf: {entry:#x}")
            }
            Self::LargeLeafMisaligned { virt, promised } => {
                write!(f, "large leaf at {virt:#x}, but the promised frame is {promised:#x}")
            }
            Self::LargeLeafStraddles { kind, virt, remaining } => {
                write!(
                    f,
                    "large leaf at {virt:#x}, but the {kind} has only {remaining} bytes there"
                )
            }
            Self::Missing { kind, virt } => write!(f, "no page at {virt:#x}, promised {kind}"),
            Self::MissingGate { vector } => write!(f, "no IDT gate for vector {vector:#x}"),
            Self::NoGuard { below, above } => {
                write!(f, "no guard page between {below} and {above}")
            }
            Self::NotZero { level, virt, entry } => write!(
                f,
                "level {level} entry for {virt:#x} is not present, but {entry:#x} instead of zero"
            ),
            Self::PageTables { is_absent: true } => write!(f, "layout has no page tables"),
            Self::PageTables { is_absent: false } => {
                write!(f, "layout has several regions of page tables")
            }
            Self::Region { region, fault } => write!(f, "{region} {fault}"),
            Self::Register { name, found, promised } => {
                write!(f, "{name} is {found:#x}, promised {promised:#x}")
            }
            Self::Segment { selector, field, found, promised } => write!(
                f,
                "GDT descriptor {selector:#x} has {field} {found:#x}, promised {promised:#x}"
            ),
            Self::SegmentTable { bytes } => {
                write!(f, "GDT has {bytes} bytes, promised {}", crate::segments::GDT_BYTES)
            }
            Self::SharedAddress { below, above } => {
                write!(f, "{below} and {above} share an address")
            }
            Self::SharedFrame { first, second } => write!(f, "{first} and {second} share a frame"),
            Self::SharedTable { level, virt, frame } => {
                write!(f, "level {level} table {frame:#x} for {virt:#x} is used elsewhere too")
            }
            Self::TableOutside { level, virt, frame } => write!(
                f,
                "level {level} table {frame:#x} for {virt:#x} is outside the page tables' region"
            ),
            Self::TableUnreadable { frame } => {
                write!(f, "page table {frame:#x} cannot be read back")
            }
            Self::TaskState { field, found, promised } => {
                write!(f, "TSS has {field} {found:#x}, promised {promised:#x}")
            }
            Self::TaskStateStack { field, top } => {
                write!(f, "TSS has {field} {top:#x}, but no gate stack of its own ends there")
            }
            Self::TooManyRegions(region) => {
                write!(f, "{region} is one more region than {MAX_REGIONS}")
            }
            Self::Unpromised { virt, entry } => {
                write!(f, "page {virt:#x} is mapped, which nobody promised: {entry:#x}")
            }
            Self::WritableAndExecutable { virt, entry } => {
                write!(f, "page {virt:#x} is writable and executable: {entry:#x}")
            }
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, virt, phys, length } = self;
        write!(f, "{kind} ({length:#x} bytes at {virt:#x}, frame {phys:#x})")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondMemory => write!(f, "is beyond the CPU's physical addresses"),
            Self::Empty => write!(f, "is empty"),
            Self::Long => write!(f, "has more than {MAX_TABLES} tables"),
            Self::ManyRegisters => write!(f, "has more than one page of device registers"),
            Self::Misaligned => write!(f, "is not made of whole pages"),
            Self::NonCanonical => write!(f, "is in no half of the address space"),
            Self::NoTpm => write!(f, "is not where a TPM is"),
            Self::PageZero => write!(f, "has page 0 or frame 0"),
            Self::Wraps => write!(f, "runs off the end of the address space"),
            Self::WrongHalf => write!(f, "is in the other ring's half of the address space"),
        }
    }
}

/// The first field in which two entries differ (Intel SDM 3A tables 4-15 to 4-20), rights first.
fn differing_bits(found: u64, promised: u64) -> &'static str {
    const FIELDS: [(u64, &str); 12] = [
        (1 << 1, "writable"),
        (1 << 63, "execute disable"),
        (1 << 2, "user"),
        (0x000f_ffff_ffff_f000, "the frame"),
        (1 << 3, "write-through"),
        (1 << 4, "cache disable"),
        (1 << 5, "accessed"),
        (1 << 6, "dirty"),
        (1 << 7, "page size or attribute"),
        (1 << 8, "global"),
        (0x7ff0_0000_0000_0e00, "an ignored bit"),
        (1, "present"),
    ];
    let differs = found ^ promised;
    FIELDS.iter().find(|(mask, _)| differs & mask != 0).map_or("nothing", |(_, name)| name)
}
