//! Port I/O, the old way to talk to a PC.

use x86_64::instructions::port::Port;

/// Reads a byte from a port.
pub(crate) fn read_u8(port: u16) -> u8 {
    // SAFETY: boot knows each port it names, and no port read changes memory.
    unsafe { Port::new(port).read() }
}

/// Reads 32 bits from a port.
pub(crate) fn read_u32(port: u16) -> u32 {
    // SAFETY: as above.
    unsafe { Port::new(port).read() }
}

/// Writes a byte to a port.
pub(crate) fn write_u8(port: u16, value: u8) {
    // SAFETY: boot writes only to the PIC, the PIT, the RTC's index and the console, none of which
    // touches memory.
    unsafe { Port::new(port).write(value) }
}

/// Writes 32 bits to a port.
pub(crate) fn write_u32(port: u16, value: u32) {
    // SAFETY: boot writes 32 bits only to PCI configuration, and what it writes there is bus
    // mastering (off, but for the NIC), interrupts (off) and base addresses in the PCI hole.
    unsafe { Port::new(port).write(value) }
}
