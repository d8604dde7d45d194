// The tail and the gate: boot's last instructions, and all of ring 0 that stays.
//
// Both are copied in one piece so that the gate begins on a page of its own and the tail ends right
// before it. Nothing here refers to its own address: calls and jumps are relative, and data lies at
// the fixed addresses below, which boot and the auditor share (arch/gate.rs checks that they agree).

.set TAIL_PAGE,       -0x3ff000     // wipe list, then nothing, then the tail's code
.set GATE_DATA,       -0x3fc000
.set GATE_STACK_TOP,  -0x3f7000
.set LOCAL_APIC,      -0x3f0000

.set DATA_CONSOLE,    GATE_DATA + 0   // u16: the console's first port
.set DATA_PM_PORT,    GATE_DATA + 8   // u16: PM1a control, 0 if unknown
.set DATA_PM_VALUE,   GATE_DATA + 16  // u16: what powers the machine off
.set DATA_RESET_PORT, GATE_DATA + 24  // u16: the reset register
.set DATA_RESET_VALUE,GATE_DATA + 32  // u8: what resets the machine
.set DATA_ON_STOP,    GATE_DATA + 40  // u8: 0 reset, 1 power off, 2 halt
.set DATA_BASE,       GATE_DATA + 48  // u64: the service's first address
.set DATA_SPAN,       GATE_DATA + 56  // u64: bytes up to the service's last address
.set DATA_TIMER_RATE, GATE_DATA + 64  // u64: timer ticks in 2^32 ticks of the time stamp counter

// ---------------------------------------------------------------------------------------------
// The tail. rdi = the handoff's address, rsi = the final top table. Runs on the gate's stack.
.section .gate, "ax"
.code64
    mov r8, rdi
    mov rbx, offset TAIL_PAGE
1:  mov rdi, [rbx]                  // each entry: physical address, count of 8-byte words
    mov rcx, [rbx + 8]
    test rcx, rcx
    jz 2f
    xor eax, eax
    rep stosq                       // boot's text, data, stack and first tables are zeros now
    add rbx, 16
    jmp 1b
2:  fninit                          // no value of boot's may be left in a register
    pxor xmm0, xmm0
    pxor xmm1, xmm1
    pxor xmm2, xmm2
    pxor xmm3, xmm3
    pxor xmm4, xmm4
    pxor xmm5, xmm5
    pxor xmm6, xmm6
    pxor xmm7, xmm7
    pxor xmm8, xmm8
    pxor xmm9, xmm9
    pxor xmm10, xmm10
    pxor xmm11, xmm11
    pxor xmm12, xmm12
    pxor xmm13, xmm13
    pxor xmm14, xmm14
    pxor xmm15, xmm15
    mov rdi, r8
    mov rax, rsi
    mov cr3, rax                    // the last act: this very page is not in the new tables

// ---------------------------------------------------------------------------------------------
// The gate. Its first instruction is the one after `mov cr3`.
.global gate_start
gate_start:
    mov rsp, offset GATE_STACK_TOP - 40 // boot left rip, cs, rflags, rsp, ss here
    xor eax, eax                    // the service starts with the handoff's address and nothing else
    xor ebx, ebx
    xor ecx, ecx
    xor edx, edx
    xor esi, esi
    xor ebp, ebp
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    iretq                           // ring 3, interrupts off, for ever

// ---- exceptions: each is the end. Stubs are 16 bytes apart so that boot can compute addresses.
.macro exception vector, has_error
    .p2align 4, 0xcc
    .if \has_error == 0
    push 0                          // the place of the error code
    .endif
    push \vector
    jmp crash
.endm

.p2align 4, 0xcc
.global gate_exceptions
gate_exceptions:
    exception 0, 0                  // #DE
    exception 1, 0                  // #DB
    exception 2, 0                  // NMI
    exception 3, 0                  // #BP
    exception 4, 0                  // #OF
    exception 5, 0                  // #BR
    exception 6, 0                  // #UD
    exception 7, 0                  // #NM
    exception 8, 1                  // #DF
    exception 9, 0                  // coprocessor overrun, old CPUs
    exception 10, 1                 // #TS
    exception 11, 1                 // #NP
    exception 12, 1                 // #SS
    exception 13, 1                 // #GP
    exception 14, 1                 // #PF
    exception 15, 0                 // reserved
    exception 16, 0                 // #MF
    exception 17, 1                 // #AC
    exception 18, 0                 // #MC
    exception 19, 0                 // #XM
    exception 20, 0                 // #VE
    exception 21, 1                 // #CP

// ---- interrupts: taken only inside `idle`, so eax is idle's answer in the making.
.p2align 4, 0xcc
.global gate_timer
gate_timer:
    or eax, 1                       // idle's answer: woken by the timer
    jmp end_of_interrupt
.global gate_device
gate_device:
    or eax, 2                       // idle's answer: woken by a device
end_of_interrupt:
    mov dword ptr [LOCAL_APIC + 0xb0], 0 // acknowledged: the next one may come
.global gate_spurious
gate_spurious:
    iretq                           // a vanished interrupt is not acknowledged (SDM 3A, 11.9)

// ---- idle(rdi = TSC deadline): arm the one-shot timer, sleep, say what woke us.
.global gate_idle
gate_idle:
    xor ecx, ecx                    // initial count 0: no timer
    cmp rdi, -1                     // the deadline that never comes
    je 2f
    rdtsc                           // edx:eax = now
    shl rdx, 32
    or rax, rdx                     // rax = now
    mov rcx, rdi
    sub rcx, rax                    // ticks of the TSC that are left
    jbe 1f                          // none: it has passed
    mov rax, rcx
    mul qword ptr [DATA_TIMER_RATE] // rdx:rax = timer ticks * 2^32
    shrd rax, rdx, 32               // rax = timer ticks, below 2^64
    shr rdx, 32                     // what does not fit
    jnz 3f                          // beyond 64 bits: as long as the timer can
    mov ecx, eax                    // the counter has 32 bits
    shr rax, 32
    jnz 3f                          // beyond 32 bits: likewise
    test ecx, ecx
    jnz 2f
