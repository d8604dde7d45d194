//! Memory that a device reads or writes while we do.

use abi::Span;

/// A span of shared memory.
pub(super) struct Shared {
    span: Span,
}

/// A width that rings have.
pub(super) trait Word: Copy + Default {}
impl Word for u16 {}
impl Word for u32 {}

impl Shared {
    pub(super) fn new(span: Span) -> Self {
        Self { span }
    }

    /// Reads a word; zero beyond the end, which the callers' constant offsets never reach.
    pub(super) fn read<W: Word>(&self, offset: u64) -> W {
        match self.address::<W>(offset) {
            // SAFETY: inside the span, aligned, mapped readable; see the module.
            Some(address) => unsafe { (address as *const W).read_volatile() },
            None => W::default(),
        }
    }

    /// Writes a word; nothing beyond the end.
    pub(super) fn write<W: Word>(&self, offset: u64, value: W) {
        if let Some(address) = self.address::<W>(offset) {
            // SAFETY: inside the span, aligned, mapped writable (the available ring and the
            // doorbell; used rings are only read); see the module.
            unsafe { (address as *mut W).write_volatile(value) };
        }
    }

    /// Copies bytes out.
    pub(super) fn copy_to(&self, offset: u64, to: &mut [u8]) -> bool {
        let place = Span::new(self.span.start.wrapping_add(offset), to.len() as u64);
        if !self.span.covers(&place) {
            return false;
        }
        let from = place.start as *const u8;
        // SAFETY: inside the span; the device may change the bytes meanwhile, in which case we get
        // some of the old and some of the new ones, and every byte is a valid `u8`. `to` is private
        // memory and so does not overlap.
        unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        true
    }

    /// A transmit buffer to be filled.
    ///
    /// # Safety
    ///
    /// The device must not have been offered any descriptor of this buffer.
    pub(super) unsafe fn buffer(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        let place = Span::new(self.span.start.wrapping_add(offset), length as u64);
        if !self.span.covers(&place) {
            return None;
        }
        // SAFETY: inside the span and writable; a device that keeps to virtio does not touch a
        // buffer it was not offered, and a transmit buffer it never writes.
        Some(unsafe { core::slice::from_raw_parts_mut(place.start as *mut u8, length) })
    }

    fn address<W: Word>(&self, offset: u64) -> Option<u64> {
        let place = Span::new(self.span.start.checked_add(offset)?, size_of::<W>() as u64);
        let is_aligned = place.start % size_of::<W>() as u64 == 0;
        (self.span.covers(&place) && is_aligned).then_some(place.start)
    }
}
