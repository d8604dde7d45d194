//! Bytes that anybody can compute again, and their digests.

use sha2::{Digest, Sha256};

/// The first `count` bytes of one endless sequence without short periods.
pub fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        // Marsaglia, "Xorshift RNGs" (2003), the 64-bit triple 13, 7, 17.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// The SHA-256 digest in lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_body_begins_like_a_shorter_one() {
        assert_eq!(bytes(0), []);
        assert_eq!(bytes(1000)[..13], bytes(13));
        assert_ne!(bytes(1000)[..8], bytes(1000)[8..16]);
    }

    #[test]
    fn the_digest_is_the_one_of_fips_180() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
    }
}
