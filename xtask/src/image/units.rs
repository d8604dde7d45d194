//! Sizes, durations and dates, as people write and read them.

const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

const DURATIONS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Bytes of a size like `16 KiB`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// Milliseconds of a duration like `10 s`.
pub(crate) fn parse_duration_ms(text: &str) -> Option<u64> {
    parse(text, &DURATIONS_MS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(end)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    // A number that is too large to count is out of every bound all the same.
    let number: u64 =
        if digits.is_empty() { return None } else { digits.parse().unwrap_or(u64::MAX) };
    Some(number.saturating_mul(*factor))
}

/// A size in the largest unit that leaves nothing over.
pub(crate) fn size(bytes: u64) -> String {
    write(bytes, &SIZES)
}

/// A duration in the largest unit that leaves nothing over.
pub(crate) fn duration_ms(ms: u64) -> String {
    write(ms, &DURATIONS_MS)
}

fn write(number: u64, units: &[(&str, u64)]) -> String {
    let whole = |(_, factor): &&(&str, u64)| number > 0 && number.is_multiple_of(*factor);
    match units.iter().rev().find(whole).or(units.first()) {
        Some((unit, factor)) => format!("{} {unit}", number / factor),
        None => number.to_string(),
    }
}

/// Mebibytes with two digits after the point.
pub(crate) fn mib(bytes: u64) -> String {
    let hundredths = (bytes as f64 / f64::from(1 << 20) * 100.0).round() / 100.0;
    format!("{hundredths:.2}")
}

/// A moment in UTC, from seconds since 1970-01-01.
pub(crate) fn utc(unix_s: u64) -> String {
    let (days, seconds) = (unix_s / 86_400, unix_s % 86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", date(days))
}

/// A date of the Gregorian calendar, from days since 1970-01-01.
///
/// Years are counted from March, so that the leap day is a year's last, and in cycles of 400.
fn date(days: u64) -> String {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days.saturating_add(719_468);
    let (cycle, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (calendar_month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let calendar_year = cycle * 400 + year + carry;
    format!("{calendar_year:04}-{calendar_month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_and_durations() {
        assert_eq!(parse_size("16 KiB"), Some(16 << 10));
        assert_eq!(parse_size("16KiB"), Some(16 << 10));
        assert_eq!(parse_size("0 B"), Some(0));
        assert_eq!(parse_size("99999999999999999999 GiB"), Some(u64::MAX));
        assert_eq!(parse_duration_ms("10 s"), Some(10_000));
        assert_eq!(parse_duration_ms("250 ms"), Some(250));
        assert_eq!(parse_duration_ms("1 d"), Some(86_400_000));
        for bad in ["", " ", "16", "KiB", "16 KB", "16  KiB", "-1 B", "1.5 MiB", "16 kib", "ä B"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
        for bad in ["10", "10 sec", "s", "10 S", "1 h 2 min"] {
            assert_eq!(parse_duration_ms(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["16 KiB", "1 B", "1025 B", "3 MiB", "64 GiB", "0 B"] {
            assert_eq!(size(parse_size(text).unwrap()), text);
        }
        for text in ["10 s", "250 ms", "1500 ms", "90 s", "5 min", "30 d"] {
            assert_eq!(duration_ms(parse_duration_ms(text).unwrap()), text);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn mebibytes_are_rounded() {
        assert_eq!(mib(0), "0.00");
        assert_eq!(mib(1_300_000), "1.24");
        assert_eq!(mib(40 << 20), "40.00");
    }
}
