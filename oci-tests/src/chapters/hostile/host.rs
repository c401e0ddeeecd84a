//! Handles of the host that a container must not find in what it inherits.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

use super::{Attacker, CAPABILITIES, STOP, give};
use crate::check::{Res, Test, brief, ensure, eq, same, test};
use crate::lab::Lab;
use crate::lab::bundle::{Bundle, user_namespace};

const SECTION: &str = "hostile#host";

/// A caller that ignores and blocks what it can, with an open umask and a secret.
const CALLER: &str = "trap '' HUP INT QUIT PIPE TERM USR1 USR2 ALRM CHLD; umask 0; \
                      SECRET=of-the-caller; export SECRET; exec 7</ 8</etc/passwd; exec \"$@\"";

pub(super) fn tests() -> Vec<Test> {
    let mut tests = inherited();
    tests.extend(waiting());
    tests.extend(streams());
    tests.extend(reachable());
    tests
}

/// What the probe printed, whatever the runtime's exit code.
fn seen(text: &str) -> Value {
    serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap_or_default()
}

/// Runs a report by `run` and by `exec`, both from the hostile caller, and judges both.
fn both(lab: &Lab, judge: impl Fn(&str, &Value) -> Res) -> Res {
    let bundle = lab.bundle(&["report", "links /proc/self/fd"], |_| {})?;
    let words = ["run", "--bundle", bundle.path(), &bundle.id];
    judge("run", &seen(&lab.call(&words).shell(CALLER).output()?.out))?;
    let container = lab.running(|_| {})?;
    let words = ["exec", &container.id, "/bin/probe", "report", "links /proc/self/fd"];
    judge("exec", &seen(&lab.call(&words).shell(CALLER).output()?.out))?;
    container.end()
}

fn inherited() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "F258",
            "signals that the caller ignores are at their default in run and exec",
            |lab| {
                both(lab, |verb, seen| {
                    let mask = seen["report"]["status"]["SigIgn"].as_str().unwrap_or_default();
                    let mask = u64::from_str_radix(mask, 16).unwrap_or(u64::MAX);
                    eq(&format!("{verb}: ignored"), &(mask & 0x7fff_ffff), &0)?;
                    // The C library's own two, 32 and 33, which its posix_spawn leaves ignored.
                    lab.quality(mask == 0, format!("{verb}: {mask:x} are ignored"))?;
                    same(verb, &seen["report"]["status"]["SigBlk"], json!("0000000000000000"))
                })
            },
        ),
        test(
            SECTION,
            "F258",
            "descriptors that the caller left open do not reach run and exec",
            |lab| {
                both(lab, |verb, seen| {
                    let fds = seen["links /proc/self/fd"].as_object();
                    let numbers: Vec<&String> =
                        fds.into_iter().flat_map(|fds| fds.keys()).collect();
                    eq(
                        verb,
                        &numbers,
                        &vec!["0", "1", "2"]
                            .into_iter()
                            .map(str::to_owned)
                            .collect::<Vec<_>>()
                            .iter()
                            .collect(),
                    )
                })
            },
        ),
        test(SECTION, "F258", "the caller's variables do not reach run and exec", |lab| {
            both(lab, |verb, seen| {
                let env = brief(&seen["report"]["env"]);
                ensure(env.contains("PATH") && !env.contains("SECRET"), format!("{verb}: {env}"))
            })
        }),
        // A service manager's umask of 0 would leave every file of the container writable for all.
        test(
            SECTION,
            "F187",
            "a caller's open umask is not the program's in run and exec",
            |lab| both(lab, |verb, seen| same(verb, &seen["report"]["umask"], json!(0o22))),
        ),
        test(SECTION, "F188", "the session keyring of run and exec is not the caller's", |lab| {
            let own = json!(crate::sys::session_keyring_id());
            both(lab, |verb, seen| {
                let id = &seen["report"]["keyring_id"];
                ensure(id.is_number() && *id != own, format!("{verb}: the keyring is {id}"))
            })
        }),
        test(SECTION, "F188", "two containers do not share a session keyring", |lab| {
            let one = lab.report(|_| {})?["keyring_id"].take();
            let container = lab.running(|_| {})?;
            let two = container.exec(&[], &["report"])?["report"]["keyring_id"].take();
            container.end()?;
            ensure(one != two, format!("both have {one}"))
        }),
        test(
            SECTION,
            "F188",
            "two containers of one id in two state roots do not share a session keyring",
            |lab| {
                let bundle = lab.bundle(&["report", "pause"], |_| {})?;
                let mut first = lab.create_from(&bundle)?;
                first.start()?;
                let one = first.ready()?["report"]["keyring_id"].take();
                let other = lab.bundle(&["report"], |_| {})?;
                let root = lab.dir.join("other-root").display().to_string();
                let words = ["run", "--bundle", other.path(), &bundle.id];
                let output = lab.call(&words).global(&["--root", &root]).output()?;
                let two = seen(&output.out)["report"]["keyring_id"].take();
                first.end()?;
                ensure(two.is_number(), output.brief())?;
                ensure(one != two, "the second container has the keyring of the first")
            },
        ),
    ]
}

