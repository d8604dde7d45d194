//! Instructions that belong to ring 0, and some that look as if they did.

use core::arch::asm;

use super::{Act, Effect};

/// An act that is one instruction without operands that matter.
macro_rules! instruction {
    ($($line:literal),+) => {
        |_, _| {
            // SAFETY: it is not: this is what the machine has to stop.
            unsafe {
                asm!($($line),+,
                     out("rax") _, out("rcx") _, out("rdx") _, out("rdi") _, out("rsi") _, out("r11") _)
            };
            Effect::Survived
        }
    };
}

pub(super) const ACTS: &[(&str, Act)] = &[
    ("mov_cr0", instruction!("mov rax, 0x80000011", "mov cr0, rax")),
    ("mov_cr2", instruction!("xor eax, eax", "mov cr2, rax")),
    ("mov_cr3", instruction!("mov rax, 0x100000", "mov cr3, rax")),
    ("mov_cr4", instruction!("mov rax, 0x620", "mov cr4, rax")),
    ("mov_cr8", instruction!("xor eax, eax", "mov cr8, rax")),
    ("read_cr0", instruction!("mov rax, cr0")),
    ("read_cr2", instruction!("mov rax, cr2")),
    ("read_cr3", instruction!("mov rax, cr3")),
    ("read_cr4", instruction!("mov rax, cr4")),
    ("mov_dr7", instruction!("xor eax, eax", "mov dr7, rax")),
    ("read_dr7", instruction!("mov rax, dr7")),
    // EFER without NXE and with SCE.
    ("wrmsr", instruction!("mov ecx, 0xc0000080", "mov eax, 0x501", "xor edx, edx", "wrmsr")),
    ("rdmsr", instruction!("mov ecx, 0xc0000080", "rdmsr")),
    ("rdpmc", instruction!("xor ecx, ecx", "rdpmc")),
    ("xsetbv", instruction!("xor ecx, ecx", "mov eax, 3", "xor edx, edx", "xsetbv")),
    ("lgdt", instruction!("lgdt [rsp]")),
    ("lidt", instruction!("lidt [rsp]")),
    ("lldt", instruction!("xor eax, eax", "lldt ax")),
    ("ltr", instruction!("mov eax, 0x28", "ltr ax")),
    ("lmsw", instruction!("mov eax, 1", "lmsw ax")),
    ("sgdt", instruction!("sub rsp, 16", "sgdt [rsp]", "add rsp, 16")),
    ("sidt", instruction!("sub rsp, 16", "sidt [rsp]", "add rsp, 16")),
    ("sldt", instruction!("sldt rax")),
    ("str", instruction!("str rax")),
    ("smsw", instruction!("smsw rax")),
    ("clts", instruction!("clts")),
    ("invlpg", instruction!("invlpg [rsp]")),
    ("invd", instruction!("invd")),
    ("wbinvd", instruction!("wbinvd")),
    ("swapgs", instruction!("swapgs")),
    ("hlt", instruction!("hlt")),
    ("cli", instruction!("cli")),
    ("sti", instruction!("sti")),
    ("sysretq", instruction!("xor ecx, ecx", "sysretq")),
    ("sysexit", instruction!("xor ecx, ecx", "xor edx, edx", "sysexit")),
    ("syscall", instruction!("syscall")),
    ("sysenter", instruction!("sysenter")),
    ("vmcall", instruction!("vmcall")),
    ("vmmcall", instruction!("vmmcall")),
    ("rdfsbase", instruction!("rdfsbase rax")),
    ("wrfsbase", instruction!("xor eax, eax", "wrfsbase rax")),
    ("wrgsbase", instruction!("xor eax, eax", "wrgsbase rax")),
    ("wrpkru", instruction!("xor ecx, ecx", "xor eax, eax", "xor edx, edx", "wrpkru")),
    ("clac", instruction!("clac")),
    ("stac", instruction!("stac")),
    ("monitor", instruction!("mov rax, rsp", "xor ecx, ecx", "xor edx, edx", "monitor")),
    ("int3", instruction!("int3")),
    ("int1", instruction!(".byte 0xf1")),
    ("ud2", instruction!("ud2")),
    ("divide", instruction!("xor ecx, ecx", "xor edx, edx", "mov eax, 1", "div ecx")),
    ("insb", instruction!("mov dx, 0x60", "mov rdi, rsp", "insb")),
    ("outsb", instruction!("mov dx, 0x60", "mov rsi, rsp", "outsb")),
    ("in", |_, port| input(port)),
    ("out", |_, port| output(port)),
    ("load_ds", |_, selector| load_ds(selector)),
    ("load_ss", |_, selector| load_ss(selector)),
    ("far_return", |_, selector| far_return(selector)),
    ("iretq_kernel", |_, _| interrupt_return(0x08, 0x2)),
    ("iretq_flags", |_, _| interrupt_return(0x23, 0x3202)),
    ("popf", |_, _| pop_flags()),
    // TF: the CPU stops after the next instruction. NT: there is no task to return to.
    ("popf_trap", instruction!("push 0x102", "popfq", "nop")),
    ("iretq_nested", instruction!("push 0x4002", "popfq", "iretq")),
];

