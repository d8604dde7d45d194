//! The address space the service will live in: decided here, written here, then only read.

mod regions;

use abi::handoff::{self, Handoff};
use abi::image::Segment;
use abi::memory::{large_page_tables, small_page_tables};
use abi::{PAGE_BYTES, Span};
use seal_core::{
    Audited, Controls, Kind, Layout, Promised, Row, SealRecord, Violation, write_canonical,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::arch::clock::Clock;
use crate::arch::cpu::Cpu;
use crate::arch::entropy::Entropy;
use crate::arch::gate::{self, GateData};
use crate::arch::{console, controls};
use crate::describe::Firmware;
use crate::devices::virtio_net::{Nic, Queue};
use crate::image::Image;
use crate::measure::Measured;
use crate::memory::{Arena, Frames, LARGE_BYTES, Memory, ReadBack, gate_blob};
use crate::quiet::Machine;
use crate::refusal::Refusal;
use regions::Addresses;

/// Frames for boot's bridge: they lie at the start of the heap, and the service clears them.
const BRIDGE_PAGES: u64 = 16;

/// Ring 0's part of the sealed machine.
struct GateFrames {
    tail: Frames,
    text: Frames,
    data: Frames,
    idt: Frames,
    gdt: Frames,
    tss: Frames,
    stack: Frames,
    interrupt_stacks: [Frames; 3],
    /// Where the TPM's answers are kept, if there is a TPM.
    tpm_answer: Option<Frames>,
}

/// The layout and the frames behind it.
pub(crate) struct Plan {
    layout: Layout,
    addresses: Addresses,
    gate: GateFrames,
    stack: Frames,
    bridge: Option<Frames>,
    nic: Option<Nic>,
    tpm: Option<Measured>,
    apic: u64,
}

/// What the audit found, as proof that it ran.
pub(crate) struct Seal {
    /// What the walk of the tables counted.
    pub(crate) tables: Audited,
    /// The CPU's registers.
    pub(crate) controls: Controls,
    /// How many vectors have a gate.
    pub(crate) vectors: u16,
    /// How many of them ring 3 may call.
    pub(crate) calls: u16,
    /// How many descriptors point into packet buffers, and nowhere else.
    pub(crate) descriptors: usize,
    /// How many bytes of ring 0 code stay.
    pub(crate) gate_bytes: usize,
    /// How many devices were asked whether they may master the bus.
    pub(crate) devices: usize,
    /// How many of them said yes.
    pub(crate) masters: usize,
    /// How many interrupt lines reach us.
    pub(crate) lines: usize,
    /// Whether the machine has no port that would end it.
    pub(crate) is_reduced: bool,
}

/// What boot found out before it could plan.
pub(crate) struct Found<'a> {
    /// The CPU.
    pub(crate) cpu: &'a Cpu,
    /// The firmware's word.
    pub(crate) firmware: &'a Firmware,
    /// Our image.
    pub(crate) image: &'a Image,
    /// The quiet machine.
    pub(crate) machine: &'a Machine,
    /// The clocks.
    pub(crate) clock: &'a Clock,
}

/// How much memory an image needs in all, in bytes. A TPM needs 100 KiB more.
pub(crate) fn needed_bytes(image: &Image) -> u64 {
    let header = image.configuration();
    let zeroed: u64 = image.segments().map(Segment::zeroed_bytes).sum();
    let loaded = image.span().length + zeroed;
    abi::memory::Memory::of(loaded, header.heap_bytes, header.stack_bytes).total()
}

