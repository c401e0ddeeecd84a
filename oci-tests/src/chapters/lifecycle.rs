//! runtime.md: state and the operations create, start, kill, delete.

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, same, skip, test};
use crate::lab::Lab;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = states();
    tests.extend(create());
    tests.extend(start());
    tests.extend(kill());
    tests.extend(delete());
    tests
}

/// A command must fail by itself.
fn fails(lab: &Lab, words: &[&str]) -> Res {
    let output = lab.call(words).output()?;
    ensure(
        output.code.is_some_and(|code| code != 0),
        format!("{} ended with {}", words.join(" "), output.brief()),
    )
}

fn states() -> Vec<Test> {
    let section = "runtime#state";
    vec![
        test(
            section,
            "F136",
            "the state has ociVersion, id, status, pid and bundle, and is JSON alone",
            |lab| {
                let container = lab.create(&["pause"], |_| {})?;
                let output = container.call(&["state"])?;
                eq("standard error", &output.err.as_str(), &"")?;
                let state: Value = serde_json::from_str(&output.out).unwrap_or_default();
                same("id", &state["id"], json!(container.id))?;
                same("status", &state["status"], json!("created"))?;
                same("bundle", &state["bundle"], json!(container.dir))?;
                ensure(state["ociVersion"].is_string(), "no ociVersion")?;
                ensure(
                    state["pid"].as_i64().is_some_and(|pid| pid > 1),
                    format!("pid is {}", state["pid"]),
                )?;
                container.end()
            },
        ),
        test(section, "F137", "created, running and stopped follow each other", |lab| {
            let mut container = lab.create(&["pause"], |_| {})?;
            container.expect("created")?;
            container.start()?;
            container.ready()?;
            container.expect("running")?;
            container.kill("TERM")?;
            eq("end", &container.wait()?, &0)?;
            container.expect("stopped")?;
            container.delete()
        }),
        test(
            section,
            "F137",
            "a program that ended but was not collected by its parent is stopped",
            |lab| {
                let mut container = lab.create(&["exit 0"], |_| {})?;
                container.start()?;
                container.seen()?;
                // The suite is the parent of the orphan and does not wait for it yet.
                crate::lab::call::ends_within(container.pid(), crate::lab::call::DEADLINE)?;
                container.expect("stopped")?;
                container.wait()?;
                container.delete()
            },
        ),
        test(
            section,
            "F136",
            "the pid is that of the program, as the runtime's namespace sees it",
            |lab| {
                let container = lab.running(|_| {})?;
                let name = std::fs::read_to_string(format!("/proc/{}/comm", container.pid()))?;
                eq("name of the process", &name.trim(), &"probe")?;
                container.end()
            },
        ),
        test(section, "F136", "the pid does not change from created to running", |lab| {
            let mut container = lab.create(&["pause"], |_| {})?;
            container.start()?;
            container.ready()?;
            same("pid", &container.state()?["pid"], json!(container.pid()))?;
            container.end()
        }),
        test(section, "F136", "a stopped container's pid is 0 or absent", |lab| {
            let container = lab.create(&["exit 0"], |_| {})?;
            container.start()?;
            container.wait()?;
            let pid = container.state()?["pid"].clone();
            lab.quality(pid == json!(0) || pid.is_null(), format!("pid is {pid}"))?;
            container.delete()
        }),
        test(
            "runtime#query-state",
            "F136",
            "state of a container that does not exist is an error",
            |lab| fails(lab, &["state", "nobody"]),
        ),
        test("runtime#query-state", "F136", "state without an id is an error", |lab| {
            fails(lab, &["state"])
        }),
        test(
            "runtime#state",
            "F136",
            "the bundle in the state is absolute although a relative path was given",
            |lab| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let name =
                    bundle.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let parent = lab.dir.display().to_string();
                let output = lab
                    .call(&["create", "--bundle", &name, &bundle.id])
                    .directory(&parent)
                    .output()?;
                eq("create", &output.code, &Some(0))?;
                let state: Value =
                    serde_json::from_str(&lab.call(&["state", &bundle.id]).output()?.out)
                        .unwrap_or_default();
                same("bundle", &state["bundle"], json!(bundle.path()))
            },
        ),
    ]
}

