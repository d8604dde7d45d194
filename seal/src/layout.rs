//! The address space that boot will build from this image, worked out on our own.
//!
//! Boot chooses the service's base at random and everything else relative to it, so all but the
//! base and the frames can be told from the file: [`predict`] tells it, from the manifest and the
//! configuration's header alone. [`digest`] makes one number of it.

use abi::configuration::Header;
use abi::image::{Manifest, SegmentAccess};
use abi::memory::{large_page_tables, small_page_tables};
use abi::{PAGE_BYTES, Span, page_up, record, ring};
use seal_core::{Draft, Kind, Layout, Region, Rights, TPM_REGISTERS, Violation, write_canonical};
use sha2::{Digest, Sha256};

pub use seal_core::{Place, Row};

/// The lowest base that boot may choose: 16 TiB.
const LOWEST_BASE: u64 = 16 << 40;

/// How many bases there are, a page apart: 28 bits.
const BASES: u64 = 1 << 28;

/// Where ring 0 lies, at addresses that gate.s has in its instructions.
const GATE_REGION: u64 = 0xffff_ffff_ffc0_0000;

/// The gate's constants.
pub(crate) const GATE_DATA: Span = Span::new(GATE_REGION + 0x4000, PAGE_BYTES);

/// The stack of the gate's calls.
pub(crate) const GATE_STACK: Span = Span::new(GATE_REGION + 0x8000, PAGE_BYTES);

/// The local APIC's registers.
pub(crate) const LOCAL_APIC: u64 = GATE_REGION + 0x1_0000;

/// The TPM's registers, where there is one, and where its answer is kept.
pub(crate) const TPM: Span = Span::new(GATE_REGION + 0x1_1000, PAGE_BYTES);
pub(crate) const TPM_ANSWER: Span = Span::new(GATE_REGION + 0x1_2000, PAGE_BYTES);

/// The registers of a card whose doorbell the gate rings.
pub(crate) const DEVICE: Span = Span::new(GATE_REGION + 0x1_3000, PAGE_BYTES);

/// The gate's text.
pub(crate) const GATE_TEXT: u64 = GATE_REGION + 0x2000;

/// The regions of ring 0 of one page each.
const GATE_PAGES: [(Kind, u64); 10] = [
    (Kind::GateText, GATE_TEXT),
    (Kind::Tss, GATE_REGION + 0x3000),
    (Kind::GateData, GATE_DATA.start),
    (Kind::Idt, GATE_REGION + 0x5000),
    (Kind::Gdt, GATE_REGION + 0x6000),
    (Kind::GateStack, GATE_STACK.start),
    // The stacks of NMI, double fault and machine check.
    (Kind::GateStack, GATE_REGION + 0xa000),
    (Kind::GateStack, GATE_REGION + 0xc000),
    (Kind::GateStack, GATE_REGION + 0xe000),
    (Kind::LocalApic, LOCAL_APIC),
];

/// The regions of ring 0 that only a machine with a TPM has, of one page each.
const TPM_PAGES: [(Kind, u64); 2] =
    [(Kind::TpmRegisters, TPM.start), (Kind::TpmAnswer, TPM_ANSWER.start)];

/// The region of ring 0 that only a machine has whose card is on no bus.
const DEVICE_PAGE: (Kind, u64) = (Kind::DeviceRegisters, DEVICE.start);

/// Where the page tables are mapped, for ring 0 to read.
const PAGE_TABLES: u64 = GATE_REGION + 0x2_0000;

/// Physical addresses for a draft: any that do not overlap will do.
const PLACEHOLDER_FRAMES: u64 = 1 << 20;

/// What the file does not say about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether there is a NIC.
    pub has_nic: bool,
    /// Whether there is a TPM.
    pub has_tpm: bool,
    /// Whether the platform has a VM generation id.
    pub has_generation_id: bool,
    /// Where the NIC's doorbells are.
    pub doorbell: Doorbell,
    /// Whether there is memory enough to line the heap up with 2 MiB pages.
    pub has_large_pages: bool,
}

/// Where the doorbells of a NIC's two queues are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// On one page of the service's, as they are unless a device is told to give each queue a page.
    Shared,
    /// On a page for each queue.
    Apart,
    /// On a page of ring 0's, because the NIC is on no bus (virtio-mmio): the gate rings them.
    ByGate,
}

impl Machine {
    /// The machine that an image is made for: a NIC if it needs one, no TPM and nothing unusual.
    pub const fn usual(header: &Header) -> Self {
        Self {
            has_nic: header.needs_nic,
            has_tpm: false,
            has_generation_id: false,
            doorbell: Doorbell::Shared,
            has_large_pages: true,
        }
    }

    /// The usual machine, then one for each thing that may be different, with its name; then all
    /// of them again with a TPM.
    pub fn variants(header: &Header) -> Vec<(&'static str, Self)> {
        let without = [
            "usual",
            "with a VM generation id",
            "heap in 4 KiB pages",
            "a doorbell page for each queue",
            "a NIC on no bus",
        ];
        let with = [
            "with a TPM",
            "with a TPM and a generation id",
            "with a TPM, 4 KiB pages",
            "with a TPM, doorbell pages",
            "with a TPM, a NIC on no bus",
        ];
        let machines = |has_tpm| {
            let usual = Self { has_tpm, ..Self::usual(header) };
            [
                usual,
                Self { has_generation_id: true, ..usual },
                Self { has_large_pages: false, ..usual },
                Self { doorbell: Doorbell::Apart, ..usual },
                Self { doorbell: Doorbell::ByGate, ..usual },
            ]
        };
        let without = without.into_iter().zip(machines(false));
        let named = without.chain(with.into_iter().zip(machines(true)));
        // Without a NIC there are no doorbells.
        let is_usual = |machine: &Self| machine.doorbell == Doorbell::Shared;
        named.filter(|(_, machine)| machine.has_nic || is_usual(machine)).collect()
    }
}

