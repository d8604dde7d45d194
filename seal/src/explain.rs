//! The sealed address space as a table that a person can read.

use seal_core::{Access, Kind, Ring};

use crate::audit::{Predicted, Report};
use crate::layout::{Place, Row};
use crate::text::{plain, push_line};
use crate::units::{hex, size};
use abi::PAGE_BYTES;

/// What one has to know to read the table.
const HEAD: &str = "
B is the service's base: a random page between 16 and 17 TiB, another one at each start.
Ring 3 is the service. Ring 0 is the gate, entered by exceptions, interrupts and `int` alone; SMEP
and SMAP keep it from executing and touching what is ring 3's. What is not here is not mapped.

";

/// Draws the table; nothing if the image does not say enough.
pub(crate) fn table(image: &str, report: &Report) -> Option<String> {
    let layout = report.layout().filter(|layout| !layout.rows.is_empty())?;
    let mut text = String::new();
    push_line(&mut text, &format!("The sealed address space of {}", plain(image)));
    text.push_str(HEAD);
    push_line(&mut text, &format!("{:24}{:>12}  ring 3  ring 0  what", "from", "size"));
    draw(&mut text, layout);
    push_line(&mut text, "");
    notes(&mut text, report, layout);
    Some(text)
}

fn draw(text: &mut String, layout: &Predicted) {
    push_line(text, &line("0", "", None, "unmapped up to the service: page 0 and all of boot"));
    let mut end = Place::Service(0);
    for row in &layout.rows {
        if let Some(gap) = gap(end, row.place) {
            push_line(text, &gap);
        }
        push_line(text, &line(&address(row.place), &size(row.length), Some(row.kind), what(row)));
        end = match row.place {
            Place::Service(offset) => Place::Service(offset.saturating_add(row.length)),
            Place::Gate(address) => Place::Gate(address.saturating_add(row.length)),
        };
    }
    push_line(text, &line("", "", None, "unmapped up to the end"));
}

/// The line for what is unmapped between two places, if anything is.
fn gap(end: Place, next: Place) -> Option<String> {
    match (end, next) {
        (Place::Service(end), Place::Service(next)) | (Place::Gate(end), Place::Gate(next)) => {
            let bytes = next.checked_sub(end).filter(|bytes| *bytes > 0)?;
            let what = if bytes == PAGE_BYTES { "guard" } else { "unmapped" };
            Some(line("", &size(bytes), None, what))
        }
        _ => Some(line("", "", None, "unmapped: no direct map, no second view of anything")),
    }
}

fn line(from: &str, size: &str, kind: Option<Kind>, what: &str) -> String {
    let (service, gate) = match kind.map(Kind::promise) {
        Some((access, Ring::Service, _)) => (access.letters(), "---"),
        Some((access, Ring::Gate, _)) => ("---", access.letters()),
        None => (" . ", " . "),
    };
    format!("{from:24}{size:>12}   {service}     {gate}   {what}")
}

fn address(place: Place) -> String {
    match place {
        Place::Service(offset) => format!("B + {offset:#012x}"),
        Place::Gate(address) => format!("{address:#018x}"),
    }
}

fn what(row: &Row) -> &'static str {
    match row.kind {
        Kind::ServiceText => "service text",
        Kind::ServiceRodata => "service rodata: constants",
        Kind::ServiceRelro => "service relro: addresses that boot wrote once",
        Kind::ServiceData => "service data",
        Kind::ServiceBss => "service data that begins as zeros",
        Kind::Configuration => "configuration, its keys among it",
        Kind::Heap => "heap",
        Kind::Stack => "stack",
        Kind::PacketBuffers => "packet buffers: with its used ring, all a device may write",
        Kind::DescriptorTable => "virtqueue descriptors: written once, by boot",
        Kind::AvailableRing => "virtqueue available ring: which descriptors are offered",
        Kind::UsedRing => "virtqueue used ring: the device's answers",
        Kind::Doorbell => "the device's doorbell, none of its other registers (uncached)",
        Kind::Kvmclock => "the hypervisor's clock page",
        Kind::GenerationId => "VM generation id",
        Kind::BootRecord => "boot record: what boot measured and the TPM said",
        Kind::GateText => "gate text: all of ring 0's code",
        Kind::GateData => "gate data: port numbers, what to do after a stop, the one TPM command",
        Kind::Idt => "IDT: the only ways into ring 0",
        Kind::Gdt => "GDT",
        Kind::Tss => "TSS: ring 0's stacks, and no port for ring 3",
        Kind::GateStack => "a stack of the gate",
        Kind::CrashRecord => "crash record",
        Kind::LocalApic => "local APIC registers (uncached)",
        Kind::TpmRegisters => "TPM registers (uncached)",
        Kind::DeviceRegisters => "a virtio card's registers: its doorbell and its line (uncached)",
        Kind::TpmAnswer => "the TPM's last answer",
        Kind::PageTables => "the page tables: read-only, and this is their only view",
    }
}

fn notes(text: &mut String, report: &Report, layout: &Predicted) {
    let bytes = |access: Access, ring: Ring| {
        let has = |row: &&Row| {
            let (its_access, its_ring, _) = row.kind.promise();
            its_access == access && its_ring == ring
        };
        layout.rows.iter().filter(has).fold(0_u64, |sum, row| sum.saturating_add(row.length))
    };
    let sums = [
        ("may be executed in ring 3", bytes(Access::Execute, Ring::Service)),
        ("may be executed in ring 0", bytes(Access::Execute, Ring::Gate)),
        ("may be written in ring 3", bytes(Access::ReadWrite, Ring::Service)),
        ("may be written in ring 0", bytes(Access::ReadWrite, Ring::Gate)),
    ];
    for (what, bytes) in sums {
        push_line(text, &format!("{:>12}  {what}", size(bytes)));
    }
    push_line(text, &format!("{:>12}  may be written and executed", "0 B"));
    push_line(text, "");
    push_line(text, &format!("layout digest  {}", hex(&layout.digest)));
    for other in report.layouts.iter().skip(1) {
        push_line(text, &format!("  {:30} {}", other.name, hex(&other.digest)));
    }
    push_line(text, &format!("verdict: {} (`seal audit` says why)", report.verdict()));
}