/// What a container that shares its pid namespace with another one's waiting init, and has all
/// capabilities, can learn of that.
fn waiting() -> Vec<Test> {
    fn spied(lab: &Lab, judge: impl Fn(&Lab, &Bundle, &Value) -> Res) -> Res {
        let step = format!("besiege {STOP}");
        let attacker = Attacker::start(lab, &step, |spec| give(spec, &CAPABILITIES))?;
        let bundle = lab.bundle(&["pause"], |spec| attacker.invite(spec))?;
        let words = ["create", "--bundle", bundle.path(), &bundle.id];
        let output = lab.call(&words).shell(CALLER).piped()?.0;
        eq("create", &output.code, &Some(0))?;
        let seen = attacker.container.exec(&[], &["look-around"])?["look-around"].take();
        // The attacker's own processes are probes; the runtime's is whoever is not.
        let processes = seen.as_object().into_iter().flatten();
        let other: Vec<&Value> = processes
            .map(|(_, process)| process)
            .filter(|process| process["status"]["Name"] != "probe")
            .collect();
        let result = match other.as_slice() {
            [] => crate::check::fail("the waiting init was not seen"),
            all => all.iter().try_for_each(|process| judge(lab, &bundle, process)),
        };
        lab.call(&["delete", "--force", &bundle.id]).output()?;
        attacker.end(&step)?;
        result
    }
    vec![
        test(SECTION, "S11", "a waiting init does not show the caller's environment", |lab| {
            spied(lab, |_, _, process| {
                let environ = brief(&process["environ"]);
                ensure(!environ.contains("of-the-caller") && !environ.contains("PATH="), environ)
            })
        }),
        test(
            SECTION,
            "S11",
            "a waiting init does not show the runtime's arguments: paths of the host",
            |lab| {
                spied(lab, |_, bundle, process| {
                    let cmdline = brief(&process["cmdline"]);
                    ensure(!cmdline.contains(bundle.path()), cmdline)
                })
            },
        ),
        // Who may trace the init can enter through it: /proc/PID/fd leads to the file's directory as well.
        test(
            SECTION,
            "S11",
            "a waiting init holds no file or directory of the host but its streams",
            |lab| {
                spied(lab, |_, _, process| {
                    let fds = process["fds"].as_object().cloned().unwrap_or_default();
                    let files: Vec<_> = fds
                        .iter()
                        .filter(|(number, _)| number.parse().is_ok_and(|number: u32| number > 2))
                        .filter(|(_, target)| target.as_str().is_some_and(|t| t.starts_with('/')))
                        .collect();
                    ensure(!fds.is_empty() && files.is_empty(), format!("it holds {files:?}"))
                })
            },
        ),
        test(
            SECTION,
            "S11",
            "a waiting init has the container's root, through which nothing of the host is seen",
            |lab| {
                spied(lab, |_, _, process| {
                    let names = brief(&process["root"]);
                    ensure(names.contains("\"data\"") && !names.contains("\"usr\""), names)
                })
            },
        ),
        test(
            SECTION,
            "S11",
            "a waiting init has no more than the container's capabilities",
            |lab| {
                let container = lab.create(&["pause"], |spec| give(spec, &["CAP_KILL"]))?;
                let status = fs::read_to_string(format!("/proc/{}/status", container.pid()))?;
                let set = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim().to_owned()).unwrap_or_default()
                };
                for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
                    eq(name, &set(name).as_str(), &"0000000000000020")?;
                }
                for name in ["CapInh:", "CapAmb:"] {
                    eq(name, &set(name).as_str(), &"0000000000000000")?;
                }
                container.end()
            },
        ),
        test(
            SECTION,
            "S11",
            "a waiting init cannot be traced by a process of the container's user",
            |lab| {
                let container =
                    lab.create(&["pause"], |spec| spec["process"]["user"]["uid"] = json!(1234))?;
                // What is not dumpable belongs to root in procfs, whoever it runs as.
                let owner = fs::metadata(format!("/proc/{}/environ", container.pid()))?.uid();
                eq("owner of its procfs files", &owner, &0)?;
                container.end()
            },
        ),
    ]
}