/// The regions, ascending by address; nothing if the numbers are beyond any address.
pub fn predict(manifest: &Manifest, header: &Header, machine: &Machine) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    let mut end: u64 = 0;
    for segment in manifest.segments.iter().flatten() {
        let kind = match segment.access {
            SegmentAccess::Execute => Kind::ServiceText,
            SegmentAccess::Read => Kind::ServiceRodata,
            SegmentAccess::ReadAfterRelocation => Kind::ServiceRelro,
            SegmentAccess::ReadWrite => Kind::ServiceData,
        };
        let in_file = page_up(segment.file_bytes)?;
        let zeroed = segment.zeroed_bytes();
        let middle = segment.address.checked_add(in_file)?;
        let parts = [(kind, segment.address, in_file), (Kind::ServiceBss, middle, zeroed)];
        for (kind, offset, length) in parts.into_iter().filter(|(_, _, length)| *length > 0) {
            rows.push(Row { kind, place: Place::Service(offset), length });
        }
        end = middle.checked_add(zeroed)?;
    }
    // Then everything else, upwards, with an unmapped page before each.
    for (kind, bytes) in behind_the_service(manifest, header, machine) {
        let start = end.checked_add(PAGE_BYTES)?;
        let length = page_up(bytes)?;
        end = start.checked_add(length)?;
        if let Some(kind) = kind {
            rows.push(Row { kind, place: Place::Service(start), length });
        }
    }
    let tpm = TPM_PAGES.into_iter().filter(|_| machine.has_tpm);
    let is_by_gate = machine.has_nic && machine.doorbell == Doorbell::ByGate;
    let device = is_by_gate.then_some(DEVICE_PAGE);
    let gate = GATE_PAGES.into_iter().chain(tpm).chain(device);
    let gate = gate.map(|(kind, address)| (kind, address, PAGE_BYTES));
    let tables = if machine.has_large_pages { large_page_tables } else { small_page_tables };
    let table_bytes = tables(header.heap_bytes).checked_mul(PAGE_BYTES)?;
    for (kind, address, length) in gate.chain([(Kind::PageTables, PAGE_TABLES, table_bytes)]) {
        rows.push(Row { kind, place: Place::Gate(address), length });
    }
    Some(rows)
}

/// What lies behind the service's own segments, in order. Addresses without a kind are passed over.
fn behind_the_service(
    manifest: &Manifest,
    header: &Header,
    machine: &Machine,
) -> Vec<(Option<Kind>, u64)> {
    let mut parts = vec![(Some(Kind::Configuration), manifest.configuration.length)];
    if machine.has_nic {
        let queue = |descriptors, buffers, doorbell| {
            [
                (Some(Kind::DescriptorTable), ring::table_bytes(descriptors)),
                (Some(Kind::AvailableRing), ring::available_bytes(descriptors)),
                (Some(Kind::UsedRing), ring::used_bytes(descriptors)),
                (Some(Kind::PacketBuffers), buffers),
                (doorbell, PAGE_BYTES),
            ]
        };
        let second = (machine.doorbell == Doorbell::Apart).then_some(Kind::Doorbell);
        let receive = (machine.doorbell != Doorbell::ByGate).then_some(Kind::Doorbell);
        parts.extend(queue(ring::RECEIVE_DESCRIPTORS, ring::RECEIVE_BUFFER_BYTES, receive));
        parts.extend(queue(ring::TRANSMIT_DESCRIPTORS, ring::TRANSMIT_BUFFER_BYTES, second));
    }
    if machine.has_generation_id {
        parts.push((Some(Kind::GenerationId), PAGE_BYTES));
    }
    if machine.has_tpm {
        parts.push((Some(Kind::BootRecord), record::BYTES));
    }
    parts.push((Some(Kind::Stack), header.stack_bytes));
    parts.push((Some(Kind::Heap), header.heap_bytes));
    parts
}

/// Checks the regions by the rules of seal-core, at the lowest and at the highest base: rights by
/// kind, guards, halves of the address space, no address twice.
///
/// # Errors
///
/// [`Violation`] with the first rule that is broken.
pub fn check(rows: &[Row]) -> Result<Layout, Violation> {
    let highest = BASES.saturating_sub(1).saturating_mul(PAGE_BYTES).saturating_add(LOWEST_BASE);
    at_base(rows, highest)?;
    at_base(rows, LOWEST_BASE)
}

fn at_base(rows: &[Row], base: u64) -> Result<Layout, Violation> {
    let mut draft = Draft::new(52);
    let mut free = PLACEHOLDER_FRAMES;
    for row in rows {
        // Only the TPM is where it is on every machine.
        let phys = if row.kind == Kind::TpmRegisters { TPM_REGISTERS } else { free };
        let virt = match row.place {
            Place::Service(offset) => base.saturating_add(offset),
            Place::Gate(address) => address,
        };
        draft.push(Region { kind: row.kind, virt, phys, length: row.length })?;
        free = free.saturating_add(row.length);
    }
    draft.finish()
}

/// The regions as text, one a line: [`seal_core::write_canonical`].
pub fn canonical(rows: &[Row]) -> String {
    let mut text = String::new();
    // A string takes whatever is written.
    let _done = write_canonical(rows.iter().copied(), &mut text);
    text
}

/// The ring, the access and the caching of a kind of region.
pub fn rights(kind: Kind) -> String {
    Rights(kind).to_string()
}

/// The SHA-256 of the [`canonical`] text.
pub fn digest(rows: &[Row]) -> [u8; 32] {
    Sha256::digest(canonical(rows)).into()
}
