//! Memory by its physical address: who owns which frame, and the few ways to touch one.
//!
//! Why this is sound, said once: boot runs alone on one CPU, and until its tables are final it sees
//! the first 4 GiB at their physical addresses. A frame is handed out once, by [`Memory::take`],
//! and its owner is the only one with a mutable view. Everything else in memory is either firmware
//! data, which we only read, or device registers, which are only touched by volatile accesses.

mod own;
mod tables;

pub(crate) use own::{OwnImage, gate_blob, own_image};
pub(crate) use tables::{Arena, ReadBack};

use abi::{PAGE_BYTES, Span};
use arrayvec::ArrayVec;
use firmware::{MAX_RANGES, MemoryRange, Physical};

use crate::arch::stream_zeros;
use crate::refusal::Refusal;

/// What boot's first tables map one to one.
const REACH: Span = Span::new(0, 4 << 30);

/// The first megabyte belongs to the firmware and to real mode; we leave it alone.
const LOW: Span = Span::new(0, 1 << 20);

/// The 2 MiB that a large page covers.
pub(crate) const LARGE_BYTES: u64 = 2 << 20;

/// Whether boot's tables, now and later, map all of a span.
pub(crate) fn reaches(span: Span) -> bool {
    REACH.covers(&span)
}

/// The physical address space as boot sees it: only to read, only what is mapped.
pub(crate) struct FirmwareMemory {
    /// What boot itself writes meanwhile, if anything.
    ours: Span,
}

impl FirmwareMemory {
    /// All of it, as long as boot writes none of it.
    pub(crate) fn all() -> Self {
        Self::but(Span::default())
    }

    /// All but what boot may write meanwhile.
    pub(crate) fn but(ours: Span) -> Self {
        Self { ours }
    }
}

impl Physical for FirmwareMemory {
    fn read(&self, address: u64, length: u64) -> Option<&[u8]> {
        let span = Span::new(address, length);
        if address == 0 || !REACH.covers(&span) || self.ours.overlaps(&span) {
            return None;
        }
        // SAFETY: the span is mapped one to one and readable (the first 4 GiB are, by the firmware's
        // tables and by ours). It is read before `Memory` hands out the first frame, or it is what
        // was taken from the firmware, which `Memory` never hands out; and it does not overlap what
        // is written meanwhile. So nothing of ours changes under the slice; any bytes are valid
        // `u8`s.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) })
    }
}

/// Frames that belong to whoever holds this.
#[derive(Debug)]
pub(crate) struct Frames {
    span: Span,
}

impl Frames {
    /// Frames that somebody else has given us.
    ///
    /// # Safety
    ///
    /// They must be whole pages, mapped one to one and writable below 4 GiB, and nobody else may use
    /// them.
    pub(crate) unsafe fn given(span: Span) -> Self {
        Self { span }
    }

    /// Where they are.
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// The physical address of the first.
    pub(crate) fn start(&self) -> u64 {
        self.span.start
    }

    /// Their bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `Memory::take` gave these frames to nobody else, they lie in mapped, writable
        // memory below 4 GiB, and `&mut self` makes this the only view.
        unsafe {
            core::slice::from_raw_parts_mut(self.span.start as *mut u8, self.span.length as usize)
        }
    }

    /// Their bytes as 64-bit words.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as for `bytes_mut`; frames are page aligned, and every word is a valid `u64`.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.span.start as *mut u64,
                self.span.length as usize / 8,
            )
        }
    }

    /// Their bytes, to read.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: as for `bytes_mut`, for a shared view.
        unsafe {
            core::slice::from_raw_parts(self.span.start as *const u8, self.span.length as usize)
        }
    }

    /// Their bytes as 64-bit words, to read.
    pub(crate) fn words(&self) -> &[u64] {
        // SAFETY: as for `words_mut`, for a shared view.
        unsafe {
            core::slice::from_raw_parts(
                self.span.start as *const u64,
                self.span.length as usize / 8,
            )
        }
    }

    /// The first `N` bytes as an array.
    pub(crate) fn array<const N: usize>(&self) -> Option<&[u8; N]> {
        self.bytes().first_chunk()
    }

    /// Writes a value at an offset that fits it; beyond the end nothing is written.
    pub(crate) fn put<T: Copy>(&mut self, offset: u64, value: T) {
        let place = Span::new(self.span.start + offset, size_of::<T>() as u64);
        if self.span.covers(&place) && place.start.is_multiple_of(align_of::<T>() as u64) {
            // SAFETY: the place lies in these frames, is aligned, and `&mut self` is the only view.
            unsafe { (place.start as *mut T).write(value) };
        }
    }

    /// The first `bytes` of these frames; the rest has no owner any more.
    pub(crate) fn front(self, bytes: u64) -> Option<Self> {
        let front = Span::new(self.span.start, bytes);
        self.span.covers(&front).then_some(Self { span: front })
    }

    fn clear(&mut self) {
        self.words_mut().fill(0);
    }
}

/// Which memory is free.
pub(crate) struct Memory {
    free: ArrayVec<Span, { 2 * MAX_RANGES }>,
    /// What is free of the first megabyte. It is never handed out.
    low: ArrayVec<Span, { 2 * MAX_RANGES }>,
    found_bytes: u64,
    needed_bytes: u64,
}

impl Memory {
    /// The loader's map without the first megabyte, what is ours already (our image, and what was
    /// taken from the firmware), and what boot cannot reach.
    pub(crate) fn new(map: &[MemoryRange], ours: [Span; 2]) -> Result<Self, Refusal> {
        let mut memory =
            Self { free: ArrayVec::new(), low: ArrayVec::new(), found_bytes: 0, needed_bytes: 0 };
        for range in map.iter().filter(|range| range.is_usable) {
            memory.found_bytes = memory.found_bytes.saturating_add(range.span.length);
            memory.add(range.span)?;
        }
        for used in map.iter().filter(|range| !range.is_usable).map(|range| range.span) {
            memory.remove(used)?;
        }
        for span in ours {
            memory.remove(span)?;
        }
        memory.low = memory.free.clone();
        memory.remove(LOW)?;
        Ok(memory)
    }

