//! Seeds for the rings, in the language of their acts.

/// A seed: frames that arrive, with the device acting in between.
pub(crate) fn receiving() -> Vec<u8> {
    let mut bytes = vec![2, 0, 1];
    for count in 0..6 {
        // The device takes what there is, completes one, and a second one while the first is read.
        bytes.extend([0, 1, 0, 2, count, 60, 0]);
        bytes.extend([5, 0, 3, 0, 0xea, 5]);
        // That one is read, then the ring is emptied, flushed and put to sleep with a bell wished.
        bytes.extend([5, 0, 0, 5, 0, 0, 0, 4, 1, 0, 1, 0, 0, 3, 2, 0]);
    }
    bytes
}

/// A seed: frames that are sent and given back.
pub(crate) fn sending() -> Vec<u8> {
    let mut bytes = vec![3];
    for count in 0..6 {
        // A short frame and a long one with a sum, published, taken, given back: one meanwhile.
        bytes.extend([5, 0, 60, 0, count, 0, 0]);
        bytes.extend([5, 1, 34, 0, 16, 0, 0xea, 5, count, 0, 0]);
        bytes.extend([1, 1, 1, 0, 1, 0, 2, 1, 0, 0]);
        bytes.extend([3, 0, 2, 0, 0, 0]);
    }
    bytes
}

/// A seed: an element that is rewritten, and a length that is impossible.
pub(crate) fn lies() -> Vec<u8> {
    let mut bytes = vec![0, 0, 1];
    // One is completed, read while its buffer is scribbled on; then one with too many bytes.
    bytes.extend([0, 2, 0, 60, 0, 5, 3, 8, 0, 0xff]);
    bytes.extend([0, 7, 9, 0, 0xff, 0xff, 5, 0, 0, 5, 0, 0]);
    bytes
}

/// A seed: a descriptor that is given back although nobody offered it.
pub(crate) fn strangers() -> Vec<u8> {
    let mut bytes = vec![1, 5, 0, 60, 0, 7, 0, 0, 1, 0, 0];
    // No descriptor of the frame's, and enough frames that the driver looks.
    bytes.extend([0, 7, 200, 0, 0, 0]);
    for _ in 0..100 {
        bytes.extend([5, 0, 60, 0, 7, 0, 0]);
    }
    bytes.extend([1, 0, 0]);
    for _ in 0..140 {
        bytes.extend([5, 0, 0xea, 5, 7, 0, 0]);
    }
    bytes
}

/// A seed: an index that is moved beyond everything that was offered.
pub(crate) fn jump() -> Vec<u8> {
    vec![0, 5, 0, 5, 1, 0x80, 5, 0, 0]
}
