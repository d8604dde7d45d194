//! The forbidden acts. Each is as small as it can be, so that the fault is the act's and no other.

use alloc::vec;
use core::arch::asm;
use core::hint::black_box;

use abi::PAGE_BYTES;
use libos::log::plain;
use libos::machine::Machine;

/// An act and its name.
pub(crate) type Act = (&'static str, fn(&Machine));

/// Where ring 0 keeps its page tables: fixed addresses, for they are no secret and no use.
const PAGE_TABLES: u64 = 0xffff_ffff_ffc2_0000;
/// The local APIC as the gate sees it.
const LOCAL_APIC: u64 = 0xffff_ffff_ffc1_0000;
/// Boot's place in physical memory, which boot had mapped one to one.
const BOOT: u64 = 0x10_0000;

/// `ret`, for acts that execute data.
const RETURN: u8 = 0xc3;

/// Every act but the control.
pub(crate) const ACTS: &[Act] = &[
    ("write_text", |_| write(text())),
    ("write_rodata", |_| write(RODATA.as_ptr() as u64)),
    ("write_configuration", |machine| write(machine.configuration().as_ptr() as u64)),
    ("write_page_table", |_| write(PAGE_TABLES)),
    ("write_descriptor_table", |machine| write(machine.handoff().nic.receive.table.start)),
    ("write_transmit_descriptor", |machine| write(machine.handoff().nic.transmit.table.start)),
    ("write_used_ring", |machine| write(machine.handoff().nic.receive.used.start)),
    ("execute_heap", |_| execute_heap()),
    ("execute_stack", |_| execute_stack()),
    ("execute_packet_buffer", execute_packet_buffer),
    ("read_boot", |_| read(BOOT)),
    ("read_page_table", |_| read(PAGE_TABLES)),
    ("touch_device_configuration", touch_device_configuration),
    ("touch_lapic", |_| write(LOCAL_APIC + 0xb0)),
    ("stack_overflow", |_| overflow(&[0; 512])),
    ("heap_guard", |machine| write(machine.handoff().heap.start - 8)),
    ("null_read", |_| read(black_box(0))),
    ("null_call", |_| call(black_box(0))),
    ("mov_cr0", |_| mov_cr0()),
    ("mov_cr3", |_| mov_cr3()),
    ("mov_cr4", |_| mov_cr4()),
    ("wrmsr", |_| wrmsr()),
    ("lidt", |_| lidt()),
    ("out", |_| out()),
    ("cli", |_| cli()),
];

static RODATA: [u8; 64] = [7; 64];

/// What a service is allowed to do, in one go: heap, stack, clock, sleep.
pub(crate) fn control(machine: &Machine) {
    let bytes = black_box(vec![1_u8; 100_000]);
    let before = machine.clock.now();
    machine.idle(before + core::time::Duration::from_millis(5));
    let slept = machine.clock.now().since(before);
    let nic = machine.nic.as_ref().map(|nic| nic.mac);
    plain(format_args!("PROBE control: {} bytes, slept {slept:?}, NIC {nic:02x?}", bytes.len()));
}

fn text() -> u64 {
    text as *const () as u64
}

fn write(address: u64) {
    // SAFETY: it is not: this is what the machine has to stop.
    unsafe { (address as *mut u64).write_volatile(0) };
}

fn read(address: u64) {
    // SAFETY: it is not: this is what the machine has to stop. In assembly, because a read of
    // address 0 is not something that Rust can say.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack, readonly)) };
}

fn call(address: u64) {
    // SAFETY: it is not: this is what the machine has to stop.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) };
}

fn execute_heap() {
    let code = black_box(vec![RETURN; 64]);
    call(code.as_ptr() as u64);
}

fn execute_stack() {
    let code = black_box([RETURN; 64]);
    call(code.as_ptr() as u64);
}

fn execute_packet_buffer(machine: &Machine) {
    let address = machine.handoff().nic.transmit.buffers.start;
    // SAFETY: the buffer is writable and nothing is being sent.
    unsafe { (address as *mut u8).write_volatile(RETURN) };
    call(address);
}

/// The pages around the doorbell: on a real device they are its configuration and its interrupts.
fn touch_device_configuration(machine: &Machine) {
    let page = machine.handoff().nic.receive.doorbell & !(PAGE_BYTES - 1);
    write(page - PAGE_BYTES);
}

/// Runs off the end of the stack, a page at a time or less.
#[allow(unconditional_recursion, reason = "this is the act: only the guard page ends it")]
fn overflow(above: &[u8; 512]) {
    let mut frame = black_box(*above);
    frame[0] = frame[0].wrapping_add(1);
    overflow(&frame);
    black_box(&frame);
}

fn mov_cr0() {
    // SAFETY: it is not: this is what the machine has to stop.
    unsafe { asm!("mov cr0, {}", in(reg) 0x8000_0011_u64) };
}

fn mov_cr3() {
    // SAFETY: as above.
    unsafe { asm!("mov cr3, {}", in(reg) BOOT) };
}

fn mov_cr4() {
    // SAFETY: as above.
    unsafe { asm!("mov cr4, {}", in(reg) 0x620_u64) };
}

fn wrmsr() {
    // SAFETY: as above. EFER without NXE and with SCE.
    unsafe { asm!("wrmsr", in("ecx") 0xc000_0080_u32, in("eax") 0x501, in("edx") 0) };
}

fn lidt() {
    let table = [0_u8; 10];
    // SAFETY: as above.
    unsafe { asm!("lidt [{}]", in(reg) table.as_ptr()) };
}

fn out() {
    // SAFETY: as above. The port of PCI configuration.
    unsafe { asm!("out dx, eax", in("dx") 0xcf8_u16, in("eax") 0x8000_0000_u32) };
}

fn cli() {
    // SAFETY: as above.
    unsafe { asm!("cli") };
}
