//! OCI profile to rules: checks every field, knows nothing of BPF.
//!
//! The result says for each rule of the profile what it does and when. Which rule decides a given
//! call is the business of [`Rules::outcomes`]:
//!
//! - A rule without conditions beats every rule with conditions for the same call, wherever it
//!   stands; of several, the first counts, and one that only repeats the default action does not.
//!   That is what libseccomp's rule database comes to, measured with 2.5.4.
//! - Of the rules with conditions the first that matches counts. libseccomp orders overlapping
//!   conditions by its own tree, or refuses them; profiles cannot rely on either.
//! - Several conditions on one argument in one rule are alternatives, and so are then all
//!   conditions of that rule: runc has always read such rules so, and engines write them for that.

use std::ffi::OsStr;
use std::path::Path;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::SeccompCmpOp;

use super::notify::{self, Notify};
use super::tables::{Abi, MULTIPLEXED, SELECTOR_MASK, Syscall, apart};
use crate::error::{Error, Result};
use crate::sys::seccomp::FilterFlags;

/// The longest path that `sockaddr_un` holds with its final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Calls that a C library tries first and replaces by an older call, but only when the kernel says
/// ENOSYS. glibc does so for `clone3`, and no filter can look into its arguments, so that profiles
/// which restrict `clone` leave it out: the default action's EPERM then means that no thread can be
/// created (containerd issue 6203).
const REPLACED_ON_ENOSYS: &[&str] = &["clone3"];

/// What the kernel does with a call: the value that a filter returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Action(u32);

impl Action {
    pub(super) const KILL_PROCESS: Self = Self(libc::SECCOMP_RET_KILL_PROCESS);
    pub(super) const ENOSYS: Self = Self(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    pub(super) const NOTIFY: Self = Self(libc::SECCOMP_RET_USER_NOTIF);

    /// The value for `BPF_RET`.
    pub(super) fn value(self) -> u32 {
        self.0
    }

    /// Lower is stricter. The kernel compares the actions of several filters as signed numbers in
    /// the same way, so that `KILL_PROCESS`, whose top bit is set, is the strictest of all.
    pub(super) fn leniency(self) -> i32 {
        (self.0 & libc::SECCOMP_RET_ACTION_FULL).cast_signed()
    }

    /// Whether the call is carried out. TRACE is among these because the tracer decides, and one
    /// that emulates calls wants to see those that the kernel does not know.
    pub(super) fn is_permissive(self) -> bool {
        self.leniency() >= libc::SECCOMP_RET_TRACE.cast_signed()
    }

    fn is_errno(self) -> bool {
        self.0 & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO
    }

    fn from_oci(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<Self> {
        use LinuxSeccompAction::*;
        // The kernel cuts an errno at MAX_ERRNO (include/linux/err.h), a tracer gets 16 bits.
        let (base, data_max) = match action {
            ScmpActKill | ScmpActKillThread => (libc::SECCOMP_RET_KILL_THREAD, None),
            ScmpActKillProcess => (libc::SECCOMP_RET_KILL_PROCESS, None),
            ScmpActTrap => (libc::SECCOMP_RET_TRAP, None),
            ScmpActErrno => (libc::SECCOMP_RET_ERRNO, Some(4095)),
            ScmpActNotify => (libc::SECCOMP_RET_USER_NOTIF, None),
            ScmpActTrace => (libc::SECCOMP_RET_TRACE, Some(u32::from(u16::MAX))),
            ScmpActLog => (libc::SECCOMP_RET_LOG, None),
            ScmpActAllow => (libc::SECCOMP_RET_ALLOW, None),
        };
        match (data_max, errno) {
            (None, None) => Ok(Self(base)),
            (None, Some(_)) => Err(Error::invalid(field, format!("{action} returns no errno"))),
            (Some(_), None) => Ok(Self(base | libc::EPERM.cast_unsigned())),
            (Some(max), Some(errno)) if errno <= max => Ok(Self(base | errno)),
            (Some(max), Some(errno)) => {
                Err(Error::invalid(field, format!("{errno} is more than {max}")))
            }
        }
    }
}

/// A comparison of one argument, as an unsigned number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u8,
    pub(super) op: SeccompCmpOp,
    pub(super) value: u64,
}

impl Condition {
    fn from_oci(arg: &LinuxSeccompArg, field: &str) -> Result<Self> {
        use LinuxSeccompOperator::*;
        let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
            Error::invalid(
                format!("{field}.index"),
                format!("{} is not below 6, the number of arguments", arg.index()),
            )
        })?;
        let (op, value) = match arg.op() {
            ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
            ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
            ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
            ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
            ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
            ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
            // Engines leave a second value of zero out.
            ScmpCmpMaskedEq => {
                (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or_default())
            }
        };
        Ok(Self { index, op, value })
    }
}

