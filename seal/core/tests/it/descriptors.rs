//! Virtqueue descriptors: every bit.

use abi::Span;
use abi::ring::{
    Descriptor, RECEIVE_BUFFER_BYTES, RECEIVE_DESCRIPTORS, TRANSMIT_BUFFER_BYTES,
    receive_descriptor, transmit_descriptor,
};
use seal_core::{Violation, audit_descriptors};

const START: u64 = 0x123_4000;
const RECEIVE: Span = Span::new(START, RECEIVE_BUFFER_BYTES);
const TRANSMIT: Span = Span::new(START, TRANSMIT_BUFFER_BYTES);

type Geometry = fn(u16) -> Option<Descriptor>;

fn write(geometry: Geometry) -> Vec<u8> {
    let mut table = Vec::new();
    for Descriptor { offset, length, flags } in (0..).map_while(geometry) {
        table.extend((START + offset).to_le_bytes());
        table.extend(length.to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend([0, 0]);
    }
    table
}

#[test]
fn accepts_the_geometry_of_both_queues() {
    for (geometry, buffers) in
        [(receive_descriptor as Geometry, RECEIVE), (transmit_descriptor, TRANSMIT)]
    {
        let mut table = write(geometry);
        assert_eq!(audit_descriptors(&table, buffers, geometry), Ok(()));
        // A queue shorter than its page: the rest is zero, and stays so.
        table.extend([0; 64]);
        assert_eq!(audit_descriptors(&table, buffers, geometry), Ok(()));
        *table.last_mut().unwrap() = 1;
        let seen = audit_descriptors(&table, buffers, geometry);
        assert!(matches!(seen, Err(Violation::Descriptor { index: 259, field: "next", .. })));
    }
}

#[test]
fn finds_every_bit_that_is_flipped() {
    for (geometry, buffers) in
        [(receive_descriptor as Geometry, RECEIVE), (transmit_descriptor, TRANSMIT)]
    {
        let mut table = write(geometry);
        for byte in 0..table.len() {
            for bit in 0..8 {
                table[byte] ^= 1 << bit;
                match audit_descriptors(&table, buffers, geometry) {
                    Err(Violation::Descriptor { index, .. }) => {
                        assert_eq!(usize::from(index), byte / 16);
                    }
                    other => panic!("bit {bit} of byte {byte}: {other:?}"),
                }
                table[byte] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn refuses_a_table_of_another_size() {
    let table = write(receive_descriptor);
    for bytes in [0, 16, table.len() - 16, table.len() - 1] {
        let seen = audit_descriptors(&table[..bytes], RECEIVE, receive_descriptor);
        assert_eq!(seen, Err(Violation::DescriptorTable { bytes }));
    }
    let longer = [table.as_slice(), &[0]].concat();
    let expected = Violation::DescriptorTable { bytes: longer.len() };
    assert_eq!(audit_descriptors(&longer, RECEIVE, receive_descriptor), Err(expected));
    let huge = vec![0; 16 << 15];
    let none = |_| None;
    assert_eq!(audit_descriptors(&huge, RECEIVE, none), Ok(()));
    for bytes in [huge.len() + 16, 16 << 16, 32 << 16] {
        let seen = audit_descriptors(&vec![0; bytes], RECEIVE, none);
        assert_eq!(seen, Err(Violation::DescriptorTable { bytes }));
    }
}

#[test]
fn refuses_a_geometry_that_points_outside_the_buffers() {
    let table = write(receive_descriptor);
    let last = receive_descriptor(RECEIVE_DESCRIPTORS - 1).unwrap();
    let (index, address) = (RECEIVE_DESCRIPTORS - 1, START + last.offset);
    let expected = Violation::DescriptorOutside { index, address, length: last.length };
    let short = Span::new(START, last.offset + u64::from(last.length) - 1);
    assert_eq!(audit_descriptors(&table, short, receive_descriptor), Err(expected));

    let wraps = |index| {
        (index == 0).then_some(Descriptor { offset: 0u64.wrapping_sub(START), length: 9, flags: 0 })
    };
    let table = [[0; 8], [9, 0, 0, 0, 0, 0, 0, 0]].concat();
    let expected = Violation::DescriptorOutside { index: 0, address: 0, length: 9 };
    assert_eq!(audit_descriptors(&table, RECEIVE, wraps), Err(expected));
}

#[test]
fn says_which_descriptor_is_wrong() {
    let mut table = write(receive_descriptor);
    table[16 * 7 + 12] |= 1;
    let violation = audit_descriptors(&table, RECEIVE, receive_descriptor).unwrap_err();
    assert_eq!(violation.to_string(), "descriptor 7 has flags 0x3, promised 0x2");
}