1:  mov ecx, 1                      // the shortest sleep; 0 would mean never
    jmp 2f
3:  mov ecx, -1                     // the longest
2:  mov dword ptr [LOCAL_APIC + 0x380], ecx // arm, or do not
    xor eax, eax                    // nothing has woken us yet
    sti                             // takes effect after hlt: nothing is lost between the two
    hlt                             // the only place where an interrupt is taken
    cli                             // off again, before ring 3 runs
    mov dword ptr [LOCAL_APIC + 0x380], 0 // disarm
    iretq

// ---- log(rdi, rsi = bytes, rdx = length): at most 16 bytes to the console.
.global gate_log
gate_log:
    push rbx                        // what the service may rely on is kept
    push r8
    push r11
    push rsi                        // the bytes, in order,
    push rdi                        // at rsp
    mov ebx, 16                     // the most there can be
    cmp rdx, rbx
    cmovb rbx, rdx                  // or fewer
    xor r8d, r8d                    // the next one
1:  cmp r8, rbx
    jae 2f
    mov al, [rsp + r8]
    call put
    inc r8
    jmp 1b
2:  pop rdi
    pop rsi
    pop r11
    pop r8
    pop rbx
    xor eax, eax                    // leave nothing of ours behind
    xor ecx, ecx
    xor edx, edx
    iretq

// ---- stop(rdi = reason)
.global gate_stop
gate_stop:
    mov r12, [rsp]                  // where the service was; it never gets its r12 back
    lea rsi, [rip + text_stop]
    call print
    mov rax, rdi                    // the reason's lowest byte
    call byte_hex
    lea rsi, [rip + text_rip]
    call print
    mov rax, r12
    call address
    jmp end

// ---- crash: vector, error code, rip, cs, rflags, rsp, ss lie on the stack.
// Aligned so that no jump to it has a byte in its distance that would decode to a far return.
.p2align 4, 0xcc
crash:
    cld                             // flags are the service's
    lea rsi, [rip + text_crash]
    call print
    mov rax, [rsp]                  // vector
    call byte_hex
    lea rsi, [rip + text_error]
    call print
    mov rax, [rsp + 8]              // error code
    call hex
    lea rsi, [rip + text_rip]
    call print
    mov rax, [rsp + 16]             // rip
    call address
    lea rsi, [rip + text_cr2]
    call print
    mov rax, cr2                    // where a page fault happened
    call address

// ---- the end of the machine, as the image says.
end:
    lea rsi, [rip + text_end]
    call print
    mov al, [DATA_ON_STOP]
    cmp al, 1
    jb reset                        // 0
    ja dead                         // 2
    mov dx, [DATA_PM_PORT]          // 1: ACPI S5 (ACPI 6.5, 4.8.4.2.1)
    mov ax, [DATA_PM_VALUE]
    out dx, ax
    jmp dead                        // it takes a moment, or the port was none
reset:
    mov dx, [DATA_RESET_PORT]       // the ACPI reset register, or the chipset's
    mov al, [DATA_RESET_VALUE]
    out dx, al
    mov al, 0xfe                    // the keyboard controller's reset line, if that did nothing
    out 0x64, al
dead:
    cli                             // nothing may wake it
    hlt
    jmp dead                        // but an NMI could

// ---- address(rax): an offset into the service, or the address where it is none of its own.
address:
    mov rcx, rax
    sub rcx, [DATA_BASE]            // wraps for addresses below
    cmp rcx, [DATA_SPAN]
    jae hex                         // not the service's: as it is
    push rcx                        // the offset: no base in any record
    lea rsi, [rip + text_service]
    call print
    pop rax                         // and on into hex
// ---- hex(rax): sixteen digits. byte_hex(rax): two. Both change rax, rcx, rdx, r9, r10, r11.
hex:
    mov r9d, 16                     // digits
    jmp 1f
byte_hex:
    shl rax, 56                     // the lowest byte to the top
    mov r9d, 2
1:  mov r10, rax
2:  rol r10, 4                      // the highest digit to the bottom
    mov eax, r10d
    and eax, 15
    cmp eax, 10
    jb 3f
    add eax, 39                     // from ':' to 'a'
3:  add eax, 48                     // from 0 to '0'
    call put
    dec r9d
    jnz 2b
    ret

// ---- print(rsi = text that ends in 0). Changes rax, rcx, rdx, r11, rsi.
print:
    mov al, [rsi]
    test al, al                     // its end?
    jz 1f
    call put
    inc rsi
    jmp print
1:  ret

// ---- put(al): one byte to the console, after at most 65,536 looks at its line status.
// Changes rax, rcx, rdx, r11.
put:
    mov r11d, eax                   // the byte
    mov dx, [DATA_CONSOLE]
    add dx, 5                       // the line status register
    mov ecx, 0x10000                // a console that is never ready must not hang us
1:  in al, dx
    test al, 0x20                   // transmit holding register empty
    jnz 2f
    dec ecx
    jnz 1b
2:  sub dx, 5                       // the data register
    mov eax, r11d
    out dx, al
    ret

text_crash:   .asciz "\r\nCRASH vector="
text_error:   .asciz " error="
text_rip:     .asciz " rip="
text_cr2:     .asciz " cr2="
text_service: .asciz "service+"
text_stop:    .asciz "\r\nSTOP reason="
text_end:     .asciz "\r\n"
