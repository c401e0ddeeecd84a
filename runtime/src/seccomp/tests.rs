//! The whole compiler against an interpreter of its output, and against the kernel.

/// The command line's profile, which belongs there but is proved with the tools in here.
#[path = "../../../cli/src/default_seccomp.rs"]
mod default_seccomp;
mod kernel;

use std::time::Instant;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::bpf::Data;
use super::tables::{Abi, Syscall, X32_BIT};
use super::{Filter, bpf, expected, plan_for};
use crate::error::ErrorKind;
use crate::sys::seccomp::FilterFlags;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn compile(value: Value) -> Filter {
    plan_for(Abi::X86_64, &profile(value), &mut Vec::new()).unwrap()
}

fn number(name: &str, abi: Abi) -> u32 {
    Syscall::by_name(name).unwrap().number(abi).unwrap()
}

/// What the filter returns for a call by name.
fn run(filter: &Filter, abi: Abi, name: &str, args: &[u64]) -> u32 {
    run_number(filter, abi, number(name, abi), args)
}

fn run_number(filter: &Filter, abi: Abi, nr: u32, args: &[u64]) -> u32 {
    let mut data = Data { nr, arch: abi.audit(), args: [0; 6] };
    data.args[..args.len()].copy_from_slice(args);
    bpf::run(&filter.program, &data).0
}

#[test]
fn errors_name_their_field() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}, rule]});
    let cases = [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "check linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would also",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}),
            "check linux.seccomp.defaultErrnoRet: SCMP_ACT_KILL returns no errno",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}),
            "check linux.seccomp.defaultErrnoRet: 4096 is more than 4095",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "check linux.seccomp.listenerMetadata: is set without listenerPath",
        ),
        (
            rule(json!({"names": [], "action": "SCMP_ACT_LOG"})),
            "check linux.seccomp.syscalls[1].names: is empty",
        ),
        (
            rule(json!({"names": ["read", ""], "action": "SCMP_ACT_LOG"})),
            "check linux.seccomp.syscalls[1].names[1]: is empty",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 0})),
            "check linux.seccomp.syscalls[1].errnoRet: SCMP_ACT_ALLOW returns no errno",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536})),
            "check linux.seccomp.syscalls[1].errnoRet: 65536 is more than 65535",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]})),
            "check linux.seccomp.syscalls[1].args[1].index: 6 is not below 6",
        ),
        (
            rule(json!({"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"})),
            "check linux.seccomp.syscalls[1].names[1]: SCMP_ACT_NOTIFY cannot be used for write",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
            "check linux.seccomp.listenerPath: is not set, but a rule",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/".repeat(108), "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}),
            "check linux.seccomp.listenerPath: is longer than 107 bytes",
        ),
    ];
    for (value, expected) in cases {
        let error = plan_for(Abi::X86_64, &profile(value), &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn flags_follow_the_profile() {
    let notify = json!([{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]);
    let cases = [
        (json!(null), json!([]), FilterFlags::SPEC_ALLOW),
        (json!([]), json!([]), FilterFlags::empty()),
        (json!(["SECCOMP_FILTER_FLAG_LOG"]), json!([]), FilterFlags::LOG),
        (
            json!(["SECCOMP_FILTER_FLAG_TSYNC"]),
            json!([]),
            FilterFlags::TSYNC | FilterFlags::TSYNC_ESRCH,
        ),
        (json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), json!([]), FilterFlags::empty()),
        (
            json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]),
            notify.clone(),
            FilterFlags::WAIT_KILLABLE_RECV | FilterFlags::NEW_LISTENER,
        ),
        (json!(null), notify, FilterFlags::SPEC_ALLOW | FilterFlags::NEW_LISTENER),
    ];
    for (flags, syscalls, expected) in cases {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/agent.sock",
            "flags": flags,
            "syscalls": syscalls,
        }));
        assert_eq!(filter.flags, expected);
        assert_eq!(filter.notify.is_some(), expected.contains(FilterFlags::NEW_LISTENER));
    }
}

