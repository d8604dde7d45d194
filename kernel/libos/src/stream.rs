//! One side of a connection as an application sees it: bytes in, bytes out, never waiting.
//!
//! TCP implements this over smoltcp, tests implement it over lists of bytes. Whoever has nothing
//! left to do leaves a waker and returns; the executor polls the task again when something changed.

use core::net::SocketAddrV4;
use core::task::Waker;

use crate::clock::Instant;

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// That many bytes, at least one.
    Data(usize),
    /// Nothing yet.
    Empty,
    /// The peer has finished sending, and everything it sent has been read.
    Finished,
    /// The connection is gone: reset, timed out or never came to be.
    Broken,
}

/// A byte stream in both directions.
pub trait Stream {
    /// Whether the connection is established. One that was refused is [`Read::Broken`] instead.
    fn is_established(&self) -> bool;

    /// Reads what has arrived into `buffer`, which is not empty.
    fn read(&mut self, buffer: &mut [u8]) -> Read;

    /// How many bytes [`Stream::write`] would take now.
    fn room(&self) -> usize;

    /// Queues bytes to be sent; takes as many as there is room for and says how many.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// How many written bytes the peer has not acknowledged yet.
    fn unacknowledged(&self) -> usize;

    /// Sends FIN after everything that was written. Reading goes on. Twice is once.
    fn finish(&mut self);

    /// Whether our FIN and all before it was acknowledged and the peer's FIN came, or the
    /// connection is broken: nothing more will happen here.
    fn is_over(&self) -> bool;

    /// Ends the connection at once with a reset.
    fn abort(&mut self);

    /// Wakes `waker` when any of the answers above may have changed.
    fn wake_on_change(&mut self, waker: &Waker);
}

/// Why a connection could not even be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// As many connections are open as the image allows.
    NoPlace,
    /// Every local port towards that address is in use.
    NoPort,
    /// The address is no other host's, or no gateway leads there.
    NoRoute,
}

/// Something that opens connections.
pub trait Dial {
    /// What it opens.
    type Stream: Stream;

    /// Begins a connection; it is established or broken later.
    ///
    /// # Errors
    ///
    /// [`DialError`] if a limit of ours stands in the way.
    fn dial(&mut self, to: SocketAddrV4) -> Result<Self::Stream, DialError>;
}

/// The time, and a way to be woken at one.
pub trait Timer {
    /// The time now. It stands still within a round of the executor.
    fn now(&self) -> Instant;

    /// Wakes `waker` once `deadline` has come. A later call for the same waker replaces it.
    fn wake_at(&self, deadline: Instant, waker: &Waker);
}
