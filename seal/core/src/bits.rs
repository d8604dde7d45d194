//! Fields of little-endian words.

/// Reads the little-endian `u64` at `offset`, or zero past the end of `bytes`.
///
/// Every caller has checked the length before, so the zero is never used.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    match bytes.get(offset..).and_then(|rest| rest.first_chunk()) {
        Some(word) => u64::from_le_bytes(*word),
        None => 0,
    }
}

/// The `width` bits of `word` that begin at bit `at`. Both are below 64.
pub(crate) const fn field(word: u64, at: u32, width: u32) -> u64 {
    word.wrapping_shr(at) & !u64::MAX.wrapping_shl(width)
}
