//! The profile's meaning for one call, straight from the OCI types: no sorting, merging or trees.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::bpf::Data;
use super::tables::{Abi, Syscall};

const KILL_PROCESS: u32 = 0x8000_0000;
const ENOSYS: u32 = 0x0005_0026;

/// A profile whose names are resolved.
pub(super) struct Meaning<'a> {
    profile: &'a LinuxSeccomp,
    native: Abi,
    rules: Vec<(&'a LinuxSyscall, Vec<Syscall>)>,
}

impl<'a> Meaning<'a> {
    pub(super) fn new(profile: &'a LinuxSeccomp, native: Abi) -> Self {
        let rules = profile.syscalls().as_deref().unwrap_or_default().iter();
        let rules = rules
            .map(|rule| (rule, rule.names().iter().filter_map(|n| Syscall::by_name(n)).collect()))
            .collect();
        Self { profile, native, rules }
    }

    pub(super) fn action(&self, data: &Data) -> u32 {
        let profile = self.profile;
        let Some(abi) = convention(profile, self.native, data) else {
            return KILL_PROCESS;
        };
        let default = value(profile.default_action(), profile.default_errno_ret());
        let mentioned = self.rules_of(|call| call.number(abi) == Some(data.nr));
        if abi == Abi::I386 {
            if data.nr == 102 {
                return self.through(&mentioned, &SOCKETCALL, data, default);
            }
            if data.nr == 117 {
                return self.through(&mentioned, &IPC, data, default);
            }
        }
        if !mentioned.is_empty() {
            return decide(&mentioned, data, abi, default);
        }
        let clone3 = Syscall::by_name("clone3").and_then(|call| call.number(abi)) == Some(data.nr);
        if clone3 && profile.default_action() == LinuxSeccompAction::ScmpActErrno {
            return ENOSYS;
        }
        self.unmentioned(abi, data.nr, default)
    }

    fn rules_of(&self, is_call: impl Fn(&Syscall) -> bool) -> Vec<&'a LinuxSyscall> {
        self.rules.iter().filter(|rule| rule.1.iter().any(&is_call)).map(|rule| rule.0).collect()
    }
    fn unmentioned(&self, abi: Abi, nr: u32, default: u32) -> u32 {
        let carried_out = matches!(
            self.profile.default_action(),
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        );
        let ordinary = |number: u32| match abi {
            Abi::X32 => !(0x4000_0200..0x4000_0224).contains(&number),
            Abi::Arm => !(0xf_0000..u32::MAX).contains(&number),
            _ => true,
        };
        let newest = self
            .rules
            .iter()
            .flat_map(|rule| &rule.1)
            .filter_map(|call| call.number(abi))
            .filter(|number| ordinary(*number))
            .max();
        match newest {
            Some(newest) if !carried_out && nr > newest && ordinary(nr) => ENOSYS,
            _ => default,
        }
    }

    fn through(
        &self,
        explicit: &[&LinuxSyscall],
        selectors: &[&str],
        data: &Data,
        default: u32,
    ) -> u32 {
        if explicit.iter().any(|rule| args(rule).is_empty()) {
            return decide(explicit, data, Abi::I386, default);
        }
        for rule in explicit {
            let only = [*rule];
            // A default that no rule has shows whether the rule matched.
            if decide(&only, data, Abi::I386, 0xdead) != 0xdead {
                return value(rule.action(), rule.errno_ret());
            }
        }
        // A multiplexer that the profile says nothing of is a call like any other.
        let said = selectors.iter().any(|name| self.behind(name, default) != default);
        if explicit.is_empty() && !said {
            return self.unmentioned(Abi::I386, data.nr, default);
        }
        let name = selectors.get(data.args[0] as usize & 0xffff).copied().unwrap_or_default();
        self.behind(name, default)
    }

    /// What a call gets whose arguments cannot be seen: the strictest of all that it can get.
    fn behind(&self, name: &str, default: u32) -> u32 {
        let direct = self.rules_of(|call| call.name() == name);
        let actions =
            direct.iter().map(|rule| (value(rule.action(), rule.errno_ret()), args(rule)));
        if let Some((action, _)) =
            actions.clone().find(|(action, args)| args.is_empty() && *action != default)
        {
            return action;
        }
        actions
            .filter(|(_, args)| !args.is_empty())
            .map(|(action, _)| action)
            .chain([default])
            .min_by_key(|action| (action & 0xffff_0000) as i32)
            .expect("there is always the default")
    }
}