/// An entry of `linux.seccomp.syscalls`.
#[derive(Debug)]
struct Rule {
    action: Action,
    /// Each alternative is a conjunction; none at all means that the rule always matches.
    alternatives: Vec<Vec<Condition>>,
}

/// Where a name stands in the profile.
#[derive(Clone, Copy, Debug)]
struct Mention {
    call: Syscall,
    rule: usize,
}

/// A checked profile.
#[derive(Debug)]
pub(super) struct Profile {
    /// The calling conventions that may be used at all; the native one is first.
    pub(super) abis: Vec<Abi>,
    pub(super) rules: Rules,
    pub(super) flags: FilterFlags,
    pub(super) notify: Option<Notify>,
}

/// What the profile says of system calls.
#[derive(Debug)]
pub(super) struct Rules {
    default: Action,
    rules: Vec<Rule>,
    /// In the order of the profile. Calls that no architecture has are left out.
    mentions: Vec<Mention>,
}

/// What happens to one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The first whose conditions all hold decides.
    pub(super) tests: Vec<(Vec<Condition>, Action)>,
    /// What is done when none holds.
    pub(super) otherwise: Action,
}

impl From<Action> for Outcome {
    fn from(action: Action) -> Self {
        Self { tests: Vec::new(), otherwise: action }
    }
}

/// What happens to every number of one calling convention.
#[derive(Debug)]
pub(super) struct Outcomes {
    /// By number, ascending, without repetition.
    pub(super) calls: Vec<(u32, Outcome)>,
    /// Every other number up to [`Self::newest`].
    pub(super) default: Action,
    /// The greatest number that the profile names: what its author can have known of.
    pub(super) newest: Option<u32>,
    /// Every greater number.
    pub(super) newer: Action,
}

impl Outcomes {
    /// What happens to a number that no rule names. The profile's author cannot have known of those
    /// above `newest`, nor have meant the default for them.
    pub(super) fn unnamed(&self, number: u32, abi: Abi) -> Action {
        match self.newest {
            Some(newest) if number > newest && !apart(abi).contains(&number) => self.newer,
            _ => self.default,
        }
    }
}

impl Profile {
    /// Checks `seccomp` for a kernel whose native calling convention is `native`.
    pub(super) fn from_oci(
        seccomp: &LinuxSeccomp,
        native: Abi,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let default = Action::from_oci(
            seccomp.default_action(),
            seccomp.default_errno_ret(),
            "linux.seccomp.defaultErrnoRet",
        )?;
        if default == Action::NOTIFY {
            return Err(Error::invalid(
                "linux.seccomp.defaultAction",
                "SCMP_ACT_NOTIFY would also notify the calls that hand the listener over",
            ));
        }
        let syscalls = seccomp.syscalls().as_deref().unwrap_or_default();
        let mut rules =
            Rules { default, rules: Vec::with_capacity(syscalls.len()), mentions: Vec::new() };
        let mut unknown = Vec::new();
        for (i, syscall) in syscalls.iter().enumerate() {
            rules.add(syscall, &format!("linux.seccomp.syscalls[{i}]"), &mut unknown)?;
        }
        if !unknown.is_empty() {
            warnings.push(format!(
                "linux.seccomp.syscalls: unknown system calls stay allowed: {}",
                unknown.join(", ")
            ));
        }
        rules.warn_of_lost_conditions(warnings);
        let notify = listener(seccomp)?;
        Ok(Self {
            abis: abis(seccomp.architectures().as_deref().unwrap_or_default(), native),
            flags: flags(seccomp.flags().as_deref(), notify.is_some()),
            rules,
            notify,
        })
    }
}

impl Rules {
    fn add(
        &mut self,
        syscall: &LinuxSyscall,
        field: &str,
        unknown: &mut Vec<String>,
    ) -> Result<()> {
        let action =
            Action::from_oci(syscall.action(), syscall.errno_ret(), &format!("{field}.errnoRet"))?;
        if syscall.names().is_empty() {
            return Err(Error::invalid(format!("{field}.names"), "is empty"));
        }
        let alternatives = alternatives(syscall.args().as_deref().unwrap_or_default(), field)?;
        let rule = self.rules.len();
        for (i, name) in syscall.names().iter().enumerate() {
            let field = || format!("{field}.names[{i}]");
            if name.is_empty() {
                return Err(Error::invalid(field(), "is empty"));
            }
            // runc refuses it because its child has to write the listener's number; a profile that
            // works with both must not contain it.
            if name == "write" && action == Action::NOTIFY {
                return Err(Error::invalid(field(), "SCMP_ACT_NOTIFY cannot be used for write"));
            }
            match Syscall::by_name(name) {
                Some(call) => self.mentions.push(Mention { call, rule }),
                // In a list of what is allowed such a name changes nothing: engines send one list
                // to all architectures and kernels. In a list of what is denied it leaves a gap.
                None if self.default.is_permissive() && !action.is_permissive() => {
                    unknown.push(name.clone());
                }
                None => {}
            }
        }
        self.rules.push(Rule { action, alternatives });
        Ok(())
    }

