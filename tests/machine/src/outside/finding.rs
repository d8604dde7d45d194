//! What may be found amiss.

use std::fmt;

/// One thing that is not as promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Memory at a physical address is wrong.
    Frame {
        /// Where.
        phys: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something that has to be there is not.
    Missing(&'static str),
    /// A mapping is wrong.
    Page {
        /// The virtual address.
        virt: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A register is wrong.
    Register {
        /// Its name.
        name: &'static str,
        /// What it holds.
        found: u64,
        /// What it has to hold.
        promised: u64,
    },
    /// An entry of a descriptor table is wrong.
    Slot {
        /// The table.
        table: &'static str,
        /// Which entry.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame { phys, what } => write!(f, "frame {phys:#x}: {what}"),
            Self::Missing(what) => write!(f, "missing: {what}"),
            Self::Page { virt, what } => write!(f, "page {virt:#x}: {what}"),
            Self::Register { name, found, promised } => {
                write!(f, "{name} is {found:#x}, promised {promised:#x}")
            }
            Self::Slot { table, index, what } => write!(f, "{table} {index}: {what}"),
        }
    }
}
