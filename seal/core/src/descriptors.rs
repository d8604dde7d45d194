//! The audit of a virtqueue's descriptors: all that a device may ever be pointed at.

use abi::Span;
use abi::ring::Descriptor;

use crate::bits::{field, u64_at};
use crate::violation::Violation;

/// Bytes of a descriptor (virtio 1.2, 2.7.5).
const DESCRIPTOR_BYTES: usize = 16;

/// The most descriptors a queue may have (virtio 1.2, 2.7).
const MAX_DESCRIPTORS: usize = 1 << 15;

/// Compares every descriptor of a queue with the geometry.
///
/// `buffers` are the physical addresses of the queue's buffers; `expected` says what a descriptor
/// is, relative to their start. Whatever of `table` the geometry does not know has to be zero.
///
/// # Errors
///
/// [`Violation`] with the first descriptor that differs.
pub fn audit_descriptors(
    table: &[u8],
    buffers: Span,
    expected: impl Fn(u16) -> Option<Descriptor>,
) -> Result<(), Violation> {
    let wrong_size = Violation::DescriptorTable { bytes: table.len() };
    let (descriptors, rest) = table.as_chunks::<DESCRIPTOR_BYTES>();
    let after = u16::try_from(descriptors.len()).map_err(|_| wrong_size)?;
    if !rest.is_empty() || descriptors.len() > MAX_DESCRIPTORS || expected(after).is_some() {
        return Err(wrong_size);
    }
    for (index, descriptor) in (0..after).zip(descriptors) {
        check_descriptor(index, descriptor, buffers, expected(index))?;
    }
    Ok(())
}

fn check_descriptor(
    index: u16,
    descriptor: &[u8; DESCRIPTOR_BYTES],
    buffers: Span,
    expected: Option<Descriptor>,
) -> Result<(), Violation> {
    let (address, rest) = (u64_at(descriptor, 0), u64_at(descriptor, 8));
    let (start, length, flags) = match expected {
        Some(Descriptor { offset, length, flags }) => {
            (buffers.start.wrapping_add(offset), length, flags)
        }
        None => (0, 0, 0),
    };
    let fields = [
        ("address", address, start),
        ("length", field(rest, 0, 32), u64::from(length)),
        ("flags", field(rest, 32, 16), u64::from(flags)),
        ("next", field(rest, 48, 16), 0),
    ];
    if let Some((field, found, promised)) = fields.into_iter().find(|(_, found, to)| found != to) {
        return Err(Violation::Descriptor { index, field, found, promised });
    }
    // Asked on its own: a geometry that points outside is as bad as a descriptor that does.
    if expected.is_some() && !buffers.covers(&Span::new(address, u64::from(length))) {
        return Err(Violation::DescriptorOutside { index, address, length });
    }
    Ok(())
}
