//! What engines rely on beyond the specification: exit codes, files, logs, sockets, descriptors.

use std::fs;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, same, test};
use crate::lab::container::Container;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = outputs();
    tests.extend(descriptors());
    tests.extend(logs());
    tests
}

fn outputs() -> Vec<Test> {
    let section = "contract#exit-codes";
    vec![
        test(section, "F150", "run ends with the program's exit code", |lab| {
            eq("code", &lab.run(&lab.bundle(&["exit 41"], |_| {})?)?.code, &Some(41))
        }),
        test(section, "F150", "run ends with 128 + N when signal N ended the program", |lab| {
            // Signal 11: pid 1 of a namespace cannot end itself by a signal that it could block.
            let bundle =
                lab.bundle(&["kill 9"], |spec| crate::lab::bundle::without_namespace(spec, "pid"))?;
            eq("code", &lab.run(&bundle)?.code, &Some(137))
        }),
        test(section, "F150", "an unknown command or option is an error", |lab| {
            ensure(
                lab.call(&["no-such-command"]).output()?.code.is_some_and(|c| c != 0),
                "no-such-command succeeded",
            )?;
            ensure(
                lab.call(&["state", "--no-such-option", "x"])
                    .output()?
                    .code
                    .is_some_and(|c| c != 0),
                "--no-such-option succeeded",
            )
        }),
        test(
            "contract#pid-file",
            "F151",
            "the pid file holds the decimal pid without a newline",
            |lab| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let file = lab.dir.join("pid");
                let container =
                    Container::create(lab, &bundle, &["--pid-file", &file.display().to_string()])?;
                eq("pid file", &fs::read_to_string(&file)?, &container.pid().to_string())?;
                container.end()
            },
        ),
        test(
            "contract#pid-file",
            "F151",
            "a pid file that cannot be written is an error and leaves nothing",
            |lab| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let output = lab
                    .call(&[
                        "create",
                        "--pid-file",
                        "/no/such/dir/pid",
                        "--bundle",
                        bundle.path(),
                        &bundle.id,
                    ])
                    .output()?;
                ensure(output.code.is_some_and(|code| code != 0), "create succeeded")?;
                lab.nothing_left()
            },
        ),
        test(
            "contract#pid-file",
            "F151",
            "exec --pid-file --detach gives the pid of the new process",
            |lab| {
                let container = lab.running(|_| {})?;
                let file = lab.dir.join("pid");
                let (output, mut lines) = lab
                    .call(&[
                        "exec",
                        "--detach",
                        "--pid-file",
                        &file.display().to_string(),
                        &container.id,
                        "/bin/probe",
                        "pause",
                    ])
                    .piped()?;
                eq("exec", &output.code, &Some(0))?;
                lines.next()?;
                let pid = fs::read_to_string(&file)?;
                let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
                eq("name of the process", &name.trim(), &"probe")?;
                container.end()
            },
        ),
        test(
            "contract#list",
            "F138",
            "list --format json has the container with its state",
            |lab| {
                let container = lab.running(|_| {})?;
                let output = lab.call(&["list", "--format", "json"]).output()?;
                let list: Value = serde_json::from_str(&output.out).unwrap_or_default();
                let own = list
                    .as_array()
                    .and_then(|list| list.iter().find(|entry| entry["id"] == json!(container.id)));
                let Some(own) = own else {
                    return fail(format!("list printed {}", output.out));
                };
                same("status", &own["status"], json!("running"))?;
                same("pid", &own["pid"], json!(container.pid()))?;
                container.end()
            },
        ),
        test("contract#list", "F138", "list without containers is JSON as well", |lab| {
            // A root that was named and does not exist may be an error.
            fs::create_dir_all(&lab.state)?;
            let output = lab.call(&["list", "--format", "json"]).output()?;
            let list: Value = serde_json::from_str(&output.out).unwrap_or(json!("no JSON"));
            ensure(list.is_null() || list == json!([]), format!("list printed {:?}", output.out))
        }),
        test("contract#list", "F124", "list -q prints the ids", |lab| {
            let container = lab.running(|_| {})?;
            let output = lab.call(&["list", "-q"]).output()?;
            eq("ids", &output.out.trim(), &container.id.as_str())?;
            container.end()
        }),
        test("contract#ps", "F139", "ps --format json is an array of the host's pids", |lab| {
            let container = lab.running(|_| {})?;
            let output = lab.call(&["ps", "--format", "json", &container.id]).output()?;
            let list: Value = serde_json::from_str(&output.out).unwrap_or_default();
            same("pids", &list, json!([container.pid()]))?;
            container.end()
        }),
        test(
            "contract#stderr",
            "F158",
            "state works when nobody reads its standard error",
            |lab| {
                let container = lab.running(|_| {})?;
                let output =
                    lab.call(&["state", &container.id]).shell("exec \"$@\" 2>&-").output()?;
                eq("state", &output.code, &Some(0))?;
                container.end()
            },
        ),
        test(
            "contract#stderr",
            "F158",
            "a failing command with a closed pipe as standard error still says so by its code",
            |lab| {
                let output = lab
                    .call(&["state", "nobody"])
                    .shell("{ { \"$@\"; echo $? >&3; } 2>&1 >/dev/null | true; } 3>&1")
                    .output()?;
                let code: i32 = output.out.trim().parse().unwrap_or(-1);
                lab.quality((1..128).contains(&code), format!("the exit code was {code}"))
            },
        ),
        test("contract#stdio", "F159", "the runtime starts with standard streams closed", |lab| {
            let bundle = lab.bundle(&["write /data/ran 1"], |_| {})?;
            let output = lab
                .call(&["run", "--bundle", bundle.path(), &bundle.id])
                .shell("exec \"$@\" <&- >&- 2>&-")
                .output()?;
            lab.quality(
                output.code == Some(0) && bundle.inside("/data/ran").exists(),
                format!("run ended with {}", output.brief()),
            )
        }),
        test(
            "contract#stdio",
            "F153",
            "the program inherits the runtime's standard input, output and error",
            |lab| {
                let bundle = lab.bundle(&["stdin", "stderr to-stderr"], |_| {})?;
                let output = lab
                    .call(&["run", "--bundle", bundle.path(), &bundle.id])
                    .shell("echo input | \"$@\"")
                    .output()?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                same("standard input", &seen["stdin"], json!("input\n"))?;
                has("standard error", &output.err, "to-stderr")
            },
        ),
        test("contract#signals", "F154", "run passes SIGTERM on to the program", |lab| {
            let bundle = lab.bundle(&["pause"], |_| {})?;
            let run = lab.call(&["run", "--bundle", bundle.path(), &bundle.id]);
            let (started, mut lines) = run.spawn_piped()?;
            // The kernel drops what an init has neither blocked nor a handler for: pid_namespaces(7).
            lines.next()?;
            eq("the probe's second line", &lines.next()?, &"ready".to_owned())?;
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(started.child.id() as i32),
                nix::sys::signal::SIGTERM,
            )?;
            eq("run's exit code", &started.wait()?.code, &Some(0))
        }),
        test(
            "contract#signals",
            "F258",
            "the program has no signal ignored or blocked by the runtime",
            |lab| {
                let seen = lab.report(|_| {})?;
                // Signals 32 and 33 belong to the C library; what the suite's own caller did to them stays.
                let ignored =
                    u64::from_str_radix(seen["status"]["SigIgn"].as_str().unwrap_or_default(), 16);
                eq("ignored", &(ignored.unwrap_or(u64::MAX) & 0x7fff_ffff), &0)?;
                same("blocked", &seen["status"]["SigBlk"], json!("0000000000000000"))
            },
        ),
        test(
            "contract#state-root",
            "F258",
            "state files do not follow a caller's open umask",
            |lab| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let file = lab.dir.join("pid");
                let name = file.display().to_string();
                let words = ["create", "--pid-file", &name, "--bundle", bundle.path(), &bundle.id];
                let output = lab.call(&words).shell("umask 0; exec \"$@\"").output()?;
                eq("create", &output.code, &Some(0))?;
                let written_by_others = |path: &std::path::Path| -> Res<u32> {
                    let permissions = fs::metadata(path)?.permissions();
                    Ok(std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o022)
                };
                let directory = written_by_others(&lab.state.join(&bundle.id))?;
                eq("others' right to write", &directory, &0)?;
                let file = written_by_others(&file)?;
                lab.quality(file == 0, format!("others may write the pid file: {file:o}"))
            },
        ),
    ]
}

