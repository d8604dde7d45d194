//! How many handshakes may be under way at once: each one costs a million instructions.

use alloc::rc::Rc;
use core::cell::Cell;

use libos::tls::{EXPORTER_BYTES, Parameters, Session, TlsError};

/// Places for connections whose handshake is not complete.
#[derive(Clone, Debug)]
pub struct Places {
    free: Rc<Cell<u32>>,
}

/// One such place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    free: Rc<Cell<u32>>,
}

impl Places {
    /// So many places, all free.
    pub fn new(count: u32) -> Self {
        Self { free: Rc::new(Cell::new(count)) }
    }

    /// Takes a place, if one is free.
    pub fn take(&self) -> Option<Place> {
        self.free.set(self.free.get().checked_sub(1)?);
        Some(Place { free: Rc::clone(&self.free) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free.set(self.free.get() + 1);
    }
}

/// A session that holds a place until its handshake is complete, or it is gone.
#[derive(Debug)]
pub struct Counted<S> {
    session: S,
    place: Option<Place>,
}

impl<S: Session> Counted<S> {
    /// A session with its place.
    pub fn new(session: S, place: Place) -> Self {
        Self { session, place: Some(place) }
    }
}

impl<S: Session> Session for Counted<S> {
    fn space(&mut self) -> &mut [u8] {
        self.session.space()
    }

    fn received(
        &mut self,
        count: usize,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<(), TlsError> {
        let result = self.session.received(count, sink);
        if result.is_err() || self.session.is_open() {
            self.place = None;
        }
        result
    }

    fn has_plaintext(&self) -> bool {
        self.session.has_plaintext()
    }

    fn deliver(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) {
        self.session.deliver(sink);
    }

    fn seal(&mut self, plaintext: &[u8], sealed: &mut [u8]) -> Result<usize, TlsError> {
        self.session.seal(plaintext, sealed)
    }

    fn close(&mut self) {
        self.session.close();
    }

    fn outgoing(&self) -> &[u8] {
        self.session.outgoing()
    }

    fn sent(&mut self, count: usize) {
        self.session.sent(count);
    }

    fn is_open(&self) -> bool {
        self.session.is_open()
    }

    fn has_peer_closed(&self) -> bool {
        self.session.has_peer_closed()
    }

    fn parameters(&self) -> Option<Parameters> {
        self.session.parameters()
    }

    fn exporter(&self) -> Option<[u8; EXPORTER_BYTES]> {
        self.session.exporter()
    }

    fn rest(&mut self) {
        self.session.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn a_place_is_free_again_when_its_holder_is_gone() {
        let places = Places::new(2);
        let first = places.take();
        let second = places.take();
        assert!(first.is_some() && second.is_some() && places.take().is_none());
        drop(first);
        assert!(places.take().is_some());
    }
}
