//! The gate's place and data: what stays in ring 0 after the drop.

use core::arch::{asm, global_asm};

use abi::gate::{
    DEVICE_RANGE, IDLE, LOG, NOTIFY, QUOTE, SPURIOUS_VECTOR, STOP, TIMER_VECTOR, TPM_READ,
};
use seal_core::{
    DOUBLE_FAULT_STACK, GDT_BYTES, GDT_HEAD, GDT_LIMIT, IDT_LIMIT, IO_MAP_BASE, KERNEL_CODE,
    KERNEL_DATA, MACHINE_CHECK_STACK, NMI_STACK, Stacks, TASK_STATE, TSS_BYTES, TSS_LIMIT,
};
use x86_64::registers::segmentation::{SS, Segment, SegmentSelector};
use x86_64::structures::DescriptorTablePointer;
use x86_64::{PrivilegeLevel, VirtAddr};

global_asm!(include_str!("gate.s"));

/// The 2 MiB at the top of the address space where all of ring 0 lies, at fixed addresses; gate.s
/// names the same ones.
const REGION: u64 = 0xffff_ffff_ffc0_0000;

/// The page that ends with the tail. Only boot's tables have it.
pub(crate) const TAIL: u64 = REGION + 0x1000;
/// The gate's text.
pub(crate) const TEXT: u64 = REGION + 0x2000;
/// The task state segment.
pub(crate) const TSS: u64 = REGION + 0x3000;
/// The gate's constants.
pub(crate) const DATA: u64 = REGION + 0x4000;
/// The interrupt descriptor table.
pub(crate) const IDT: u64 = REGION + 0x5000;
/// The global descriptor table.
pub(crate) const GDT: u64 = REGION + 0x6000;
/// The stack of the gate's calls; below each stack lies a page that nobody has.
pub(crate) const STACK: u64 = REGION + 0x8000;
/// The stacks of NMI, double fault and machine check.
pub(crate) const INTERRUPT_STACKS: [u64; 3] = [REGION + 0xa000, REGION + 0xc000, REGION + 0xe000];
/// The local APIC's registers.
pub(crate) const LOCAL_APIC: u64 = REGION + 0x1_0000;
/// The TPM's registers.
pub(crate) const TPM: u64 = REGION + 0x1_1000;
/// The TPM's last answer.
pub(crate) const TPM_ANSWER: u64 = REGION + 0x1_2000;
/// The registers of a card whose doorbell the gate rings.
pub(crate) const DEVICE: u64 = REGION + 0x1_3000;
/// The page tables.
pub(crate) const TABLES: u64 = REGION + 0x2_0000;

/// The largest text the gate may have: one page.
pub(crate) const MAX_TEXT_BYTES: usize = 4096;

const STACK_TOP: u64 = STACK + 0x1000;

/// The words of the gate's data page, in gate.s's order.
pub(crate) struct GateData {
    /// The console's first port.
    pub(crate) console: u16,
    /// PM1a control and what to write there to power off.
    pub(crate) power_off: Option<(u16, u16)>,
    /// The reset register and what to write there.
    pub(crate) reset: (u16, u8),
    /// What happens after a stop.
    pub(crate) on_stop: abi::configuration::OnStop,
    /// The service's addresses, from its first to its last.
    pub(crate) service: abi::Span,
    /// Timer ticks in 2^32 ticks of the time stamp counter.
    pub(crate) timer_rate: u64,
    /// The physical address of the card's registers, if the gate rings its doorbell.
    pub(crate) device: Option<u64>,
    /// The one command that the TPM still gets, if there is a TPM.
    pub(crate) quote: Option<Quote>,
}

/// The places in a page where a device's registers may begin: gate.s's mask lets these through.
const DEVICE_MASK: u64 = 0xe00;

/// How many registers belong to such a place, in bytes.
pub(crate) const DEVICE_UNIT: u64 = 0x200;

/// Whether a device's registers may begin at an offset in a page.
pub(crate) fn is_device_unit(offset: u64) -> bool {
    offset & !DEVICE_MASK == 0
}

/// The quote command, and how the gate brings it to the TPM.
#[derive(Clone, Copy)]
pub(crate) struct Quote {
    /// How the TPM is talked to.
    pub(crate) interface: QuoteInterface,
    /// The whole command; the gate fills in 32 bytes from [`NONCE_AT`] on.
    pub(crate) command: [u8; QUOTE_BYTES],
}

/// The number by which gate.s tells the interfaces apart; 0 means that there is no TPM.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuoteInterface {
    /// Command response buffer, data at offset 0x80.
    Crb = 1,
    /// FIFO.
    Tis = 2,
}