impl Plan {
    /// Takes all frames, decides where everything goes, and writes the page tables for it.
    pub(crate) fn new(
        found: &Found<'_>,
        nic: Option<Nic>,
        tpm: Option<Measured>,
        placement: u32,
        memory: &mut Memory,
    ) -> Result<(Self, Arena), Refusal> {
        let header = found.image.configuration();
        let addresses = Addresses::choose(found, nic.as_ref(), tpm.as_ref(), placement);
        // The heap first: it is the largest, and the rest fits around it. Where lining it up with
        // 2 MiB pages would waste more than the machine has, small pages do.
        let like = addresses.heap.start;
        let lined_up = memory.take_aligned("the heap", header.heap_bytes, like, LARGE_BYTES);
        let (heap, table_pages) = match lined_up {
            Ok(heap) => (heap, large_page_tables(header.heap_bytes)),
            Err(_) => {
                (memory.take("the heap", header.heap_bytes)?, small_page_tables(header.heap_bytes))
            }
        };
        let heap_span = heap.span();
        let gate = take_gate(memory, tpm.is_some())?;
        let bss = match addresses.bss {
            Some(bss) => Some(memory.take("the service's data", bss.length)?.span()),
            None => None,
        };
        let stack = memory.take("the service's stack", header.stack_bytes)?;
        let mut tables = Arena::new(memory.take("page tables", table_pages * PAGE_BYTES)?);
        let bridge = heap.front(BRIDGE_PAGES * PAGE_BYTES).ok_or(Refusal::Configuration(
            abi::configuration::Malformed::Field { name: "heap_bytes", value: header.heap_bytes },
        ))?;
        let frames = regions::ServiceFrames { heap: heap_span, bss, stack: stack.span() };
        let apic = found.machine.apic.address();
        let draft = regions::draft(found, &addresses, &frames, nic.as_ref(), tpm.as_ref())?;
        let device = nic.as_ref().and_then(Nic::mmio).map(|mmio| mmio.start());
        let layout = regions::add_gate(draft, &gate, [Some(apic), device], tables.span())?;
        for region in layout.regions() {
            let frames = Span::new(region.phys, region.length);
            tables.map(region.virt, frames, region.kind.promise())?;
        }
        Ok((Self { layout, addresses, gate, stack, bridge: Some(bridge), nic, tpm, apic }, tables))
    }

    /// The service's first address.
    pub(crate) fn base(&self) -> u64 {
        self.addresses.base
    }

    /// Everything the sealed machine maps.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes all that stays of ring 0: text, constants, descriptor tables, the drop's frame.
    pub(crate) fn write_gate(&mut self, found: &Found<'_>) -> Result<(), Refusal> {
        let (blob, gate_at) = gate_blob();
        let (tail, text) = blob.split_at_checked(gate_at).unwrap_or((&[], blob));
        if text.len() > gate::MAX_TEXT_BYTES || tail.len() > PAGE_BYTES as usize / 2 {
            return Err(Refusal::Bound { what: "bytes of gate", limit: gate::MAX_TEXT_BYTES });
        }
        let page = self.gate.tail.bytes_mut();
        let tail_at = page.len() - tail.len();
        page[tail_at..].copy_from_slice(tail);
        self.gate.text.bytes_mut()[..text.len()].copy_from_slice(text);
        // Boot itself, the relocation table and what was taken from the firmware: the tail's list,
        // which ends with a zero count.
        let wipe = [found.image.boot(), found.image.relocations_span(), found.firmware.taken];
        let wipe = wipe.into_iter().filter(|span| span.length > 0);
        for (slot, span) in self.gate.tail.words_mut().as_chunks_mut::<2>().0.iter_mut().zip(wipe) {
            *slot = [span.start, span.length / 8];
        }
        let acpi = &found.firmware.acpi;
        let data = GateData {
            console: console::PORT,
            power_off: acpi.power_off,
            // Where ACPI names no reset register, every PC chipset has this one.
            reset: acpi.reset.map_or((0xcf9, 0x06), |reset| (reset.port, reset.value)),
            on_stop: found.image.configuration().on_stop,
            service: self.addresses.span(),
            timer_rate: found.clock.timer_rate,
            device: self.nic.as_ref().and_then(Nic::mmio).map(|mmio| mmio.start()),
            quote: self.tpm.as_ref().map(Measured::quote),
        };
        data.write(self.gate.data.words_mut());
        gate::write_idt(self.gate.idt.words_mut());
        gate::write_gdt(self.gate.gdt.words_mut());
        gate::write_tss(self.gate.tss.bytes_mut());
        let entry = self.addresses.base + found.image.entry();
        let stack = self.handoff_address();
        gate::write_drop_frame(self.gate.stack.words_mut(), entry, stack);
        Ok(())
    }

