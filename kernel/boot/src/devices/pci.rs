//! PCI: find every function, silence it, and give the one we use its registers.
//!
//! Source: PCI local bus specification 3.0, chapter 6; PCI-to-PCI bridge architecture 1.2.

use abi::Span;
use arrayvec::ArrayVec;
use firmware::{Acpi, Ecam};

use crate::arch::port;
use crate::memory::{Memory, Registers};
use crate::refusal::Refusal;

/// How many functions we can look after.
const MAX_FUNCTIONS: usize = 64;
/// How many capabilities a function may have: 48 fit into its configuration space.
const MAX_CAPABILITIES: usize = 48;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const HEADER_TYPE: u16 = 0x0c;
const BUS_NUMBERS: u16 = 0x18;
const CAPABILITIES: u16 = 0x34;

const COMMAND_IO: u32 = 1;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;
const STATUS_HAS_CAPABILITIES: u32 = 1 << 20;

const BRIDGE_CLASS: u32 = 0x0604;
const MSI: u8 = 0x05;
/// The capability of message signalled interrupts with a table.
pub(crate) const MSI_X: u8 = 0x11;
/// The capability that vendors (and virtio) use.
pub(crate) const VENDOR: u8 = 0x09;

/// Where we put registers that firmware gave no place, or one beyond our reach: what every PC keeps
/// for PCI below the I/O APIC. Configuration space may lie in it.
const WINDOW: Span = Span::new(0xe000_0000, 0x1c00_0000);

/// A function's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    bus: u8,
    device: u8,
    function: u8,
    /// Which function is the bridge to our bus, by its index in the list.
    bridge: Option<u8>,
}

/// The two ways into configuration space.
#[derive(Clone, Copy, Debug)]
enum Access {
    Ports,
    Memory { registers: Registers, first_bus: u8 },
}

/// Everything on PCI.
#[derive(Debug)]
pub(crate) struct Bus {
    access: Option<Access>,
    /// Where configuration space lies in memory, whether we go that way or not.
    ecam: Option<Span>,
    functions: ArrayVec<Function, MAX_FUNCTIONS>,
}

impl Bus {
    /// Finds every function, bridges first.
    pub(crate) fn scan(acpi: &Acpi, memory: &Memory) -> Result<Self, Refusal> {
        let ecam = acpi.ecam.as_ref().map(ecam_span);
        let mut bus = Self { access: access(acpi, memory)?, ecam, functions: ArrayVec::new() };
        bus.scan_bus(0, None)?;
        // The list grows while we walk it; buses have eight bits, so it ends.
        let mut index = 0;
        while let Some(function) = bus.functions.get(index).copied() {
            if bus.read(function, CLASS) >> 16 == BRIDGE_CLASS {
                let secondary = (bus.read(function, BUS_NUMBERS) >> 8 & 0xff) as u8;
                let is_new = bus.functions.iter().all(|other| other.bus != secondary);
                if secondary != 0 && is_new {
                    bus.scan_bus(secondary, u8::try_from(index).ok())?;
                }
            }
            index += 1;
        }
        Ok(bus)
    }

