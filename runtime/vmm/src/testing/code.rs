//! The guest's own instructions, assembled into the test program, which copies them.
//!
//! Instructions that a `/dev/kvm` with an emulated kernel mode does not know are avoided.

#![allow(unsafe_code)]

core::arch::global_asm!(
    ".pushsection .rodata.guest, \"a\"",
    ".globl guest_begin, guest_handler, guest_ap, guest_end, guest_long_begin, guest_long_end",
    ".code32",
    "guest_begin:",
    "    mov esp, 0x8000",
    "    mov ebp, ebx", // the start info
    "    mov esi, 0x200000",
    "2:  mov eax, [esi]",
    "    mov edi, [esi + 4]",
    "    mov ecx, [esi + 8]",
    "    add esi, 16",
    "    mov edx, edi",
    "    cmp eax, 1",
    "    je 31f",
    "    cmp eax, 2",
    "    je 32f",
    "    cmp eax, 3",
    "    je 33f",
    "    cmp eax, 4",
    "    je 34f",
    "    cmp eax, 5",
    "    je 35f",
    "    cmp eax, 6",
    "    je 36f",
    "    cmp eax, 7",
    "    je 37f",
    "    cmp eax, 8",
    "    je 38f",
    "    ud2",
    "31: mov [edi], ecx",
    "    jmp 2b",
    "32: mov eax, [edi]",
    "    mov [ecx], eax",
    "    jmp 2b",
    "33: mov eax, ecx",
    "    out dx, al",
    "    jmp 2b",
    "34: in al, dx",
    "    mov [ecx], al",
    "    jmp 2b",
    "35: cmp [edi], cx",
    "    jne 35b",
    "    jmp 2b",
    "36: mov edi, [ebp + 24]",
    "    jmp 39f",
    "37: mov edi, [ebp + 16]",
    "    mov edi, [edi]",
    "39: mov edx, 0x3f8",
    "40: mov al, [edi]",
    "    inc edi",
    "    test al, al",
    "    jz 2b",
    "    out dx, al",
    "    jmp 40b",
    "38: lgdt [edi]",
    "    lidt [ecx]",
    "    sti",
    "    jmp 2b",
    "guest_handler:",
    "    push eax",
    "    mov eax, 0x4000",
    "    inc dword ptr [eax]",
    "    mov eax, 0xfee000b0", // the local controller: done
    "    mov dword ptr [eax], 0",
    "    pop eax",
    // KVM's emulator knows no `iretd` in this mode: the flags, then a far return over them.
    "    push dword ptr [esp + 8]",
    "    popfd",
    "    retf 4",
    // Another processor, where its waker sent it.
    ".code16",
    "guest_ap:",
    "    xor ax, ax",
    "    mov ds, ax",
    "    mov bx, 0x4004",
    "    inc word ptr [bx]",
    "3:  hlt",
    "    jmp 3b",
    "guest_end:",
    // The 64-bit entry: prints the command line that the zero page has, and the initramfs.
    ".code64",
    "guest_long_begin:",
    "    mov edi, [rsi + 0x228]",
    "    call 4f",
    "    mov edi, [rsi + 0x218]",
    "    call 4f",
    "    mov dx, 0x600",
    "    mov al, 0x34",
    "    out dx, al",
    "    hlt",
    "4:  mov edx, 0x3f8",
    "5:  mov al, [rdi]",
    "    inc rdi",
    "    test al, al",
    "    jz 6f",
    "    out dx, al",
    "    jmp 5b",
    "6:  ret",
    "guest_long_end:",
    ".popsection",
);

unsafe extern "C" {
    static guest_begin: u8;
    static guest_handler: u8;
    static guest_ap: u8;
    static guest_end: u8;
    static guest_long_begin: u8;
    static guest_long_end: u8;
}

/// The bytes between two labels.
fn between(begin: *const u8, end: *const u8) -> Vec<u8> {
    // SAFETY: both are labels of the block above, in this order, and nobody writes there.
    unsafe { std::slice::from_raw_parts(begin, end.offset_from_unsigned(begin)) }.to_vec()
}

/// The code of the guest, to be put at `HIGH_MEMORY`.
pub(crate) fn code() -> Vec<u8> {
    between(&raw const guest_begin, &raw const guest_end)
}

/// How far behind its beginning the interrupt handler is.
pub(crate) fn handler_offset() -> u64 {
    between(&raw const guest_begin, &raw const guest_handler).len() as u64
}

/// The code of the 64-bit entry.
pub(crate) fn long_code() -> Vec<u8> {
    between(&raw const guest_long_begin, &raw const guest_long_end)
}

/// The code of a processor that is woken, for real mode.
pub(crate) fn other_processor() -> Vec<u8> {
    between(&raw const guest_ap, &raw const guest_end)
}