fn streams() -> Vec<Test> {
    let owner = |text: &'static str, how: fn(&Lab, &str) -> Res| {
        test(SECTION, "F26", text, move |lab| {
            let node = lab.dir.join("null");
            mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3))?;
            fs::set_permissions(&node, fs::Permissions::from_mode(0o666))?;
            how(lab, &format!("exec \"$@\" <{0} >{0} 2>{0}", node.display()))?;
            let after = fs::metadata(&node)?;
            eq("owner of the host's null device", &(after.uid(), after.gid()), &(0, 0))?;
            eq("its mode", &(after.mode() & 0o7777), &0o666)
        })
    };
    vec![
        owner(
            "run of an ordinary user does not take a host's device that is a stream",
            |lab, line| {
                let bundle =
                    lab.bundle(&["exit 0"], |spec| spec["process"]["user"]["uid"] = json!(1234))?;
                let words = ["run", "--bundle", bundle.path(), &bundle.id];
                eq("run", &lab.call(&words).shell(line).output()?.code, &Some(0))
            },
        ),
        owner("exec --user does not take a host's device that is a stream", |lab, line| {
            let container = lab.running(|_| {})?;
            let words = ["exec", "--user", "1234", &container.id, "/bin/probe", "exit 0"];
            eq("exec", &lab.call(&words).shell(line).output()?.code, &Some(0))?;
            container.end()
        }),
        owner(
            "exec in a user namespace does not take a host's device that is a stream",
            |lab, line| {
                let container = lab.running(user_namespace)?;
                let words = ["exec", &container.id, "/bin/probe", "exit 0"];
                eq("exec", &lab.call(&words).shell(line).output()?.code, &Some(0))?;
                container.end()
            },
        ),
    ]
}

