//! The CPU: everything that names a register, a port or an instruction of x86_64.
//!
//! Why assembly here is sound, said once: boot is the only code running, on one CPU, with
//! interrupts off, on a stack of its own; every block below either only reads a register or changes
//! one in the way its comment says, and none returns through a path that the compiler cannot see.

pub(crate) mod apic;
pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod controls;
pub(crate) mod cpu;
pub(crate) mod efi;
pub(crate) mod entropy;
pub(crate) mod exceptions;
pub(crate) mod gate;
pub(crate) mod kvmclock;
pub(crate) mod port;

use core::arch::global_asm;

use crate::describe::Door;

global_asm!(include_str!("entry.s"));

/// Where the entry stub arrives: long mode, interrupts off, the first 4 GiB mapped one to one.
// SAFETY: the name is unique in the image, and entry.s calls it with this very signature.
#[unsafe(no_mangle)]
extern "C" fn boot_main(given: u64, door: u64) -> ! {
    crate::start(match door {
        0 => Door::Direct { start_info: given },
        _ => Door::Efi(efi::given(given)),
    })
}

/// Stops for good.
pub(crate) fn halt() -> ! {
    // On while the firmware is still there.
    x86_64::instructions::interrupts::disable();
    loop {
        // Interrupts are off, so only a reset ends this.
        x86_64::instructions::hlt();
    }
}

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: every x86_64 CPU has RDTSC, and ring 0 may always use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::say!("boot: refused: a bug of ours: {info}");
    halt()
}
