//! The geometry of the NIC's rings: which descriptor names which buffer.
//!
//! A descriptor fixes an address and a length, and boot writes each one once, before the tables
//! become read-only. The service only chooses *which* to offer, by its index. A transmit buffer is
//! named by several descriptors, one a length ("size class"), and a frame is padded with zeros up
//! to the class it is sent in; padding changes no checksum and receivers trim to the IP length.
//!
//! Virtio 1.2 sections 2.7.5 (descriptor table), 2.7.6 (available ring), 2.7.8 (used ring).

/// Descriptors in the receive queue, each with a buffer of its own.
pub const RECEIVE_DESCRIPTORS: u16 = 256;

/// Bytes from one receive buffer to the next.
pub const RECEIVE_STRIDE: u64 = 2048;

/// Descriptors in the transmit queue.
pub const TRANSMIT_DESCRIPTORS: u16 = 256;

/// The virtio-net header before each frame, with `num_buffers` (virtio 1.2 section 5.1.6).
pub const HEADER_BYTES: u32 = 12;

/// The largest Ethernet frame without its checksum.
pub const FRAME_BYTES: u32 = 1514;

/// Small transmit buffers: acknowledgements, SYNs, ARP.
pub const SMALL_BUFFERS: u16 = 64;

/// The one size class of a small buffer, in bytes, the virtio-net header included.
pub const SMALL_CLASS: u32 = 128;

/// Bytes from one small buffer to the next.
pub const SMALL_STRIDE: u64 = 128;

/// Full transmit buffers: anything up to a whole frame.
pub const FULL_BUFFERS: u16 = 32;

/// The size classes of a full buffer, in bytes, the virtio-net header included, ascending.
pub const FULL_CLASSES: [u32; 6] = [256, 512, 768, 1024, 1280, HEADER_BYTES + FRAME_BYTES];

/// Bytes from one full buffer to the next.
pub const FULL_STRIDE: u64 = 2048;

/// Bytes of the receive buffers.
pub const RECEIVE_BUFFER_BYTES: u64 = RECEIVE_DESCRIPTORS as u64 * RECEIVE_STRIDE;

/// Bytes of the transmit buffers, small ones first.
pub const TRANSMIT_BUFFER_BYTES: u64 =
    SMALL_BUFFERS as u64 * SMALL_STRIDE + FULL_BUFFERS as u64 * FULL_STRIDE;

/// The descriptor flag for a buffer that the device writes (`VIRTQ_DESC_F_WRITE`).
pub const DEVICE_WRITES: u16 = 2;

const _: () = assert!(
    SMALL_BUFFERS as usize + FULL_BUFFERS as usize * FULL_CLASSES.len()
        == TRANSMIT_DESCRIPTORS as usize
);

// The smallest class that fits is found by walking up, and the last one holds a whole frame.
const _: () = {
    let mut smaller = SMALL_CLASS;
    let mut class = 0;
    while class < FULL_CLASSES.len() {
        assert!(smaller < FULL_CLASSES[class]);
        smaller = FULL_CLASSES[class];
        class += 1;
    }
    assert!(smaller == HEADER_BYTES + FRAME_BYTES && smaller as u64 <= FULL_STRIDE);
    assert!(SMALL_CLASS as u64 <= SMALL_STRIDE && smaller as u64 <= RECEIVE_STRIDE);
};

/// What one descriptor says, relative to the start of its queue's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Where the buffer begins, in bytes from the start of the queue's buffers.
    pub offset: u64,
    /// How many bytes the device may touch.
    pub length: u32,
    /// [`DEVICE_WRITES`] or 0. Never NEXT, never INDIRECT.
    pub flags: u16,
}

/// What receive descriptor `index` says, or `None` if there is none.
pub const fn receive_descriptor(index: u16) -> Option<Descriptor> {
    if index >= RECEIVE_DESCRIPTORS {
        return None;
    }
    Some(Descriptor {
        offset: index as u64 * RECEIVE_STRIDE,
        length: HEADER_BYTES + FRAME_BYTES,
        flags: DEVICE_WRITES,
    })
}

/// What transmit descriptor `index` says, or `None` if there is none.
///
/// The small buffers come first, one descriptor each; then each full buffer's classes in a row.
pub const fn transmit_descriptor(index: u16) -> Option<Descriptor> {
    if index < SMALL_BUFFERS {
        return Some(Descriptor {
            offset: index as u64 * SMALL_STRIDE,
            length: SMALL_CLASS,
            flags: 0,
        });
    }
    if index >= TRANSMIT_DESCRIPTORS {
        return None;
    }
    let within = (index - SMALL_BUFFERS) as usize;
    let buffer = within / FULL_CLASSES.len();
    Some(Descriptor {
        offset: SMALL_BUFFERS as u64 * SMALL_STRIDE + buffer as u64 * FULL_STRIDE,
        length: FULL_CLASSES[within % FULL_CLASSES.len()],
        flags: 0,
    })
}

/// Bytes of a descriptor table.
pub const fn table_bytes(descriptors: u16) -> u64 {
    16 * descriptors as u64
}

/// Bytes of an available ring with its `used_event` field.
pub const fn available_bytes(descriptors: u16) -> u64 {
    6 + 2 * descriptors as u64
}

/// Bytes of a used ring with its `avail_event` field.
pub const fn used_bytes(descriptors: u16) -> u64 {
    6 + 8 * descriptors as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_stays_inside_its_buffer() {
        for index in 0..RECEIVE_DESCRIPTORS {
            let descriptor = receive_descriptor(index).unwrap();
            assert!(u64::from(descriptor.length) <= RECEIVE_STRIDE);
            assert!(descriptor.offset + RECEIVE_STRIDE <= RECEIVE_BUFFER_BYTES);
        }
        for index in 0..TRANSMIT_DESCRIPTORS {
            let descriptor = transmit_descriptor(index).unwrap();
            let end = descriptor.offset + u64::from(descriptor.length);
            assert!(end <= TRANSMIT_BUFFER_BYTES);
            let small = u64::from(SMALL_BUFFERS) * SMALL_STRIDE;
            if descriptor.offset < small {
                assert!(descriptor.length as u64 <= SMALL_STRIDE && end <= small);
            } else {
                assert!((descriptor.offset - small).is_multiple_of(FULL_STRIDE));
                assert!(u64::from(descriptor.length) <= FULL_STRIDE);
            }
        }
        assert_eq!(receive_descriptor(RECEIVE_DESCRIPTORS), None);
        assert_eq!(transmit_descriptor(TRANSMIT_DESCRIPTORS), None);
    }
}
