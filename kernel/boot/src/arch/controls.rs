//! The control registers: set once, read back for the audit.

use core::arch::asm;

use seal_core::{Controls, TableRegister};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::debug::Dr7;
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};
use x86_64::registers::segmentation::{CS, SS, Segment};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

use super::cpu::Cpu;

const APIC_BASE: u32 = 0x1b;
const PAT: u32 = 0x277;
const SYSENTER_CS: u32 = 0x174;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Sets every control bit to what it will be for the rest of the machine's life.
///
/// SMEP and SMAP go on here too: boot's own pages are supervisor pages, so they do not hinder it.
pub(crate) fn enable(cpu: &Cpu) {
    // SAFETY: CPUID was asked for NX; no page is marked no-execute yet, so nothing becomes
    // unreachable. LME and LMA stay as the entry stub set them.
    unsafe {
        Efer::write(
            EferFlags::LONG_MODE_ENABLE
                | EferFlags::LONG_MODE_ACTIVE
                | EferFlags::NO_EXECUTE_ENABLE,
        );
    }
    // SAFETY: paging and protection stay on; WP only adds faults, and boot's tables map everything
    // it writes as writable.
    unsafe {
        Cr0::write_raw(
            (Cr0Flags::PAGING
                | Cr0Flags::WRITE_PROTECT
                | Cr0Flags::NUMERIC_ERROR
                | Cr0Flags::EXTENSION_TYPE
                | Cr0Flags::MONITOR_COPROCESSOR
                | Cr0Flags::PROTECTED_MODE_ENABLE)
                .bits(),
        );
    }
    let mut flags = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE
        | Cr4Flags::OSXSAVE
        | Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION
        | Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION;
    flags.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, cpu.has_umip);
    // SAFETY: CPUID offers each of these bits (`cpu::require`), and none changes how the pages that
    // boot runs on are translated.
    unsafe { Cr4::write_raw(flags.bits()) };
    let mut state = XCr0Flags::X87 | XCr0Flags::SSE;
    state.set(XCr0Flags::AVX, cpu.has_avx);
    // SAFETY: CR4.OSXSAVE is on, and the AVX bit is set only where CPUID has AVX.
    unsafe { XCr0::write(state) };
    write_msr(PAT, DEFAULT_PAT);
    for register in [SYSENTER_CS, STAR, LSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE] {
        write_msr(register, 0);
    }
    // Bit 10 always reads one; no breakpoint is on.
    Dr7::write_raw(1 << 10);
}

/// The page attribute table as after reset (SDM 3A, 12.12.4).
const DEFAULT_PAT: u64 = 0x0007_0406_0007_0406;

fn write_msr(register: u32, value: u64) {
    // SAFETY: called only with the page attribute table's reset value, with the entry points of calls
    // that the seal forbids and with segment bases that boot does not use; zero disables those.
    unsafe { Msr::new(register).write(value) }
}

pub(crate) fn read_msr(register: u32) -> u64 {
    // SAFETY: each register named here is architectural on every x86_64 CPU, and reading has no
    // effect.
    unsafe { Msr::new(register).read() }
}

/// Where KVM is told what memory its clock may be written to
/// (Linux, `Documentation/virt/kvm/x86/msr.rst`).
const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;
const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;

/// Lets KVM write its clock to two places in boot's own memory: one now, one until it is told to
/// stop.
pub(crate) fn share_kvm_clock(wall_clock: u64, system_time: u64) {
    // SAFETY: the caller (`kvmclock::read`) has seen that KVM offers both registers, and gives the
    // addresses of two statics of atomics, which whoever writes to them leaves valid.
    unsafe { Msr::new(KVM_WALL_CLOCK).write(wall_clock) };
    // SAFETY: as above; bit 0 turns the clock on.
    unsafe { Msr::new(KVM_SYSTEM_TIME).write(system_time | 1) };
}

/// Tells KVM to write nowhere: boot's memory will be somebody else's.
pub(crate) fn unshare_kvm_clock() {
    // SAFETY: as above; bit 0 clear turns the clock off.
    unsafe { Msr::new(KVM_SYSTEM_TIME).write(0) }
}

/// The local APIC's base register.
pub(crate) fn apic_base() -> u64 {
    read_msr(APIC_BASE)
}

/// Writes the local APIC's base register.
pub(crate) fn set_apic_base(value: u64) {
    // SAFETY: the caller (`apic::take`) changes only the mode bits, never the address.
    unsafe { Msr::new(APIC_BASE).write(value) }
}

/// Loads a top page table.
///
/// # Safety
///
/// The tables must map the code that runs, its stack and all it touches afterwards, at the same
/// addresses with at least the rights it uses.
pub(crate) unsafe fn load_tables(root: u64) {
    // SAFETY: the caller's promise; no global pages exist, so this also forgets the old mappings.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Reads what the audit judges from the CPU itself; `root` is the top table the tail will load.
pub(crate) fn read(root: u64) -> Controls {
    let gdtr = x86_64::instructions::tables::sgdt();
    let idtr = x86_64::instructions::tables::sidt();
    let task: u16;
    // SAFETY: STR only reads the task register.
    unsafe { asm!("str {0:x}", out(reg) task, options(nomem, nostack, preserves_flags)) };
    let local: u16;
    // SAFETY: SLDT only reads the register.
    unsafe { asm!("sldt {0:x}", out(reg) local, options(nomem, nostack, preserves_flags)) };
    Controls {
        cr0: Cr0::read_raw(),
        cr3: root,
        cr4: Cr4::read_raw(),
        efer: Efer::read_raw(),
        xcr0: XCr0::read_raw(),
        rflags: x86_64::registers::rflags::read_raw(),
        pat: read_msr(PAT),
        apic_base: read_msr(APIC_BASE),
        ldtr: local,
        cs: CS::get_reg().0,
        ss: SS::get_reg().0,
        sysenter_cs: read_msr(SYSENTER_CS),
        star: read_msr(STAR),
        lstar: read_msr(LSTAR),
        dr7: Dr7::read_raw(),
        gdtr: TableRegister { base: gdtr.base.as_u64(), limit: gdtr.limit },
        idtr: TableRegister { base: idtr.base.as_u64(), limit: idtr.limit },
        tr: task,
    }
}
