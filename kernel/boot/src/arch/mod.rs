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

use core::arch::{asm, global_asm};

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

/// Clears words without filling the caches with them: there may be gigabytes.
pub(crate) fn stream_zeros(words: &mut [u64]) {
    let (lines, rest) = words.as_chunks_mut::<8>();
    let span = lines.as_mut_ptr_range();
    if !span.start.addr().is_multiple_of(16) {
        lines.fill([0; 8]);
    } else if !lines.is_empty() {
        // SAFETY: whole lines of 64 bytes from the first to the last, all of them the caller's and
        // aligned as `movntdq` wants them; the fence comes before anybody reads them.
        unsafe {
            asm!(
                "pxor {zero}, {zero}",
                "2:",
                "movntdq [{at}], {zero}",
                "movntdq [{at} + 16], {zero}",
                "movntdq [{at} + 32], {zero}",
                "movntdq [{at} + 48], {zero}",
                "add {at}, 64",
                "cmp {at}, {end}",
                "jb 2b",
                "sfence",
                at = inout(reg) span.start => _,
                end = in(reg) span.end,
                zero = out(xmm_reg) _,
                options(nostack),
            );
        }
    }
    rest.fill(0);
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