fn create() -> Vec<Test> {
    let section = "runtime#create";
    let bad_id = |id: &'static str| {
        test(section, "F162", format!("the id {id:?} is refused"), move |lab| {
            let bundle = lab.bundle(&["pause"], |_| {})?;
            fails(lab, &["create", "--bundle", bundle.path(), "--", id])
        })
    };
    let mut tests = vec![
        test(section, "F92", "the program does not run before start", |lab| {
            let bundle = lab.bundle(&["create /data/ran"], |_| {})?;
            let container = lab.create_from(&bundle)?;
            ensure(!bundle.inside("/data/ran").exists(), "the program ran at create")?;
            container.expect("created")?;
            container.start()?;
            container.wait()?;
            ensure(bundle.inside("/data/ran").exists(), "the program did not run at start")?;
            container.delete()
        }),
        test(
            section,
            "F92",
            "an id that is in use is an error, and the first container is not disturbed",
            |lab| {
                let first = lab.running(|_| {})?;
                let bundle = lab.bundle(&["pause"], |_| {})?;
                // The same configuration too: that its cgroup is in use is not what is wrong.
                for path in [bundle.path(), first.dir.as_str()] {
                    let words = ["create", "--bundle", path, &first.id];
                    let output = lab.call(&words).output()?;
                    ensure(output.code != Some(0), "it was created twice")?;
                    lab.quality(output.err.contains("exist"), output.brief())?;
                }
                first.expect("running")?;
                ensure(first.alive()?, "the first container's program is gone")?;
                first.end()
            },
        ),
        test(section, "F92", "two creates of one id at once: exactly one works", |lab| {
            let bundle = lab.bundle(&["pause"], |_| {})?;
            let words = ["create", "--bundle", bundle.path(), &bundle.id];
            let started: Vec<_> = (0..3).map(|_| lab.call(&words).spawn()).collect::<Res<_>>()?;
            let mut works = 0;
            for one in started {
                let output = one.wait()?;
                works += usize::from(output.code == Some(0));
                lab.quality(
                    output.code == Some(0) || output.err.contains("exist"),
                    output.brief(),
                )?;
            }
            eq("creates that worked", &works, &1)?;
            let state: Value =
                serde_json::from_str(&lab.call(&["state", &bundle.id]).output()?.out)
                    .unwrap_or_default();
            same("status", &state["status"], json!("created"))
        }),
        test(section, "F92", "create without an id is an error", |lab| {
            let bundle = lab.bundle(&["pause"], |_| {})?;
            fails(lab, &["create", "--bundle", bundle.path()])
        }),
        test(section, "F162", "an id may have letters, digits and _ + - .", |lab| {
            let mut bundle = lab.bundle(&["pause"], |_| {})?;
            bundle.id = format!("{}-A_b+c-d.e9", lab.word);
            lab.remember(&bundle.id);
            let container = lab.create_from(&bundle)?;
            container.end()
        }),
        test(
            section,
            "F162",
            "an id of 200 bytes works or is refused, and leaves nothing",
            |lab| {
                let mut bundle = lab.bundle(&["pause"], |_| {})?;
                bundle.id = format!("{}-{}", lab.word, "i".repeat(200 - lab.word.len() - 1));
                lab.remember(&bundle.id);
                let container = lab.create_from(&bundle)?;
                container.end()
            },
        ),
        test(
            section,
            "F20",
            "environment and resources are complete at create: namespaces and cgroup exist",
            |lab| {
                let container = lab.create(&["pause"], |_| {})?;
                let own = std::fs::read_link("/proc/self/ns/mnt")?;
                let theirs = std::fs::read_link(format!("/proc/{}/ns/mnt", container.pid()))?;
                ensure(own != theirs, "the created container is in the runtime's mount namespace")?;
                container.end()
            },
        ),
    ];
    tests.extend(["", ".", "..", "a/b", "../x", "a b", "ä", "a\nb", "x:y"].map(bad_id));
    tests
}