#[test]
fn warnings_tell_of_gaps() {
    let cases = [
        ("SCMP_ACT_ERRNO", "no_such_call", "SCMP_ACT_ALLOW", ""),
        ("SCMP_ACT_ALLOW", "no_such_call", "SCMP_ACT_LOG", ""),
        (
            "SCMP_ACT_ALLOW",
            "no_such_call",
            "SCMP_ACT_ERRNO",
            "linux.seccomp.syscalls: unknown system calls stay allowed: no_such_call",
        ),
        ("SCMP_ACT_ALLOW", "set_tls", "SCMP_ACT_ERRNO", ""),
    ];
    for (default, name, action, expected) in cases {
        let mut warnings = Vec::new();
        let value =
            json!({"defaultAction": default, "syscalls": [{"names": [name], "action": action}]});
        plan_for(Abi::X86_64, &profile(value), &mut warnings).unwrap();
        assert_eq!(warnings.join("\n"), expected);
    }
    let mut warnings = Vec::new();
    let value = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW"},
    ]});
    plan_for(Abi::X86_64, &profile(value), &mut warnings).unwrap();
    assert_eq!(
        warnings,
        [
            "linux.seccomp.syscalls[0]: the conditions on socket have no effect, another rule allows it without any"
        ]
    );
}

/// Profiles written before clone3 (435) and faccessat2 (439) existed, containerd issue 6203.
#[test]
fn old_profiles_say_enosys() {
    let old = |default: &str, names: &[&str]| {
        compile(json!({
            "defaultAction": default,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
        }))
    };
    let enosys = ERRNO | 38;
    let cases = [
        ("SCMP_ACT_ERRNO", vec!["read", "statx"], "clone3", enosys),
        ("SCMP_ACT_ERRNO", vec!["read", "statx"], "faccessat2", enosys),
        ("SCMP_ACT_ERRNO", vec!["read", "statx"], "mount", ERRNO | 1),
        // Names openat2 (437), so that clone3 is not newer, but glibc still needs ENOSYS.
        ("SCMP_ACT_ERRNO", vec!["read", "openat2"], "clone3", enosys),
        ("SCMP_ACT_ERRNO", vec!["read", "openat2"], "pidfd_getfd", enosys),
        ("SCMP_ACT_ERRNO", vec!["read", "openat2"], "open_tree", ERRNO | 1),
        ("SCMP_ACT_ERRNO", vec!["read", "clone3"], "clone3", ALLOW),
        ("SCMP_ACT_KILL_PROCESS", vec!["read"], "clone3", enosys),
        ("SCMP_ACT_KILL_PROCESS", vec!["read", "openat2"], "clone3", KILL_PROCESS),
        ("SCMP_ACT_ALLOW", vec!["read"], "clone3", ALLOW),
        ("SCMP_ACT_LOG", vec!["read"], "clone3", 0x7ffc_0000),
    ];
    for (default, names, call, expected) in cases {
        let filter = old(default, &names);
        for abi in [Abi::X86_64, Abi::X32, Abi::I386] {
            assert_eq!(
                run(&filter, abi, call, &[]),
                expected,
                "{default} {names:?} {call} {abi:?}"
            );
        }
    }
    // A profile that denies clone3 by name means it.
    let filter = compile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO"}]}));
    assert_eq!(run(&filter, Abi::X86_64, "clone3", &[]), ERRNO | 1);
}

