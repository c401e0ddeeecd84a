//! Who gets the processor, the disk and which memory: `process.scheduler`, `process.ioPriority`,
//! `process.execCPUAffinity` and `linux.memoryPolicy`.
//!
//! Policy and I/O priority are set by the creator, on a process that has built its container and waits: by
//! then the process itself has given its privileges up, and a deadline task could not fork any more. CPU
//! affinity and memory policy are the process's own affair and are inherited.
//!
//! See sched(7), ioprio_set(2), sched_setaffinity(2), set_mempolicy(2).

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::{
    IOPriorityClass, LinuxMemoryPolicy, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy,
    MemoryPolicyFlagType as MemoryFlag, MemoryPolicyModeType as Mode, Process,
};

use crate::error::{Call, Context, Error, Result};
use crate::sys;
use crate::sys::sched::Attributes;

/// What the creator sets on the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scheduling {
    attributes: Option<Attributes>,
    /// Class and level.
    io: Option<(u16, u16)>,
}

/// The scheduling of a validated process.
pub(crate) fn plan(process: &Process) -> Scheduling {
    let attributes = process.scheduler().as_ref().map(|asked| Attributes {
        policy: number_of(*asked.policy()),
        flags: asked.flags().iter().flatten().fold(0, |all, &one| all | flag(one)),
        nice: asked.nice().unwrap_or(0),
        // Between 1 and 99, or 0.
        priority: asked.priority().unwrap_or(0).unsigned_abs(),
        runtime: asked.runtime().unwrap_or(0),
        deadline: asked.deadline().unwrap_or(0),
        period: asked.period().unwrap_or(0),
        ..Attributes::default()
    });
    let io = process.io_priority().as_ref().map(|asked| {
        let class = match asked.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        (class, u16::try_from(asked.priority()).unwrap_or(u16::MAX))
    });
    Scheduling { attributes, io }
}

/// Of `linux/sched.h`.
const POLICIES: [(Policy, u32); 7] = [
    (Policy::SchedOther, 0),
    (Policy::SchedFifo, 1),
    (Policy::SchedRr, 2),
    (Policy::SchedBatch, 3),
    (Policy::SchedIso, 4),
    (Policy::SchedIdle, 5),
    (Policy::SchedDeadline, 6),
];

/// `SCHED_FLAG_*` of `linux/sched.h`.
fn flag(flag: Flag) -> u64 {
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

fn number_of(policy: Policy) -> u32 {
    POLICIES.iter().find(|(known, _)| *known == policy).map_or(0, |(_, number)| *number)
}

impl Scheduling {
    /// Whether it takes CAP_SYS_NICE from the process `pid` as it is: a policy of real time, or less
    /// niceness than the limit `RLIMIT_NICE` allows.
    pub(crate) fn takes_privilege(&self, pid: Pid) -> bool {
        let Some(attributes) = &self.attributes else { return false };
        let limit = |resource| sys::prlimit::get(pid, resource).map_or(0, |(soft, _)| soft);
        match attributes.policy {
            6 => true,
            1 | 2 => limit(libc::RLIMIT_RTPRIO as i32) < u64::from(attributes.priority),
            // As nice(2): the limit counts from 20 downwards.
            _ if attributes.nice < 0 => {
                let needed = u64::try_from(20 - attributes.nice).unwrap_or(u64::MAX);
                limit(libc::RLIMIT_NICE as i32) < needed
            }
            _ => false,
        }
    }

    /// Sets it on a process that waits.
    pub(crate) fn apply(&self, pid: i32) -> Result<()> {
        let pid = Pid::from_raw(pid);
        if let Some(attributes) = &self.attributes {
            let subject = format!("process.scheduler ({})", describe(attributes));
            sys::sched::set_attributes(pid, attributes).context("set", subject)?;
        }
        if let Some((class, level)) = self.io {
            sys::sched::set_io_priority(pid, class, level)
                .context("set", format!("process.ioPriority (class {class}, priority {level})"))?;
        }
        Ok(())
    }
}

/// A policy with what was asked of it.
fn describe(attributes: &Attributes) -> String {
    let policy = POLICIES.iter().find(|(_, number)| *number == attributes.policy);
    let mut text = policy.map_or_else(String::new, |(policy, _)| policy.to_string());
    let numbers = [
        ("nice", i64::from(attributes.nice)),
        ("priority", i64::from(attributes.priority)),
        ("flags", attributes.flags.cast_signed()),
        ("runtime", attributes.runtime.cast_signed()),
        ("deadline", attributes.deadline.cast_signed()),
        ("period", attributes.period.cast_signed()),
    ];
    for (name, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        text.push_str(&format!(", {name} {number}"));
    }
    text
}

/// CPUs of a process of `exec`: before it is in the container's cgroup, and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    initial: Option<CpuSet>,
    last: Option<CpuSet>,
}

