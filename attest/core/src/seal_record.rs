//! The seal record: what boot read back of the sealed machine, before it let the service in.

use crate::Sha256;
use crate::cursor::Cursor;

const MAGIC: &[u8; 8] = b"BULLASR\x01";

/// Bits that have to be set, by register (Intel SDM 3A, sections 2.5 and 2.2.1).
const CR0_WRITE_PROTECT: u64 = 1 << 16;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_NX: u64 = 1 << 11;
/// Bits that must not be: global pages, process contexts, protection keys, FSGSBASE, and SYSCALL.
const CR4_FORBIDDEN: u64 = 1 << 7 | 1 << 17 | 1 << 22 | 1 << 16;
const EFER_SYSCALL: u64 = 1;

/// A seal record, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealRecord {
    /// Whether boot's audit found nothing.
    pub has_passed: bool,
    /// The digest of the layout, relative to the base; `seal audit` prints it.
    pub layout: Sha256,
    /// SHA-256 of the gate's text.
    pub gate: Sha256,
    /// CR0, read from the CPU.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
}

impl SealRecord {
    /// Reads a record, or `None` unless it is one of this version, whole.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        (cursor.take(MAGIC.len())? == MAGIC).then_some(())?;
        let flags = cursor.u64_le()?;
        let record = Self {
            has_passed: flags == 1,
            layout: cursor.take(32)?.try_into().ok()?,
            gate: cursor.take(32)?.try_into().ok()?,
            cr0: cursor.u64_le()?,
            cr4: cursor.u64_le()?,
            efer: cursor.u64_le()?,
            xcr0: cursor.u64_le()?,
        };
        let is_whole = flags <= 1 && cursor.u64_le()? == 0 && cursor.is_empty();
        is_whole.then_some(record)
    }

    /// Whether the CPU enforces what the page tables say.
    pub const fn is_enforced(&self) -> bool {
        self.cr0 & CR0_WRITE_PROTECT != 0
            && self.cr4 & (CR4_SMEP | CR4_SMAP) == CR4_SMEP | CR4_SMAP
            && self.cr4 & CR4_FORBIDDEN == 0
            && self.efer & EFER_NX != 0
            && self.efer & EFER_SYSCALL == 0
    }
}
