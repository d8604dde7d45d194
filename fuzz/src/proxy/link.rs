//! A TCP connection made of two lists of bytes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use libos::stream::{Read, Stream};

/// Whether the connection under test was woken.
#[derive(Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes on their way in one direction.
#[derive(Default)]
pub(crate) struct Pipe {
    pub(crate) bytes: VecDeque<u8>,
    pub(crate) capacity: usize,
    pub(crate) has_fin: bool,
    /// How many bytes have ever been written.
    pub(crate) written: usize,
}

/// Both directions, and what the proxy's end knows.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) to_proxy: Pipe,
    pub(crate) from_proxy: Pipe,
    pub(crate) is_established: bool,
    pub(crate) is_reset: bool,
    waker: Option<Waker>,
}

/// A connection that both ends share.
pub(crate) type Shared = Rc<RefCell<Link>>;

impl Link {
    /// The other side writes.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if !self.to_proxy.has_fin && !self.is_reset {
            self.to_proxy.bytes.extend(bytes);
            self.to_proxy.written += bytes.len();
            self.wake();
        }
    }

    /// The other side reads.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.from_proxy.bytes.len());
        let bytes = self.from_proxy.bytes.drain(..count).collect();
        self.wake();
        bytes
    }

    /// The other side sends no more.
    pub(crate) fn finish(&mut self) {
        self.to_proxy.has_fin = true;
        self.wake();
    }

    /// The other side breaks off.
    pub(crate) fn reset(&mut self) {
        self.is_reset = true;
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn is_over(&self) -> bool {
        let is_delivered = self.from_proxy.has_fin && self.from_proxy.bytes.is_empty();
        self.is_reset || (is_delivered && self.to_proxy.has_fin)
    }
}

/// The proxy's end.
pub(crate) struct End(pub(crate) Shared);

impl Stream for End {
    fn is_established(&self) -> bool {
        let link = self.0.borrow();
        link.is_established && !link.is_reset
    }

    fn read(&mut self, buffer: &mut [u8]) -> Read {
        assert!(!buffer.is_empty(), "the contract says so");
        let mut link = self.0.borrow_mut();
        if link.is_reset {
            return Read::Broken;
        }
        let count = buffer.len().min(link.to_proxy.bytes.len());
        for (to, from) in buffer.iter_mut().zip(link.to_proxy.bytes.drain(..count)) {
            *to = from;
        }
        match count {
            0 if link.to_proxy.has_fin => Read::Finished,
            0 => Read::Empty,
            _ => Read::Data(count),
        }
    }

    fn room(&self) -> usize {
        let link = self.0.borrow();
        if link.is_reset || link.from_proxy.has_fin || !link.is_established {
            return 0;
        }
        link.from_proxy.capacity.saturating_sub(link.from_proxy.bytes.len())
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let count = self.room().min(bytes.len());
        let pipe = &mut self.0.borrow_mut().from_proxy;
        pipe.bytes.extend(&bytes[..count]);
        pipe.written += count;
        count
    }

    fn unacknowledged(&self) -> usize {
        self.0.borrow().from_proxy.bytes.len()
    }

    fn finish(&mut self) {
        self.0.borrow_mut().from_proxy.has_fin = true;
    }

    fn is_over(&self) -> bool {
        self.0.borrow().is_over()
    }

    fn abort(&mut self) {
        self.0.borrow_mut().is_reset = true;
    }

    fn wake_on_change(&mut self, waker: &Waker) {
        self.0.borrow_mut().waker = Some(waker.clone());
    }
}