/// The affinity of a validated process.
pub(crate) fn affinity(process: &Process) -> Result<Affinity> {
    let set = |list: Option<&str>, name: &str| {
        let field = || format!("process.execCPUAffinity.{name}");
        list.filter(|list| !list.is_empty())
            .map(|list| {
                let mut set = CpuSet::new();
                for cpu in numbers(list).ok_or_else(|| Error::invalid(field(), "is not a list"))? {
                    set.set(cpu).call("CPU_SET").context("set", field())?;
                }
                Ok::<_, Error>(set)
            })
            .transpose()
    };
    let Some(asked) = process.exec_cpu_affinity() else { return Ok(Affinity::default()) };
    Ok(Affinity {
        initial: set(asked.initial().as_deref(), "initial")?,
        last: set(asked.cpu_affinity_final().as_deref(), "final")?,
    })
}

impl Affinity {
    /// Takes the creator to the initial CPUs, until the value is dropped: a clone inherits them.
    pub(crate) fn enter(&self) -> Result<Home> {
        let Some(initial) = &self.initial else { return Ok(Home(None)) };
        let own = Pid::from_raw(0);
        let subject = || format!("process.execCPUAffinity.initial {}", describe_cpus(initial));
        let home = sched_getaffinity(own).call("sched_getaffinity").context("read", subject())?;
        sched_setaffinity(own, initial).call("sched_setaffinity").context("set", subject())?;
        Ok(Home(Some(home)))
    }

    /// Takes the process, which is in its cgroup, to the final CPUs. With initial ones alone, which those are
    /// is the kernel's to say. `None` without either: all of the cgroup's are then meant.
    pub(crate) fn finish(&self) -> Option<Result<()>> {
        let Some(last) = &self.last else { return self.initial.map(|_| Ok(())) };
        let set = sched_setaffinity(Pid::from_raw(0), last).call("sched_setaffinity");
        Some(set.context("set", format!("process.execCPUAffinity.final {}", describe_cpus(last))))
    }
}

fn describe_cpus(set: &CpuSet) -> String {
    let all = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    let texts: Vec<String> = all.map(|cpu| cpu.to_string()).collect();
    format!("\"{}\"", texts.join(","))
}

/// The creator's own CPUs.
#[derive(Debug)]
pub(crate) struct Home(Option<CpuSet>);

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(home) = &self.0 {
            // They were allowed before; should one be gone since, the others are kept by the kernel.
            let _ = sched_setaffinity(Pid::from_raw(0), home);
        }
    }
}

/// A NUMA policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    mode: i32,
    nodes: Vec<u64>,
}

/// Of `linux/mempolicy.h`.
const MODES: [(Mode, i32); 7] = [
    (Mode::MpolDefault, 0),
    (Mode::MpolPreferred, 1),
    (Mode::MpolBind, 2),
    (Mode::MpolInterleave, 3),
    (Mode::MpolLocal, 4),
    (Mode::MpolPreferredMany, 5),
    (Mode::MpolWeightedInterleave, 6),
];
const FLAGS: [(MemoryFlag, i32); 3] = [
    (MemoryFlag::MpolFNumaBalancing, 1 << 13),
    (MemoryFlag::MpolFRelativeNodes, 1 << 14),
    (MemoryFlag::MpolFStaticNodes, 1 << 15),
];

const ALL_FLAGS: i32 = 0b111 << 13;