/// Where in the quote command its 32 bytes belong.
pub(crate) const NONCE_AT: usize = 29;

/// Bytes of the quote command.
pub(crate) const QUOTE_BYTES: usize = 73;

/// Words of the data page where gate.s has the TPM's interface, the command's length and the command.
const QUOTE_INTERFACE: usize = 128 / 8;
const QUOTE_LENGTH: usize = 136 / 8;
const QUOTE_COMMAND: usize = 256 / 8;

// gate.s masks its place in the command with 127.
const _: () = assert!(NONCE_AT + 32 <= QUOTE_BYTES && QUOTE_BYTES <= 127);

impl GateData {
    /// Writes the page.
    pub(crate) fn write(&self, page: &mut [u64]) {
        let (pm_port, pm_value) = self.power_off.unwrap_or((0, 0));
        let words = [
            self.console.into(),
            pm_port.into(),
            pm_value.into(),
            self.reset.0.into(),
            self.reset.1.into(),
            self.on_stop as u64,
            self.service.start,
            self.service.length,
            self.timer_rate,
            // Never 0 where there is a card: its registers begin at a multiple of 512.
            self.device.map_or(0, |address| address & DEVICE_MASK | 1),
        ];
        for (to, word) in page.iter_mut().zip(words) {
            *to = word;
        }
        if let Some(quote) = &self.quote {
            quote.write(page);
        }
    }
}

impl Quote {
    fn write(&self, page: &mut [u64]) {
        let mut put = |at: usize, word: u64| {
            if let Some(to) = page.get_mut(at) {
                *to = word;
            }
        };
        put(QUOTE_INTERFACE, self.interface as u64);
        put(QUOTE_LENGTH, self.command.len() as u64);
        for (at, bytes) in (QUOTE_COMMAND..).zip(self.command.chunks(8)) {
            let mut word = [0; 8];
            for (to, byte) in word.iter_mut().zip(bytes) {
                *to = *byte;
            }
            put(at, u64::from_le_bytes(word));
        }
    }
}