fn input(port: u64) -> Effect {
    // SAFETY: it is not: this is what the machine has to stop.
    unsafe { asm!("in eax, dx", in("dx") port as u16, out("eax") _) };
    Effect::Survived
}

fn output(port: u64) -> Effect {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port as u16, in("eax") 0) };
    Effect::Survived
}

/// Our own data and code segments may be loaded, and change nothing in long mode.
fn load_ds(selector: u64) -> Effect {
    // SAFETY: as above; a data segment of ring 3 is harmless, and is put back.
    unsafe { asm!("mov ds, {0:x}", in(reg) selector as u16) };
    // SAFETY: the null selector is what DS held.
    unsafe { asm!("mov ds, {0:x}", in(reg) 0_u16) };
    Effect::None("a segment of ring 3 was loaded")
}

/// The segment that SS holds may be loaded again.
fn load_ss(selector: u64) -> Effect {
    // SAFETY: it is not: this is what the machine has to stop.
    unsafe { asm!("mov ss, {0:x}", in(reg) selector as u16) };
    Effect::None("a segment of ring 3 was loaded")
}

/// A far return to our own code segment is a return.
fn far_return(selector: u64) -> Effect {
    // SAFETY: as above.
    unsafe {
        asm!("lea {1}, [rip + 2f]", "push {0}", "push {1}", "retfq", "2:",
             in(reg) selector, out(reg) _)
    };
    Effect::None("a segment of ring 3 was loaded")
}

/// Returns to a code segment with flags of our choice: IF and IOPL 3 among them.
fn interrupt_return(selector: u64, flags: u64) -> Effect {
    let after: u64;
    // SAFETY: to our own segment it is a jump; anything else is what the machine has to stop.
    unsafe {
        asm!(
            "mov {scratch}, rsp",
            "push 0x1b",
            "push {scratch}",
            "push {flags}",
            "push {selector}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "iretq",
            "2:",
            "pushfq",
            "pop {after}",
            scratch = out(reg) _, flags = in(reg) flags, selector = in(reg) selector, after = out(reg) after,
        )
    };
    if after & 0x3200 == 0 { Effect::None("IF and IOPL stayed clear") } else { Effect::Survived }
}

fn pop_flags() -> Effect {
    let after: u64;
    // SAFETY: the CPU ignores IF and IOPL here; that is what is looked at.
    unsafe { asm!("push 0x3202", "popfq", "pushfq", "pop {0}", out(reg) after) };
    if after & 0x3200 == 0 { Effect::None("IF and IOPL stayed clear") } else { Effect::Survived }
}
