//! What a network card is to everything above it: frames in, frames out, one bell.
//!
//! Receiving and sending are two objects because TCP answers a frame while it still reads it. The
//! rings implement these traits over memory that a device shares; tests implement them over lists.

/// What the device said about a received frame's TCP or UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: whoever reads the frame has to check.
    Unknown,
    /// That it is right, or that the frame never left this host and so carries none
    /// (virtio 1.2 section 5.1.6.4: `DATA_VALID`, `NEEDS_CSUM`).
    Trusted,
}

/// A received frame that has not been given back yet.
///
/// There is one of these for each buffer the device has filled, and it cannot be copied: a frame
/// is released once.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Which receive buffer.
    pub index: u16,
    /// Bytes of the Ethernet frame.
    pub length: u16,
    /// What the device said about its checksum.
    pub checksum: Checksum,
}

/// A TCP or UDP checksum that the device shall complete (virtio 1.2 section 5.1.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the summed bytes begin, from the start of the frame.
    pub start: u16,
    /// Where the sum is stored, from `start`. The field already holds the pseudo-header's sum.
    pub offset: u16,
}

/// The receiving half of a network card.
pub trait Receiver {
    /// The next frame that has arrived, if any.
    fn next(&mut self) -> Option<Received>;

    /// The frame's bytes, from the Ethernet header on.
    fn bytes(&self, frame: &Received) -> &[u8];

    /// Gives the frame's buffer back to the device.
    fn release(&mut self, frame: Received);
}

/// The sending half of a network card.
pub trait Transmitter {
    /// Whether the device completes TCP checksums, so that we need not compute them.
    fn completes_checksums(&self) -> bool;

    /// Whether a frame of any size can be sent now. Collects what the device has finished.
    fn has_room(&mut self) -> bool;

    /// Sends a frame of `length` bytes (at most 1,514) that `fill` writes.
    ///
    /// `fill` gets a buffer of exactly `length` bytes whose old contents mean nothing, and says
    /// which checksum the device shall complete.
    ///
    /// # Panics
    ///
    /// If there is no room (ask [`Transmitter::has_room`] first) or the frame is too long.
    fn transmit<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (R, Option<PartialChecksum>),
    ) -> R;
}
