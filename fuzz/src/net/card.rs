//! A network card made of lists.

use std::collections::VecDeque;

use libos::link::{Checksum, PartialChecksum, Received, Receiver, Transmitter};

use super::frame;

/// The longest frame that may be sent.
pub(crate) const MAX_FRAME_BYTES: usize = 1514;

/// The receiving half.
#[derive(Default)]
pub(crate) struct Rx {
    pub(crate) arrived: VecDeque<Vec<u8>>,
    pub(crate) is_trusted: bool,
    held: Option<(u16, Vec<u8>)>,
    count: u16,
}

impl Receiver for Rx {
    fn next(&mut self) -> Option<Received> {
        assert!(self.held.is_none(), "a frame was not released");
        let frame = self.arrived.pop_front()?;
        self.count = self.count.wrapping_add(1);
        let length = u16::try_from(frame.len()).expect("the harness makes no longer frames");
        self.held = Some((self.count, frame));
        let checksum = if self.is_trusted { Checksum::Trusted } else { Checksum::Unknown };
        Some(Received { index: self.count, length, checksum })
    }

    fn bytes(&self, frame: &Received) -> &[u8] {
        let (index, bytes) = self.held.as_ref().expect("a frame is held");
        assert_eq!(*index, frame.index);
        bytes
    }

    fn release(&mut self, frame: Received) {
        let (index, _) = self.held.take().expect("a frame was released twice");
        assert_eq!(index, frame.index);
    }
}

/// The sending half.
pub(crate) struct Tx {
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) capacity: usize,
    pub(crate) completes_checksums: bool,
}

impl Transmitter for Tx {
    fn completes_checksums(&self) -> bool {
        self.completes_checksums
    }

    fn has_room(&mut self) -> bool {
        self.sent.len() < self.capacity
    }

    fn transmit<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (R, Option<PartialChecksum>),
    ) -> R {
        assert!(self.has_room() && length <= MAX_FRAME_BYTES);
        // Old contents mean nothing.
        let mut bytes = vec![0xa5; length];
        let (result, partial) = fill(&mut bytes);
        if let Some(PartialChecksum { start, offset }) = partial {
            assert!(self.completes_checksums);
            let start = usize::from(start);
            let at = start + usize::from(offset);
            let sum = !frame::sum(&bytes[start..], 0);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.sent.push(bytes);
        result
    }
}