fn reachable() -> Vec<Test> {
    vec![
        // CVE-2020-15257 was a shim's API that every root of the network namespace could call.
        test(SECTION, "S31", "no socket of the runtime has an abstract name", |lab| {
            let names = || -> Res<Vec<String>> {
                let table = fs::read_to_string("/proc/net/unix")?;
                let paths = table.lines().filter_map(|line| line.split_whitespace().nth(7));
                Ok(paths.filter(|path| path.starts_with('@')).map(str::to_owned).collect())
            };
            let before = names()?;
            let container = lab.create(&["pause"], |_| {})?;
            eq("abstract sockets while an init waits", &names()?, &before)?;
            container.start()?;
            eq("abstract sockets of a running container", &names()?, &before)?;
            container.end()
        }),
        test(
            SECTION,
            "S32",
            "other users cannot list a container's state, whatever the caller's umask",
            |lab| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let words = ["create", "--bundle", bundle.path(), &bundle.id];
                let output = lab.call(&words).shell("umask 0; exec \"$@\"").piped()?.0;
                eq("create", &output.code, &Some(0))?;
                let directory = lab.state.join(&bundle.id);
                let mode = fs::metadata(&directory)?.mode();
                eq("rights of others to read and write", &(mode & 0o066), &0)?;
                for entry in fs::read_dir(directory)?.flatten() {
                    let what = format!("rights of others to write {:?}", entry.file_name());
                    let rights = entry.metadata()?.mode() & 0o022;
                    lab.quality(rights == 0, format!("{what}: {rights:o}"))?;
                }
                Ok(())
            },
        ),
        test(
            SECTION,
            "S17",
            "a cgroup mount is read-only when asked, in a user namespace too (CVE-2023-25809)",
            |lab| {
                for userns in [false, true] {
                    let bundle = lab.bundle(&["report"], |spec| {
                        if userns {
                            user_namespace(spec);
                        }
                        crate::lab::bundle::mount(
                            spec,
                            "/sys/fs/cgroup",
                            "cgroup",
                            "cgroup",
                            &["ro", "nosuid", "noexec", "nodev"],
                        );
                    })?;
                    if userns {
                        bundle.chown(100_000, 100_000)?;
                    }
                    let seen = lab.seen(&bundle)?;
                    let mounts = seen["report"]["mounts"].as_array().cloned().unwrap_or_default();
                    let cgroups = mounts.iter().filter(|mount| {
                        mount["type"].as_str().is_some_and(|kind| kind.starts_with("cgroup"))
                    });
                    let mut count = 0;
                    for mount in cgroups {
                        count += 1;
                        ensure(
                            crate::check::has_option(&mount["options"], "ro"),
                            format!("{} is {}", mount["point"], mount["options"]),
                        )?;
                    }
                    ensure(count > 0, "there is no cgroup mount")?;
                }
                Ok(())
            },
        ),
        test(
            SECTION,
            "S17",
            "sysfs asked for read-only is read-only where the host's must stand in",
            |lab| {
                // A user namespace that does not own the network namespace may not mount sysfs.
                let bundle = lab.bundle(&["report"], |spec| {
                    user_namespace(spec);
                    crate::lab::bundle::mount(
                        spec,
                        "/sys",
                        "sysfs",
                        "sysfs",
                        &["ro", "nosuid", "noexec", "nodev"],
                    );
                })?;
                bundle.chown(100_000, 100_000)?;
                let output = lab.run(&bundle)?;
                let seen = seen(&output.out);
                let mounts = seen["report"]["mounts"].as_array().cloned().unwrap_or_default();
                // To refuse is as good.
                for mount in mounts
                    .iter()
                    .filter(|mount| mount["point"].as_str().is_some_and(|p| p.starts_with("/sys")))
                {
                    ensure(
                        crate::check::has_option(&mount["options"], "ro"),
                        format!("{} is {}", mount["point"], mount["options"]),
                    )?;
                }
                Ok(())
            },
        ),
        test(
            SECTION,
            "S17",
            "a read-only bind of the host cannot be made writable from a user namespace",
            |lab| {
                use nix::mount::{MsFlags, mount as sys_mount};
                let source = lab.dir.join("source");
                fs::create_dir(&source)?;
                // Nothing but the flag keeps the container's root from writing.
                fs::set_permissions(&source, fs::Permissions::from_mode(0o777))?;
                let none = None::<&str>;
                sys_mount(Some(&source), &source, none, MsFlags::MS_BIND, none)?;
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
                sys_mount(none, &source, none, flags, none)?;
                lab.own_mounts();
                let bundle = lab.bundle(&["remount-rw /data", "write /data/x 1"], |spec| {
                    user_namespace(spec);
                    give(spec, &CAPABILITIES);
                    crate::lab::bundle::mount(
                        spec,
                        "/data",
                        "bind",
                        &source.display().to_string(),
                        &["rbind"],
                    );
                })?;
                bundle.chown(100_000, 100_000)?;
                let seen = seen(&lab.run(&bundle)?.out);
                let result = ensure(
                    seen["remount-rw /data"]["errno"].is_string() && !source.join("x").exists(),
                    format!("the remount gave {}", brief(&seen)),
                );
                nix::mount::umount(&source)?;
                result
            },
        ),
        cgroups_of_others("memory/"),
        cgroups_of_others("").on_v2(),
    ]
}

/// Read-only is a flag that the namespace's owner may take away: what holds is who owns the cgroup.
fn cgroups_of_others(hierarchy: &'static str) -> Test {
    let text = format!(
        "root of a user namespace makes no cgroup in /sys/fs/cgroup/{hierarchy}, remounted or not"
    );
    test(SECTION, "S17", text, move |lab| {
        // The runner removes cgroups by the test's word, wherever a runtime lets them be made.
        let mkdir = format!("mkdir /sys/fs/cgroup/{hierarchy}{}-inside", lab.word);
        let remount = format!("remount-rw /sys/fs/cgroup/{hierarchy}");
        let bundle = lab.bundle(&[&mkdir, &remount, &mkdir], |spec| {
            user_namespace(spec);
            give(spec, &CAPABILITIES);
            crate::lab::bundle::mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
        })?;
        bundle.chown(100_000, 100_000)?;
        let output = lab.run(&bundle)?;
        ensure(seen(&output.out)[&mkdir]["errno"].is_string(), format!("it gave {}", output.out))
    })
}