#[test]
fn unlisted_conventions_are_fatal() {
    let filter = compile(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    assert_eq!(run_number(&filter, Abi::X86_64, 1, &[]), ALLOW);
    assert_eq!(run_number(&filter, Abi::X86_64, u32::MAX, &[]), ALLOW);
    assert_eq!(run_number(&filter, Abi::X86_64, X32_BIT | 1, &[]), KILL_PROCESS);
    assert_eq!(run_number(&filter, Abi::X86_64, 0xffff_fffe, &[]), KILL_PROCESS);
    assert_eq!(run_number(&filter, Abi::I386, 1, &[]), KILL_PROCESS);
    assert_eq!(run_number(&filter, Abi::Aarch64, 1, &[]), KILL_PROCESS);
    let value = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM", "SCMP_ARCH_S390X"]});
    let arm = plan_for(Abi::Aarch64, &profile(value), &mut Vec::new()).unwrap();
    assert_eq!(run_number(&arm, Abi::Aarch64, 1, &[]), ALLOW);
    assert_eq!(run_number(&arm, Abi::Arm, 1, &[]), ALLOW);
    assert_eq!(run_number(&arm, Abi::I386, 1, &[]), KILL_PROCESS);
}

/// A convention of which the profile names nothing has a tree of one leaf, an action that an earlier
/// convention's code has already. It must not run into that code.
#[test]
fn a_convention_without_rules_does_not_get_another_ones() {
    let profile = |default: &str, arches: [&str; 2], name: &str, action: &str| {
        profile(json!({
            "defaultAction": default,
            "architectures": arches,
            "syscalls": [{"names": [name], "action": action}],
        }))
    };
    let arm = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
    let x86 = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"];
    // `access` is 33 for arm only; on aarch64 that is mknodat. `socketcall` is 102 for i386 only; on
    // x86_64 that is getuid.
    let cases = [
        (Abi::Aarch64, arm, "SCMP_ACT_KILL_PROCESS", "access", "SCMP_ACT_ALLOW", 33, KILL_PROCESS),
        (Abi::Aarch64, arm, "SCMP_ACT_ALLOW", "access", "SCMP_ACT_KILL_PROCESS", 33, ALLOW),
        (
            Abi::X86_64,
            x86,
            "SCMP_ACT_KILL_PROCESS",
            "socketcall",
            "SCMP_ACT_ALLOW",
            102,
            KILL_PROCESS,
        ),
    ];
    for (native, arches, default, name, action, nr, expected) in cases {
        let oci = profile(default, arches, name, action);
        let filter = plan_for(native, &oci, &mut Vec::new()).unwrap();
        bpf::check(&filter.program);
        assert_eq!(run_number(&filter, native, nr, &[]), expected, "{native:?} {default}");
    }
}

/// 64-bit code can call through `int $0x80` with anything in the upper halves of its registers.
#[test]
fn upper_halves_do_not_hide_32_bit_arguments() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 0, "value": u64::MAX, "op": "SCMP_CMP_EQ"}]}],
    }));
    assert_eq!(run(&filter, Abi::I386, "personality", &[0xffff_ffff]), ERRNO | 1);
    assert_eq!(run(&filter, Abi::I386, "personality", &[0x5_ffff_ffff]), ERRNO | 1);
    assert_eq!(run(&filter, Abi::X86_64, "personality", &[0xffff_ffff]), ALLOW);
    assert_eq!(run(&filter, Abi::X86_64, "personality", &[u64::MAX]), ERRNO | 1);
}

