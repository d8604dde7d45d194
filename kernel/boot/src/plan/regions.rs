//! Where each region goes. All addresses of the service are relative to one random base.

use abi::image::SegmentAccess;
use abi::{PAGE_BYTES, Span, page_up};
use seal_core::{Draft, Kind, Layout, Region, TPM_REGISTERS};

use super::{Found, GateFrames};
use crate::arch::gate;
use crate::devices::virtio_net::Nic;
use crate::measure::Measured;
use crate::refusal::Refusal;

/// The lowest base: 16 TiB. Twenty-eight random bits of pages reach one TiB further.
const LOWEST_BASE: u64 = 16 << 40;

/// Where one queue's memory is in the service.
#[derive(Clone, Copy, Default)]
pub(super) struct QueueAddresses {
    pub(super) table: Span,
    pub(super) available: Span,
    pub(super) used: Span,
    pub(super) buffers: Span,
    /// The page of the doorbell.
    pub(super) doorbell: u64,
}

/// Where everything of the service is.
pub(super) struct Addresses {
    pub(super) base: u64,
    pub(super) bss: Option<Span>,
    pub(super) configuration: Span,
    pub(super) queues: [QueueAddresses; 2],
    pub(super) generation_id: Option<u64>,
    pub(super) record: Option<Span>,
    pub(super) stack: Span,
    pub(super) heap: Span,
}

/// Frames that only the service uses.
pub(super) struct ServiceFrames {
    pub(super) heap: Span,
    pub(super) bss: Option<Span>,
    pub(super) stack: Span,
}

/// Hands out addresses upwards, with an unmapped page between any two regions.
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, bytes: u64) -> Span {
        let length = page_up(bytes).unwrap_or(bytes);
        let span = Span::new(self.0, length);
        self.0 += length + PAGE_BYTES;
        span
    }
}

impl Addresses {
    /// Chooses every address.
    pub(super) fn choose(
        found: &Found<'_>,
        nic: Option<&Nic>,
        tpm: Option<&Measured>,
        placement: u32,
    ) -> Self {
        let image = found.image;
        let header = image.configuration();
        let base = LOWEST_BASE + u64::from(placement) * PAGE_BYTES;
        let mut end = 0;
        let mut bss = None;
        for segment in image.segments() {
            end = page_up(segment.address + segment.memory_bytes).unwrap_or(end);
            let zeroed = segment.zeroed_bytes();
            if zeroed > 0 {
                bss = Some(Span::new(base + end - zeroed, zeroed));
            }
        }
        let mut cursor = Cursor(base + end + PAGE_BYTES);
        let configuration = cursor.take(image.configuration_span().length);
        let mut queues = [QueueAddresses::default(); 2];
        for (place, queue) in queues.iter_mut().zip(nic.iter().flat_map(|nic| nic.queues())) {
            place.table = cursor.take(queue.table.span().length);
            place.available = cursor.take(queue.available.span().length);
            place.used = cursor.take(queue.used.span().length);
            place.buffers = cursor.take(queue.buffers.span().length);
            place.doorbell = cursor.take(PAGE_BYTES).start;
        }
        if let Some(nic) = nic
            && nic.receive.doorbell.map(page_of) == nic.transmit.doorbell.map(page_of)
        {
            // One page of doorbells is one region: a frame has one page.
            queues[1].doorbell = queues[0].doorbell;
        }
        let generation_id = found.firmware.acpi.generation_id;
        let generation_id = generation_id.map(|id| cursor.take(PAGE_BYTES).start + id % PAGE_BYTES);
        let record = tpm.map(|tpm| cursor.take(tpm.record().length));
        let stack = cursor.take(header.stack_bytes);
        let heap = cursor.take(header.heap_bytes);
        Self { base, bss, configuration, queues, generation_id, record, stack, heap }
    }

    /// From the service's first address to its last.
    pub(super) fn span(&self) -> Span {
        Span::new(self.base, self.heap.start + self.heap.length - self.base)
    }
}

