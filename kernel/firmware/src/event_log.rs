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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Islands;
    use std::vec;
    use std::vec::Vec;

    const ENTRY: &[u8] =
        include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/eventlog_entry.bin");
    const AFTER_EXTEND: &[u8] =
        include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/eventlog_after_extend.bin");
    const FINAL: &[u8] =
        include_bytes!("../../../tests/vectors/ovmf-swtpm/2M-crb-full/final_events.bin");

    const START: u64 = 0x10_0000;
    const TABLE: u64 = 0x20_0000;

    /// Bytes of the header, and of the smallest entry: no digest and no data.
    const HEADER: u64 = 65;
    const SMALLEST: [u8; 16] = [0; 16];

    /// A log in memory, with something else behind it.
    fn memory(log: &[u8]) -> Islands {
        Islands(vec![(START, [log, &[0xff; 100]].concat())])
    }

    fn table(bytes: &[u8]) -> Islands {
        Islands(vec![(TABLE, bytes.to_vec())])
    }

    #[track_caller]
    fn check(log: &[u8], last: u64, expected: Result<u64, Malformed>) {
        assert_eq!(length(&memory(log), START, START + last), expected);
    }

    #[test]
    fn a_log_ends_with_the_entry_that_is_said_to_be_the_last() {
        check(AFTER_EXTEND, 2322, Ok(2392));
        check(ENTRY, HEADER, Ok(HEADER + 52));
        check(ENTRY, 0, Ok(HEADER));
    }

    #[test]
    fn the_real_log_is_walked_to_its_end() {
        let all: Vec<u64> = (0..ENTRY.len() as u64)
            .filter_map(|last| length(&memory(ENTRY), START, START + last).ok())
            .collect();
        // The header, twenty-three entries, and where the last one ends.
        assert_eq!((all.len(), all.last()), (24, Some(&2322)));
    }

    #[test]
    fn a_last_entry_that_is_none_is_refused() {
        let none = Malformed::OutOfReach("the event log's last entry is none of its entries");
        check(ENTRY, 1, Err(none));
        check(ENTRY, HEADER + 1, Err(none));
        check(ENTRY, 2321, Err(none));
        let before = length(&memory(ENTRY), START, START - 1);
        assert_eq!(before, Err(none));
    }

    #[test]
    fn a_log_that_runs_out_of_memory_is_refused() {
        for cut in 0..2322 {
            let cut = Islands(vec![(START, AFTER_EXTEND[..cut].to_vec())]);
            assert!(length(&cut, START, START + 2322).is_err());
        }
        for start in [0, START - 1, u64::MAX - 10, u64::MAX] {
            assert_eq!(length(&memory(ENTRY), start, start), Err(OUT));
        }
    }

    #[test]
    fn a_log_that_does_not_say_its_format_is_refused() {
        let none = Malformed::Signature("the event log does not begin with Spec ID Event03");
        let changed = |at: usize, value: u8| {
            let mut log = ENTRY.to_vec();
            log[at] = value;
            log
        };
        check(&changed(4, 4), 0, Err(none));
        check(&changed(32 + 14, b'2'), 0, Err(none));
        check(&changed(30, 0xff), 0, Err(none));
        check(&changed(28, 10), 0, Err(none));
        // One algorithm is listed, and two are announced: the second is cut off by its own size.
        check(&changed(32 + 24, 3), 0, Err(none));
        let many = Malformed::TooMany("the event log has more than 8 kinds of digest");
        check(&changed(32 + 24, 9), 0, Err(many));
    }

    #[test]
    fn an_entry_with_digests_of_no_known_size_is_refused() {
        let at = HEADER as usize;
        let mut log = ENTRY.to_vec();
        log[at + 8] = 9;
        let many = Malformed::TooMany("an entry of the event log has more than 8 digests");
        check(&log, HEADER, Err(many));
        let mut log = ENTRY.to_vec();
        log[at + 12] = 0x0c;
        let unknown = Malformed::Signature("the event log has a digest of an unnamed kind");
        check(&log, HEADER, Err(unknown));
    }

    #[test]
    fn a_log_has_a_bound() {
        let header = &ENTRY[..HEADER as usize];
        let room = MAX_BYTES - HEADER;
        let filled = |entries: u64| {
            let mut log = header.to_vec();
            (0..entries).for_each(|_| log.extend_from_slice(&SMALLEST));
            log
        };
        let most = room / 16;
        let last = HEADER + 16 * (most - 1);
        check(&filled(most), last, Ok(HEADER + 16 * most));
        check(&filled(most + 1), last + 16, Err(LONG));
        let mut large = header.to_vec();
        large.extend_from_slice(&SMALLEST[..12]);
        large.extend_from_slice(&u32::MAX.to_le_bytes());
        check(&large, HEADER, Err(LONG));
        // The last entry is far away: the walk ends all the same.
        check(&filled(most + 4), 1 << 40, Err(LONG));
    }

    #[track_caller]
    fn appended(log: &[u8], final_table: &[u8], known: u64) -> Result<Vec<u8>, Malformed> {
        let mut buffer = vec![0; MAX_BYTES as usize];
        buffer[..log.len()].copy_from_slice(log);
        let filled = append(&mut buffer, log.len(), &table(final_table), TABLE, known)?;
        buffer.truncate(filled);
        Ok(buffer)
    }

    #[test]
    fn final_events_go_behind_the_log_and_none_goes_twice() {
        let all = appended(ENTRY, FINAL, 0).unwrap();
        assert_eq!(all[..2322], *ENTRY);
        assert_eq!(all[..2392], *AFTER_EXTEND);
        assert_eq!(all.len(), 2392 + 79 + 90);
        assert!(all.ends_with(b"Exit Boot Services Returned with Success"));
        // Whoever asked for the log after the application had measured has that event already.
        assert_eq!(appended(AFTER_EXTEND, FINAL, 1).unwrap(), all);
        assert_eq!(appended(&all, FINAL, 3).unwrap(), all);
        assert_eq!(appended(&all, FINAL, 9).unwrap(), all);
        // What comes out is a log.
        check(&all, 2392 + 79, Ok(all.len() as u64));
    }

    #[test]
    fn final_events_are_counted() {
        assert_eq!(final_events(&table(FINAL), TABLE), Ok(3));
        assert_eq!(final_events(&table(&FINAL[..16]), TABLE), Ok(3));
        assert_eq!(final_events(&table(&FINAL[..15]), TABLE), Err(OUT));
        assert_eq!(
            final_events(&table(FINAL), TABLE + 8),
            Err(Malformed::Signature("the final events have an unknown version"))
        );
        let mut many = FINAL.to_vec();
        many[9] = 4;
        let expected = Malformed::TooMany("there are more than 1024 final events");
        assert_eq!(final_events(&table(&many), TABLE), Err(expected));
    }

    #[test]
    fn final_events_that_are_not_whole_or_do_not_fit_are_refused() {
        for cut in 16..16 + 70 + 79 + 90 {
            assert_eq!(appended(ENTRY, &FINAL[..cut], 0), Err(OUT));
        }
        let mut small = ENTRY.to_vec();
        let used = small.len();
        small.resize(used + 70 + 79 + 89, 0);
        let seen = append(&mut small, used, &table(FINAL), TABLE, 0);
        assert_eq!(seen, Err(LONG));
        assert_eq!(small[..used], *ENTRY);
        let seen = append(&mut small, usize::MAX, &table(FINAL), TABLE, 0);
        assert_eq!(seen, Err(LONG));
    }

    #[test]
    fn no_byte_of_a_log_makes_it_panic() {
        for at in 0..ENTRY.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut log = ENTRY.to_vec();
                log[at] = value;
                let _either = length(&memory(&log), START, START + 2272);
                let _either = appended(&log, FINAL, 0);
            }
        }
        for at in 0..16 + 70 + 79 + 90 {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut table = FINAL.to_vec();
                table[at] = value;
                let _either = appended(ENTRY, &table, 0);
            }
        }
    }
}
