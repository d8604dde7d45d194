//! Memory that a device reads or writes while we do.

use core::sync::atomic::{Ordering, compiler_fence, fence};

use abi::Span;

#[cfg(any(test, feature = "hostile-device"))]
use super::software::watch::{before, fenced};

/// A span of shared memory, as long and as aligned as its user needs it.
pub(super) struct Shared {
    start: u64,
    length: u64,
}

/// A width that rings have.
pub(super) trait Word: Copy + Default {}
impl Word for u16 {}
impl Word for u32 {}

/// How memory is about to be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Nothing. In tests, who watches sees each access before it happens and lets the device act.
#[cfg(not(any(test, feature = "hostile-device")))]
#[inline(always)] // It is nothing.
fn before(_: Access, _: Span) {}

/// Likewise: tests see where the full fences stand, since few hosts show that one is missing.
#[cfg(not(any(test, feature = "hostile-device")))]
#[inline(always)] // It is nothing.
fn fenced() {}

/// Lets the device see every write before this before anything behind it is read.
pub(super) fn full_fence() {
    fence(Ordering::SeqCst);
    fenced();
}

impl Shared {
    /// A span of at least `needed` bytes, or `None` if it is shorter or crooked.
    pub(super) fn new(span: Span, needed: u64, alignment: u64) -> Option<Self> {
        let is_good = span.start != 0
            && span.start.is_multiple_of(alignment)
            && span.length >= needed
            && span.end().is_some();
        is_good.then_some(Self { start: span.start, length: span.length })
    }

    /// Reads a word; zero beyond the end, which the callers' offsets never reach.
    pub(super) fn read<W: Word>(&self, offset: u64) -> W {
        match self.address::<W>(Access::Read, offset) {
            // SAFETY: inside the span and mapped readable; see the module. The span is aligned as
            // its widest word is, and virtio's own layout keeps that alignment.
            Some(address) => unsafe { (address as *const W).read_volatile() },
            None => W::default(),
        }
    }

    /// Writes a word; nothing beyond the end.
    pub(super) fn write<W: Word>(&self, offset: u64, value: W) {
        if let Some(address) = self.address::<W>(Access::Write, offset) {
            // SAFETY: inside the span, aligned as for `read`, mapped writable (the available ring
            // and the doorbell; used rings are only read); see the module.
            unsafe { (address as *mut W).write_volatile(value) };
        }
    }

    /// Copies bytes out; `false` if they are not all inside the span.
    pub(super) fn copy_to(&self, offset: u64, to: &mut [u8]) -> bool {
        let Some(from) = self.place(Access::Read, offset, to.len() as u64) else { return false };
        let from = from as *const u8;
        // SAFETY: inside the span; the device may change the bytes meanwhile, in which case we get
        // some of the old and some of the new ones, and every byte is a valid `u8`. `to` is private
        // memory and so does not overlap.
        unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        // Whoever reads `to` reads the copy: the compiler must not look at the original again.
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// A transmit buffer to be filled.
    ///
    /// # Safety
    ///
    /// The device must not have been offered any descriptor of this buffer.
    pub(super) unsafe fn buffer(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        let place = self.place(Access::Write, offset, length as u64)?;
        // SAFETY: inside the span and writable; `&mut self` keeps a second reference away, and no
        // descriptor of a transmit buffer lets the device write (see the module).
        Some(unsafe { core::slice::from_raw_parts_mut(place as *mut u8, length) })
    }

    /// Where `bytes` at `offset` are, if they lie inside the span.
    #[inline(always)] // On the path of every frame, several times.
    fn place(&self, access: Access, offset: u64, bytes: u64) -> Option<u64> {
        let is_inside = offset <= self.length && self.length - offset >= bytes;
        let start = is_inside.then(|| self.start.wrapping_add(offset))?;
        before(access, Span::new(start, bytes));
        Some(start)
    }

    #[inline(always)] // As above.
    fn address<W: Word>(&self, access: Access, offset: u64) -> Option<u64> {
        let address = self.place(access, offset, size_of::<W>() as u64)?;
        debug_assert!(address.is_multiple_of(size_of::<W>() as u64), "a crooked ring");
        Some(address)
    }
}