fn convention(profile: &LinuxSeccomp, native: Abi, data: &Data) -> Option<Abi> {
    let lists = |arch| profile.architectures().as_ref().is_some_and(|all| all.contains(&arch));
    match (native, data.arch) {
        (Abi::X86_64, 0xc000_003e) if data.nr < 0x4000_0000 => Some(Abi::X86_64),
        (Abi::X86_64, 0xc000_003e) if lists(Arch::ScmpArchX32) => Some(Abi::X32),
        (Abi::X86_64, 0xc000_003e) if data.nr == u32::MAX => Some(Abi::X86_64),
        (Abi::X86_64, 0x4000_0003) if lists(Arch::ScmpArchX86) => Some(Abi::I386),
        (Abi::Aarch64, 0xc000_00b7) => Some(Abi::Aarch64),
        (Abi::Aarch64, 0x4000_0028) if lists(Arch::ScmpArchArm) => Some(Abi::Arm),
        (Abi::Riscv64, 0xc000_00f3) => Some(Abi::Riscv64),
        _ => None,
    }
}

fn value(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    use LinuxSeccompAction::*;
    match action {
        ScmpActKill | ScmpActKillThread => 0,
        ScmpActKillProcess => 0x8000_0000,
        ScmpActTrap => 0x0003_0000,
        ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
        ScmpActNotify => 0x7fc0_0000,
        ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(1),
        ScmpActLog => 0x7ffc_0000,
        ScmpActAllow => 0x7fff_0000,
    }
}

fn args(rule: &LinuxSyscall) -> &[LinuxSeccompArg] {
    rule.args().as_deref().unwrap_or_default()
}

fn decide(rules: &[&LinuxSyscall], data: &Data, abi: Abi, default: u32) -> u32 {
    for rule in rules {
        let action = value(rule.action(), rule.errno_ret());
        if args(rule).is_empty() && action != default {
            return action;
        }
    }
    for rule in rules {
        let all = args(rule);
        if all.is_empty() {
            continue;
        }
        let repeats = (0..6).any(|i| all.iter().filter(|arg| arg.index() == i).count() > 1);
        let matches = if repeats {
            all.iter().any(|arg| holds(arg, data, abi))
        } else {
            all.iter().all(|arg| holds(arg, data, abi))
        };
        if matches {
            return value(rule.action(), rule.errno_ret());
        }
    }
    default
}

fn holds(arg: &LinuxSeccompArg, data: &Data, abi: Abi) -> bool {
    use LinuxSeccompOperator::*;
    let width = if matches!(abi, Abi::I386 | Abi::Arm) { 0xffff_ffff } else { u64::MAX };
    let found = data.args[arg.index()] & width;
    let value = arg.value() & width;
    let second = arg.value_two().unwrap_or(0) & width;
    match arg.op() {
        ScmpCmpNe => found != value,
        ScmpCmpLt => found < value,
        ScmpCmpLe => found <= value,
        ScmpCmpEq => found == value,
        ScmpCmpGe => found >= value,
        ScmpCmpGt => found > value,
        ScmpCmpMaskedEq => found & value == second & value,
    }
}

const SOCKETCALL: [&str; 21] = [
    "",
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

const IPC: [&str; 25] = [
    "",
    "semop",
    "semget",
    "semctl",
    "semtimedop",
    "",
    "",
    "",
    "",
    "",
    "",
    "msgsnd",
    "msgrcv",
    "msgget",
    "msgctl",
    "",
    "",
    "",
    "",
    "",
    "",
    "shmat",
    "shmdt",
    "shmget",
    "shmctl",
];