    /// Writes what the service learns about its machine, at the top of its stack.
    pub(crate) fn write_handoff(&mut self, found: &Found<'_>, entropy: &Entropy) {
        let nic = self.nic.as_ref().map_or_else(handoff::Nic::default, |nic| handoff::Nic {
            present: 1,
            mac: nic.mac,
            features: nic.features,
            receive: self.addresses.queue(&nic.receive),
            transmit: self.addresses.queue(&nic.transmit),
        });
        let secret = self.tpm.as_ref().and_then(Measured::secret);
        let mut handoff = Handoff {
            magic: handoff::MAGIC,
            bytes: size_of::<Handoff>() as u64,
            heap: self.addresses.heap,
            unclean: BRIDGE_PAGES * PAGE_BYTES,
            configuration: self.addresses.configuration,
            stack: self.addresses.stack,
            seed: *entropy.seed,
            tsc_hz: found.clock.tsc_hz,
            wall_tsc: found.clock.wall_tsc,
            wall_unix_s: found.clock.wall_unix_s,
            wall_source: found.clock.wall_source as u64,
            generation_id: self.addresses.generation_id.unwrap_or(0),
            record: self.addresses.record.unwrap_or_default(),
            sealed_secret: secret.as_ref().map_or([0; 4], |secret| **secret),
            has_sealed_secret: u64::from(secret.is_some()),
            nic,
        };
        let offset = self.handoff_address() - self.addresses.stack.start;
        self.stack.put(offset, handoff);
        handoff.seed.zeroize();
        handoff.sealed_secret.zeroize();
    }

    /// Crosses to tables of our own through which nobody can write the sealed ones, and puts the
    /// final descriptor tables in force.
    pub(crate) fn cross_bridge(&mut self, tables: Arena) -> Result<ReadBack, Refusal> {
        gate::load_tables(self.gate.gdt.start());
        let mut bridge =
            Arena::new(self.bridge.take().ok_or(Refusal::Bound { what: "crossings", limit: 1 })?);
        bridge.map_for_boot(tables.span())?;
        for region in self.layout.regions().iter().filter(|region| region.virt >> 63 == 1) {
            let frames = Span::new(region.phys, region.length);
            bridge.map(region.virt, frames, region.kind.promise())?;
        }
        bridge.map(gate::TAIL, self.gate.tail.span(), Kind::GateText.promise())?;
        bridge.enter();
        gate::name_tables();
        Ok(tables.read_back())
    }

    /// Reads everything back and compares it with what was decided.
    pub(crate) fn audit(&self, tables: &ReadBack, found: &Found<'_>) -> Result<Seal, Refusal> {
        let Found { cpu, machine, image, .. } = *found;
        let text = Span::new(gate::TEXT, gate_text_bytes() as u64);
        let audited = seal_core::audit(tables, tables.root(), &self.layout)?;
        let promised = Promised {
            root: tables.root(),
            gdt: gate::GDT,
            idt: gate::IDT,
            apic: self.apic,
            has_umip: cpu.has_umip,
            has_avx: cpu.has_avx,
        };
        let controls = controls::read(tables.root());
        seal_core::audit_controls(&controls, &promised)?;
        let gates = self.gate.idt.array().ok_or(Violation::MissingGate { vector: 0 })?;
        let vectors = seal_core::audit_idt(gates, text, gate::handler)?;
        let bytes = self.gate.gdt.bytes();
        let gdt = bytes.get(..seal_core::GDT_BYTES).unwrap_or(bytes);
        seal_core::audit_gdt(gdt, gate::TSS)?;
        let state = self.gate.tss.array().ok_or(Violation::SegmentTable { bytes: 0 })?;
        seal_core::audit_tss(state, &gate::stacks(), &self.layout)?;
        let words = self.gate.stack.words();
        let frame =
            words.last_chunk().ok_or(Violation::TaskStateStack { field: "RSP0", top: 0 })?;
        seal_core::audit_drop(frame, self.addresses.base + image.entry(), self.handoff_address())?;
        let mut descriptors = 0;
        for queue in self.nic.iter().flat_map(Nic::queues) {
            let table = queue.table.bytes();
            let used = abi::ring::table_bytes(queue.descriptors) as usize;
            let table = table.get(..used).unwrap_or(table);
            seal_core::audit_descriptors(table, queue.buffers.span(), queue.geometry)?;
            descriptors += table.len() / 16;
        }
        let named = self.nic.as_ref().and_then(Nic::function);
        let mmio = usize::from(self.nic.as_ref().and_then(Nic::mmio).is_some());
        let others = machine.bus.other_masters(named) + machine.running().saturating_sub(mmio);
        if others > 0 {
            return Err(Refusal::BusMasters { others });
        }
        // A card on PCI sends messages, one on no bus has a line.
        let open = machine.open_lines();
        if open != mmio {
            return Err(Refusal::Lines { open, needed: mmio });
        }
        Ok(Seal {
            tables: audited,
            controls,
            vectors: vectors.gates(),
            calls: vectors.calls(),
            descriptors,
            gate_bytes: gate_text_bytes(),
            devices: machine.bus.count() + machine.virtio.len(),
            masters: machine.bus.other_masters(None) + machine.running(),
            lines: open,
            is_reduced: found.firmware.acpi.is_reduced,
        })
    }

