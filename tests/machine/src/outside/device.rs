//! What the network card was told, in QEMU's own words, against what memory says.

use std::ops::Range;

use abi::ring::{self, Descriptor};

use super::{Finding, Memory, PAGE, Walk};
use crate::{Error, Machine};

/// Where a card's queue is, as QEMU remembers it. All addresses are physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its number.
    pub number: u64,
    /// How many descriptors.
    pub descriptors: u64,
    /// The descriptor table.
    pub table: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
}

/// The queues of the first virtio card, the control queue left out, or none without a card.
///
/// # Errors
///
/// [`Error`] if the monitor does not say what it should.
pub fn queues(machine: &Machine) -> Result<Vec<Queue>, Error> {
    let devices = machine.monitor("info virtio")?;
    let card = devices.lines().find_map(|line| line.strip_suffix(" [virtio-net]"));
    let Some(card) = card else { return Ok(Vec::new()) };
    (0..2)
        .map(|number| {
            queue(&machine.monitor(&format!("info virtio-queue-status {card} {number}"))?)
        })
        .collect()
}

fn queue(text: &str) -> Result<Queue, Error> {
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(':'));
        let (_, value) = lines.find(|(seen, _)| *seen == name)?;
        let digits = value.split_whitespace().next()?;
        match digits.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => digits.parse().ok(),
        }
    };
    let read = || {
        Some(Queue {
            number: field("queue_index")?,
            descriptors: field("num")?,
            table: field("desc")?,
            available: field("avail")?,
            used: field("used")?,
        })
    };
    read().ok_or_else(|| Error::Monitor(text.to_owned()))
}

/// Where on the bus the card's bells are, in the answer to `info mtree -f`.
pub fn bells(text: &str) -> Range<u64> {
    let line =
        text.lines().find(|line| line.trim_end().ends_with(": virtio-pci-notify-virtio-net"));
    let range = || {
        let (start, end) = line?.split_whitespace().next()?.split_once('-')?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        Some(number(start)?..number(end)? + 1)
    };
    range().unwrap_or(0..0)
}

/// Where in memory the registers of a card on no bus are, in the answer to `info qtree`; empty if
/// there is none, or the card is on PCI.
pub fn registers(text: &str) -> Range<u64> {
    let lines = || text.lines().map(str::trim).take_while(|line| !line.starts_with(CARD));
    let is_there = lines().count() < text.lines().count();
    // Its transport is the last device before it that has a place in memory.
    let place = lines().filter_map(|line| line.strip_prefix("mmio ")).last();
    let range = || {
        let (start, length) = place?.split_once('/')?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let (start, length) = (number(start)?, number(length)?);
        Some(start..start + length)
    };
    range().filter(|_| is_there).unwrap_or(0..0)
}

/// How a card is called that is on no bus but a transport's.
const CARD: &str = "dev: virtio-net-device,";

/// Everything about rings and descriptors that is not as promised.
pub(super) fn findings(memory: &Memory, walk: &Walk, queues: &[Queue]) -> Vec<Finding> {
    queues.iter().flat_map(|queue| of_queue(memory, walk, queue)).collect()
}

fn of_queue(memory: &Memory, walk: &Walk, queue: &Queue) -> Vec<Finding> {
    let geometry: fn(u16) -> Option<Descriptor> =
        if queue.number == 0 { ring::receive_descriptor } else { ring::transmit_descriptor };
    let descriptors = u16::try_from(queue.descriptors).unwrap_or(u16::MAX);
    let places = [
        (queue.table, ring::table_bytes(descriptors), "ring 3 r-- write-back"),
        (queue.available, ring::available_bytes(descriptors), "ring 3 rw- write-back"),
        (queue.used, ring::used_bytes(descriptors), "ring 3 r-- write-back"),
    ];
    let mut findings = Vec::new();
    for (start, bytes, rights) in places {
        if !is_mapped(walk, start, bytes, rights) {
            findings.push(Finding::Frame { phys: start, what: "a ring has another right" });
        }
    }
    findings.extend(of_descriptors(memory, walk, queue, descriptors, geometry));
    findings
}

