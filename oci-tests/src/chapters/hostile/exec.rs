//! exec as a second way in: what it can be talked into by the container or its caller.

use serde_json::{Value, json};

use super::give;
use crate::check::{Res, Test, brief, ensure, eq, same, test};
use crate::lab::Lab;
use crate::lab::bundle::CAPABILITIES;
use crate::lab::container::Container;

const SECTION: &str = "hostile#exec";

pub(super) fn tests() -> Vec<Test> {
    let mut tests = privileges();
    tests.extend(numbers());
    tests.extend(joining());
    tests
}

fn status_after(lab: &Lab, words: &[&str]) -> Res<Value> {
    let output = lab.call(words).output()?;
    let seen: Value =
        serde_json::from_str(output.out.lines().next().unwrap_or_default()).unwrap_or_default();
    ensure(seen["report"].is_object(), output.brief())?;
    Ok(seen["report"].clone())
}

fn none_inherited(report: &Value) -> Res {
    same("inheritable", &report["status"]["CapInh"], json!("0000000000000000"))?;
    same("ambient", &report["status"]["CapAmb"], json!("0000000000000000"))
}

fn privileges() -> Vec<Test> {
    vec![
        // CVE-2022-29162, CVE-2022-27650, CVE-2025-27612.
        test(SECTION, "F9", "exec --cap adds nothing to the inheritable and ambient sets", |lab| {
            let container = lab.running(|_| {})?;
            let words = ["exec", "--cap", "CAP_SYS_PTRACE", &container.id, "/bin/probe", "report"];
            none_inherited(&status_after(lab, &words)?)?;
            container.end()
        }),
        test(
            SECTION,
            "F9",
            "exec --cap as an ordinary user gives nothing that the file does not have",
            |lab| {
                let container = lab.running(|_| {})?;
                let words = [
                    "exec",
                    "--user",
                    "1234",
                    "--cap",
                    "CAP_SYS_PTRACE",
                    &container.id,
                    "/bin/probe",
                    "report",
                ];
                let report = status_after(lab, &words)?;
                none_inherited(&report)?;
                same("effective", &report["status"]["CapEff"], json!("0000000000000000"))?;
                container.end()
            },
        ),
        test(SECTION, "F9", "exec as another user keeps no capability of root", |lab| {
            let container = lab.running(|spec| give(spec, &CAPABILITIES))?;
            let words = ["exec", "--user", "1234:1234", &container.id, "/bin/probe", "report"];
            let report = status_after(lab, &words)?;
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                same(set, &report["status"][set], json!("0000000000000000"))?;
            }
            container.end()
        }),
        test(
            SECTION,
            "F9",
            "a process document without capabilities gives none, not the caller's",
            |lab| {
                let container = lab.running(|_| {})?;
                let output = container.exec_process(&json!({
                    "cwd": "/", "args": ["/bin/probe", "report"], "env": ["PATH=/bin"],
                    "user": { "uid": 0, "gid": 0 }, "capabilities": {},
                }))?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
                    same(set, &seen["report"]["status"][set], json!("0000000000000000"))?;
                }
                container.end()
            },
        ),
        test(
            SECTION,
            "F61",
            "exec has the container's execution domain, not the caller's",
            |lab| {
                let container = lab.running(|spec| {
                    spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
                })?;
                let words = ["exec", &container.id, "/bin/probe", "report"];
                same("personality", &status_after(lab, &words)?["personality"], json!(8))?;
                container.end()
            },
        ),
        test(
            SECTION,
            "F186",
            "exec --cgroup with .. does not leave the container's cgroup",
            |lab| {
                let container = lab.running(|_| {})?;
                // One level up is the run's own cgroup, and still the tenant's way out.
                for path in ["..", "./..", "x/../..", "/..", "pids:.."] {
                    let words = [
                        "exec",
                        "--cgroup",
                        path,
                        &container.id,
                        "/bin/probe",
                        "read /proc/self/cgroup",
                    ];
                    let output = lab.call(&words).output()?;
                    if output.code != Some(0) {
                        continue;
                    }
                    let name = container.cgroup.rsplit('/').next().unwrap_or_default();
                    for line in output.out.split("\\n").filter(|line| line.contains(":pids:")) {
                        ensure(line.contains(name), format!("--cgroup {path} leads to {line}"))?;
                    }
                }
                container.end()
            },
        ),
        test(
            SECTION,
            "F190",
            "exec of a deleted, an unknown and a malformed id is an error, and starts nothing",
            |lab| {
                let container = lab.running(|_| {})?;
                let id = container.id.clone();
                container.end()?;
                for id in [id.as_str(), "nobody", "../nobody", "a/../b"] {
                    let output = lab.call(&["exec", id, "/bin/probe", "report"]).output()?;
                    ensure(
                        output.code.is_some_and(|code| code != 0),
                        format!("{id}: {}", output.brief()),
                    )?;
                    ensure(output.out.is_empty(), format!("{id}: {}", output.out))?;
                }
                lab.nothing_left()
            },
        ),
    ]
}