    /// What happens to the calls of one convention.
    pub(super) fn outcomes(&self, abi: Abi) -> Outcomes {
        let mut numbers: Vec<(u32, usize)> = self
            .mentions
            .iter()
            .filter_map(|mention| Some((mention.call.number(abi)?, mention.rule)))
            .collect();
        let newest = numbers.iter().map(|call| call.0).filter(|n| !apart(abi).contains(n)).max();
        // Stable: rules of one call stay in the order of the profile.
        numbers.sort_by_key(|call| call.0);
        let mut calls: Vec<(u32, Outcome)> = numbers
            .chunk_by(|a, b| a.0 == b.0)
            .map(|group| (group[0].0, self.decide(group.iter().map(|call| call.1)).trimmed()))
            .collect();
        let newer = if self.default.is_permissive() { self.default } else { Action::ENOSYS };
        if self.default.is_errno() {
            for number in
                REPLACED_ON_ENOSYS.iter().filter_map(|name| Syscall::by_name(name)?.number(abi))
            {
                if let Err(place) = calls.binary_search_by_key(&number, |call| call.0) {
                    calls.insert(place, (number, Action::ENOSYS.into()));
                }
            }
        }
        if abi == Abi::I386 {
            self.multiplex(&mut calls);
        }
        Outcomes { calls, default: self.default, newest, newer }
    }

    /// The outcome of a call that these rules name.
    fn decide(&self, rules: impl Iterator<Item = usize> + Clone) -> Outcome {
        let rules = rules.map(|rule| &self.rules[rule]);
        let unconditional =
            rules.clone().find(|rule| rule.alternatives.is_empty() && rule.action != self.default);
        if let Some(rule) = unconditional {
            return rule.action.into();
        }
        let tests = rules
            .flat_map(|rule| rule.alternatives.iter().map(|all| (all.clone(), rule.action)))
            .collect();
        Outcome { tests, otherwise: self.default }
    }

    /// Adds what i386 programs may do through `socketcall` and `ipc`.
    ///
    /// A rule for `socket` must also hold for `socketcall(SYS_SOCKET)`, else it is no rule. There the
    /// call's own arguments are in memory, out of a filter's sight: the multiplexed call gets the
    /// strictest of all actions that the direct call can get. (libseccomp applies the rule without
    /// its conditions, or with conditions on the wrong arguments, so that "every family but vsock"
    /// becomes "every family".) A rule that names the multiplexer itself comes first.
    fn multiplex(&self, calls: &mut Vec<(u32, Outcome)>) {
        let named = |name| Syscall::by_name(name).expect("the table has every multiplexed call");
        for through in ["socketcall", "ipc"] {
            let call = named(through);
            let number = call.number(Abi::I386).expect("i386 has both");
            // A rule without conditions is final even if it repeats the default action: denying
            // the multiplexer is how a profile keeps conditions on `socket` effective.
            if self.rules_of(call).any(|rule| self.rules[rule].alternatives.is_empty()) {
                continue;
            }
            let mut outcome = self.decide(self.rules_of(call));
            for sub in MULTIPLEXED.iter().filter(|sub| sub.through == through) {
                let condition = Condition {
                    index: 0,
                    op: SeccompCmpOp::MaskedEq(SELECTOR_MASK),
                    value: sub.selector.into(),
                };
                let action = self.decide(self.rules_of(named(sub.name))).strictest();
                outcome.tests.push((vec![condition], action));
            }
            let outcome = outcome.trimmed();
            match calls.binary_search_by_key(&number, |call| call.0) {
                Ok(place) => calls[place].1 = outcome,
                Err(_) if outcome == self.default.into() => {}
                Err(place) => calls.insert(place, (number, outcome)),
            }
        }
    }

    /// Warns of rules that deny a call for some arguments and lose to one that allows it for all.
    fn warn_of_lost_conditions(&self, warnings: &mut Vec<String>) {
        let conditional =
            self.mentions.iter().filter(|m| !self.rules[m.rule].alternatives.is_empty());
        for mention in conditional {
            let outcome = self.decide(self.rules_of(mention.call));
            let action = self.rules[mention.rule].action;
            if outcome.tests.is_empty() && outcome.otherwise.leniency() > action.leniency() {
                warnings.push(format!(
                    "linux.seccomp.syscalls[{}]: the conditions on {} have no effect, another rule \
                     allows it without any",
                    mention.rule,
                    mention.call.name()
                ));
            }
        }
    }

