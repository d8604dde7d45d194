//! Memory: what is not ours, not writable or not executable.

use alloc::vec;
use core::arch::asm;
use core::hint::black_box;

use abi::PAGE_BYTES;
use libos::machine::Machine;

use super::{Act, Effect};

/// Ring 0's fixed addresses (kernel/boot/src/arch/gate.rs): no secret, and no use from here.
const GATE: u64 = 0xffff_ffff_ffc0_0000;
const TAIL: u64 = GATE + 0x1000;
const GATE_TEXT: u64 = GATE + 0x2000;
const TSS: u64 = GATE + 0x3000;
const GATE_DATA: u64 = GATE + 0x4000;
const IDT: u64 = GATE + 0x5000;
const GDT: u64 = GATE + 0x6000;
const GATE_STACK: u64 = GATE + 0x8000;
const LOCAL_APIC: u64 = GATE + 0x1_0000;
const PAGE_TABLES: u64 = GATE + 0x2_0000;

/// Physical addresses that boot had mapped one to one.
const BOOT: u64 = 0x10_0000;
const REAL_MODE: u64 = 0x7c00;
const APIC_REGISTERS: u64 = 0xfee0_00b0;
const IO_APIC: u64 = 0xfec0_0000;
const PCI_WINDOW: u64 = 0xb000_0000;

/// `ret`, for acts that execute data.
const RETURN: u8 = 0xc3;

pub(super) const ACTS: &[(&str, Act)] = &[
    ("write_text", |_, _| write(text as *const () as u64)),
    ("write_rodata", |_, _| write(RODATA.as_ptr() as u64)),
    ("write_relro", |_, _| write(&raw const RELOCATED as u64)),
    ("write_configuration", |machine, _| write(machine.configuration().as_ptr() as u64)),
    ("write_page_table", |_, _| write(PAGE_TABLES)),
    ("write_descriptor_table", |machine, _| write(machine.handoff().nic.receive.table.start)),
    ("write_transmit_descriptor", |machine, _| write(machine.handoff().nic.transmit.table.start)),
    ("write_used_ring", |machine, _| write(machine.handoff().nic.receive.used.start)),
    ("write_gate_text", |_, _| write(GATE_TEXT)),
    ("write_gate_data", |_, _| write(GATE_DATA)),
    ("write_gate_stack", |_, _| write(GATE_STACK)),
    ("write_idt", |_, _| write(IDT)),
    ("write_gdt", |_, _| write(GDT)),
    ("write_tss", |_, _| write(TSS)),
    ("write_null", |_, _| write(black_box(0))),
    ("execute_heap", |_, _| execute_heap()),
    ("execute_stack", |_, _| execute_stack()),
    ("execute_data", |_, _| execute_data()),
    ("execute_packet_buffer", |machine, _| execute_packet_buffer(machine)),
    ("execute_gate", |_, _| call(GATE_TEXT)),
    ("execute_tail", |_, _| call(TAIL)),
    ("execute_boot", |_, _| call(BOOT)),
    ("return_to", |_, address| return_to(address)),
    ("null_call", |_, _| call(black_box(0))),
    ("null_read", |_, _| read(black_box(0))),
    ("read_boot", |_, _| read(BOOT)),
    ("read_real_mode", |_, _| read(REAL_MODE)),
    ("read_page_table", |_, _| read(PAGE_TABLES)),
    ("read_gate_text", |_, _| read(GATE_TEXT)),
    ("read_gate_data", |_, _| read(GATE_DATA)),
    ("read_gate_stack", |_, _| read(GATE_STACK)),
    ("read_tail", |_, _| read(TAIL)),
    ("read_non_canonical", |_, _| read(1 << 60)),
    ("touch_device_configuration", |machine, _| touch_beside_doorbell(machine)),
    ("touch_lapic", |_, _| write(LOCAL_APIC + 0xb0)),
    ("touch_lapic_registers", |_, _| write(APIC_REGISTERS)),
    ("touch_io_apic", |_, _| write(IO_APIC)),
    ("touch_pci_window", |_, _| write(PCI_WINDOW)),
    ("stack_overflow", |_, _| overflow(&[0; 512])),
    ("heap_guard_below", |machine, _| write(machine.handoff().heap.start - 8)),
    ("heap_guard_above", |machine, _| {
        let heap = machine.handoff().heap;
        write(heap.start + heap.length)
    }),
];

static RODATA: [u8; 64] = [7; 64];

/// Holds an address, so boot relocates it and then nobody writes it.
static RELOCATED: fn() = text;

static mut DATA: [u8; 64] = [0; 64];

fn text() {}

pub(super) fn write(address: u64) -> Effect {
    // SAFETY: it is not: this is what the machine has to stop. In assembly, because a write to
    // address 0 is not something that Rust can say.
    unsafe { asm!("mov qword ptr [{0}], 0", in(reg) address, options(nostack)) };
    Effect::Survived
}

pub(super) fn read(address: u64) -> Effect {
    // SAFETY: as above.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack, readonly)) };
    Effect::Survived
}

fn call(address: u64) -> Effect {
    // SAFETY: as above.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) };
    Effect::Survived
}

/// The way back to whoever called us, had we been called.
fn return_to(address: u64) -> Effect {
    // SAFETY: as above.
    unsafe { asm!("push {}", "ret", in(reg) address, options(noreturn)) }
}

fn execute_heap() -> Effect {
    let code = black_box(vec![RETURN; 64]);
    call(code.as_ptr() as u64)
}

fn execute_stack() -> Effect {
    let code = black_box([RETURN; 64]);
    call(code.as_ptr() as u64)
}

fn execute_data() -> Effect {
    let place = &raw mut DATA;
    // SAFETY: nobody else uses it.
    unsafe { place.write([RETURN; 64]) };
    call(place as u64)
}

fn execute_packet_buffer(machine: &Machine) -> Effect {
    let address = machine.handoff().nic.transmit.buffers.start;
    // SAFETY: the buffer is writable and nothing is being sent.
    unsafe { (address as *mut u8).write_volatile(RETURN) };
    call(address)
}

/// The pages around the doorbell: on a real device they are its configuration and its interrupts.
fn touch_beside_doorbell(machine: &Machine) -> Effect {
    let page = machine.handoff().nic.receive.doorbell & !(PAGE_BYTES - 1);
    write(page - PAGE_BYTES)
}

/// Runs off the end of the stack, a page at a time or less.
#[allow(unconditional_recursion, reason = "this is the act: only the guard page ends it")]
fn overflow(above: &[u8; 512]) -> Effect {
    let mut frame = black_box(*above);
    frame[0] = frame[0].wrapping_add(1);
    let effect = overflow(&frame);
    black_box(&frame);
    effect
}
