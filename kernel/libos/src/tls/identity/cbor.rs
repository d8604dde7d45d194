//! CBOR in its one deterministic form (RFC 8949 section 4.2), as much of it as is in a key file.

/// Major types.
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

/// Reads values off the front of bytes; every answer is `None` if something else is there.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn map(&mut self) -> Option<usize> {
        self.head(MAP)
    }

    pub(super) fn array(&mut self) -> Option<usize> {
        self.head(ARRAY)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.head(BYTES)?;
        self.take(length)
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, expected: &str) -> Option<()> {
        let length = self.head(TEXT)?;
        (self.take(length)? == expected.as_bytes()).then_some(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number in the head of a value of that type, in the shortest of its forms.
    fn head(&mut self, major: u8) -> Option<usize> {
        let [first] = *self.take(1)?.first_chunk()?;
        let (number, least) = match first & 0x1f {
            small @ 0..24 => (usize::from(small), 0),
            24 => (usize::from(*self.take(1)?.first()?), 24),
            25 => (usize::from(u16::from_be_bytes(*self.take(2)?.first_chunk()?)), 0x100),
            // A key file is not long enough for more.
            _ => return None,
        };
        (first >> 5 == major && number >= least).then_some(number)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}