/// Whether all of it is mapped with these rights, in pages that hold nothing else.
pub(super) fn is_mapped(walk: &Walk, start: u64, bytes: u64, rights: &str) -> bool {
    let end = (start + bytes).next_multiple_of(PAGE);
    let frames = (start..end).step_by(PAGE as usize);
    start.is_multiple_of(PAGE)
        && frames.into_iter().all(|frame| {
            let mut leaves = walk.mapping(frame, frame + PAGE);
            leaves.next().is_some_and(|leaf| leaf.rights() == rights) && leaves.next().is_none()
        })
}

/// Virtio 1.2 section 2.7.5: address, length, flags, next.
fn of_descriptors(
    memory: &Memory,
    walk: &Walk,
    queue: &Queue,
    descriptors: u16,
    geometry: fn(u16) -> Option<Descriptor>,
) -> Vec<Finding> {
    let table = if queue.number == 0 { "receive descriptor" } else { "transmit descriptor" };
    let buffers = memory.number::<8>(queue.table);
    let mut findings = Vec::new();
    for index in 0..descriptors {
        let place = queue.table + 16 * u64::from(index);
        let found = [
            memory.number::<8>(place),
            memory.number::<4>(place + 8),
            memory.number::<2>(place + 12),
            memory.number::<2>(place + 14),
        ];
        let promised = geometry(index).zip(buffers).map(|(descriptor, buffers)| {
            let Descriptor { offset, length, flags } = descriptor;
            [buffers + offset, length.into(), flags.into(), 0].map(Some)
        });
        if promised != Some(found) {
            let what = "it says something else";
            findings.push(Finding::Slot { table, index: index.into(), what });
        }
    }
    let bytes =
        if queue.number == 0 { ring::RECEIVE_BUFFER_BYTES } else { ring::TRANSMIT_BUFFER_BYTES };
    let is_apart =
        buffers.is_some_and(|start| is_mapped(walk, start, bytes, "ring 3 rw- write-back"));
    if !is_apart {
        findings.push(Finding::Missing("packet buffers that are only that"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_qemu_says() {
        let text = "/machine/peripheral-anon/device[0]/virtio-backend:\n\
            \x20 device_name:          virtio-net\n  queue_index:          1\n  inuse:                0\n\
            \x20 VRing:\n    num:          256\n    num_default:  256\n    align:        4096\n\
            \x20   desc:         0x00000000002a1000\n    avail:        0x00000000002a2000\n\
            \x20   used:         0x00000000002a3000\n";
        let (table, available, used) = (0x2a_1000, 0x2a_2000, 0x2a_3000);
        let expected = Queue { number: 1, descriptors: 256, table, available, used };
        assert_eq!(queue(text).unwrap(), expected);
        assert!(queue("there is no such device").is_err());
        let flat = "  00000000e0002000-00000000e0002fff (prio 0, i/o): virtio-pci-device-virtio-net\n\
            \x20 00000000e0003000-00000000e0003fff (prio 0, i/o): virtio-pci-notify-virtio-net\n";
        assert_eq!(bells(flat), 0xe000_3000..0xe000_4000);
        assert_eq!(bells("FlatView #0\n"), 0..0);
    }

    #[test]
    fn reads_where_a_card_on_no_bus_is() {
        let transport = |at: &str| format!("  dev: virtio-mmio, id \"\"\n    mmio {at}/00000200\n");
        let bus = "    bus: virtio-mmio-bus.1\n";
        let card = "      dev: virtio-net-device, id \"\"\n        mac = \"52:54:00:77:00:02\"\n";
        let (first, second) = (transport("feb00000"), transport("feb00200"));
        let third = transport("feb00400");
        let tree = format!("bus: main\n{first}{bus}{second}{bus}{card}{third}{bus}");
        assert_eq!(registers(&tree), 0xfeb0_0200..0xfeb0_0400);
        assert_eq!(registers(&format!("bus: main\n{first}{bus}")), 0..0);
        // On PCI the card's own part is called the same, but it sits in no such transport.
        assert_eq!(registers(&format!("bus: main\n{card}")), 0..0);
    }
}
