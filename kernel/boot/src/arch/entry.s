// From the loader's 32-bit world to boot's first line of Rust.
//
// On entry (Xen "x86/HVM direct boot ABI", PVH): protected mode, flat 32-bit segments, paging off,
// interrupts off, ebx = physical address of hvm_start_info. No stack.

.section .note.pvh, "a", @note
    .p2align 2
    .long 4                         // size of the name
    .long 8                         // size of the descriptor
    .long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry_address

.section .entry, "ax"
.code32
.global pvh_entry
pvh_entry:
    cld
    mov esp, offset pvh_stack_top

    // Identity map of the first 4 GiB in 2 MiB pages: one top table, one below, four directories.
    mov edi, offset pvh_tables
    lea eax, [edi + 0x1003]         // present, writable
    mov [edi], eax
    lea eax, [edi + 0x2003]
    lea edx, [edi + 0x1000]
    mov ecx, 4
1:  mov [edx], eax
    add eax, 0x1000
    add edx, 8
    dec ecx
    jnz 1b
    lea edx, [edi + 0x2000]
    mov eax, 0x83                   // present, writable, large
    mov ecx, 2048
2:  mov [edx], eax
    add eax, 0x200000
    add edx, 8
    dec ecx
    jnz 2b

    mov cr3, edi
    mov eax, cr4
    or eax, 0x620                   // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080             // EFER
    rdmsr
    or eax, 0x100                   // LME; NXE waits until CPUID was asked
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb             // EM off
    or eax, 0x80010023              // PG, WP, NE, MP, PE
    mov cr0, eax
    lgdt [pvh_gdt_pointer]
    // A far jump to selector 8; encoded by hand because the target is an absolute symbol.
    .byte 0xea
    .long pvh_long_mode
    .word 8

.code64
.global long_mode
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov edi, ebx
    xor ebp, ebp
    call boot_main
    ud2

.section .rodata.early_gdt, "a"
.p2align 3
.global early_gdt
early_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        // 0x08: code, 64-bit, ring 0
.global early_gdt_pointer
early_gdt_pointer:
    .word 15
    .long pvh_early_gdt
    .long 0

.section .bss.early, "aw", @nobits
.p2align 12
.global early_tables
early_tables:
    .skip 6 * 4096
    .skip 64 * 1024
.global early_stack_top
early_stack_top:
