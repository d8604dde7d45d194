//! Our own image in memory: where it is, and the few words of it that boot changes.

use abi::{Span, image};

use super::REACH;

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    static image_manifest: [u8; image::BYTES];
    static gate_blob_start: u8;
    static gate_start: u8;
    static gate_blob_end: u8;
}

/// The empty manifest; `xtask image` fills it in.
// SAFETY: the section holds only this, and boot.ld places it where `image_manifest` points.
#[unsafe(link_section = ".manifest")]
#[used]
static MANIFEST: [u8; image::BYTES] = [0; image::BYTES];

/// Boot's own image and what the composer put behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnImage {
    boot: Span,
}

/// Finds our own image.
pub(crate) fn own_image() -> OwnImage {
    let start = &raw const image_start as u64;
    let end = &raw const image_end as u64;
    OwnImage { boot: Span::new(start, end.saturating_sub(start)) }
}

impl OwnImage {
    /// Boot's text, data, stack and first tables.
    pub(crate) fn boot(&self) -> Span {
        self.boot
    }

    /// The manifest's bytes.
    pub(crate) fn manifest(&self) -> &'static [u8; image::BYTES] {
        // SAFETY: boot.ld puts the section at this symbol. The composer changed it in the file,
        // which is why it is read through a volatile copy of its address, not as a constant.
        unsafe { &*core::hint::black_box(&raw const image_manifest) }
    }

    /// Bytes of the image at an offset from boot's first byte.
    pub(crate) fn bytes(&self, part: Span) -> Option<&'static [u8]> {
        let start = self.boot.start.checked_add(part.start)?;
        let span = Span::new(start, part.length);
        if !REACH.covers(&span) || span.overlaps(&self.boot) {
            return None;
        }
        // SAFETY: the composer's parts lie behind boot, in memory that `Memory` never hands out
        // (`Image::span` covers them), mapped one to one. The parts that are read this way
        // (relocations, configuration) are not written by anyone.
        Some(unsafe { core::slice::from_raw_parts(start as *const u8, part.length as usize) })
    }

    /// Shows bytes of the image to somebody who only looks at them now: the service's segments, which
    /// are relocated later, among them.
    pub(crate) fn show<R>(&self, part: Span, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let start = self.boot.start.checked_add(part.start)?;
        let span = Span::new(start, part.length);
        if !REACH.covers(&span) || span.overlaps(&self.boot) {
            return None;
        }
        // SAFETY: as for `bytes`, but for the segments' sake the view ends with this call, during
        // which nobody relocates anything: boot is one thread, and `look` has only the view.
        let bytes =
            unsafe { core::slice::from_raw_parts(start as *const u8, part.length as usize) };
        Some(look(bytes))
    }

    /// Adds `base` to the word at an offset from boot's first byte.
    pub(crate) fn relocate(&self, offset: u64, base: u64) -> Option<()> {
        let address = self.boot.start.checked_add(offset)?;
        let span = Span::new(address, 8);
        if !REACH.covers(&span) || span.overlaps(&self.boot) || address % 8 != 0 {
            return None;
        }
        let word = address as *mut u64;
        // SAFETY: the word lies in a writable segment of the service (the caller checked that), in
        // the image, which is mapped writable and which nobody holds a view of.
        let value = unsafe { word.read() };
        // SAFETY: as above.
        unsafe { word.write(value.wrapping_add(base)) };
        Some(())
    }
}

/// The tail's and the gate's bytes, in one piece, and where in it the gate begins.
pub(crate) fn gate_blob() -> (&'static [u8], usize) {
    let start = &raw const gate_blob_start as usize;
    let gate = &raw const gate_start as usize;
    let end = &raw const gate_blob_end as usize;
    // SAFETY: boot.ld puts the three symbols in this order into one read-only section.
    let blob =
        unsafe { core::slice::from_raw_parts(start as *const u8, end.saturating_sub(start)) };
    (blob, gate.saturating_sub(start))
}