    fn rules_of(&self, call: Syscall) -> impl Iterator<Item = usize> + Clone {
        self.mentions.iter().filter(move |mention| mention.call == call).map(|m| m.rule)
    }
}

impl Outcome {
    /// Without the tests that cannot change anything.
    fn trimmed(mut self) -> Self {
        while self.tests.pop_if(|test| test.1 == self.otherwise).is_some() {}
        self
    }

    fn strictest(&self) -> Action {
        self.tests
            .iter()
            .map(|test| test.1)
            .chain([self.otherwise])
            .min_by_key(|action| action.leniency())
            .expect("there is always the last one")
    }
}

fn alternatives(args: &[LinuxSeccompArg], field: &str) -> Result<Vec<Vec<Condition>>> {
    let conditions = args
        .iter()
        .enumerate()
        .map(|(i, arg)| Condition::from_oci(arg, &format!("{field}.args[{i}]")))
        .collect::<Result<Vec<_>>>()?;
    let mut seen = [false; 6];
    let repeats = conditions
        .iter()
        .any(|condition| std::mem::replace(&mut seen[usize::from(condition.index)], true));
    Ok(match (conditions.is_empty(), repeats) {
        (true, _) => Vec::new(),
        (false, false) => vec![conditions],
        (false, true) => conditions.into_iter().map(|condition| vec![condition]).collect(),
    })
}

/// The conventions to generate code for. The native one is always filtered, listed or not, as with
/// libseccomp: the container's first `execve` is made with it. Those that this kernel cannot be
/// called by are left out.
fn abis(architectures: &[Arch], native: Abi) -> Vec<Abi> {
    let listed = |abi: Abi| {
        architectures.contains(&match abi {
            Abi::X86_64 => Arch::ScmpArchX86_64,
            Abi::X32 => Arch::ScmpArchX32,
            Abi::I386 => Arch::ScmpArchX86,
            Abi::Aarch64 => Arch::ScmpArchAarch64,
            Abi::Arm => Arch::ScmpArchArm,
            Abi::Riscv64 => Arch::ScmpArchRiscv64,
        })
    };
    native.reachable().iter().copied().filter(|abi| *abi == native || listed(*abi)).collect()
}

/// Without `flags` speculative store bypass stays as it is, as with runc: the mitigation that a
/// filter otherwise turns on costs much and does not protect from the filtered program. An empty
/// list means no flag.
fn flags(flags: Option<&[LinuxSeccompFilterFlag]>, notifies: bool) -> FilterFlags {
    use LinuxSeccompFilterFlag::*;
    let mut set = FilterFlags::empty();
    for flag in flags.unwrap_or(&[SeccompFilterFlagSpecAllow]) {
        set |= match flag {
            SeccompFilterFlagLog => FilterFlags::LOG,
            // With the second flag a failure is an errno, and a listener can be had as well.
            SeccompFilterFlagTsync => FilterFlags::TSYNC | FilterFlags::TSYNC_ESRCH,
            SeccompFilterFlagSpecAllow => FilterFlags::SPEC_ALLOW,
            // The kernel refuses it without a listener, and then there is nothing to wait for.
            SeccompFilterFlagWaitKillableRecv if notifies => FilterFlags::WAIT_KILLABLE_RECV,
            SeccompFilterFlagWaitKillableRecv => FilterFlags::empty(),
        };
    }
    if notifies {
        set |= FilterFlags::NEW_LISTENER;
    }
    set
}

fn listener(seccomp: &LinuxSeccomp) -> Result<Option<Notify>> {
    let is_set = |text: Option<&OsStr>| text.is_some_and(|text| !text.is_empty());
    let has_path = is_set(seccomp.listener_path().as_deref().map(Path::as_os_str));
    let has_metadata = is_set(seccomp.listener_metadata().as_deref().map(OsStr::new));
    if has_metadata && !has_path {
        let field = "linux.seccomp.listenerMetadata";
        return Err(Error::invalid(field, "is set without listenerPath"));
    }
    if !has_path && notify::notifies(seccomp) {
        let reason = "is not set, but a rule has SCMP_ACT_NOTIFY";
        return Err(Error::invalid("linux.seccomp.listenerPath", reason));
    }
    // A path that no rule needs is ignored, says the specification.
    let notify = Notify::of(seccomp);
    match &notify {
        Some(notify) if notify.path.as_os_str().len() > SOCKET_PATH_MAX => Err(Error::invalid(
            "linux.seccomp.listenerPath",
            format!("is longer than {SOCKET_PATH_MAX} bytes"),
        )),
        _ => Ok(notify),
    }
}
