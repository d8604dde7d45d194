//! The internet checksum (RFC 1071), in pieces that can be added.

use super::frame::TCP;

/// The sum of the 16-bit big-endian words of `bytes`; an odd last byte is a word's upper half.
///
/// Not folded yet. It cannot overflow: a frame has fewer than 2^16 bytes.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    for (to, byte) in last.iter_mut().zip(rest) {
        *to = *byte;
    }
    // 2^16 is 1 in this arithmetic, so 32-bit words may be added as well as 16-bit ones.
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    whole + u64::from(u32::from_be_bytes(last))
}

/// The sum of TCP's pseudo-header: both addresses as they stand in the IP header, then the rest.
pub(super) fn pseudo_header(addresses: &[u8], segment_bytes: usize) -> u64 {
    sum(addresses) + u64::from(TCP) + segment_bytes as u64
}

/// Folds a sum to 16 bits. A message whose checksum is right folds to `0xffff`.
pub(super) fn fold(mut sum: u64) -> u16 {
    // Each turn takes at least 15 bits off until 16 are left.
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::{fold, sum};

    #[test]
    fn agrees_with_the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn an_odd_byte_is_an_upper_half() {
        for length in 0..9 {
            let bytes = [0xffu8, 0x80, 7, 9, 0x42, 0, 1, 0xfe, 0x33];
            let slow: u64 = bytes[..length]
                .chunks(2)
                .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
                .sum();
            assert_eq!(fold(sum(&bytes[..length])), fold(slow), "{length} bytes");
        }
    }
}
