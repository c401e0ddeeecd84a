//! config-linux.md, seccomp: actions, errnos, arguments, architectures, flags.

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, refused_with, same, test};
use crate::elf32;
use crate::lab::Lab;
use crate::lab::bundle::{capabilities, push};

const SECTION: &str = "config-linux#seccomp";

/// Tests of this chapter. `getpriority` (140) and `setpriority` (141) are the calls that profiles
/// here restrict: nothing in a C library or a runtime needs them.
pub fn tests() -> Vec<Test> {
    let mut tests = actions();
    tests.extend(conditions());
    tests.extend(invalid());
    tests.extend(whole());
    tests
}

/// A profile that allows everything but the rules.
fn profile(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules })
}

fn with(lab: &Lab, seccomp: Value, steps: &[&str]) -> Res<Value> {
    lab.probe(steps, |spec| spec["linux"]["seccomp"] = seccomp)
}

fn rule(action: &str) -> Value {
    json!([{ "names": ["getpriority"], "action": action }])
}

const CALL: &str = "syscall 140 0 0";
const CHILD: &str = "syscall-in-child 140 0 0";

fn actions() -> Vec<Test> {
    let errno = |text: &'static str, rules: fn() -> Value, wanted: &'static str| {
        test(SECTION, "F52 F53", text, move |lab| {
            refused_with("getpriority", &with(lab, profile(rules()), &[CALL])?[CALL], &[wanted])
        })
    };
    let signal = |action: &'static str, wanted: i32| {
        test(SECTION, "F52", format!("{action} ends the caller with signal {wanted}"), move |lab| {
            same(
                "child",
                &with(lab, profile(rule(action)), &[CHILD])?[CHILD],
                json!({ "signal": wanted }),
            )
        })
    };
    vec![
        errno("SCMP_ACT_ERRNO gives EPERM by default", || rule("SCMP_ACT_ERRNO"), "EPERM"),
        errno(
            "SCMP_ACT_ERRNO gives errnoRet",
            || json!([{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }]),
            "ENOSYS",
        ),
        errno(
            "errnoRet differs by rule",
            || {
                json!([{ "names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
                { "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22 }])
            },
            "EINVAL",
        ),
        signal("SCMP_ACT_KILL", 31),
        signal("SCMP_ACT_KILL_THREAD", 31),
        signal("SCMP_ACT_KILL_PROCESS", 31),
        signal("SCMP_ACT_TRAP", 31),
        test(SECTION, "F52", "SCMP_ACT_LOG lets the call through", |lab| {
            let seen = with(lab, profile(rule("SCMP_ACT_LOG")), &[CALL])?;
            ensure(seen[CALL]["value"].is_i64(), format!("getpriority gave {}", seen[CALL]))
        }),
        test(
            SECTION,
            "F52",
            "SCMP_ACT_ALLOW in a rule lets the call through a default of ERRNO",
            |lab| {
                let seen =
                    with(lab, everything_but(&["setpriority"]), &[CALL, "syscall 141 0 0 0"])?;
                ensure(seen[CALL]["value"].is_i64(), format!("getpriority gave {}", seen[CALL]))?;
                refused_with("setpriority", &seen["syscall 141 0 0 0"], &["EPERM"])
            },
        ),
        test(SECTION, "F52", "SCMP_ACT_TRACE without a tracer gives ENOSYS", |lab| {
            refused_with(
                "getpriority",
                &with(lab, profile(rule("SCMP_ACT_TRACE")), &[CALL])?[CALL],
                &["ENOSYS"],
            )
        }),
        test(SECTION, "F53", "defaultErrnoRet is the default action's errno", |lab| {
            let mut seccomp = everything_but(&["setpriority"]);
            seccomp["defaultErrnoRet"] = json!(13);
            refused_with(
                "setpriority",
                &with(lab, seccomp, &["syscall 141 0 0 0"])?["syscall 141 0 0 0"],
                &["EACCES"],
            )
        }),
        test(
            SECTION,
            "F54",
            "a call newer than all the profile names is ENOSYS, not EPERM",
            |lab| {
                // Programs probe for new calls; EPERM breaks them (the clone3 and faccessat2 stories). The
                // specification only says what unknown names do, so this is a quality.
                let seen =
                    with(lab, everything_but(&["setpriority"]), &["syscall 460", "syscall 461"])?;
                lab.quality(
                    seen["syscall 461"]["errno"] == "ENOSYS",
                    format!("call 461 gave {}", seen["syscall 461"]),
                )
            },
        ),
    ]
}

/// A default of ERRNO and a long list of allowed calls, as engines write it, without `denied`.
fn everything_but(denied: &[&str]) -> Value {
    let names: Vec<&str> =
        ALLOWED.split_whitespace().filter(|name| !denied.contains(name)).collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    })
}

/// Enough for a static program and for any runtime's last steps.
const ALLOWED: &str = "access arch_prctl brk capget capset chdir chmod chown clock_gettime clone clone3 close \
    close_range dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait execve execveat exit exit_group \
    faccessat faccessat2 fchdir fchmod fchown fcntl fstat fstatfs futex getcwd getdents64 getegid geteuid getgid \
    getgroups getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getsid gettid getuid ioctl \
    keyctl kill lseek lstat madvise membarrier mkdir mkdirat mmap mprotect mremap munmap nanosleep newfstatat open \
    openat openat2 personality pipe pipe2 poll ppoll prctl pread64 prlimit64 pwrite64 read readlink readlinkat \
    recvmsg rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    sched_getaffinity sched_setaffinity sched_yield seccomp sendmsg sendto set_robust_list set_tid_address setgid \
    setgroups setpgid setpriority setresgid setresuid setsid setuid sigaltstack socket socketpair splice stat statfs \
    statx symlink tgkill tkill umask uname unlink unlinkat wait4 waitid write writev epoll_pwait2 vfork fork \
    connect accept accept4 recvfrom shutdown bind listen getsockopt setsockopt fstatat64 _llseek restart_syscall \
    setfsuid setfsgid setreuid setregid getxattr lgetxattr gettimeofday time clock_nanosleep sysinfo eventfd2";

fn conditions() -> Vec<Test> {
    const ARGS: [(&str, u64, u64, &str, &str); 9] = [
        ("SCMP_CMP_EQ", 7, 0, "7", "6"),
        ("SCMP_CMP_NE", 7, 0, "6", "7"),
        ("SCMP_CMP_LT", 7, 0, "6", "7"),
        ("SCMP_CMP_LE", 7, 0, "7", "8"),
        ("SCMP_CMP_GE", 7, 0, "7", "6"),
        ("SCMP_CMP_GT", 7, 0, "8", "7"),
        ("SCMP_CMP_MASKED_EQ", 0xf0, 0x30, "0x3f", "0x4f"),
        ("SCMP_CMP_EQ", 0x1_0000_0007, 0, "0x100000007", "7"),
        ("SCMP_CMP_GT", 0xffff_ffff, 0, "0x100000000", "0xffffffff"),
    ];
    let one = |(op, value, two, hit, miss): (
        &'static str,
        u64,
        u64,
        &'static str,
        &'static str,
    )| {
        test(
            SECTION,
            "F52",
            format!("{op} {value:#x}: matches {hit}, not {miss} (64 bits)"),
            move |lab| {
                let rules = json!([{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99,
                "args": [{ "index": 1, "value": value, "valueTwo": two, "op": op }] }]);
                let (hit, miss) = (format!("syscall 140 0 {hit}"), format!("syscall 140 0 {miss}"));
                let seen = with(lab, profile(rules), &[&hit, &miss])?;
                let errno = "EADDRNOTAVAIL";
                refused_with("the call that matches", &seen[&hit], &[errno])?;
                ensure(
                    seen[&miss]["errno"] != errno,
                    format!("the call that does not match gave {}", seen[&miss]),
                )
            },
        )
    };
    let mut tests: Vec<Test> = ARGS.into_iter().map(one).collect();
    tests.push(test(SECTION, "F52", "several conditions of one rule must all match", |lab| {
        let rules = json!([{ "names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99, "args": [
            { "index": 0, "value": 9, "op": "SCMP_CMP_EQ" }, { "index": 2, "value": 5, "op": "SCMP_CMP_EQ" }] }]);
        let steps = ["syscall 141 9 0 5", "syscall 141 9 0 4", "syscall 141 8 0 5"];
        let seen = with(lab, profile(rules), &steps)?;
        refused_with("both", &seen[steps[0]], &["EADDRNOTAVAIL"])?;
        ensure(steps[1..].iter().all(|step| seen[*step]["errno"] != "EADDRNOTAVAIL"), format!("saw {seen}"))
    }));
    tests.push(test(SECTION, "F52", "several rules for one call: any may match", |lab| {
        let rule = |value: u64| {
            json!({ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99,
            "args": [{ "index": 1, "value": value, "op": "SCMP_CMP_EQ" }] })
        };
        let steps = ["syscall 140 0 5", "syscall 140 0 6", "syscall 140 0 7"];
        let seen = with(lab, profile(json!([rule(5), rule(6)])), &steps)?;
        refused_with("first", &seen[steps[0]], &["EADDRNOTAVAIL"])?;
        refused_with("second", &seen[steps[1]], &["EADDRNOTAVAIL"])?;
        ensure(seen[steps[2]]["errno"] != "EADDRNOTAVAIL", format!("saw {seen}"))
    }));
    tests
}