    /// Clears all memory that nobody has, whatever firmware left there. The first page stays: no
    /// pointer may lead to it.
    pub(crate) fn wipe_free(&mut self) {
        let end = |span: &Span| span.start + span.length;
        let low = self.low.iter().map(|span| {
            let start = span.start.max(PAGE_BYTES);
            Span::new(start, end(span).min(LOW.length).saturating_sub(start))
        });
        for span in low.chain(self.free.iter().copied()).filter(|span| span.length > 0) {
            stream_zeros(Frames { span }.words_mut());
        }
    }

    /// Says how much the image needs in all, for the line that a small machine prints.
    pub(crate) fn expect(&mut self, needed_bytes: u64) {
        self.needed_bytes = needed_bytes;
    }

    /// Takes `bytes` of frames that nobody else has. They are zero: rings and page tables rely on it.
    pub(crate) fn take(&mut self, what: &'static str, bytes: u64) -> Result<Frames, Refusal> {
        self.take_aligned(what, bytes, 0, PAGE_BYTES)
    }

    /// Takes frames whose address leaves the same remainder as `like` when divided by `modulus`.
    pub(crate) fn take_aligned(
        &mut self,
        what: &'static str,
        bytes: u64,
        like: u64,
        modulus: u64,
    ) -> Result<Frames, Refusal> {
        let length = abi::page_up(bytes).ok_or(self.too_small(what))?;
        let remainder = like % modulus;
        let fit = |span: &Span| {
            let skip = (remainder + modulus - span.start % modulus) % modulus;
            let place = Span::new(span.start.checked_add(skip)?, length);
            span.covers(&place).then_some(place)
        };
        let place = self.free.iter().find_map(fit).ok_or(self.too_small(what))?;
        self.remove(place)?;
        let mut frames = Frames { span: place };
        frames.clear();
        Ok(frames)
    }

    /// A device's registers, which must not lie in memory.
    pub(crate) fn registers(&self, span: Span) -> Result<Registers, Refusal> {
        let is_memory = self.free.iter().any(|free| free.overlaps(&span));
        if is_memory || LOW.overlaps(&span) || !REACH.covers(&span) {
            return Err(Refusal::Device { what: "its registers lie in memory or beyond 4 GiB" });
        }
        Ok(Registers { span })
    }

    /// Whether nobody's memory lies there.
    pub(crate) fn is_unused(&self, span: Span) -> bool {
        !self.free.iter().any(|free| free.overlaps(&span))
    }

    fn too_small(&self, what: &'static str) -> Refusal {
        Refusal::Memory {
            needed_mib: self.needed_bytes.div_ceil(1 << 20),
            found_mib: self.found_bytes.div_ceil(1 << 20),
            what,
        }
    }

    fn add(&mut self, span: Span) -> Result<(), Refusal> {
        let start = abi::page_up(span.start).unwrap_or(u64::MAX);
        let end = span.end().unwrap_or(start).min(REACH.length) & !(PAGE_BYTES - 1);
        if end <= start {
            return Ok(());
        }
        let full = Refusal::Bound { what: "ranges of memory", limit: 2 * MAX_RANGES };
        self.free.try_push(Span::new(start, end - start)).map_err(|_| full)
    }

    fn remove(&mut self, used: Span) -> Result<(), Refusal> {
        let used_end = used.end().unwrap_or(u64::MAX);
        for span in core::mem::take(&mut self.free) {
            let end = span.start + span.length;
            if used.length == 0 || used_end <= span.start || used.start >= end {
                self.add(span)?;
                continue;
            }
            if used.start > span.start {
                let before = used.start & !(PAGE_BYTES - 1);
                self.add(Span::new(span.start, before.saturating_sub(span.start)))?;
            }
            if used_end < end {
                self.add(Span::new(used_end, end - used_end))?;
            }
        }
        Ok(())
    }
}

/// A device's registers: each access happens exactly once, in order, with its own width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    span: Span,
}

/// A width that device registers have.
pub(crate) trait Width: Copy {}
impl Width for u8 {}
impl Width for u16 {}
impl Width for u32 {}
impl Width for u64 {}

impl Registers {
    /// Reads one register, or `None` beyond the end.
    pub(crate) fn read<W: Width>(&self, offset: u64) -> Option<W> {
        let address = self.address::<W>(offset)?;
        // SAFETY: the address lies in this device's registers, mapped one to one, aligned; no Rust
        // object lives there (`Memory::registers` refuses memory).
        Some(unsafe { core::ptr::read_volatile(address as *const W) })
    }

    /// Writes one register; beyond the end nothing happens and the answer is `None`.
    pub(crate) fn write<W: Width>(&self, offset: u64, value: W) -> Option<()> {
        let address = self.address::<W>(offset)?;
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(address as *mut W, value) };
        Some(())
    }

    /// A part of these registers.
    pub(crate) fn part(&self, offset: u64, length: u64) -> Option<Self> {
        let part = Span::new(self.span.start.checked_add(offset)?, length);
        self.span.covers(&part).then_some(Self { span: part })
    }

    /// Where they are.
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    fn address<W: Width>(&self, offset: u64) -> Option<u64> {
        let bytes = size_of::<W>() as u64;
        let field = Span::new(self.span.start.checked_add(offset)?, bytes);
        (self.span.covers(&field) && field.start.is_multiple_of(bytes)).then_some(field.start)
    }
}