fn descriptors() -> Vec<Test> {
    let section = "contract#preserve-fds";
    vec![
        test(section, "F155", "--preserve-fds 2 passes descriptors 3 and 4 and no other", |lab| {
            let bundle = lab
                .bundle(&["links /proc/self/fd", "write-fd 3 three", "write-fd 4 four"], |_| {})?;
            let line =
                format!("exec 3>{0}/three 4>{0}/four 5>{0}/five; exec \"$@\"", lab.dir.display());
            let output = lab
                .call(&["run", "--preserve-fds", "2", "--bundle", bundle.path(), &bundle.id])
                .shell(&line)
                .output()?;
            let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
            let open: Vec<&String> = seen["links /proc/self/fd"]
                .as_object()
                .into_iter()
                .flat_map(|fds| fds.keys())
                .collect();
            eq("descriptors", &open.len(), &5)?;
            eq("file three", &fs::read_to_string(lab.dir.join("three"))?.as_str(), &"three")
        }),
        test(
            section,
            "F155",
            "a descriptor of --preserve-fds that is not open is an error",
            |lab| {
                let bundle = lab.bundle(&["exit 0"], |_| {})?;
                let output = lab
                    .call(&["run", "--preserve-fds", "3", "--bundle", bundle.path(), &bundle.id])
                    .output()?;
                lab.quality(output.code != Some(0), "a missing descriptor is ignored")
            },
        ),
        test(
            "contract#socket-activation",
            "F156",
            "LISTEN_FDS passes descriptors and LISTEN_PID is the program's",
            |lab| {
                let bundle = lab.bundle(&["links /proc/self/fd", "report"], |_| {})?;
                let output = lab
                .call(&["run", "--bundle", bundle.path(), &bundle.id])
                .shell("exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; exec \"$@\"")
                .output()?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                let env = seen["report"]["env"].to_string();
                has("environment", &env, "LISTEN_FDS=1")?;
                has("environment", &env, "LISTEN_PID=1")?;
                ensure(seen["links /proc/self/fd"]["3"].is_string(), "descriptor 3 is not open")
            },
        ),
    ]
}

