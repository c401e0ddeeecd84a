//! A filter against the meaning of its profile, call by call; for tests and for fuzz/.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;

use super::bpf::{self, Data};
use super::expected::Meaning;
use super::tables::{Abi, Syscall, X32_BIT};
use super::{Filter, plan_for};
use crate::error::Result;

const ABIS: [Abi; 6] = [Abi::X86_64, Abi::X32, Abi::I386, Abi::Aarch64, Abi::Arm, Abi::Riscv64];

/// The native conventions of the machines that there are tables for.
const NATIVES: [Abi; 3] = [Abi::X86_64, Abi::Aarch64, Abi::Riscv64];

/// Numbers at the edges of what the conventions give out.
const SPECIAL: [u32; 9] =
    [0, 511, 512, 550, 0xf_0002, 0xf_0007, 0x3fff_ffff, 0x8000_0000, u32::MAX];

/// Values at the edges of an argument's halves.
const VALUES: [u64; 8] =
    [0, 1, 40, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX - 1, u64::MAX];

/// How many calls one profile is asked about.
const CALLS: usize = 600;

/// Compiles the profile for every kind of machine and compares each filter with the profile.
///
/// # Errors
/// Why the profile is refused.
pub(crate) fn compile(
    profile: &LinuxSeccomp,
    random: &mut impl FnMut() -> u64,
    warnings: &mut Vec<String>,
) -> Result<()> {
    for native in NATIVES {
        warnings.clear();
        let compiled = plan_for(native, profile, warnings)?;
        filter(&compiled, profile, native, random);
    }
    Ok(())
}

/// Asserts that `filter` does what `profile` says: for every call that it names and the numbers next
/// to it, for numbers at the edges, and with arguments on both sides of every condition.
fn filter(filter: &Filter, profile: &LinuxSeccomp, native: Abi, random: &mut impl FnMut() -> u64) {
    check(filter);
    let meaning = Meaning::new(profile, native);
    let values = values(profile);
    let mut pick = |count: usize| usize::try_from(random() % count as u64).unwrap_or(0);
    let calls = calls(profile);
    // A huge profile is sampled: what matters is many profiles.
    let skip = calls.len().div_ceil(CALLS);
    for &(abi, nr) in calls.iter().skip(pick(skip)).step_by(skip) {
        for _ in 0..3 {
            let args = std::array::from_fn(|_| values[pick(values.len())]);
            let data = Data { nr, arch: abi.audit(), args };
            let found = bpf::run(&filter.program, &data).0;
            let expected = meaning.action(&data);
            assert!(
                found == expected,
                "{found:#x} instead of {expected:#x} on {native:?} for {abi:?} {data:x?}"
            );
        }
    }
}

/// Asserts that the kernel takes the program.
pub(crate) fn check(filter: &Filter) {
    bpf::check(&filter.program);
}

/// Conventions and numbers to ask about.
fn calls(profile: &LinuxSeccomp) -> Vec<(Abi, u32)> {
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let named: BTreeSet<_> = names.map(String::as_str).collect();
    let always = ["clone3", "socketcall", "ipc", "execve", "openat2"];
    let known: Vec<Syscall> =
        named.into_iter().chain(always).filter_map(Syscall::by_name).collect();
    let mut calls = BTreeSet::new();
    for (index, abi) in ABIS.into_iter().enumerate() {
        let numbers = known.iter().filter_map(|call| call.number(abi));
        let around = numbers.flat_map(|nr| [nr, nr.wrapping_sub(1), nr.wrapping_add(1)]);
        let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
        calls.extend(around.chain(SPECIAL.map(|nr| nr | bit)).map(|nr| (nr, index)));
    }
    calls.into_iter().map(|(nr, index)| (ABIS[index], nr)).collect()
}

/// The values of all conditions, what lies next to them, and the edges.
fn values(profile: &LinuxSeccomp) -> Vec<u64> {
    let rules = profile.syscalls().iter().flatten();
    let conditions = rules.filter_map(|rule| rule.args().as_ref()).flatten();
    let mut values: BTreeSet<u64> = VALUES.into();
    for condition in conditions.take(64) {
        for value in [condition.value(), condition.value_two().unwrap_or(0)] {
            values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), !value]);
            values.insert(value ^ (1 << 32));
        }
    }
    values.into_iter().collect()
}