fn start() -> Vec<Test> {
    let section = "runtime#start";
    vec![
        test(section, "F92", "start of a running container is an error without effect", |lab| {
            let container = lab.running(|_| {})?;
            fails(lab, &["start", &container.id])?;
            container.expect("running")?;
            container.end()
        }),
        test(section, "F92", "start of a container that was paused is an error at once", |lab| {
            let container = lab.create(&["pause"], |_| {})?;
            let paused = container.call(&["pause"])?;
            if paused.code != Some(0) {
                return skip(format!("cannot pause a created container: {}", paused.brief()));
            }
            fails(lab, &["start", &container.id])?;
            eq("resume", &container.call(&["resume"])?.code, &Some(0))?;
            container.start()?;
            container.expect("running")?;
            container.end()
        }),
        test(section, "F92", "start of a stopped container is an error", |lab| {
            let container = lab.create(&["exit 0"], |_| {})?;
            container.start()?;
            container.wait()?;
            fails(lab, &["start", &container.id])?;
            container.delete()
        }),
        test(section, "F92", "start of a container that does not exist is an error", |lab| {
            fails(lab, &["start", "nobody"])
        }),
        test(section, "F92", "start without an id is an error", |lab| fails(lab, &["start"])),
        test(
            section,
            "F92",
            "start of a container whose program was killed while created is an error",
            |lab| {
                let container = lab.create(&["pause"], |_| {})?;
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(container.pid()),
                    nix::sys::signal::SIGKILL,
                )?;
                container.wait()?;
                fails(lab, &["start", &container.id])?;
                let output = lab.call(&["delete", "--force", &container.id]).output()?;
                eq("delete", &output.code, &Some(0))
            },
        ),
        test(section, "F5", "a program that is missing is an error of create or of start", |lab| {
            let bundle =
                lab.bundle(&[], |spec| spec["process"]["args"] = json!(["/no/such/program"]))?;
            let create = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            if create.code != Some(0) {
                return lab.nothing_left();
            }
            fails(lab, &["start", &bundle.id])?;
            lab.call(&["delete", "--force", &bundle.id]).output().map(drop)
        }),
        test(
            section,
            "F5",
            "a program that is not executable is an error of create or of start",
            |lab| {
                let bundle =
                    lab.bundle(&[], |spec| spec["process"]["args"] = json!(["/etc/passwd"]))?;
                let create =
                    lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
                if create.code != Some(0) {
                    return lab.nothing_left();
                }
                fails(lab, &["start", &bundle.id])?;
                lab.call(&["delete", "--force", &bundle.id]).output().map(drop)
            },
        ),
    ]
}

fn kill() -> Vec<Test> {
    let section = "runtime#kill";
    let name = |word: &'static str, number: i32| {
        test(section, "F121", format!("kill {word} sends signal {number}"), move |lab| {
            let mut container = lab.running(|_| {})?;
            container.kill(word)?;
            eq("line", &container.lines.next()?, &format!("signal {number}"))?;
            container.end()
        })
    };
    let mut tests = vec![
        test(section, "F121", "the default signal is SIGTERM", |lab| {
            let container = lab.running(|_| {})?;
            eq("kill", &container.call(&["kill"])?.code, &Some(0))?;
            eq("end", &container.wait()?, &0)?;
            container.delete()
        }),
        test(section, "F121", "kill of a created container works: its process ends", |lab| {
            let container = lab.create(&["pause"], |_| {})?;
            container.kill("KILL")?;
            eq("end", &container.wait()?, &137)?;
            container.expect("stopped")?;
            container.delete()
        }),
        test(section, "F121", "kill of a stopped container is an error", |lab| {
            let container = lab.create(&["exit 0"], |_| {})?;
            container.start()?;
            container.wait()?;
            fails(lab, &["kill", &container.id, "KILL"])?;
            container.delete()
        }),
        test(section, "F121", "kill without an id is an error", |lab| fails(lab, &["kill"])),
        test(section, "F121", "kill of a container that does not exist is an error", |lab| {
            fails(lab, &["kill", "nobody", "KILL"])
        }),
        test(section, "F121", "an unknown signal is an error without effect", |lab| {
            let container = lab.running(|_| {})?;
            fails(lab, &["kill", &container.id, "SIGNOSUCH"])?;
            fails(lab, &["kill", &container.id, "999"])?;
            ensure(container.alive()?, "the program ended")?;
            container.end()
        }),
        test(
            section,
            "F122",
            "kill KILL of a container without an own pid namespace ends all of its processes",
            |lab| {
                let mut container = lab.create(&["sleepers 5", "pause"], |spec| {
                    crate::lab::bundle::without_namespace(spec, "pid")
                })?;
                container.start()?;
                container.ready()?;
                // The operation is about the process; that none of the others stays is what delete needs.
                container.call(&["kill", "KILL"])?;
                container.wait()?;
                let output = container.call(&["delete", "--force"])?;
                eq("delete", &output.code, &Some(0))
            },
        ),
    ];
    tests.extend(
        [name("HUP", 1), name("SIGUSR1", 10), name("sigwinch", 28), name("2", 2), name("INT", 2)]
            .into_iter()
            .filter(|t| !t.text.contains("winch")),
    );
    tests
}

