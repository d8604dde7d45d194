//! The event log: what was extended into which PCR, for a verifier to replay.
//!
//! TCG PC Client Platform Firmware Profile 1.06, section 10: a first event in the old form that names
//! the hash algorithms, then one event for each extend with a digest of every bank.

use abi::record::{self, Part};

use crate::memory::Frames;
use crate::refusal::Refusal;

/// `EV_NO_ACTION`: about the log itself, extended nowhere.
const NO_ACTION: u32 = 3;

/// `EV_IPL`: what the loader of an operating system measures.
const IPL: u32 = 0x0d;

/// The most banks an event can have digests of.
const MAX_BANKS: usize = 4;

/// A digest, and the TCG's number of its algorithm.
pub(super) type Digest<'a> = (u16, &'a [u8]);

/// Begins a log where firmware has none (section 10.4.5.1, `TCG_EfiSpecIdEvent`).
pub(super) fn begin(record: &mut Frames, banks: impl Iterator<Item = (u16, u16)>) -> Done {
    let mut event = Text::default();
    event.put(b"Spec ID Event03\0")?;
    // Platform class "client"; version 2.0 of the specification, no errata; 64-bit UINTN.
    event.put(&[0, 0, 0, 0, 0, 2, 0, 2])?;
    let count = event.length;
    event.put(&[0; 4])?;
    let mut banks_named: u32 = 0;
    for (algorithm, bytes) in banks {
        event.put(&algorithm.to_le_bytes())?;
        event.put(&bytes.to_le_bytes())?;
        banks_named += 1;
    }
    event.set(count, &banks_named.to_le_bytes());
    // No vendor information.
    event.put(&[0])?;
    let mut head = Text::default();
    head.put(&0_u32.to_le_bytes())?;
    head.put(&NO_ACTION.to_le_bytes())?;
    head.put(&[0; 20])?;
    head.put(&(event.length as u32).to_le_bytes())?;
    write(record, head.bytes())?;
    write(record, event.bytes())
}

/// Appends an event (section 10.2.2, `TCG_PCR_EVENT2`).
pub(super) fn append<'a>(
    record: &mut Frames,
    pcr: u32,
    digests: impl ExactSizeIterator<Item = Digest<'a>>,
    data: &[u8],
) -> Done {
    let mut head = Text::default();
    head.put(&pcr.to_le_bytes())?;
    head.put(&IPL.to_le_bytes())?;
    head.put(&(digests.len() as u32).to_le_bytes())?;
    for (algorithm, digest) in digests {
        head.put(&algorithm.to_le_bytes())?;
        head.put(digest)?;
    }
    head.put(&(data.len() as u32).to_le_bytes())?;
    write(record, head.bytes())?;
    write(record, data)
}

type Done = Result<(), Refusal>;

fn write(record: &mut Frames, bytes: &[u8]) -> Done {
    record::append(record.bytes_mut(), Part::EventLog, bytes).map_err(Refusal::Record)
}

/// The head of an event: everything but its data. Four banks, the longest digest 64 bytes.
const MAX_BYTES: usize = 16 + MAX_BANKS * (2 + 64);

/// A few bytes that are being put together.
struct Text {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; MAX_BYTES], length: 0 }
    }
}

impl Text {
    fn put(&mut self, more: &[u8]) -> Done {
        let end = self.length + more.len();
        let full = Refusal::Bound { what: "bytes of an event's head", limit: MAX_BYTES };
        self.bytes.get_mut(self.length..end).ok_or(full)?.copy_from_slice(more);
        self.length = end;
        Ok(())
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}
