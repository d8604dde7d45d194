// From the loader's world to boot's first line of Rust, through either of two doors.
//
// The direct door (Xen "x86/HVM direct boot ABI", PVH): protected mode, flat 32-bit segments, paging
// off, interrupts off, ebx = physical address of hvm_start_info. No stack. Boot lies where it was
// linked.
//
// The UEFI door (UEFI 2.10, 2.3.4): long mode, the firmware's tables and stack, interrupts on, rcx =
// image handle, rdx = system table. Boot lies anywhere. Once the firmware has been dismissed, this
// door goes back to 32 bits without paging, because that forgets everything the firmware had turned
// on, five-level paging and process context ids among it; from there the two are one.

.section .note.pvh, "a", @note
    .p2align 2
    .long 4                         // size of the name
    .long 8                         // size of the descriptor
    .long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry_address

    // The other door, for whoever writes a PE header.
    .p2align 2
    .long 6                         // size of the name
    .long 8                         // size of the descriptor
    .long 1                         // the entry point for UEFI firmware
    .asciz "Bulla"
    .p2align 2
    .quad efi_entry_address

.section .entry, "ax"
.code32
.global pvh_entry
pvh_entry:
    cld
    xor ebp, ebp                    // we are where we were linked
    xor esi, esi                    // the direct door

// Both doors: 32 bits, paging off, interrupts off. ebp = how far we lie from our linked place,
// esi = the door, ebx = what it gave us. All of ours is below 4 GiB.
.global protected_mode
protected_mode:
    // Identity map of the first 4 GiB in 2 MiB pages: one top table, one below, four directories.
    lea edi, [ebp + pvh_tables]
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

    // A pointer to the GDT, then one to 64 bits, both made where the stack will never reach down to:
    // the direct door promises no stack segment.
    lea edx, [edi + 0x6000]
    lea eax, [ebp + pvh_early_gdt]
    mov word ptr [edx], 31
    mov [edx + 2], eax
    lgdt [edx]
    lea eax, [ebp + pvh_long_mode]
    mov [edx], eax
    mov word ptr [edx + 4], 8
    jmp fword ptr [edx]

.code64
.global long_mode
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    lea rsp, [rip + early_stack_top]
    mov edi, ebx
    mov esi, esi
    xor ebp, ebp
    call boot_main
    ud2

// The UEFI door. Our pointers hold their linked values until they are moved by as much as we were.
.global efi_entry
efi_entry:
    cld
    lea rax, [rip + image_start]
    mov r10d, offset pvh_image_start
    sub rax, r10                    // how far we were moved
    lea r8, [rip + relocations_start]
    lea r9, [rip + relocations_end]
1:  cmp r8, r9                      // each R_X86_64_RELATIVE, and no other kind (xtask image checks)
    jae 2f
    mov r10, [r8]                   // the word's linked address
    mov r11, [r8 + 16]              // what it points to, likewise
    add r11, rax
    mov [r10 + rax], r11
    add r8, 24
    jmp 1b
2:  mov rdi, rcx
    mov rsi, rdx
    and rsp, -16
    call efi_main
    ud2

// efi_leave(rdi = what the UEFI door gives us, below 4 GiB): the firmware has gone; so do its
// tables, its stack and its control registers.
.global efi_leave
efi_leave:
    cli
    cld
    mov ebx, edi
    lea rbp, [rip + image_start]
    mov eax, offset pvh_image_start
    sub rbp, rax
    lea rsp, [rip + early_stack_top]
    mov rax, cr4
    and rax, 0xfffffffffffdff7f     // PCIDE and PGE off: paging cannot go while PCIDE is on
    mov cr4, rax
    lea rax, [rip + early_gdt]
    sub rsp, 16
    mov word ptr [rsp], 31
    mov [rsp + 2], rax
    lgdt [rsp]
    lea rax, [rip + compatibility_mode]
    push 0x10
    push rax
    retfq                           // to 32 bits, still paged

.code32
compatibility_mode:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff             // PG off: long mode is left
    mov cr0, eax
    xor eax, eax
    mov cr4, eax
    mov ecx, 0xc0000080             // EFER: nothing of the firmware's
    xor edx, edx
    wrmsr
    mov esi, 1                      // the UEFI door
    jmp protected_mode
.code64

.section .rodata.early_gdt, "a"
.p2align 3
.global early_gdt
early_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        // 0x08: code, 64-bit, ring 0
    .quad 0x00cf9b000000ffff        // 0x10: code, 32-bit, ring 0
    .quad 0x00cf93000000ffff        // 0x18: data, 32-bit, ring 0

.section .bss.early, "aw", @nobits
.p2align 12
.global early_tables
early_tables:
    .skip 6 * 4096
    .skip 64 * 1024
.global early_stack_top
early_stack_top:
