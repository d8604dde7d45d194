//! Numbers as people read them, and conversions that cannot fail by surprise.

use abi::Span;

/// A size or an index as a `u64`.
pub(crate) fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// A `u64` as an index: one that is out of every slice's bounds if it is too large.
pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The bytes of a span, if all of them are there.
pub(crate) fn bytes_of(bytes: &[u8], span: Span) -> Option<&[u8]> {
    bytes.get(index(span.start)..index(span.end()?))
}

/// A hash as lower-case digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes in hexadecimal, with spaces.
pub(crate) fn spaced_hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// A size with the largest unit that leaves no fraction.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{} {name}", bytes.checked_div(unit).unwrap_or(0)),
        None => format!("{bytes} B"),
    }
}

/// Seconds since 1970 as a date of the proleptic Gregorian calendar, in UTC.
pub(crate) fn date(unix_s: u64) -> String {
    const DAY: u64 = 86_400;
    // The last second of the year 9999.
    if unix_s > 253_402_300_799 {
        return format!("{unix_s} s after 1970");
    }
    let rest = |unit: u64, of: u64| {
        unix_s.checked_div(unit).and_then(|count| count.checked_rem(of)).unwrap_or(0)
    };
    let (mut year, mut days) = (1970_u64, unix_s.checked_div(DAY).unwrap_or(0));
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        let Some(left) = days.checked_sub(length) else { break };
        (year, days) = (year.saturating_add(1), left);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1_u64;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        let Some(left) = days.checked_sub(length) else { break };
        (month, days) = (month.saturating_add(1), left);
    }
    let day = days.saturating_add(1);
    let (hour, minute, second) = (rest(3600, 24), rest(60, 60), rest(1, 60));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |unix_s, expected| assert_eq!(date(unix_s), expected);
        check(0, "1970-01-01 00:00:00 UTC");
        check(951_782_400, "2000-02-29 00:00:00 UTC");
        check(1_709_251_199, "2024-02-29 23:59:59 UTC");
        check(1_735_689_599, "2024-12-31 23:59:59 UTC");
        check(253_402_300_799, "9999-12-31 23:59:59 UTC");
        check(u64::MAX, "18446744073709551615 s after 1970");
    }

    #[test]
    fn sizes_keep_every_byte() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(4097), "4097 B");
        assert_eq!(size(3 << 30), "3 GiB");
    }
}