/// A 64-bit interrupt gate: IF is cleared on the way in (SDM 3A, figure 6-8).
pub(crate) fn interrupt_gate(handler: u64, stack: u8, privilege: u64) -> [u64; 2] {
    let low = (handler & 0xffff)
        | u64::from(KERNEL_CODE) << 16
        | u64::from(stack) << 32
        | 0xe << 40
        | privilege << 45
        | 1 << 47
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

unsafe extern "C" {
    static gate_start: u8;
    static gate_exceptions: u8;
    static gate_timer: u8;
    static gate_device: u8;
    static gate_spurious: u8;
    static gate_idle: u8;
    static gate_notify: u8;
    static gate_log: u8;
    static gate_stop: u8;
    static gate_quote: u8;
    static gate_tpm_read: u8;
}

/// Exceptions with a stub in gate.s, 16 bytes apart.
const EXCEPTIONS: u8 = 22;

/// The address that handles a vector once the gate is in its place, or `None`: no gate.
pub(crate) fn handler(vector: u8) -> Option<u64> {
    let label = match vector {
        0..EXCEPTIONS => &raw const gate_exceptions as u64 + 16 * u64::from(vector),
        // The PIC is masked and remapped here; what it still sends is spurious.
        0x20..=0x2f | SPURIOUS_VECTOR => &raw const gate_spurious as u64,
        TIMER_VECTOR => &raw const gate_timer as u64,
        IDLE => &raw const gate_idle as u64,
        LOG => &raw const gate_log as u64,
        STOP => &raw const gate_stop as u64,
        NOTIFY => &raw const gate_notify as u64,
        QUOTE => &raw const gate_quote as u64,
        TPM_READ => &raw const gate_tpm_read as u64,
        _ if DEVICE_RANGE.contains(&vector) => &raw const gate_device as u64,
        _ => return None,
    };
    Some(label - &raw const gate_start as u64 + TEXT)
}

/// Whether ring 3 may call a vector.
fn is_call(vector: u8) -> bool {
    matches!(vector, IDLE | LOG | STOP | NOTIFY | QUOTE | TPM_READ)
}

/// Writes the interrupt descriptor table.
pub(crate) fn write_idt(page: &mut [u64]) {
    for (vector, slot) in (0..=u8::MAX).zip(page.as_chunks_mut::<2>().0) {
        let stack = match vector {
            2 => NMI_STACK,
            8 => DOUBLE_FAULT_STACK,
            18 => MACHINE_CHECK_STACK,
            _ => 0,
        };
        let privilege = if is_call(vector) { 3 } else { 0 };
        *slot = match handler(vector) {
            Some(handler) => interrupt_gate(handler, stack, privilege),
            None => [0; 2],
        };
    }
}

/// Where the CPU's stack pointer goes on the way into ring 0.
pub(crate) fn stacks() -> Stacks {
    Stacks { calls: STACK_TOP, interrupts: INTERRUPT_STACKS.map(|stack| stack + 0x1000) }
}

/// Writes the task state: four stacks, and no port that ring 3 may use.
pub(crate) fn write_tss(page: &mut [u8]) {
    let stacks = stacks();
    let mut put = |offset: usize, bytes: &[u8]| {
        if let Some(field) = page.get_mut(offset..offset + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(4, &stacks.calls.to_le_bytes());
    for (index, stack) in stacks.interrupts.iter().enumerate() {
        put(36 + 8 * index, &stack.to_le_bytes());
    }
    put(102, &IO_MAP_BASE.to_le_bytes());
}

/// Writes the global descriptor table, with the task state not yet in use.
pub(crate) fn write_gdt(page: &mut [u64]) {
    let task = u64::from(TSS_LIMIT)
        | (TSS & 0xff_ffff) << 16
        | 0x9 << 40
        | 1 << 47
        | (TSS >> 24 & 0xff) << 56;
    let words = GDT_HEAD.into_iter().chain([task, TSS >> 32]);
    for (to, word) in page.iter_mut().zip(words) {
        *to = word;
    }
}

/// Writes what `iretq` takes from the top of the gate's stack: ring 3, interrupts off.
pub(crate) fn write_drop_frame(stack: &mut [u64], entry: u64, service_stack: u64) {
    let frame = [
        entry,
        u64::from(seal_core::USER_CODE | 3),
        // Bit 1 always reads one; IF, IOPL and everything else are zero.
        2,
        service_stack,
        u64::from(seal_core::USER_DATA | 3),
    ];
    let first = stack.len().saturating_sub(frame.len());
    for (to, word) in stack.iter_mut().skip(first).zip(frame) {
        *to = word;
    }
}

/// Puts the final descriptor tables in force. The GDT becomes read-only afterwards, so the busy bit
/// that `ltr` sets is set while it is still reached through its frame.
pub(crate) fn load_tables(gdt_frame: u64) {
    let through_frame = DescriptorTablePointer { limit: GDT_LIMIT, base: VirtAddr::new(gdt_frame) };
    let selector = |index: u16| SegmentSelector::new(index / 8, PrivilegeLevel::Ring0);
    // SAFETY: the frame holds a complete GDT whose code segment equals the one in use.
    unsafe { x86_64::instructions::tables::lgdt(&through_frame) };
    // SAFETY: the selector names a task state that is not yet in use.
    unsafe { x86_64::instructions::tables::load_tss(selector(TASK_STATE)) };
    // SAFETY: the selector names a flat data segment.
    unsafe { SS::set_reg(selector(KERNEL_DATA)) };
    // SAFETY: LLDT of the null selector leaves no local table.
    unsafe { asm!("lldt {0:x}", in(reg) 0u16, options(nostack, preserves_flags)) };
}

/// Names the descriptor tables by their final addresses, which boot's bridge tables have too.
pub(crate) fn name_tables() {
    let gdt = DescriptorTablePointer { limit: GDT_LIMIT, base: VirtAddr::new(GDT) };
    let idt = DescriptorTablePointer { limit: IDT_LIMIT, base: VirtAddr::new(IDT) };
    // SAFETY: the bridge tables map the same frame at this address; its contents did not change.
    unsafe { x86_64::instructions::tables::lgdt(&gdt) };
    // SAFETY: likewise; each gate leads into the gate's text, which the bridge tables have too.
    unsafe { x86_64::instructions::tables::lidt(&idt) };
}

/// The last call of boot: never returns, and soon there is nothing to return to.
pub(crate) fn enter_tail(tail: u64, handoff: u64, root: u64) -> ! {
    // SAFETY: `tail` is the tail's first instruction at its final address; it runs on the gate's
    // stack, wipes what its list names (not itself, not that stack, not the tables in force), loads
    // `root` and falls into the gate, which is at the same address in both sets of tables.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "jmp {tail}",
            stack = in(reg) STACK_TOP - 64,
            tail = in(reg) tail,
            in("rdi") handoff,
            in("rsi") root,
            options(noreturn),
        )
    }
}

const _: () = assert!(GDT_BYTES == GDT_LIMIT as usize + 1 && TSS_BYTES == TSS_LIMIT as usize + 1);