#[test]
fn multiplexed_calls_follow_the_direct_ones() {
    let socket =
        |args: Value, action: &str| json!({"names": ["socket"], "action": action, "args": args});
    let not_vsock = json!([{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]);
    let vsock = json!([{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]);
    let compile = |default: &str, rules: Value| {
        compile(json!({
            "defaultAction": default,
            "architectures": ["SCMP_ARCH_X86"],
            "syscalls": rules,
        }))
    };
    let (deny, allow) = ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW");
    let socketcall = |action: &str| json!({"names": ["socketcall"], "action": action});
    // Default, rules, what socketcall(SYS_SOCKET) and socketcall(SYS_BIND) return.
    let cases = [
        (deny, json!([socket(json!([]), allow)]), ALLOW, ERRNO | 1),
        (deny, json!([socket(not_vsock.clone(), allow)]), ERRNO | 1, ERRNO | 1),
        (deny, json!([socket(not_vsock.clone(), allow), socketcall(allow)]), ALLOW, ALLOW),
        (deny, json!([socket(json!([]), allow), socketcall(deny)]), ERRNO | 1, ERRNO | 1),
        (allow, json!([socket(vsock.clone(), deny)]), ERRNO | 1, ALLOW),
        (allow, json!([socket(json!([]), deny)]), ERRNO | 1, ALLOW),
        (allow, json!([socket(json!([]), deny), socketcall(allow)]), ALLOW, ALLOW),
        (
            deny,
            json!([
                {"names": ["socketcall"], "action": deny, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["socket", "bind"], "action": allow},
            ]),
            ERRNO | 1,
            ALLOW,
        ),
    ];
    for (default, rules, for_socket, for_bind) in cases {
        let filter = compile(default, rules.clone());
        assert_eq!(run(&filter, Abi::I386, "socketcall", &[1]), for_socket, "{rules}");
        assert_eq!(run(&filter, Abi::I386, "socketcall", &[1 << 32 | 1]), for_socket, "{rules}");
        assert_eq!(run(&filter, Abi::I386, "socketcall", &[2]), for_bind, "{rules}");
    }
    let filter = compile(allow, json!([{"names": ["semop"], "action": deny}]));
    assert_eq!(run(&filter, Abi::I386, "ipc", &[1]), ERRNO | 1);
    assert_eq!(run(&filter, Abi::I386, "ipc", &[0x1_0001]), ERRNO | 1);
    assert_eq!(run(&filter, Abi::I386, "ipc", &[2]), ALLOW);
}

#[test]
fn programs_over_the_limit_are_refused() {
    let rules: Vec<Value> = (0..600)
        .map(|i| {
            json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": i, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": i, "op": "SCMP_CMP_EQ"}]})
        })
        .collect();
    let value = |n: usize| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules[..n]});
    let error = plan_for(Abi::X86_64, &profile(value(600)), &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "check linux.seccomp.syscalls: needs a program of 5413 instructions, the kernel takes 4096"
    );
    let filter = compile(value(450));
    assert_eq!(run(&filter, Abi::X86_64, "socket", &[449, 449]), ALLOW);
    assert_eq!(run(&filter, Abi::X86_64, "socket", &[449, 448]), ERRNO | 1);
    // The code before this chain reaches past it.
    assert_eq!(run_number(&filter, Abi::X86_64, 400, &[]), ERRNO | 38);
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const VALUES: [u64; 12] = [
    0,
    1,
    2,
    3,
    40,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x2_0000_0002,
    0x7e02_0000,
    u64::MAX - 1,
    u64::MAX,
];

fn random_profile(random: &mut Random, names: &[&str]) -> Value {
    const ACTIONS: [&str; 9] = [
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
    ];
    const OPERATORS: [&str; 8] = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    let arches = ["X86_64", "X86", "X32", "ARM", "AARCH64", "RISCV64", "NATIVE", "S390X"];
    const FAVOURITES: [&str; 12] = [
        "socket",
        "socketcall",
        "ipc",
        "semop",
        "bind",
        "clone3",
        "clone",
        "read",
        "execve",
        "cacheflush",
        "openat2",
        "no_such_call",
    ];
    let rules: Vec<Value> = (0..random.below(12))
        .map(|_| {
            let action = random.pick(&ACTIONS);
            let count = if random.below(4) == 0 { 200 } else { 1 + random.below(4) };
            let names: Vec<&str> = (0..count)
                .map(|_| {
                    if random.below(2) == 0 { random.pick(&FAVOURITES) } else { random.pick(names) }
                })
                .filter(|name| *name != "write")
                .chain(["getpid"])
                .collect();
            let args: Vec<Value> = (0..[0, 0, 0, 1, 1, 2, 3, 6][random.below(8)])
                .map(|_| {
                    json!({
                        "index": random.below(6),
                        "value": VALUES[random.below(12)],
                        "valueTwo": VALUES[random.below(12)],
                        "op": random.pick(&OPERATORS),
                    })
                })
                .collect();
            let mut rule = json!({"names": names, "action": action, "args": args});
            if ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(&action) && random.below(2) == 0 {
                rule["errnoRet"] = json!(random.below(4) * 19);
            }
            rule
        })
        .collect();
    let listed: Vec<String> = arches
        .iter()
        .filter(|_| random.below(2) == 0)
        .map(|arch| format!("SCMP_ARCH_{arch}"))
        .collect();
    json!({
        "defaultAction": random.pick(&ACTIONS[..8]),
        "architectures": listed,
        "syscalls": rules,
        "listenerPath": "/run/agent.sock",
    })
}

