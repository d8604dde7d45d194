//! A client's request: the length of its nonce, and the nonce.

use super::{NONCE_BYTES, Violation};

/// Bytes of the length before a nonce and before evidence.
const LENGTH_BYTES: usize = 4;

/// A request, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    length: [u8; LENGTH_BYTES],
    nonce: [u8; NONCE_BYTES],
    received: usize,
    has_more: bool,
}

impl Request {
    /// Takes all of `bytes`, also those that do not belong to it.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let place = self.length.iter_mut().chain(&mut self.nonce).nth(self.received);
            match place {
                Some(place) => {
                    *place = *byte;
                    self.received += 1;
                }
                None => {
                    self.has_more = true;
                    return;
                }
            }
        }
    }

    /// The nonce, once all of it is there.
    ///
    /// # Errors
    ///
    /// [`Violation`] as soon as there is one.
    pub(crate) fn nonce(&self) -> Result<Option<[u8; NONCE_BYTES]>, Violation> {
        let length = u32::from_be_bytes(self.length);
        if self.received >= LENGTH_BYTES && usize::try_from(length) != Ok(NONCE_BYTES) {
            return Err(Violation::Length(length));
        }
        if self.has_more {
            return Err(Violation::Early);
        }
        Ok((self.received == LENGTH_BYTES + NONCE_BYTES).then_some(self.nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&[u8]], expected: Result<Option<[u8; 32]>, Violation>) {
        let mut request = Request::default();
        for piece in pieces {
            request.take(piece);
        }
        assert_eq!(request.nonce(), expected);
    }

    #[test]
    fn a_request_is_a_length_and_a_nonce_and_nothing_else() {
        let nonce = core::array::from_fn(|index| index as u8);
        check(&[&[0, 0, 0, 32], &nonce], Ok(Some(nonce)));
        check(&[&[0, 0], &[0], &[32], &nonce[..7], &[], &nonce[7..]], Ok(Some(nonce)));
        check(&[], Ok(None));
        check(&[&[0, 0, 0, 32], &nonce[..31]], Ok(None));
        check(&[&[0, 0, 0]], Ok(None));
        check(&[&[0, 0, 0, 32], &nonce, &[9]], Err(Violation::Early));
        for length in [0, 1, 31, 33, 0x2000_0000, u32::MAX] {
            check(&[&length.to_be_bytes()], Err(Violation::Length(length)));
            check(&[&length.to_be_bytes(), &[0; 300]], Err(Violation::Length(length)));
        }
    }
}
