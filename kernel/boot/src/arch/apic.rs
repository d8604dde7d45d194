//! The local APIC, the old PIC and the I/O APICs: quieted, then only the one-shot timer is used.

use abi::gate::{SPURIOUS_VECTOR, TIMER_VECTOR};
use abi::{PAGE_BYTES, Span};
use firmware::Line;

use super::{controls, port};
use crate::memory::{Memory, Registers};
use crate::refusal::Refusal;

const ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Registers of the local APIC (SDM 3A, table 11-1).
const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const SPURIOUS: u64 = 0xf0;
const COMMAND_LOW: u64 = 0x300;
const LOCAL_VECTORS: [u64; 6] = [0x320, 0x330, 0x340, 0x350, 0x360, 0x370];
const TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

const MASKED: u32 = 1 << 16;
/// INIT, level assert, to everyone but ourselves (SDM 3A, 11.6.1).
const INIT_OTHERS: u32 = 0x000c_4500;
const DIVIDE_BY_ONE: u32 = 0b1011;

/// Redirection entries of an I/O APIC: the version register says how many, at most 240.
const IO_APIC_VERSION: u32 = 1;
const IO_APIC_FIRST_ENTRY: u32 = 0x10;

/// The local APIC in xAPIC mode, every source masked.
pub(crate) struct LocalApic {
    registers: Registers,
}

impl LocalApic {
    /// Takes it over: xAPIC mode, other processors stopped, every local source masked.
    pub(crate) fn take(memory: &Memory) -> Result<Self, Refusal> {
        let base = controls::apic_base();
        if base & X2APIC != 0 {
            // The only way back is through "disabled" (SDM 3A, 11.12.5). Where the firmware locked
            // it (IA32_XAPIC_DISABLE_STATUS), the write faults; ask before.
            if super::cpu::is_x2apic_locked() {
                return Err(Refusal::X2ApicLocked);
            }
            controls::set_apic_base(base & !(X2APIC | ENABLED));
        }
        controls::set_apic_base(base & !X2APIC | ENABLED);
        let registers = memory.registers(Span::new(base & ADDRESS, PAGE_BYTES))?;
        let apic = Self { registers };
        for vector in LOCAL_VECTORS {
            apic.write(vector, MASKED);
        }
        apic.write(INITIAL_COUNT, 0);
        apic.write(TASK_PRIORITY, 0);
        apic.write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
        apic.write(COMMAND_LOW, INIT_OTHERS);
        Ok(apic)
    }

    /// The physical address of its registers.
    pub(crate) fn address(&self) -> u64 {
        self.registers.span().start
    }

    /// This processor's APIC id.
    pub(crate) fn id(&self) -> u8 {
        (self.read(ID) >> 24) as u8
    }

    /// Starts the timer at its highest count, masked, to be measured.
    pub(crate) fn start_counting(&self) {
        self.write(DIVIDE, DIVIDE_BY_ONE);
        self.write(TIMER, MASKED | u32::from(TIMER_VECTOR));
        self.write(INITIAL_COUNT, u32::MAX);
    }

    /// How many ticks have passed since.
    pub(crate) fn counted(&self) -> u32 {
        u32::MAX - self.read(CURRENT_COUNT)
    }

    /// Stops counting and leaves the timer in one-shot mode, unmasked and not armed.
    pub(crate) fn leave_one_shot(&self) {
        self.write(INITIAL_COUNT, 0);
        self.write(TIMER, u32::from(TIMER_VECTOR));
    }

    fn read(&self, register: u64) -> u32 {
        self.registers.read(register).unwrap_or(0)
    }

    fn write(&self, register: u64, value: u32) {
        // Every register named above lies in the page.
        let _done = self.registers.write(register, value);
    }
}

/// Moves the PIC's interrupts to 0x20 to 0x2f and masks them all.
pub(crate) fn quiet_pic() {
    // ICW1 to ICW4 to both controllers, then the masks (Intel 8259A data sheet).
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 0x04),
        (0xa1, 0x02),
        (0x21, 0x01),
        (0xa1, 0x01),
        (0x21, 0xff),
        (0xa1, 0xff),
    ] {
        port::write_u8(port, value);
    }
}

/// An I/O APIC: every line masked but the one that a device on no bus may need.
pub(crate) struct IoApic {
    registers: Registers,
    /// The number of its first line in the whole machine.
    first_line: u32,
}

impl IoApic {
    /// Takes it over and masks every line.
    pub(crate) fn take(memory: &Memory, stated: &firmware::IoApic) -> Result<Self, Refusal> {
        let registers = memory.registers(Span::new(stated.address, 0x20))?;
        let io_apic = Self { registers, first_line: stated.first_line };
        for entry in io_apic.entries() {
            io_apic.write(entry, MASKED);
        }
        Ok(io_apic)
    }

    /// Sends a line to one local APIC, or says that it has no such line.
    pub(crate) fn open(&self, line: Line, vector: u8, apic: u8) -> Option<()> {
        let number = line.number.checked_sub(self.first_line)?;
        let entry = self.entries().nth(number as usize)?;
        // Fixed delivery to a physical destination (Intel 82093AA data sheet, section 3.2.4).
        let level = u32::from(!line.is_edge) << 15 | u32::from(line.is_active_low) << 13;
        self.write(entry + 1, u32::from(apic) << 24);
        self.write(entry, u32::from(vector) | level);
        // Delivery status and remote IRR are the I/O APIC's to set.
        (self.read(entry) & !(1 << 12 | 1 << 14) == u32::from(vector) | level).then_some(())
    }

    /// How many lines are not masked.
    pub(crate) fn open_lines(&self) -> usize {
        self.entries().filter(|entry| self.read(*entry) & MASKED == 0).count()
    }

    /// The index of each redirection entry's lower half.
    fn entries(&self) -> impl Iterator<Item = u32> {
        let last = self.read(IO_APIC_VERSION) >> 16 & 0xff;
        (0..=last).map(|entry| IO_APIC_FIRST_ENTRY + 2 * entry)
    }

    fn read(&self, index: u32) -> u32 {
        self.registers.write(0, index).and_then(|()| self.registers.read(0x10)).unwrap_or(0)
    }

    fn write(&self, index: u32, value: u32) {
        // Both registers lie in the span.
        let _done = self.registers.write(0, index).and_then(|()| self.registers.write(0x10, value));
    }
}
