//! System calls by name and architecture.
//!
//! A seccomp filter sees a number and the audit constant of the calling convention; a profile has
//! names. One sorted table holds the numbers of every calling convention that a supported kernel
//! accepts, so that a name is searched once whatever the number of architectures in the profile.

mod numbers;

use std::ops::Range;

use numbers::{NO, ROWS};

/// A name and its number in each calling convention, in the order of [`Abi`].
type Row = (&'static str, [u32; 6]);

/// A calling convention. The discriminant is the column in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X32,
    I386,
    Aarch64,
    Arm,
    Riscv64,
}

/// Marks the numbers of x32, which shares its audit constant with x86_64.
/// `__X32_SYSCALL_BIT` of asm/unistd.h.
pub(super) const X32_BIT: u32 = 1 << 30;

/// x32 has its own variants of some calls here; no other call is ever given these numbers.
/// Kernel: arch/x86/entry/syscalls/syscall_64.tbl.
const X32_VARIANTS: Range<u32> = X32_BIT | 512..X32_BIT | 548;

/// The private calls of arm (`__ARM_NR_BASE`), far above the numbers that grow with the kernel.
const ARM_PRIVATE: Range<u32> = 0xf_0000..u32::MAX;

/// The calling convention that this build's programs use.
pub(super) const NATIVE: Abi = if cfg!(target_arch = "x86_64") {
    Abi::X86_64
} else if cfg!(target_arch = "aarch64") {
    Abi::Aarch64
} else if cfg!(target_arch = "riscv64") {
    Abi::Riscv64
} else {
    panic!("no table of system calls for this architecture")
};

impl Abi {
    /// The `AUDIT_ARCH_*` constant that a filter sees. Kernel: include/uapi/linux/audit.h.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
            Abi::Riscv64 => 0xc000_00f3,
        }
    }

    /// Every convention that a kernel of this native one can be called by.
    pub(super) const fn reachable(self) -> &'static [Abi] {
        match self {
            Abi::X86_64 | Abi::X32 | Abi::I386 => &[Abi::X86_64, Abi::X32, Abi::I386],
            Abi::Aarch64 | Abi::Arm => &[Abi::Aarch64, Abi::Arm],
            Abi::Riscv64 => &[Abi::Riscv64],
        }
    }

    /// The width of the arguments that the kernel uses, whatever the registers hold.
    pub(super) const fn has_32_bit_arguments(self) -> bool {
        matches!(self, Abi::I386 | Abi::Arm)
    }
}

/// A system call that at least one architecture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syscall {
    row: usize,
}

impl Syscall {
    /// The call of this name, if any architecture has it.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        let row = ROWS.binary_search_by_key(&name, |row| row.0).ok()?;
        Some(Self { row })
    }

    /// The name that profiles use.
    pub(super) fn name(self) -> &'static str {
        ROWS[self.row].0
    }

    /// The number as a filter sees it, or `None` where the architecture lacks the call.
    pub(super) fn number(self, abi: Abi) -> Option<u32> {
        match (ROWS[self.row].1[abi as usize], abi) {
            (NO, _) => None,
            (number, Abi::X32) => Some(number | X32_BIT),
            (number, _) => Some(number),
        }
    }
}

/// Numbers outside of the sequence that new calls extend. They say nothing about how old the profile
/// that names them is, and no new call gets one.
pub(super) const fn apart(abi: Abi) -> Range<u32> {
    match abi {
        Abi::X32 => X32_VARIANTS,
        Abi::Arm => ARM_PRIVATE,
        _ => 0..0,
    }
}

/// A call that i386 programs can also make through `socketcall(2)` or `ipc(2)`.
pub(super) struct Multiplexed {
    pub(super) name: &'static str,
    /// The multiplexer's own name.
    pub(super) through: &'static str,
    /// The multiplexer's first argument.
    pub(super) selector: u32,
}

/// The bits of the first argument that select the call. `ipc` keeps a version in the upper half
/// (kernel: ipc/syscall.c), which must not let a call slip past its rule.
pub(super) const SELECTOR_MASK: u64 = 0xffff;

