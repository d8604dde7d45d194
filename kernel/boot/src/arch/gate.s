// The tail and the gate: boot's last instructions, and all of ring 0 that stays.
//
// Both are copied in one piece so that the gate begins on a page of its own and the tail ends right
// before it. Nothing here refers to its own address: calls and jumps are relative, and data lies at
// the fixed addresses below, which boot and the auditor share (arch/gate.rs checks that they agree).

.set TAIL_PAGE,       -0x3ff000     // wipe list, then nothing, then the tail's code
.set GATE_DATA,       -0x3fc000
.set GATE_STACK_TOP,  -0x3f7000
.set LOCAL_APIC,      -0x3f0000
.set TPM,             -0x3ef000     // the TPM's registers, locality 0: not mapped without a TPM
.set ANSWER,          -0x3ee000     // its last answer, likewise
.set DEVICE,          -0x3ed000     // a page of virtio registers: not mapped where a card is on PCI

.set DATA_CONSOLE,    GATE_DATA + 0   // u16: the console's first port
.set DATA_PM_PORT,    GATE_DATA + 8   // u16: PM1a control, 0 if unknown
.set DATA_PM_VALUE,   GATE_DATA + 16  // u16: what powers the machine off
.set DATA_RESET_PORT, GATE_DATA + 24  // u16: the reset register
.set DATA_RESET_VALUE,GATE_DATA + 32  // u8: what resets the machine
.set DATA_ON_STOP,    GATE_DATA + 40  // u8: 0 reset, 1 power off, 2 halt
.set DATA_BASE,       GATE_DATA + 48  // u64: the service's first address
.set DATA_SPAN,       GATE_DATA + 56  // u64: bytes up to the service's last address
.set DATA_TIMER_RATE, GATE_DATA + 64  // u64: timer ticks in 2^32 ticks of the time stamp counter
.set DATA_DEVICE,     GATE_DATA + 72  // u32: where the card begins in DEVICE, and 1; or 0: not there
.set DATA_TPM,        GATE_DATA + 128 // u8: 0 no TPM, 1 CRB, 2 TIS
.set DATA_QUOTE_BYTES,GATE_DATA + 136 // u32: bytes of the quote command, at most 127
.set DATA_QUOTE,      GATE_DATA + 256 // the quote command, the nonce's place still empty

.set NONCE_AT,        29            // where in the command its 32 bytes belong

// TCG PC Client Platform TPM Profile 1.06: section 6.5.2 for TIS ("FIFO"), 6.5.3 for CRB.
.set TIS_STATUS,      TPM + 0x18
.set TIS_FIFO,        TPM + 0x24
.set CRB_REQUEST,     TPM + 0x40
.set CRB_STATUS,      TPM + 0x44
.set CRB_START,       TPM + 0x4c
.set CRB_DATA,        TPM + 0x80

// Virtio 1.2, section 4.2.2. Registers begin at multiples of 512 bytes, so that no offset that the
// mask lets through makes one of these another register.
.set QUEUE_NOTIFY,    DEVICE + 0x50
.set INTERRUPT_STATUS,DEVICE + 0x60
.set INTERRUPT_ACK,   DEVICE + 0x64
.set DEVICE_MASK,     0xe00

.set ANSWER_STATE,    ANSWER        // u8: 0 no answer, 1 the TPM computes, 2 the answer is here
.set ANSWER_DATA,     ANSWER + 512  // 512 bytes, zeros behind the answer's end
.set LOOKS,           0x4000        // how often a call looks at the TPM in all

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
    mov ecx, [DATA_DEVICE]          // idle's to change, and nobody has interrupted anything else
    test ecx, ecx
    jz end_of_interrupt             // PCI: a message, which needs no more
    and ecx, DEVICE_MASK            // a line: it stays raised until the card is told
    mov edx, [INTERRUPT_STATUS + rcx] // why it was raised
    and ecx, DEVICE_MASK            // whatever comes between, the store stays in the page
    mov [INTERRUPT_ACK + rcx], edx  // all of it was seen: the line falls
    xor edx, edx                    // leave nothing of ours behind
    xor ecx, ecx
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