    fn scan_bus(&mut self, bus: u8, bridge: Option<u8>) -> Result<(), Refusal> {
        for device in 0..32 {
            for function in 0..8 {
                let place = Function { bus, device, function, bridge };
                if self.read(place, 0) & 0xffff == 0xffff {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                let full = Refusal::Bound { what: "PCI functions", limit: MAX_FUNCTIONS };
                self.functions.try_push(place).map_err(|_| full)?;
                if function == 0 && self.read(place, HEADER_TYPE) & (1 << 23) == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes bus mastering and every kind of interrupt from every function.
    pub(crate) fn quiet(&self) {
        for function in self.functions.iter().copied() {
            let command = self.read(function, COMMAND) & 0xffff;
            self.write(function, COMMAND, command & !COMMAND_MASTER | COMMAND_NO_INTX);
            if let Some(at) = self.capability(function, MSI) {
                self.write(function, at, self.read(function, at) & !(1 << 16));
            }
            if let Some(at) = self.capability(function, MSI_X) {
                self.write(function, at, self.read(function, at) & !(1 << 31));
            }
        }
    }

    /// How many functions there are.
    pub(crate) fn count(&self) -> usize {
        self.functions.len()
    }

    /// Reads every command register again: how many functions may master the bus that neither are
    /// `named` nor a bridge on the way to it.
    pub(crate) fn other_masters(&self, named: Option<Function>) -> usize {
        let mut path = ArrayVec::<Function, MAX_FUNCTIONS>::new();
        let mut next = named;
        while let Some(function) = next.filter(|_| !path.is_full()) {
            path.push(function);
            next =
                function.bridge.and_then(|index| self.functions.get(usize::from(index))).copied();
        }
        let is_master = |function: &&Function| self.read(**function, COMMAND) & COMMAND_MASTER != 0;
        self.functions.iter().filter(|function| !path.contains(function)).filter(is_master).count()
    }

    /// The first function whose vendor and device ids `is_wanted` likes.
    pub(crate) fn find(&self, is_wanted: impl Fn(u16, u16) -> bool) -> Option<Function> {
        self.functions.iter().copied().find(|function| {
            let ids = self.read(*function, 0);
            is_wanted(ids as u16, (ids >> 16) as u16)
        })
    }

    /// Lets a function be reached by memory and master the bus: no ports, no line interrupts.
    pub(crate) fn enable(&self, function: Function) {
        self.write(function, COMMAND, COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX);
        let mut next = function.bridge;
        for _ in 0..MAX_FUNCTIONS {
            let bridge = next.and_then(|index| self.functions.get(usize::from(index))).copied();
            let Some(bridge) = bridge else { return };
            let command = self.read(bridge, COMMAND) & 0xffff;
            self.write(bridge, COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER);
            next = bridge.bridge;
        }
    }

    /// Where a base address register points, assigned if firmware has not or if it is out of reach.
    pub(crate) fn bar(
        &self,
        function: Function,
        index: u8,
        memory: &Memory,
    ) -> Result<Span, Refusal> {
        let broken = Refusal::Device { what: "a base address register is not for memory" };
        if index > 5 {
            return Err(broken);
        }
        let at = 0x10 + 4 * u16::from(index);
        let low = self.read(function, at);
        if low & 1 != 0 {
            return Err(broken);
        }
        let is_wide = low & 0b110 == 0b100 && index < 5;
        let high = if is_wide { self.read(function, at + 4) } else { 0 };
        let length = self.bar_length(function, at).ok_or(broken)?;
        let start = u64::from(low & !0xf) | u64::from(high) << 32;
        let is_reachable = start != 0 && start.saturating_add(length) <= 1 << 32;
        let start = if is_reachable { start } else { self.free_window(length, memory)? };
        self.write(function, at, start as u32);
        if is_wide {
            self.write(function, at + 4, (start >> 32) as u32);
        }
        Ok(Span::new(start, length))
    }

    /// The size of what a base address register asks for. Decoding is off meanwhile.
    fn bar_length(&self, function: Function, at: u16) -> Option<u64> {
        let command = self.read(function, COMMAND) & 0xffff;
        self.write(function, COMMAND, command & !(COMMAND_IO | COMMAND_MEMORY));
        let before = self.read(function, at);
        self.write(function, at, u32::MAX);
        let mask = self.read(function, at) & !0xf;
        self.write(function, at, before);
        self.write(function, COMMAND, command);
        // We use no device whose registers take 2 GiB or more.
        (mask != 0).then(|| u64::from(mask.wrapping_neg()))
    }

    /// A place in the window that no base address register of any function has.
    fn free_window(&self, length: u64, memory: &Memory) -> Result<u64, Refusal> {
        let full = || Refusal::BarSpace { bytes: length };
        let mut start = WINDOW.start;
        while WINDOW.covers(&Span::new(start, length)) {
            let place = Span::new(start, length);
            if memory.is_unused(place) && !self.is_assigned(place) {
                return Ok(start);
            }
            start = start.checked_add(length.max(abi::PAGE_BYTES)).ok_or_else(full)?;
        }
        Err(full())
    }

    fn is_assigned(&self, place: Span) -> bool {
        let assigned =
            |function: &Function| self.assigned(*function).any(|bar| bar.overlaps(&place));
        let is_ecam = self.ecam.is_some_and(|ecam| ecam.overlaps(&place));
        is_ecam || self.functions.iter().any(assigned)
    }

    /// The memory that a function's base address registers have been given, whole: two that share
    /// an address are answered by either device, as the host likes.
    fn assigned(&self, function: Function) -> impl Iterator<Item = Span> {
        let registers = match self.read(function, HEADER_TYPE) >> 16 & 0x7f {
            0 => 6,
            // A bridge has two, and the numbers of its buses behind them.
            1 => 2,
            _ => 0,
        };
        let mut index = 0;
        core::iter::from_fn(move || {
            while index < registers {
                let at = 0x10 + 4 * index;
                let low = self.read(function, at);
                let is_wide = low & 0b111 == 0b100;
                index += if is_wide { 2 } else { 1 };
                let high = if is_wide { self.read(function, at + 4) } else { 0 };
                let start = u64::from(low & !0xf) | u64::from(high) << 32;
                if low & 1 == 0 && start != 0 {
                    return Some(Span::new(start, self.bar_length(function, at).unwrap_or(0)));
                }
            }
            None
        })
    }

    /// The first capability with an id.
    pub(crate) fn capability(&self, function: Function, id: u8) -> Option<u16> {
        self.capabilities(function).find(|(_, found)| *found == id).map(|(at, _)| at)
    }

    /// Every capability, as its place and its id.
    pub(crate) fn capabilities(&self, function: Function) -> impl Iterator<Item = (u16, u8)> {
        let has_any = self.read(function, COMMAND) & STATUS_HAS_CAPABILITIES != 0;
        let mut next = if has_any { self.read(function, CAPABILITIES) as u8 & !3 } else { 0 };
        core::iter::from_fn(move || {
            let at = u16::from(next);
            if at < 0x40 {
                return None;
            }
            let head = self.read(function, at);
            next = (head >> 8) as u8 & !3;
            Some((at, head as u8))
        })
        .take(MAX_CAPABILITIES)
    }

    /// Reads 32 bits of a function's configuration; all ones where there is nothing.
    pub(crate) fn read(&self, function: Function, offset: u16) -> u32 {
        match self.access {
            Some(Access::Ports) => {
                port::write_u32(ADDRESS_PORT, port_address(function, offset));
                port::read_u32(DATA_PORT)
            }
            Some(Access::Memory { registers, first_bus }) => {
                let at = memory_offset(function, first_bus, offset);
                at.and_then(|at| registers.read(at)).unwrap_or(u32::MAX)
            }
            None => u32::MAX,
        }
    }

    /// Writes 32 bits of a function's configuration.
    pub(crate) fn write(&self, function: Function, offset: u16, value: u32) {
        match self.access {
            Some(Access::Ports) => {
                port::write_u32(ADDRESS_PORT, port_address(function, offset));
                port::write_u32(DATA_PORT, value);
            }
            Some(Access::Memory { registers, first_bus }) => {
                let at = memory_offset(function, first_bus, offset);
                let _done = at.and_then(|at| registers.write(at, value));
            }
            None => {}
        }
    }
}

/// Ports where the host bridge answers them, else the window that ACPI names.
fn access(acpi: &Acpi, memory: &Memory) -> Result<Option<Access>, Refusal> {
    const PROBE: u32 = 0x8000_0000;
    port::write_u32(ADDRESS_PORT, PROBE);
    if port::read_u32(ADDRESS_PORT) == PROBE {
        return Ok(Some(Access::Ports));
    }
    let Some(ecam) = acpi.ecam else { return Ok(None) };
    let registers = memory.registers(ecam_span(&ecam))?;
    Ok(Some(Access::Memory { registers, first_bus: ecam.first_bus }))
}

/// A MiB for each bus (PCI firmware specification 3.3, 4.1.2).
fn ecam_span(ecam: &Ecam) -> Span {
    let buses = u64::from(ecam.last_bus.saturating_sub(ecam.first_bus)) + 1;
    Span::new(ecam.base, buses << 20)
}

fn port_address(function: Function, offset: u16) -> u32 {
    1 << 31
        | u32::from(function.bus) << 16
        | u32::from(function.device) << 11
        | u32::from(function.function) << 8
        | u32::from(offset & 0xfc)
}

fn memory_offset(function: Function, first_bus: u8, offset: u16) -> Option<u64> {
    let bus = u64::from(function.bus.checked_sub(first_bus)?);
    let place = u64::from(function.device) << 15 | u64::from(function.function) << 12;
    Some(bus << 20 | place | u64::from(offset & 0xffc))
}
