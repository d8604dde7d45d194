//! Deterministic CBOR (RFC 8949 section 4.2.1), by a well-kept encoder and one comparison.
//!
//! The decoder is lenient about lengths, key order and indefinite items. So whoever decodes encodes
//! again: the bytes are deterministic if, and only if, the two are equal.

use alloc::vec::Vec;

use minicbor::encode::Write;

/// Bytes that grow; nothing can go wrong with them.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Write for Bytes {
    type Error = core::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// What `write` encodes.
pub(crate) fn encode(
    capacity: usize,
    write: impl FnOnce(
        &mut minicbor::Encoder<Bytes>,
    ) -> Result<(), minicbor::encode::Error<core::convert::Infallible>>,
) -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(Bytes(Vec::with_capacity(capacity)));
    // Writing into memory does not fail, and we encode no type of our own that could.
    let _done = write(&mut encoder);
    encoder.into_writer().0
}
