//! Boot's own exceptions: each is a bug of ours or a broken machine, and ends the boot with a line.

use core::arch::global_asm;

use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::structures::DescriptorTablePointer;

use super::console::say;

/// Exceptions that the CPU defines.
const VECTORS: usize = 32;

global_asm!(
    ".section .text.exceptions, \"ax\"",
    ".p2align 3",
    "boot_exceptions:",
    ".rept 32",
    // The return address of this call tells which of the stubs it was.
    "call boot_exception_common",
    ".p2align 3, 0xcc",
    ".endr",
    "boot_exception_common:",
    "mov rdi, [rsp]",
    "lea rax, [rip + boot_exceptions]",
    "sub rdi, rax",
    "shr rdi, 3",
    "mov rsi, [rsp + 8]",
    "mov rdx, [rsp + 16]",
    "mov rcx, [rsp + 24]",
    "and rsp, -16",
    "call boot_exception",
    "ud2",
);

unsafe extern "C" {
    static boot_exceptions: u8;
}

/// Where an exception of boot's own ends up.
// SAFETY: the name is unique, and only the stubs above call it, with these four words.
#[unsafe(no_mangle)]
extern "C" fn boot_exception(vector: u64, first: u64, second: u64, third: u64) -> ! {
    // With an error code the words are error, rip, cs; without one rip, cs, flags.
    say!(
        "boot: refused: a bug of ours: exception {vector}, stack {first:#x} {second:#x} {third:#x}, cr2 {:#x}",
        Cr2::read_raw()
    );
    super::halt()
}

/// Loads a table of exceptions into boot's own memory.
pub(crate) fn prepare() {
    static TABLE: spin_free::Table<VECTORS> = spin_free::Table::new();
    let stubs = &raw const boot_exceptions as u64;
    let pointer = TABLE.fill(|vector| super::gate::interrupt_gate(stubs + 8 * vector as u64, 0, 0));
    let pointer = DescriptorTablePointer { limit: pointer.1, base: VirtAddr::new(pointer.0) };
    // SAFETY: the table is static and complete, and each gate leads to a stub above.
    unsafe { x86_64::instructions::tables::lidt(&pointer) };
}

mod spin_free {
    //! A table that is filled once, before anything could read it.

    use core::cell::UnsafeCell;

    pub(super) struct Table<const N: usize>(UnsafeCell<[[u64; 2]; N]>);

    // SAFETY: boot runs on one CPU and `fill` is called once.
    unsafe impl<const N: usize> Sync for Table<N> {}

    impl<const N: usize> Table<N> {
        pub(super) const fn new() -> Self {
            Self(UnsafeCell::new([[0; 2]; N]))
        }

        /// Fills the table and gives its address and its limit.
        pub(super) fn fill(&self, gate: impl Fn(usize) -> [u64; 2]) -> (u64, u16) {
            let gates = core::array::from_fn(gate);
            // SAFETY: nobody else holds a view of the table; the CPU reads it only once loaded.
            unsafe { self.0.get().write(gates) };
            (self.0.get() as u64, (size_of::<[[u64; 2]; N]>() - 1) as u16)
        }
    }
}