#[test]
fn random_profiles_agree_with_direct_evaluation() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let names: Vec<&str> = Syscall::all().map(|call| call.0).collect();
    let mut decided = std::collections::BTreeSet::new();
    for round in 0..100 {
        let native = [Abi::X86_64, Abi::Aarch64, Abi::Riscv64][random.below(3)];
        let value = random_profile(&mut random, &names);
        let oci = profile(value.clone());
        let filter = match plan_for(native, &oci, &mut Vec::new()) {
            Ok(filter) => filter,
            Err(error) => {
                assert!(error.to_string().contains("the kernel takes 4096"), "{error}");
                continue;
            }
        };
        bpf::check(&filter.program);
        let meaning = expected::Meaning::new(&oci, native);
        let abis = [Abi::X86_64, Abi::X32, Abi::I386, Abi::Aarch64, Abi::Arm, Abi::Riscv64];
        for abi in abis {
            let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
            let special =
                [550, 0xf_0002, 0xf_0007, 0x3fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX];
            for nr in (0..480).chain(505..550).map(|nr| nr | bit).chain(special) {
                let mut data = Data { nr, arch: abi.audit(), args: [0; 6] };
                let tries = if nr.is_multiple_of(7) || [102, 117, 41, 59, 56, 435].contains(&nr) {
                    6
                } else {
                    1
                };
                for _ in 0..tries {
                    data.args = std::array::from_fn(|_| VALUES[random.below(12)]);
                    let found = bpf::run(&filter.program, &data).0;
                    let expected = meaning.action(&data);
                    decided.insert(expected);
                    assert!(
                        found == expected,
                        "{found:#x} {expected:#x} round {round} {native:?} {abi:?} {data:x?}\n{value}"
                    );
                }
            }
        }
    }
    assert!(decided.len() > 10, "all kinds of results occur: {decided:x?}");
}

/// The distribution's profile, whose format is the engines' own, as an engine makes it an OCI one for
/// an ordinary container.
fn distribution() -> Option<Value> {
    let Ok(text) = std::fs::read_to_string("/usr/share/containers/seccomp.json") else {
        eprintln!("skipped: no /usr/share/containers/seccomp.json");
        return None;
    };
    let value: Value = serde_json::from_str(&text).unwrap();
    let capabilities = ["CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_KILL"];
    let has = |condition: &Value, key: &str, one: &dyn Fn(&str) -> bool| {
        condition[key].as_array().map(|list| list.iter().any(|item| one(item.as_str().unwrap())))
    };
    let matches = |condition: &Value| {
        let arches = has(condition, "arches", &|arch| arch == "amd64");
        let caps = has(condition, "caps", &|cap| capabilities.contains(&cap));
        (arches, caps)
    };
    let syscalls: Vec<Value> = value["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| {
            let (arches, caps) = matches(&rule["includes"]);
            let (not_arches, not_caps) = matches(&rule["excludes"]);
            arches != Some(false)
                && caps != Some(false)
                && not_arches != Some(true)
                && not_caps != Some(true)
        })
        .map(|rule| {
            let mut out = json!({"names": rule["names"], "action": rule["action"]});
            for key in ["args", "errnoRet"] {
                if !rule[key].is_null() {
                    out[key] = rule[key].clone();
                }
            }
            out
        })
        .collect();
    Some(json!({
        "defaultAction": value["defaultAction"],
        "defaultErrnoRet": value["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls,
    }))
}