/// The service's half of the layout.
pub(super) fn draft(
    found: &Found<'_>,
    addresses: &Addresses,
    frames: &ServiceFrames,
    nic: Option<&Nic>,
    tpm: Option<&Measured>,
) -> Result<Draft, Refusal> {
    let mut draft = Draft::new(found.cpu.physical_bits.into());
    let mut add = |kind, virt: u64, frames: Span| {
        draft.push(Region { kind, virt, phys: frames.start, length: frames.length })
    };
    for segment in found.image.segments() {
        let kind = match segment.access {
            SegmentAccess::Execute => Kind::ServiceText,
            SegmentAccess::Read => Kind::ServiceRodata,
            SegmentAccess::ReadWrite => Kind::ServiceData,
            SegmentAccess::ReadAfterRelocation => Kind::ServiceRelro,
        };
        let span = found.image.segment_span(segment);
        if span.length > 0 {
            add(kind, addresses.base + segment.address, span)?;
        }
    }
    if let (Some(virt), Some(frames)) = (addresses.bss, frames.bss) {
        add(Kind::ServiceBss, virt.start, frames)?;
    }
    add(Kind::Configuration, addresses.configuration.start, found.image.configuration_span())?;
    for (place, queue) in addresses.queues.iter().zip(nic.iter().flat_map(|nic| nic.queues())) {
        add(Kind::DescriptorTable, place.table.start, queue.table.span())?;
        add(Kind::AvailableRing, place.available.start, queue.available.span())?;
        add(Kind::UsedRing, place.used.start, queue.used.span())?;
        add(Kind::PacketBuffers, place.buffers.start, queue.buffers.span())?;
        let is_shared = queue.number > 0 && place.doorbell == addresses.queues[0].doorbell;
        if let Some(doorbell) = queue.doorbell.filter(|_| !is_shared) {
            add(Kind::Doorbell, place.doorbell, page_of(doorbell))?;
        }
    }
    if let (Some(virt), Some(id)) = (addresses.generation_id, found.firmware.acpi.generation_id) {
        add(Kind::GenerationId, virt & !(PAGE_BYTES - 1), page_of(id))?;
    }
    if let (Some(virt), Some(tpm)) = (addresses.record, tpm) {
        add(Kind::BootRecord, virt.start, tpm.record())?;
    }
    add(Kind::Stack, addresses.stack.start, frames.stack)?;
    add(Kind::Heap, addresses.heap.start, frames.heap)?;
    Ok(draft)
}

/// Adds ring 0's half and closes the layout. `registers` are the local APIC's, and the card's if the
/// gate rings its doorbell.
pub(super) fn add_gate(
    mut draft: Draft,
    frames: &GateFrames,
    registers: [Option<u64>; 2],
    tables: Span,
) -> Result<Layout, Refusal> {
    let stacks = gate::INTERRUPT_STACKS.into_iter().zip(&frames.interrupt_stacks);
    let regions = [
        (Kind::GateText, gate::TEXT, frames.text.span()),
        (Kind::GateData, gate::DATA, frames.data.span()),
        (Kind::Idt, gate::IDT, frames.idt.span()),
        (Kind::Gdt, gate::GDT, frames.gdt.span()),
        (Kind::Tss, gate::TSS, frames.tss.span()),
        (Kind::GateStack, gate::STACK, frames.stack.span()),
        (Kind::PageTables, gate::TABLES, tables),
    ]
    .into_iter()
    .chain(stacks.map(|(virt, frames)| (Kind::GateStack, virt, frames.span())));
    let places = [(Kind::LocalApic, gate::LOCAL_APIC), (Kind::DeviceRegisters, gate::DEVICE)];
    let registers = places.into_iter().zip(registers);
    let registers = registers.filter_map(|((kind, virt), at)| Some((kind, virt, page_of(at?))));
    // Only a machine with a TPM has a page for its answer.
    let tpm_registers = Span::new(TPM_REGISTERS, PAGE_BYTES);
    let tpm = frames.tpm_answer.iter().flat_map(|answer| {
        [
            (Kind::TpmRegisters, gate::TPM, tpm_registers),
            (Kind::TpmAnswer, gate::TPM_ANSWER, answer.span()),
        ]
    });
    for (kind, virt, span) in regions.chain(registers).chain(tpm) {
        draft.push(Region { kind, virt, phys: span.start, length: span.length })?;
    }
    Ok(draft.finish()?)
}

fn page_of(address: u64) -> Span {
    Span::new(address & !(PAGE_BYTES - 1), PAGE_BYTES)
}
