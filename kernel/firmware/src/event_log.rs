//! The log of what was measured before boot: how long it is, and what has to be put behind it.
//!
//! Nobody says how long a log is, only where its last entry begins; so every entry is walked, none
//! is judged. Source: TCG PC Client Platform Firmware Profile 1.06, section 10.2 (the entries) and
//! 10.4.5 (`Spec ID Event03`); TCG EFI Protocol Specification, family 2.0, section 7 (final events).

use arrayvec::ArrayVec;

use crate::{Malformed, Physical, u16_at, u32_at, u64_at};

/// The longest log that boot hands on.
pub const MAX_BYTES: u64 = 64 << 10;

/// How many kinds of digest an entry may have.
const MAX_ALGORITHMS: usize = 8;

/// The most final events that are looked at. Firmware has two or three.
const MAX_FINAL_EVENTS: u64 = 1024;

/// What the first entry begins with: register 0, EV_NO_ACTION, a SHA-1 digest, its data's size.
const HEADER_BYTES: u64 = 32;
const NO_ACTION: u32 = 3;
const SIGNATURE: &[u8] = b"Spec ID Event03\0";

/// The version of the table of final events, and what precedes them: version and count.
const FINAL_VERSION: u64 = 1;
const FINAL_HEAD_BYTES: u64 = 16;

const OUT: Malformed = Malformed::OutOfReach("the event log lies where there is no memory");
const LONG: Malformed = Malformed::TooMany("the event log has more than 64 KiB");

/// What the first entry says of all others: each algorithm, and its digests' size.
struct Format {
    digests: ArrayVec<(u16, u16), MAX_ALGORITHMS>,
    /// Bytes of the first entry.
    bytes: u64,
}

impl Format {
    fn parse(physical: &impl Physical, start: u64) -> Result<Self, Malformed> {
        let none = Malformed::Signature("the event log does not begin with Spec ID Event03");
        let head = physical.read(start, HEADER_BYTES).ok_or(OUT)?;
        let size = u64::from(u32_at(head, 28).ok_or(OUT)?);
        if u32_at(head, 4) != Some(NO_ACTION) || size > MAX_BYTES {
            return Err(none);
        }
        let at = start.checked_add(HEADER_BYTES).ok_or(OUT)?;
        let data = physical.read(at, size).ok_or(OUT)?;
        if data.get(..SIGNATURE.len()) != Some(SIGNATURE) {
            return Err(none);
        }
        let count = u32_at(data, 24).ok_or(none)? as usize;
        if count > MAX_ALGORITHMS {
            return Err(Malformed::TooMany("the event log has more than 8 kinds of digest"));
        }
        let pairs = data.get(28..).unwrap_or_default().chunks_exact(4).take(count);
        let digests: ArrayVec<_, MAX_ALGORITHMS> =
            pairs.filter_map(|pair| Some((u16_at(pair, 0)?, u16_at(pair, 2)?))).collect();
        if digests.len() != count {
            return Err(none);
        }
        Ok(Self { digests, bytes: HEADER_BYTES.saturating_add(size) })
    }

    /// The bytes of the entry at an address.
    fn entry_bytes(&self, physical: &impl Physical, start: u64) -> Result<u64, Malformed> {
        let read = |at: u64, length| {
            let address = start.checked_add(at).ok_or(OUT)?;
            physical.read(address, length).ok_or(OUT)
        };
        let count = u32_at(read(8, 4)?, 0).ok_or(OUT)?;
        if count as usize > MAX_ALGORITHMS {
            return Err(Malformed::TooMany("an entry of the event log has more than 8 digests"));
        }
        let mut at = 12;
        for _ in 0..count {
            let id = u16_at(read(at, 2)?, 0).ok_or(OUT)?;
            let known = self.digests.iter().find(|(known, _)| *known == id);
            let unknown = Malformed::Signature("the event log has a digest of an unnamed kind");
            let (_, size) = known.ok_or(unknown)?;
            at += 2 + u64::from(*size);
        }
        let size = u64::from(u32_at(read(at, 4)?, 0).ok_or(OUT)?);
        let bytes = at + 4 + size;
        if bytes > MAX_BYTES { Err(LONG) } else { Ok(bytes) }
    }
}

/// The length of the log that begins at `start` and whose last entry begins at `last`.
///
/// # Errors
///
/// [`Malformed`] if the entries do not lead to the last one, or there is more than [`MAX_BYTES`].
pub fn length(physical: &impl Physical, start: u64, last: u64) -> Result<u64, Malformed> {
    let format = Format::parse(physical, start)?;
    let mut bytes = format.bytes;
    // Where the entry began that ends where we are.
    let mut entry = start;
    // An entry has at least 16 bytes, so the bound ends this.
    while entry != last {
        if bytes > MAX_BYTES {
            return Err(LONG);
        }
        entry = start.checked_add(bytes).ok_or(OUT)?;
        if entry > last {
            return Err(Malformed::OutOfReach("the event log's last entry is none of its entries"));
        }
        bytes += format.entry_bytes(physical, entry)?;
    }
    if bytes > MAX_BYTES { Err(LONG) } else { Ok(bytes) }
}

/// How many final events there are by now.
///
/// # Errors
///
/// [`Malformed`] if there is no such table, or if it has more of them than anybody measures.
pub fn final_events(physical: &impl Physical, table: u64) -> Result<u64, Malformed> {
    let head = physical.read(table, FINAL_HEAD_BYTES).ok_or(OUT)?;
    let (version, count) = (u64_at(head, 0), u64_at(head, 8).ok_or(OUT)?);
    if version != Some(FINAL_VERSION) {
        return Err(Malformed::Signature("the final events have an unknown version"));
    }
    if count > MAX_FINAL_EVENTS {
        return Err(Malformed::TooMany("there are more than 1024 final events"));
    }
    Ok(count)
}

/// Puts the final events behind a log that fills the first `used` bytes of `log`, but for the
/// first `known`, which it has already. Returns how many bytes are filled then.
///
/// # Errors
///
/// [`Malformed`] if the table is not whole or there is no room for it; the log is then as it was,
/// whatever lies behind it.
pub fn append(
    log: &mut [u8],
    used: usize,
    physical: &impl Physical,
    table: u64,
    known: u64,
) -> Result<usize, Malformed> {
    let format = Format::parse(&Bytes(log), 0)?;
    let count = final_events(physical, table)?;
    let mut at = table.checked_add(FINAL_HEAD_BYTES).ok_or(OUT)?;
    let mut filled = used;
    for index in 0..count {
        let bytes = format.entry_bytes(physical, at)?;
        if index >= known {
            let entry = physical.read(at, bytes).ok_or(OUT)?;
            let end = filled.checked_add(entry.len()).ok_or(LONG)?;
            log.get_mut(filled..end).ok_or(LONG)?.copy_from_slice(entry);
            filled = end;
        }
        at = at.checked_add(bytes).ok_or(OUT)?;
    }
    Ok(filled)
}

/// A log by the offset from its first byte.
struct Bytes<'a>(&'a [u8]);

impl Physical for Bytes<'_> {
    fn read(&self, address: u64, length: u64) -> Option<&[u8]> {
        let start = usize::try_from(address).ok()?;
        self.0.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }
}
