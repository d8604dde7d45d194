//! The console: a 16550 at the PC's first serial port.

use core::fmt::{self, Write};

use super::port;

/// The first port of the console, COM1.
pub(crate) const PORT: u16 = 0x3f8;

const LINE_STATUS: u16 = PORT + 5;
const TRANSMIT_EMPTY: u8 = 0x20;

/// How often we look whether the line is ready before we send anyway.
const PATIENCE: u32 = 65_536;

/// Sets 115,200 baud, 8 bits, no parity, one stop bit, FIFOs on, no interrupts.
pub(crate) fn prepare() {
    for (offset, value) in [(1, 0x00), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0xc7), (4, 0x03)] {
        port::write_u8(PORT + offset, value);
    }
}

/// The console as a place to write text.
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let _ready = (0..PATIENCE).any(|_| port::read_u8(LINE_STATUS) & TRANSMIT_EMPTY != 0);
            port::write_u8(PORT, byte);
        }
        Ok(())
    }
}

/// Writes one line to the console.
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        // A console that fails has nowhere to say so.
        let _result = write!($crate::arch::console::Console, "{}\r\n", format_args!($($argument)*));
    }};
}

pub(crate) use say;