fn delete() -> Vec<Test> {
    let section = "runtime#delete";
    vec![
        test(section, "F92", "delete of a running container is an error without effect", |lab| {
            let container = lab.running(|_| {})?;
            fails(lab, &["delete", &container.id])?;
            container.expect("running")?;
            ensure(container.alive()?, "the program ended")?;
            container.end()
        }),
        test(section, "F92", "delete without an id is an error", |lab| fails(lab, &["delete"])),
        test(section, "F92", "delete of a paused container is an error without effect", |lab| {
            let container = lab.running(|_| {})?;
            let paused = container.call(&["pause"])?;
            if paused.code != Some(0) {
                return skip(format!("pause ended with {}", paused.brief()));
            }
            let refused = fails(lab, &["delete", &container.id]);
            eq("resume", &container.call(&["resume"])?.code, &Some(0))?;
            refused?;
            ensure(container.alive()?, "the program ended")?;
            container.end()
        }),
        test(section, "F92", "delete of a container that does not exist is an error", |lab| {
            fails(lab, &["delete", "nobody"])
        }),
        test(
            section,
            "F123",
            "delete --force of a container that does not exist is no error",
            |lab| {
                let output = lab.call(&["delete", "--force", "nobody"]).output()?;
                lab.quality(
                    output.code == Some(0),
                    format!("delete --force ended with {}", output.brief()),
                )
            },
        ),
        test(
            section,
            "F123",
            "delete --force ../victim touches nothing outside the state root",
            |lab| {
                let victim = lab.dir.join("victim");
                std::fs::create_dir_all(&victim)?;
                std::fs::write(victim.join("state.json"), "{}")?;
                std::fs::create_dir_all(&lab.state)?;
                lab.call(&["delete", "--force", "../victim"]).output()?;
                ensure(victim.join("state.json").exists(), "a file outside the state root is gone")
            },
        ),
        test(section, "F123", "delete --force ends a running container", |lab| {
            let container = lab.running(|_| {})?;
            let output = container.call(&["delete", "--force"])?;
            eq("delete", &output.code, &Some(0))?;
            lab.nothing_left()
        }),
        test(section, "F92", "after delete the id can be used again", |lab| {
            let bundle = lab.bundle(&["pause"], |_| {})?;
            for _ in 0..3 {
                let mut container = lab.create_from(&bundle)?;
                container.start()?;
                container.ready()?;
                container.end()?;
            }
            Ok(())
        }),
        test(section, "F92", "a deleted container has no state", |lab| {
            let container = lab.running(|_| {})?;
            container.end()?;
            fails(lab, &["state", &container.id])
        }),
        test(
            section,
            "F175",
            "delete removes what create made: cgroups, mounts, processes, state",
            |lab| {
                let container = lab.running(|_| {})?;
                container.end()?;
                lab.nothing_left()
            },
        ),
        test(section, "F92", "what create did not make stays: the bundle and its root", |lab| {
            let bundle = lab.bundle(&["exit 0"], |_| {})?;
            lab.seen(&bundle).or_else(|_| fail("run failed"))?;
            ensure(
                bundle.inside("/etc/passwd").exists() && bundle.dir.join("config.json").exists(),
                "the bundle was changed",
            )
        }),
        test(
            section,
            "F92",
            "deletes of one container at once: one works, the others fail, none hangs",
            |lab| {
                let container = lab.create(&["exit 0"], |_| {})?;
                container.start()?;
                container.wait()?;
                let started: Vec<_> = (0..3)
                    .map(|_| lab.call(&["delete", &container.id]).spawn())
                    .collect::<Res<_>>()?;
                let mut works = 0;
                for one in started {
                    let output = one.wait()?;
                    works += usize::from(output.code == Some(0));
                    lab.quality(
                        output.code == Some(0) || output.err.contains("does not exist"),
                        output.brief(),
                    )?;
                }
                lab.quality(works == 1, format!("{works} deletes worked"))?;
                lab.nothing_left()
            },
        ),
        test(
            section,
            "F123",
            "forced deletes of one container at once: who comes too late has what it wanted",
            |lab| {
                for _ in 0..5 {
                    let container = lab.running(|_| {})?;
                    let started: Vec<_> = (0..4)
                        .map(|_| lab.call(&["delete", "--force", &container.id]).spawn())
                        .collect::<Res<_>>()?;
                    for one in started {
                        let output = one.wait()?;
                        lab.quality(output.code == Some(0), output.brief())?;
                    }
                }
                lab.nothing_left()
            },
        ),
    ]
}