/// The names of the memory policies and of their flags.
pub(crate) fn memory_words() -> (Vec<String>, Vec<String>) {
    let modes = MODES.iter().map(|(mode, _)| mode.to_string()).collect();
    (modes, FLAGS.iter().map(|(flag, _)| flag.to_string()).collect())
}

/// The container's memory policy.
pub(crate) fn memory_policy(asked: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    let field = "linux.memoryPolicy.nodes";
    let mode =
        MODES.iter().find(|(mode, _)| *mode == asked.mode()).map_or(0, |(_, number)| *number);
    let asked_flags = asked.flags().as_deref().unwrap_or_default();
    let flags = FLAGS.iter().filter(|(flag, _)| asked_flags.contains(flag));
    let flags = flags.fold(0, |all, (_, bit)| all | bit);
    let list = asked.nodes().as_deref().map(str::trim).unwrap_or_default();
    let odd = || Error::invalid(field, format!("{list:?} is not a list such as 0-3,7"));
    let numbers = if list.is_empty() { Vec::new() } else { numbers(list).ok_or_else(odd)? };
    let mut nodes = vec![0u64; numbers.iter().max().map_or(0, |most| most / 64 + 1)];
    for number in numbers {
        nodes[number / 64] |= 1 << (number % 64);
    }
    Ok(MemoryPolicy { mode: mode | flags, nodes })
}

impl MemoryPolicy {
    /// Sets it for the calling process and what it will execute.
    pub(crate) fn apply(&self) -> Result<()> {
        let mode = MODES.iter().find(|(_, number)| *number == self.mode & !ALL_FLAGS);
        let mode = mode.map_or_else(String::new, |(mode, _)| mode.to_string());
        let nodes = (0..self.nodes.len() * 64).filter(|n| self.nodes[n / 64] >> (n % 64) & 1 != 0);
        let nodes: Vec<String> = nodes.map(|node| node.to_string()).collect();
        let flags = FLAGS.iter().filter(|(_, bit)| self.mode & bit != 0);
        let flags: String = flags.map(|(flag, _)| format!(", {flag}")).collect();
        sys::sched::set_memory_policy(self.mode, &self.nodes).context(
            "set",
            format!("linux.memoryPolicy ({mode}, nodes \"{}\"{flags})", nodes.join(",")),
        )
    }
}

/// The numbers of a list such as `0-3,7`; nothing when it is malformed.
fn numbers(list: &str) -> Option<Vec<usize>> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let mut all = Vec::new();
    for item in list.split(',') {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        let (low, high) = (number(low)?, number(high)?);
        if low > high {
            return None;
        }
        all.extend((low..=high).map(usize::from));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(more: &str) -> Process {
        let json = format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/"{more}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn attributes_are_the_kernels_numbers() {
        let planned = plan(&process(
            r#","scheduler":{"policy":"SCHED_DEADLINE","flags":["SCHED_RESET_ON_FORK"],
              "runtime":1,"deadline":2,"period":3},
              "ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":0}"#,
        ));
        let expected = Attributes {
            policy: 6,
            flags: 1,
            runtime: 1,
            deadline: 2,
            period: 3,
            ..Attributes::default()
        };
        assert_eq!(planned, Scheduling { attributes: Some(expected), io: Some((3, 0)) });
        assert_eq!(plan(&process("")), Scheduling::default());
    }

    #[test]
    fn lists_are_numbers() {
        assert_eq!(numbers("0-2, 7"), Some(vec![0, 1, 2, 7]));
        for list in ["", "x", "2-1", "1-", "70000", "1,,2"] {
            assert_eq!(numbers(list), None, "{list:?}");
        }
    }

    #[test]
    fn nodes_above_a_word_are_in_the_mask() {
        let policy: LinuxMemoryPolicy = serde_json::from_str(
            r#"{"mode":"MPOL_BIND","nodes":"0,64-65","flags":["MPOL_F_STATIC_NODES"]}"#,
        )
        .unwrap();
        let expected = MemoryPolicy { mode: 2 | 1 << 15, nodes: vec![1, 3] };
        assert_eq!(memory_policy(&policy).unwrap(), expected);
    }
}