fn logs() -> Vec<Test> {
    let section = "contract#log";
    vec![
        test(
            section,
            "F146 F147",
            "--log-format json: lines with level, msg and an RFC 3339 time; the last one is the error",
            |lab| {
                let log = lab.dir.join("log").display().to_string();
                let output = lab
                    .call(&["state", "nobody"])
                    .global(&["--log", &log, "--log-format", "json"])
                    .output()?;
                ensure(output.code != Some(0), "state of nobody succeeded")?;
                let text = fs::read_to_string(&log)?;
                let Some(last) = text.lines().next_back() else {
                    return fail("the log is empty");
                };
                let line: Value = serde_json::from_str(last).unwrap_or_default();
                same("level", &line["level"], json!("error"))?;
                ensure(line["msg"].is_string(), format!("no msg in {last}"))?;
                let time = line["time"].as_str().unwrap_or_default();
                ensure(time.len() >= 20 && time.as_bytes()[10] == b'T', format!("time is {time:?}"))
            },
        ),
        test(section, "F101", "the log is appended to", |lab| {
            let log = lab.dir.join("log");
            fs::write(&log, "before\n")?;
            lab.call(&["state", "nobody"])
                .global(&["--log", &log.display().to_string()])
                .output()?;
            let text = fs::read_to_string(&log)?;
            ensure(
                text.starts_with("before\n") && text.lines().count() > 1,
                format!("the log is {text:?}"),
            )
        }),
        test(section, "F101", "with --log the error is on standard error as well", |lab| {
            let log = lab.dir.join("log").display().to_string();
            let output = lab.call(&["state", "nobody"]).global(&["--log", &log]).output()?;
            lab.quality(!output.err.is_empty(), "standard error is empty")
        }),
        test(
            section,
            "F148",
            "the error for a container that does not exist says `does not exist`",
            |lab| {
                let output = lab.call(&["state", "nobody"]).output()?;
                lab.quality(
                    output.err.contains("does not exist"),
                    format!("the error is {}", output.brief()),
                )
            },
        ),
        test(section, "F147", "one failure is one error line", |lab| {
            let output = lab.refused(|spec| spec["root"]["path"] = json!("missing"))?;
            let lines = output.err.lines().filter(|line| !line.trim().is_empty()).count();
            lab.quality(lines == 1, format!("{lines} lines: {}", output.brief()))
        }),
        test(
            "contract#version",
            "F108",
            "--version names the program and the specification's version",
            |lab| {
                let output = std::process::Command::new(&lab.runtime).arg("--version").output()?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                has("version", text.lines().next().unwrap_or_default(), " version ")?;
                has("version", &text, "spec: ")
            },
        ),
    ]
}