/// The calls behind the two multiplexers of i386, which its C library still uses. Kernel:
/// include/uapi/linux/net.h and ipc.h.
pub(super) static MULTIPLEXED: &[Multiplexed] = &{
    const fn socket(selector: u32, name: &'static str) -> Multiplexed {
        Multiplexed { name, through: "socketcall", selector }
    }
    const fn ipc(selector: u32, name: &'static str) -> Multiplexed {
        Multiplexed { name, through: "ipc", selector }
    }
    [
        socket(1, "socket"),
        socket(2, "bind"),
        socket(3, "connect"),
        socket(4, "listen"),
        socket(5, "accept"),
        socket(6, "getsockname"),
        socket(7, "getpeername"),
        socket(8, "socketpair"),
        socket(9, "send"),
        socket(10, "recv"),
        socket(11, "sendto"),
        socket(12, "recvfrom"),
        socket(13, "shutdown"),
        socket(14, "setsockopt"),
        socket(15, "getsockopt"),
        socket(16, "sendmsg"),
        socket(17, "recvmsg"),
        socket(18, "accept4"),
        socket(19, "recvmmsg"),
        socket(20, "sendmmsg"),
        ipc(1, "semop"),
        ipc(2, "semget"),
        ipc(3, "semctl"),
        ipc(4, "semtimedop"),
        ipc(11, "msgsnd"),
        ipc(12, "msgrcv"),
        ipc(13, "msgget"),
        ipc(14, "msgctl"),
        ipc(21, "shmat"),
        ipc(22, "shmdt"),
        ipc(23, "shmget"),
        ipc(24, "shmctl"),
    ]
};

#[cfg(test)]
impl Syscall {
    /// Every row, for tests that walk the table.
    pub(super) fn all() -> impl Iterator<Item = (&'static str, Self)> {
        ROWS.iter().enumerate().map(|(i, row)| (row.0, Self { row: i }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted() {
        assert!(ROWS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn numbers_are_unique() {
        for column in 0..6 {
            let mut numbers: Vec<_> = ROWS
                .iter()
                .filter(|row| row.1[column] != NO)
                .map(|row| (row.1[column], row.0))
                .collect();
            numbers.sort_unstable();
            for pair in numbers.windows(2) {
                let aliases = [pair[0].1, pair[1].1] == ["arm_sync_file_range", "sync_file_range2"];
                assert!(pair[0].0 != pair[1].0 || aliases, "{pair:?}");
            }
        }
    }

    #[test]
    fn known_numbers() {
        let cases = [
            ("read", Abi::X86_64, Some(0)),
            ("read", Abi::X32, Some(X32_BIT)),
            ("read", Abi::I386, Some(3)),
            ("read", Abi::Aarch64, Some(63)),
            ("read", Abi::Riscv64, Some(63)),
            ("execve", Abi::X32, Some(X32_BIT | 520)),
            ("execve", Abi::Arm, Some(11)),
            ("socketcall", Abi::X86_64, None),
            ("socketcall", Abi::I386, Some(102)),
            ("clone3", Abi::Arm, Some(435)),
            ("clone3", Abi::Riscv64, Some(435)),
            ("newfstatat", Abi::Aarch64, Some(79)),
            ("riscv_hwprobe", Abi::Riscv64, Some(258)),
            ("cacheflush", Abi::Arm, Some(0xf_0002)),
            ("file_setattr", Abi::X86_64, Some(469)),
        ];
        for (name, abi, number) in cases {
            let call = Syscall::by_name(name).unwrap();
            assert_eq!(call.number(abi), number, "{name} {abi:?}");
        }
        assert!(Syscall::by_name("no_such_call").is_none());
    }

    #[test]
    fn native_numbers_are_those_of_libc() {
        let cases = [
            ("read", libc::SYS_read),
            ("seccomp", libc::SYS_seccomp),
            ("capset", libc::SYS_capset),
            ("execve", libc::SYS_execve),
            ("clone3", libc::SYS_clone3),
            ("mount_setattr", libc::SYS_mount_setattr),
        ];
        for (name, number) in cases {
            let ours = Syscall::by_name(name).unwrap().number(NATIVE).unwrap();
            assert_eq!(i64::from(ours), number, "{name}");
        }
    }

    #[test]
    fn multiplexed_calls_are_in_the_table() {
        for call in MULTIPLEXED {
            assert!(Syscall::by_name(call.name).is_some(), "{}", call.name);
            assert!(Syscall::by_name(call.through).unwrap().number(Abi::I386).is_some());
        }
    }
}