/// `exec` options with numbers that must be refused, never wrapped and never root.
fn numbers() -> Vec<Test> {
    /// Whether a word for an option is refused; what it gave otherwise.
    fn refused(container: &Container<'_>, lab: &Lab, option: &str, word: &str) -> Res {
        let words = ["exec", option, word, &container.id, "/bin/probe", "report"];
        let output = lab.call(&words).output()?;
        let seen: Value =
            serde_json::from_str(output.out.lines().next().unwrap_or_default()).unwrap_or_default();
        ensure(
            output.code.is_some_and(|code| code != 0),
            format!(
                "{option} {word:?} gave uid {} groups {}",
                seen["report"]["uids"], seen["report"]["groups"]
            ),
        )
    }
    vec![
        // An id that is cut, wrapped or guessed runs as somebody else, at worst as root.
        test(
            SECTION,
            "F116",
            "exec --user: nothing but two decimal numbers in range (CVE-2026-30892)",
            |lab| {
                let container = lab.running(|_| {})?;
                for word in [
                    "4294967295",
                    "18446744073709551616",
                    "-0",
                    "0x1",
                    "1e3",
                    "1:",
                    "1:-1",
                    "1:4294967296",
                    "1:1x",
                    "1:2:3",
                    "1 ",
                ] {
                    refused(&container, lab, "--user", word)?;
                }
                container.end()
            },
        ),
        test(
            SECTION,
            "F116",
            "exec --additional-gids: nothing but a decimal number in range",
            |lab| {
                let container = lab.running(|_| {})?;
                for word in ["4294967296", "-1", "1x"] {
                    refused(&container, lab, "--additional-gids", word)?;
                }
                container.end()
            },
        ),
        // A number that is cut to another passes descriptors on that nobody meant the tenant to have.
        test(
            SECTION,
            "F116",
            "exec --preserve-fds: nothing but a decimal number in range",
            |lab| {
                let container = lab.running(|_| {})?;
                for word in ["4294967296", "4294967295", "-1", "1x", "18446744073709551615"] {
                    refused(&container, lab, "--preserve-fds", word)?;
                }
                container.end()
            },
        ),
        test(SECTION, "F116", "exec --cap of a capability that does not exist is refused", |lab| {
            let container = lab.running(|_| {})?;
            let word = "CAP_OF_NOBODY";
            let words = ["exec", "--cap", word, &container.id, "/bin/probe", "report"];
            let output = lab.call(&words).output()?;
            lab.quality(output.code != Some(0), "an unknown capability is ignored")?;
            container.end()
        }),
        test(
            SECTION,
            "F116",
            "ids of a process document: out of range, negative or text is refused",
            |lab| {
                let container = lab.running(|_| {})?;
                for (field, value) in [
                    ("uid", json!(-1)),
                    ("uid", json!(4_294_967_296_u64)),
                    ("uid", json!("0")),
                    ("uid", json!(1.5)),
                    ("uid", json!(true)),
                    ("gid", json!(4_294_967_296_u64)),
                    ("gid", json!([0])),
                    ("additionalGids", json!([-1])),
                    ("additionalGids", json!([4_294_967_296_u64])),
                    ("umask", json!(-1)),
                    ("umask", json!(4_294_967_296_u64)),
                ] {
                    let mut process = json!({
                        "cwd": "/", "args": ["/bin/probe", "report"], "env": ["PATH=/bin"],
                        "user": { "uid": 0, "gid": 0 },
                    });
                    process["user"][field] = value.clone();
                    let output = container.exec_process(&process)?;
                    ensure(
                        output.code.is_some_and(|code| code != 0) && output.out.is_empty(),
                        format!("{field} {value} was accepted: {}", brief(&json!(output.out))),
                    )?;
                }
                container.end()
            },
        ),
        test(
            SECTION,
            "F116",
            "uid and gid 4294967295, which mean `no id` to the kernel, are refused",
            |lab| {
                for field in ["uid", "gid"] {
                    lab.refused(|spec| spec["process"]["user"][field] = json!(u32::MAX))?;
                }
                let container = lab.running(|_| {})?;
                let output = container.exec_process(&json!({
                    "cwd": "/", "args": ["/bin/probe", "report"], "env": ["PATH=/bin"],
                    "user": { "uid": u32::MAX, "gid": 0 },
                }))?;
                ensure(output.code != Some(0), "exec accepted uid 4294967295")?;
                eq("output", &output.out.as_str(), &"")?;
                container.end()
            },
        ),
    ]
}