#[test]
fn the_distributions_profile_is_small_and_fast() {
    let Some(value) = distribution() else { return };
    let oci = profile(value);
    let mut warnings = Vec::new();
    let mut best = u128::MAX;
    let mut filter = None;
    for _ in 0..50 {
        let start = Instant::now();
        filter = Some(plan_for(Abi::X86_64, &oci, &mut warnings).unwrap());
        best = best.min(start.elapsed().as_micros());
    }
    let filter = filter.unwrap();
    bpf::check(&filter.program);
    assert_eq!(warnings, [""; 0]);
    let meaning = expected::Meaning::new(&oci, Abi::X86_64);
    for abi in [Abi::X86_64, Abi::X32, Abi::I386] {
        let mut most = 0;
        for (name, call) in Syscall::all() {
            let Some(nr) = call.number(abi) else { continue };
            let data = Data { nr, arch: abi.audit(), args: [0; 6] };
            let (found, steps) = bpf::run(&filter.program, &data);
            assert_eq!(found, meaning.action(&data), "{name} {abi:?}");
            most = most.max(steps);
        }
        let steps = |name| {
            bpf::run(
                &filter.program,
                &Data { nr: number(name, abi), arch: abi.audit(), args: [0; 6] },
            )
            .1
        };
        println!("{abi:?}: read {} futex {} at most {most} steps", steps("read"), steps("futex"));
        assert!(most < 25);
    }
    println!("{} instructions, compiled in {best} us", filter.program.len());
    assert!(filter.program.len() < 600);
}

#[test]
fn our_own_profile_does_what_it_says() {
    use oci_spec::runtime::Capability;
    let plain = default_seccomp::default_seccomp(&Default::default());
    let known = |name: &String| Syscall::by_name(name).is_some();
    assert!(plain.syscalls().iter().flatten().flat_map(|rule| rule.names()).all(known));
    let mut warnings = Vec::new();
    let filter = plan_for(Abi::X86_64, &plain, &mut warnings).unwrap();
    println!("{} instructions", filter.program.len());
    let admin = default_seccomp::default_seccomp(&[Capability::SysAdmin].into());
    let admin = plan_for(Abi::X86_64, &admin, &mut warnings).unwrap();
    assert_eq!(warnings, [""; 0]);
    const HIGH: u64 = 1 << 32;
    let (eperm, enosys, family) = (ERRNO | 1, ERRNO | 38, ERRNO | 97);
    // Call, arguments, result for x86_64, and for i386.
    let cases: &[(&str, &[u64], u32, u32)] = &[
        ("read", &[], ALLOW, ALLOW),
        ("capset", &[], ALLOW, ALLOW),
        ("mount", &[], eperm, eperm),
        ("clone", &[0x3d_0f00], ALLOW, ALLOW),
        ("clone", &[0x1000_0011], eperm, eperm),
        ("clone3", &[], enosys, enosys),
        ("personality", &[0], ALLOW, ALLOW),
        ("personality", &[0x4_0000], eperm, eperm),
        ("socket", &[2], ALLOW, ALLOW),
        ("socket", &[38], family, family),
        ("socket", &[HIGH | 38], family, family),
        ("ioctl", &[0, 0x5401], ALLOW, ALLOW),
        ("ioctl", &[0, 0x5412], eperm, eperm),
        ("ioctl", &[0, HIGH | 0x5412], eperm, eperm),
    ];
    for (name, args, native, compat) in cases {
        assert_eq!(run(&filter, Abi::X86_64, name, args), *native, "{name} {args:x?}");
        assert_eq!(run(&filter, Abi::I386, name, args), *compat, "i386 {name} {args:x?}");
        assert_eq!(run(&filter, Abi::X32, name, args), KILL_PROCESS);
    }
    // The family behind socketcall is out of sight; what needs none works.
    assert_eq!(run(&filter, Abi::I386, "socketcall", &[1]), family);
    assert_eq!(run(&filter, Abi::I386, "socketcall", &[3]), ALLOW);
    assert_eq!(run_number(&filter, Abi::X86_64, 470, &[]), enosys);
    for name in ["mount", "clone3", "unshare"] {
        assert_eq!(run(&admin, Abi::X86_64, name, &[u64::MAX]), ALLOW);
    }
}