// ---- notify(rdi = queue): rings a card whose doorbell is not the service's to ring.
.global gate_notify
gate_notify:
    mov eax, 1                      // the answer in the making: refused
    cmp rdi, 1
    ja 1f                           // neither receive nor transmit
    mov ecx, [DATA_DEVICE]
    test ecx, ecx
    jz 1f                           // the card is on PCI, or there is none
    xor eax, eax                    // the answer: rung
    and ecx, DEVICE_MASK            // whatever the data says, the store stays in the page
    mov [QUEUE_NOTIFY + rcx], edi   // 0 or 1
1:  xor ecx, ecx                    // leave nothing of ours behind
    xor edx, edx
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

// ---- quote(rdi, rsi, rdx, r8 = 32 bytes): starts the TPM's one command. Each wait is for the
// interface, never for the TPM's computation, and all of them together have LOOKS looks.
.global gate_quote
gate_quote:
    push rbx                        // what the service may rely on is kept
    push rbp
    push r8                         // the 32 bytes, in order,
    push rdx
    push rsi
    push rdi                        // at rsp
    mov edx, 2                      // the answer in the making: there is no TPM
    movzx edi, byte ptr [DATA_TPM]
    cmp edi, 1
    jb 9f                           // 0
    mov edx, 1                      // the answer in the making: busy
    cmp byte ptr [ANSWER_STATE], 1
    je 9f                           // an earlier command is with the TPM
    mov ebp, LOOKS
    xor ebx, ebx                    // the next byte
    cmp edi, 1
    ja 3f
    mov dword ptr [CRB_REQUEST], 1  // CRB: cmdReady; the bit clears when it is
2:  test byte ptr [CRB_REQUEST], 1
    jz 4f
    dec ebp
    jnz 2b
    jmp 9f                          // it does not get ready: busy
3:  mov byte ptr [TIS_STATUS], 0x40 // TIS: commandReady, which also forgets an old answer
    mov esi, 0x40
    call tis_status
    jz 9f                           // it does not get ready: busy
    xor esi, esi                    // from here on only room for a byte counts
4:  cmp edi, 1
    jna 5f
    call tis_status
    jz 8f                           // no room
5:  lea eax, [rbx - NONCE_AT]       // where in the 32 bytes, if there
    cmp eax, 32
    jb 6f
    mov al, [DATA_QUOTE + rbx]      // not there: boot's byte
    jmp 7f
6:  mov al, [rsp + rax]
7:  cmp edi, 1
    ja quote_fifo
    and ebx, 127                    // whatever the length says, the store stays in the buffer
    mov [CRB_DATA + rbx], al
    jmp quote_next
quote_fifo:
    mov [TIS_FIFO], al
quote_next:
    inc ebx
    cmp ebx, [DATA_QUOTE_BYTES]
    jb 4b
    cmp edi, 1
    ja quote_go
    mov dword ptr [CRB_START], 1    // CRB: the bit clears when the answer is there
    jmp quote_started
quote_go:
    test byte ptr [TIS_STATUS], 8   // TIS: Expect; a byte was lost if it wants another one
    jnz 8f
    mov byte ptr [TIS_STATUS], 0x20 // TIS: tpmGo
quote_started:
    mov byte ptr [ANSWER_STATE], 1
    xor edx, edx                    // the answer: started
    jmp 9f
8:  mov byte ptr [TIS_STATUS], 0x40 // TIS: forget what it has; busy
9:  pop rdi
    pop rsi
    pop rcx                         // the service's rdx, which a call may change
    pop r8
    pop rbp
    pop rbx
    mov eax, edx
    xor ecx, ecx                    // leave nothing of ours behind
    xor edx, edx
    iretq

