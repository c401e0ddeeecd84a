//! A 32-bit x86 program written out by hand: no compiler for it need be installed.

/// An i386 ELF executable that makes one system call by `int 0x80` and exits with its errno.
///
/// `number` is the i386 number; the arguments are zero, which the calls that the tests choose answer
/// without harm.
pub fn one_call(number: u32) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let mut code = Vec::new();
    code.push(0xb8);
    code.extend(number.to_le_bytes()); // mov eax, number
    code.extend([0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2]); // xor ebx, ecx, edx
    code.extend([0xcd, 0x80]); // int 0x80
    code.extend([0x31, 0xdb]); // xor ebx, ebx
    code.extend([0x85, 0xc0]); // test eax, eax
    code.extend([0x79, 0x04]); // jns over the next two
    code.extend([0x89, 0xc3]); // mov ebx, eax
    code.extend([0xf7, 0xdb]); // neg ebx
    code.extend([0xb8, 1, 0, 0, 0]); // mov eax, exit
    code.extend([0xcd, 0x80]); // int 0x80
    let size = HEADERS + code.len() as u32;

    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(2u16.to_le_bytes()); // executable
    file.extend(3u16.to_le_bytes()); // i386
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word)); // version, entry, program headers, sections, flags
    }
    for half in [52u16, 32, 1, 40, 0, 0] {
        file.extend(half.to_le_bytes()); // sizes and counts of headers
    }
    for word in [1, 0, BASE, BASE, size, size, 5, 4096] {
        file.extend(u32::to_le_bytes(word)); // PT_LOAD, offset, addresses, sizes, r-x, alignment
    }
    file.extend(code);
    file
}