fn invalid() -> Vec<Test> {
    let bad = |name: &'static str, edit: fn(&mut Value)| {
        test(SECTION, "F52", format!("{name} is an error"), move |lab| {
            let mut seccomp = profile(rule("SCMP_ACT_ERRNO"));
            edit(&mut seccomp);
            lab.refused(|spec| spec["linux"]["seccomp"] = seccomp).map(drop)
        })
    };
    vec![
        bad("an unknown action", |s| s["syscalls"][0]["action"] = json!("SCMP_ACT_MAYBE")),
        bad("an unknown default action", |s| s["defaultAction"] = json!("SCMP_ACT_MAYBE")),
        bad("a missing default action", |s| {
            s.as_object_mut().map(|s| s.remove("defaultAction"));
        }),
        test(
            SECTION,
            "F52",
            "an unknown architecture is an error, or does not loosen the filter",
            |lab| {
                let mut seccomp =
                    profile(json!([{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO" }]));
                seccomp["architectures"] = json!(["SCMP_ARCH_Z80", "SCMP_ARCH_X86_64"]);
                let bundle = lab.bundle(&[CALL], |spec| spec["linux"]["seccomp"] = seccomp)?;
                let output = lab.run(&bundle)?;
                ensure(
                    output.code != Some(0) || output.out.contains("EPERM"),
                    format!("the call gave {}", output.out),
                )
            },
        ),
        bad("an unknown operator", |s| {
            s["syscalls"][0]["args"] =
                json!([{ "index": 0, "value": 1, "op": "SCMP_CMP_ROUGHLY" }]);
        }),
        bad("an argument index of 6", |s| {
            s["syscalls"][0]["args"] = json!([{ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" }]);
        }),
        bad("an unknown flag", |s| s["flags"] = json!(["SECCOMP_FILTER_FLAG_MAGIC"])),
        test(SECTION, "F53", "errnoRet with an action that has no errno is an error", |lab| {
            // "When the action doesn't support an errno, the runtime MUST print and error and fail."
            lab.refused(|spec| {
                spec["ociVersion"] = json!("1.1.0");
                spec["linux"]["seccomp"] = profile(
                    json!([{ "names": ["getpriority"], "action": "SCMP_ACT_KILL", "errnoRet": 5 }]),
                );
            })
            .map(drop)
        }),
        test(SECTION, "F54", "an unknown name of a system call is skipped", |lab| {
            let rules = json!([{ "names": ["call_of_the_future", "getpriority"], "action": "SCMP_ACT_ERRNO" }]);
            refused_with("getpriority", &with(lab, profile(rules), &[CALL])?[CALL], &["EPERM"])
        }),
    ]
}

fn whole() -> Vec<Test> {
    let i386 = |text: &'static str, architectures: &'static [&'static str], wanted: Value| {
        test(SECTION, "F57", text, move |lab| {
            let mut seccomp = profile(
                json!([{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99 }]),
            );
            seccomp["architectures"] = json!(architectures);
            let bundle =
                lab.bundle(&["run /bin/i386"], |spec| spec["linux"]["seccomp"] = seccomp)?;
            // getpriority is call 96 of i386.
            std::fs::write(bundle.inside("/bin/i386"), elf32::one_call(96))?;
            std::fs::set_permissions(
                bundle.inside("/bin/i386"),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )?;
            let seen = lab.seen(&bundle)?["run /bin/i386"].take();
            same(
                "end of the 32-bit program",
                &json!([seen["code"], seen["signal"]]),
                wanted.clone(),
            )
        })
    };
    vec![
        i386(
            "a 32-bit program is under the same rules when the profile lists X86",
            &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            json!([99, null]),
        ),
        test(
            SECTION,
            "F57",
            "a 32-bit program runs under a distribution's profile with X86_64, X86 and X32",
            |lab| {
                let bundle = lab.bundle(&["run /bin/i386"], |spec| {
                    spec["linux"]["seccomp"] = everything_but(&["setpriority"])
                })?;
                std::fs::write(bundle.inside("/bin/i386"), elf32::one_call(97))?;
                std::fs::set_permissions(
                    bundle.inside("/bin/i386"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                )?;
                let seen = lab.seen(&bundle)?["run /bin/i386"].take();
                same("errno of setpriority in 32 bits", &seen["code"], json!(1))
            },
        ),
        test(
            SECTION,
            "F57",
            "a call through an architecture that the profile does not list kills or fails",
            |lab| {
                let bundle = lab.bundle(&["run /bin/i386"], |spec| {
                    spec["linux"]["seccomp"] = profile(rule("SCMP_ACT_ERRNO"))
                })?;
                std::fs::write(bundle.inside("/bin/i386"), elf32::one_call(20))?;
                std::fs::set_permissions(
                    bundle.inside("/bin/i386"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o755),
                )?;
                let seen = lab.seen(&bundle)?["run /bin/i386"].take();
                ensure(seen["code"] != json!(0), format!("the 32-bit program ended with {seen}"))
            },
        ),
        test(SECTION, "F57", "calls by X32 numbers are not a way around a rule", |lab| {
            let step = format!("syscall-in-child {} 0 0", 0x4000_0000 + 140);
            let seen = with(lab, profile(rule("SCMP_ACT_ERRNO")), &[&step])?;
            ensure(
                seen[&step] != json!({ "code": 0 }),
                format!("the X32 call gave {}", seen[&step]),
            )
        }),
        test(
            SECTION,
            "F10",
            "the filter is in force and no_new_privs is not, when it is not asked for",
            |lab| {
                let seen = with(lab, profile(rule("SCMP_ACT_ERRNO")), &["report"])?;
                same("Seccomp", &seen["report"]["status"]["Seccomp"], json!("2"))?;
                same("NoNewPrivs", &seen["report"]["status"]["NoNewPrivs"], json!("0"))
            },
        ),
        test(
            SECTION,
            "F10",
            "with no_new_privs and no capability at all the filter is in force",
            |lab| {
                let seen = lab.probe(&["report", CALL], |spec| {
                    spec["process"]["noNewPrivileges"] = json!(true);
                    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
                    capabilities(spec, &[], &[]);
                    spec["linux"]["seccomp"] = profile(rule("SCMP_ACT_ERRNO"));
                })?;
                same("Seccomp", &seen["report"]["status"]["Seccomp"], json!("2"))?;
                refused_with("getpriority", &seen[CALL], &["EPERM"])
            },
        ),
        test(
            SECTION,
            "F10",
            "without no_new_privs and without capabilities the filter is in force",
            |lab| {
                let seen = lab.probe(&["report", CALL], |spec| {
                    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
                    capabilities(spec, &[], &[]);
                    spec["linux"]["seccomp"] = profile(rule("SCMP_ACT_ERRNO"));
                })?;
                same("NoNewPrivs", &seen["report"]["status"]["NoNewPrivs"], json!("0"))?;
                same("CapEff", &seen["report"]["status"]["CapEff"], json!("0000000000000000"))?;
                refused_with("getpriority", &seen[CALL], &["EPERM"])
            },
        ),
        test(SECTION, "F52", "no seccomp in the configuration means no filter", |lab| {
            let seen = lab.report(|_| {})?;
            same("Seccomp", &seen["status"]["Seccomp"], json!("0"))
        }),
        test(
            SECTION,
            "F52",
            "the filter denies setuid and setgroups: the runtime has done that before",
            |lab| {
                let rules = json!([{ "names": ["setuid", "setresuid", "setgroups", "capset", "prctl", "mount", "pivot_root", "chdir", "setrlimit", "prlimit64"],
                "action": "SCMP_ACT_ERRNO" }]);
                let seen = lab.probe(&["report"], |spec| {
                    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
                    spec["process"]["noNewPrivileges"] = json!(true);
                    spec["linux"]["seccomp"] = profile(rules);
                })?;
                same("uids", &seen["report"]["uids"], json!([1000, 1000, 1000]))
            },
        ),
        test(SECTION, "F55", "flags LOG and SPEC_ALLOW are accepted", |lab| {
            let mut seccomp = profile(rule("SCMP_ACT_ERRNO"));
            seccomp["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
            refused_with("getpriority", &with(lab, seccomp, &[CALL])?[CALL], &["EPERM"])
        }),
        test(SECTION, "F55", "flag TSYNC is accepted", |lab| {
            let mut seccomp = profile(rule("SCMP_ACT_ERRNO"));
            seccomp["flags"] = json!(["SECCOMP_FILTER_FLAG_TSYNC"]);
            refused_with("getpriority", &with(lab, seccomp, &[CALL])?[CALL], &["EPERM"])
        }),
        test(SECTION, "F186", "a process started by exec is under the filter", |lab| {
            let container =
                lab.running(|spec| spec["linux"]["seccomp"] = profile(rule("SCMP_ACT_ERRNO")))?;
            refused_with("getpriority", &container.exec(&[], &[CALL])?[CALL], &["EPERM"])?;
            container.end()
        }),
        test(
            SECTION,
            "F52",
            "a profile with every rule form of an engine's default, 400 names and conditions, loads",
            |lab| {
                let mut seccomp = everything_but(&["setpriority"]);
                let masked: Vec<Value> = (0..40u64)
                .map(|n| json!({ "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": n, "op": "SCMP_CMP_EQ" }] }))
                .collect();
                for rule in masked {
                    push(&mut seccomp["syscalls"], rule);
                }
                let seen = with(lab, seccomp, &[CALL, "syscall 141 0 0 0"])?;
                refused_with("setpriority", &seen["syscall 141 0 0 0"], &["EPERM"])
            },
        ),
    ]
}