    /// Tells the TPM, if there is one, what was sealed: the last that it learns of this boot.
    pub(crate) fn tell_tpm(&mut self, seal: &Seal) -> Result<(), Refusal> {
        let Some(tpm) = &mut self.tpm else { return Ok(()) };
        let base = self.addresses.base;
        let mut layout = Hash(Sha256::new());
        let rows = self.layout.regions().iter().map(|region| Row::of(region, base));
        // A hash takes whatever is written.
        let _done = write_canonical(rows, &mut layout);
        let page = self.gate.text.bytes();
        let text = page.get(..gate_text_bytes()).unwrap_or(page);
        let (layout, text) = (layout.0.finalize().into(), Sha256::digest(text).into());
        tpm.seal(&SealRecord::new(&seal.tables, &seal.controls, layout, text).encode())
    }

    /// Leaves. What was boot is wiped on the way out.
    pub(crate) fn leave(self, tables: &ReadBack) -> ! {
        let (_, gate_at) = gate_blob();
        gate::enter_tail(gate::TEXT - gate_at as u64, self.handoff_address(), tables.root())
    }

    fn handoff_address(&self) -> u64 {
        let stack = self.addresses.stack;
        // The ABI wants 16-byte alignment (System V AMD64, 3.2.2).
        (stack.start + stack.length - size_of::<Handoff>() as u64) & !15
    }
}

/// A place to write text whose hash is all that is wanted.
struct Hash(Sha256);

impl core::fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

fn gate_text_bytes() -> usize {
    let (blob, gate_at) = gate_blob();
    blob.len().saturating_sub(gate_at)
}

fn take_gate(memory: &mut Memory, has_tpm: bool) -> Result<GateFrames, Refusal> {
    let mut page = || memory.take("the gate", PAGE_BYTES);
    Ok(GateFrames {
        tail: page()?,
        text: page()?,
        data: page()?,
        idt: page()?,
        gdt: page()?,
        tss: page()?,
        stack: page()?,
        interrupt_stacks: [page()?, page()?, page()?],
        tpm_answer: if has_tpm { Some(page()?) } else { None },
    })
}

impl Addresses {
    /// A queue as the service sees it.
    fn queue(&self, queue: &Queue) -> handoff::Queue {
        let places = &self.queues[usize::from(queue.number)];
        handoff::Queue {
            descriptors: queue.descriptors.into(),
            table: Span::new(places.table.start, abi::ring::table_bytes(queue.descriptors)),
            available: Span::new(
                places.available.start,
                abi::ring::available_bytes(queue.descriptors),
            ),
            used: Span::new(places.used.start, abi::ring::used_bytes(queue.descriptors)),
            buffers: places.buffers,
            doorbell: queue.doorbell.map_or(0, |bell| places.doorbell + bell % PAGE_BYTES),
            number: queue.number.into(),
        }
    }
}
