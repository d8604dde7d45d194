//! PCR 5: the partition table of the disk that was booted from.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::pcr::Digest;
use crate::units::{index, wide};

/// The largest header and table that are read, from the disk's first byte: the table has 16 KiB as
/// every tool writes it.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// Sizes of a sector that disks have.
const SECTOR_BYTES: [u64; 2] = [512, 4096];

const SIGNATURE: &[u8] = b"EFI PART";

/// Bytes of `EFI_PARTITION_TABLE_HEADER` (UEFI 2.10, section 5.3.2).
const HEADER_BYTES: usize = 92;

/// Bytes of a partition's type, which is zero where there is no partition.
const TYPE_BYTES: usize = 16;

/// Why a disk has no partition table that would be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTable {
    /// It has no GPT.
    Absent,
    /// A field of its header is out of bounds.
    Field {
        /// Which.
        name: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The file ends within the table.
    Truncated,
}

impl fmt::Display for NoTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "no GUID partition table on this disk"),
            Self::Field { name, value } => write!(f, "partition table: {name} is {value}"),
            Self::Truncated => write!(f, "the file ends within the partition table"),
        }
    }
}

impl std::error::Error for NoTable {}

/// The digest of `EV_EFI_GPT_EVENT`: of `UEFI_GPT_DATA`, which is the header, how many partitions
/// there are, and those that there are (PC Client Platform Firmware Profile 1.06, section 10.2.4).
///
/// # Errors
///
/// [`NoTable`] if firmware would measure nothing.
pub(crate) fn digest(disk: &[u8]) -> Result<Digest, NoTable> {
    let begins = |sector: &u64| {
        disk.get(index(*sector)..).is_some_and(|header| header.starts_with(SIGNATURE))
    };
    let sector = SECTOR_BYTES.into_iter().find(begins).ok_or(NoTable::Absent)?;
    let header = disk.get(index(sector)..).and_then(|it| it.get(..HEADER_BYTES));
    let header = header.ok_or(NoTable::Truncated)?;
    let long = |at: usize| {
        let bytes = header.get(at..).and_then(|it| it.first_chunk()).ok_or(NoTable::Truncated)?;
        Ok(u64::from(u32::from_le_bytes(*bytes)))
    };
    let first = header.get(72..).and_then(|it| it.first_chunk()).ok_or(NoTable::Truncated)?;
    let (first, count, size) = (u64::from_le_bytes(*first), long(80)?, long(84)?);
    if size < 128 || !size.is_multiple_of(128) || size > 4096 {
        return Err(NoTable::Field { name: "size of an entry", value: size });
    }
    let bytes = count.checked_mul(size).filter(|bytes| *bytes <= MAX_BYTES);
    let bytes = bytes.ok_or(NoTable::Field { name: "number of entries", value: count })?;
    let start = first.checked_mul(sector).filter(|start| *start <= MAX_BYTES);
    let start = start.ok_or(NoTable::Field { name: "first sector of entries", value: first })?;
    let entries = disk.get(index(start)..).and_then(|it| it.get(..index(bytes)));
    let entries = entries.ok_or(NoTable::Truncated)?.chunks_exact(index(size));
    let used = entries.filter(|entry| entry.iter().take(TYPE_BYTES).any(|byte| *byte != 0));
    let mut event = Context::new(&SHA256);
    event.update(header);
    event.update(&wide(used.clone().count()).to_le_bytes());
    used.for_each(|entry| event.update(entry));
    event.finish().as_ref().try_into().map_err(|_| NoTable::Truncated)
}
