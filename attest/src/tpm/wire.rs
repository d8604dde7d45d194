//! Integers and sized buffers, big endian (Part 2, section 4.3).

/// Why bytes are not the structure they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short;

/// Takes fields off the front of a structure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn word(&mut self) -> Result<u16, Short> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Short)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(crate) fn long(&mut self) -> Result<u32, Short> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Short)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A `TPM2B`: its size, then so many bytes.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Short> {
        let size = usize::from(self.word()?);
        let (bytes, rest) = self.0.split_at_checked(size).ok_or(Short)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A buffer is longer than its 16-bit size can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversized;

/// Appends a `TPM2B`.
pub(crate) fn put_sized(to: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Oversized> {
    let size = u16::try_from(bytes.len()).map_err(|_| Oversized)?;
    to.extend_from_slice(&size.to_be_bytes());
    to.extend_from_slice(bytes);
    Ok(())
}

/// A `TPM2B` of these bytes.
pub(crate) fn sized(bytes: &[u8]) -> Result<Vec<u8>, Oversized> {
    // With room for all of it, so that a secret leaves no copy behind in a vector that grew.
    let mut to = Vec::with_capacity(bytes.len().saturating_add(2));
    put_sized(&mut to, bytes)?;
    Ok(to)
}

/// Appends a 16-bit number.
pub(crate) fn put_word(to: &mut Vec<u8>, word: u16) {
    to.extend_from_slice(&word.to_be_bytes());
}

/// Appends a 32-bit number.
pub(crate) fn put_long(to: &mut Vec<u8>, long: u32) {
    to.extend_from_slice(&long.to_be_bytes());
}
