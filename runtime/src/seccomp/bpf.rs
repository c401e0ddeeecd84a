//! An interpreter for classic BPF as the kernel runs it for seccomp.

use crate::sys::seccomp::Instruction;

/// `struct seccomp_data`.
#[derive(Clone, Debug)]
pub(super) struct Data {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// What the program returns, and after how many instructions.
pub(super) fn run(program: &[Instruction], data: &Data) -> (u32, usize) {
    let mut accumulator = 0u32;
    let mut at = 0;
    for steps in 1.. {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |condition: bool| at += usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = data.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return (k, steps),
            _ => panic!("instruction {code:#x}"),
        }
    }
    unreachable!()
}

/// What the kernel checks before it accepts a program: jumps stay inside, the end is a return.
pub(super) fn check(program: &[Instruction]) {
    assert!(program.len() <= 4096);
    for (at, instruction) in program.iter().enumerate() {
        let room = program.len() - at - 1;
        match instruction.code {
            0x05 => assert!((instruction.k as usize) < room),
            code if code & 7 == 5 => {
                assert!(usize::from(instruction.jt.max(instruction.jf)) < room);
            }
            _ => {}
        }
    }
    assert_eq!(program.last().map(|last| last.code), Some(0x06));
}
