//! Bytes as people read them, and text that cannot give a terminal orders.

use std::fmt::Write;

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _done = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes from hexadecimal digits of either case, or nothing if it is anything else.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect()
}

/// Exactly `N` bytes from hexadecimal digits.
pub(crate) fn unhex_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    unhex(text)?.try_into().ok()
}

/// Text from elsewhere, without what a terminal might take for an order.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_order(c) { '\u{fffd}' } else { c }).collect()
}

/// Whether a terminal might take a character for an order: control characters, and the marks that turn
/// the direction of what follows or cannot be seen (Unicode TR 36, section 3.7).
pub(crate) fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A size as a `u64`.
pub(crate) fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// A `u64` as an index: one that is out of every slice's bounds if it is too large.
pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_back() {
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(unhex("00ABff"), Some(vec![0, 0xab, 0xff]));
        for wrong in ["0", "0g", "+1", "é", " 00", "0x00"] {
            assert_eq!(unhex(wrong), None, "{wrong:?}");
        }
        assert_eq!(unhex_array::<2>("0001"), Some([0, 1]));
        assert_eq!(unhex_array::<2>("000102"), None);
    }

    #[test]
    fn nothing_gives_a_terminal_orders() {
        assert_eq!(
            plain("a\u{1b}[31m\n\u{9b}b\u{202e}c"),
            "a\u{fffd}[31m\u{fffd}\u{fffd}b\u{fffd}c"
        );
    }
}