// ---- tpm_read(rdi = offset): fetches the answer if it is there, then hands out eight bytes of it.
.global gate_tpm_read
gate_tpm_read:
    push rbx                        // what the service may rely on is kept
    push rbp
    push rsi
    push rdi
    push r8
    mov edx, 2                      // the state in the making: no answer
    movzx edi, byte ptr [DATA_TPM]
    cmp edi, 1
    jb 9f                           // there is no TPM, and no page for its answer
    cmp byte ptr [ANSWER_STATE], 1
    jb 9f                           // nothing was asked, or the TPM failed
    ja read_ready                   // the answer was fetched before
    mov edx, 1                      // the state in the making: not yet
    mov esi, 0x90                   // TIS: stsValid and dataAvail
    mov ebp, edx                    // one look
    cmp edi, edx
    ja 2f
    test byte ptr [CRB_START], 1
    jnz 9f                          // CRB: it still computes
    jmp 3f
2:  call tis_status
    jz 9f                           // TIS: it still computes
3:  inc edx                         // the state in the making: no answer, until it is whole
    mov byte ptr [ANSWER_STATE], 0
    xor ebx, ebx
    xor eax, eax
4:  and ebx, 0x1f8                  // the store stays in the answer's place
    mov [ANSWER_DATA + rbx], rax    // an older answer may have been longer
    add ebx, 8
    cmp ebx, 512
    jb 4b
    xor ebx, ebx                    // the next byte
    mov r8d, 10                     // bytes of an answer's header
    mov ebp, LOOKS
5:  cmp edi, 1
    ja 6f
    test byte ptr [CRB_STATUS], 1   // CRB: tpmSts, a fatal error
    jnz read_end
    mov al, [CRB_DATA + rbx]
    jmp 7f
6:  call tis_status
    jz read_end                     // TIS: it has no more, but should
    mov al, [TIS_FIFO]
7:  and ebx, 0x1ff                  // the store stays in the answer's place
    mov [ANSWER_DATA + rbx], al
    inc ebx
    cmp ebx, 6
    jne 8f
    mov r8d, [ANSWER_DATA + 2]      // the length in the header is complete, its first byte highest
    bswap r8d
    lea eax, [r8 - 10]
    cmp eax, 502
    ja read_end                     // shorter than a header, or longer than we keep
8:  cmp ebx, r8d
    jb 5b
    mov byte ptr [ANSWER_STATE], 2
read_end:                           // good or bad, the TPM goes back to rest
    cmp edi, 1
    ja read_rest
    mov dword ptr [CRB_REQUEST], 2  // CRB: goIdle
    jmp read_whole
read_rest:
    mov byte ptr [TIS_STATUS], 0x40 // TIS: commandReady, so that the next command need not wait
read_whole:
    cmp byte ptr [ANSWER_STATE], 2
    jne 9f
read_ready:
    xor edx, edx                    // the state: ready
9:  pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    xor eax, eax                    // what there is where there is no answer, and beyond its end
    test edx, edx
    jnz 1f
    cmp rdi, 512
    jae 1f
    mov ecx, edi
    and ecx, 0x1f8                  // a multiple of 8, and in bounds even for a CPU that guesses
    mov rax, [ANSWER_DATA + rcx]
1:  xor ecx, ecx                    // leave nothing of ours behind
    iretq

// ---- tis_status(esi = bits, ebp = looks): looks at a TIS until all of the bits are set and there is
// room or data for a byte (burstCount). ZF if it ran out of looks. Changes eax, ecx, ebp.
tis_status:
    mov eax, [TIS_STATUS]
    mov ecx, eax
    and ecx, esi
    cmp ecx, esi
    jne 2f
    test eax, 0x00ffff00            // burstCount
    jnz 3f
2:  dec ebp
    jnz tis_status
3:  test ebp, ebp                   // at least one left, or none
    ret

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