/// What a container with CAP_SYS_PTRACE, which engines give for debuggers, gets hold of when the
/// runtime's process appears in its pid namespace: non-dumpable is no obstacle to that capability.
fn joining() -> Vec<Test> {
    use super::{Attacker, STOP};
    const ROUNDS: usize = 25;
    /// Runs the attacker's step beside `round`s; answers what it saw.
    fn seen(lab: &Lab, step: &str, round: impl Fn(&Attacker<'_>) -> Res) -> Res<Value> {
        let attacker =
            Attacker::start(lab, step, |spec| give(spec, &["CAP_SYS_PTRACE", "CAP_KILL"]))?;
        // Whatever the runtime does there, it does longer with a large file of the image.
        let passwd = format!("{}/rootfs/etc/passwd", attacker.container.dir);
        std::fs::write(passwd, "x:x:1:1:::\n".repeat(80_000))?;
        (0..ROUNDS).try_for_each(|_| round(&attacker))?;
        attacker.end(step)
    }
    fn by_exec(attacker: &Attacker<'_>) -> Res {
        attacker.container.exec(&[], &["exit 0"]).map(drop)
    }
    fn by_create(lab: &Lab, attacker: &Attacker<'_>) -> Res {
        let edit = |spec: &mut Value| {
            attacker.invite(spec);
            give(spec, &["CAP_KILL"]);
        };
        lab.create(&["pause"], edit)?.end()
    }
    /// Whether procfs has the option `pidns` (Linux 6.17).
    fn has_pidns() -> bool {
        let release = nix::sys::utsname::uname().map(|name| name.release().to_owned());
        let release = release.unwrap_or_default().into_string().unwrap_or_default();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(17))
    }
    let watch = format!("watch {STOP}");
    let peep = format!("peep {STOP} usr");
    let (watch_create, peep_create) = (watch.clone(), peep.clone());
    let none = json!("0000000000000000");
    let none_at_create = none.clone();
    vec![
        // Whoever may trace a process has all that it has: until the program runs, the creator's power.
        test(
            SECTION,
            "S11",
            "a process that joins by exec is never seen with more capabilities than the container may have",
            move |lab| {
                let seen = seen(lab, &watch, by_exec)?;
                same("capabilities beyond", &seen["excess"], none.clone())
            },
        ),
        test(
            SECTION,
            "S11",
            "a process that joins by exec never has the host's root or working directory",
            move |lab| same("seen through it", &seen(lab, &peep, by_exec)?, json!([])),
        ),
        test(
            SECTION,
            "S11",
            "an init made in another container's pid namespace is never seen with more capabilities than both may have",
            move |lab| {
                let seen = seen(lab, &watch_create, |attacker| by_create(lab, attacker))?;
                // Before Linux 6.17 a process that can do nothing else opens the procfs from inside.
                let opener = json!("0000000000200000");
                ensure(
                    seen["excess"] == none_at_create || !has_pidns() && seen["excess"] == opener,
                    format!("capabilities beyond: {}", seen["excess"]),
                )
            },
        ),
        test(
            SECTION,
            "S11",
            "an init made in another container's pid namespace never shows the host's root",
            move |lab| {
                let seen = seen(lab, &peep_create, |attacker| by_create(lab, attacker))?;
                same("seen through it", &seen, json!([]))
            },
        ),
    ]
}
