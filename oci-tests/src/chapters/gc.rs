//! `gc`: what killed commands and dead containers have left is found and removed, and nothing else.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::sigkill;
use crate::check::{Res, Test, ensure, eq, fail, has, skip, test};
use crate::lab::bundle::Bundle;
use crate::lab::call::{Call, DEADLINE, Output};
use crate::lab::{Kind, Lab, cgroups};

const SECTION: &str = "robustness#gc";
const ROWS: &str = "F268";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    killed().into_iter().chain(lost()).chain(kept()).collect()
}

/// The runtime killed at moments of a command.
fn killed() -> Vec<Test> {
    vec![
        test(SECTION, ROWS, "after the runtime was killed during create", |lab| {
            rounds(lab, |lab, part| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                killed_at(lab, &["create", "--bundle", bundle.path(), &bundle.id], part)?;
                collected(lab, &bundle)
            })
        }),
        test(SECTION, ROWS, "after the runtime was killed during create with hooks", |lab| {
            rounds(lab, |lab, part| {
                let bundle = lab.bundle(&["pause"], |spec| {
                    let hook = json!([{ "path": "/bin/true" }]);
                    spec["hooks"] = json!({ "createRuntime": hook, "createContainer": hook });
                })?;
                killed_at(lab, &["create", "--bundle", bundle.path(), &bundle.id], part)?;
                collected(lab, &bundle)
            })
        }),
        test(SECTION, ROWS, "after the runtime was killed during start", |lab| {
            rounds(lab, |lab, part| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let container = lab.create_from(&bundle)?;
                killed_at(lab, &["start", &container.id], part)?;
                drop(container);
                collected(lab, &bundle)
            })
        }),
        test(SECTION, ROWS, "after the runtime was killed during delete", |lab| {
            rounds(lab, |lab, part| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let container = lab.create_from(&bundle)?;
                container.kill("KILL")?;
                container.wait()?;
                killed_at(lab, &["delete", &container.id], part)?;
                collected(lab, &bundle)
            })
        }),
        test(SECTION, ROWS, "after the container's process was killed during create", |lab| {
            rounds(lab, |lab, part| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let words = ["create", "--bundle", bundle.path(), &bundle.id];
                let started = lab.call(&words).spawn()?;
                pause(50.0 * part);
                let pid = started.child.id();
                let children = format!("/proc/{pid}/task/{pid}/children");
                let children = fs::read_to_string(children).unwrap_or_default();
                for pid in children.split_whitespace().filter_map(|word| word.parse().ok()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                started.wait()?;
                collected(lab, &bundle)
            })
        }),
    ]
}

/// State that was lost or damaged.
fn lost() -> Vec<Test> {
    vec![
        test(SECTION, ROWS, "without --force it only lists; with it, what is listed goes", |lab| {
            only_bulkhead(lab)?;
            fs::create_dir_all(lab.state.join("unfinished"))?;
            let output = lab.call(&["gc"]).output()?;
            eq("exit code", &output.code, &Some(0))?;
            let lines: Vec<&str> = output.out.lines().collect();
            eq("lines", &lines.len(), &2)?;
            has("line", lines[1], "unfinished")?;
            has("line", lines[1], "remove")?;
            ensure(lab.state.join("unfinished").exists(), "listing removed it")?;
            let list = gc(lab, &["--force"])?;
            eq("action", &list[0]["action"], &json!("removed"))?;
            ensure(!lab.state.join("unfinished").exists(), "it is still there")?;
            eq("list", &gc(lab, &[])?, &json!([]))?;
            eq("table", &lab.call(&["gc"]).output()?.out, &String::new())
        }),
        test(
            SECTION,
            ROWS,
            "a running container whose state.json is lost is kept, and delete --force ends it",
            |lab| {
                only_bulkhead(lab)?;
                let container = lab.running(|_| {})?;
                fs::remove_file(lab.state.join(&container.id).join("state.json"))?;
                let list = gc(lab, &["--force", "--stopped"])?;
                eq("action", &list[0]["action"], &json!("keep"))?;
                has("reason", &list[0]["reason"].to_string(), "1 processes are in its cgroup")?;
                ensure(container.alive()?, "the container was ended")?;
                let output = lab.call(&["delete", "--force", &container.id]).output()?;
                eq("delete", &output.code, &Some(0))?;
                container.wait()?;
                lab.nothing_left()
            },
        ),
        test(
            SECTION,
            ROWS,
            "the cgroup of a container whose whole state is lost goes when it is empty",
            |lab| {
                only_bulkhead(lab)?;
                let container = lab.running(|_| {})?;
                fs::remove_dir_all(lab.state.join(&container.id))?;
                let list = gc(lab, &["--force"])?;
                eq("id", &list[0]["id"], &json!(container.id))?;
                eq("action", &list[0]["action"], &json!("keep"))?;
                eq("state", &list[0]["state"], &Value::Null)?;
                ensure(container.alive()?, "the container was ended")?;
                kill(Pid::from_raw(container.pid()), Signal::SIGKILL)?;
                container.wait()?;
                until_removed(lab, &["--force"])?;
                lab.nothing_left()
            },
        ),
        test(
            SECTION,
            ROWS,
            "a damaged record: kept while the container runs, removed when it has ended",
            |lab| {
                only_bulkhead(lab)?;
                let container = lab.running(|_| {})?;
                fs::write(lab.state.join(&container.id).join("state.json"), "{")?;
                let list = gc(lab, &["--force"])?;
                eq("action", &list[0]["action"], &json!("keep"))?;
                ensure(container.alive()?, "the container was ended")?;
                kill(Pid::from_raw(container.pid()), Signal::SIGKILL)?;
                container.wait()?;
                until_removed(lab, &["--force"])?;
                lab.nothing_left()
            },
        ),
        test(SECTION, ROWS, "a damaged record ends nobody of another state root", |lab| {
            only_bulkhead(lab)?;
            let container = lab.running(|_| {})?;
            let other = lab.dir.join("other");
            let damaged = other.join(&container.id);
            fs::create_dir_all(&damaged)?;
            let config = lab.state.join(&container.id).join("config.json");
            fs::copy(config, damaged.join("config.json"))?;
            fs::write(damaged.join("state.json"), "{")?;
            let output = lab
                .call(&["delete", "--force", &container.id])
                .global(&["--root", &other.display().to_string()])
                .output()?;
            eq("delete", &output.code, &Some(0))?;
            ensure(!damaged.exists(), "the damaged state is still there")?;
            ensure(container.alive()?, "the container of another root was ended")?;
            container.end()
        }),
        test(SECTION, ROWS, "a container from before the machine was started", |lab| {
            only_bulkhead(lab)?;
            let container = lab.running(|_| {})?;
            let record = lab.state.join(&container.id).join("state.json");
            age(&record, Duration::from_secs(60 * 60 * 24 * 365))?;
            eq("list of a living one", &gc(lab, &["--force"])?, &json!([]))?;
            kill(Pid::from_raw(container.pid()), Signal::SIGKILL)?;
            container.wait()?;
            until_removed(lab, &["--force"])?;
            lab.nothing_left()
        }),
        test(SECTION, ROWS, "the poststop hooks of what is removed run", |lab| {
            only_bulkhead(lab)?;
            let seen = lab.dir.join("poststop").display().to_string();
            let bundle = lab.bundle(&["pause"], |spec| {
                spec["hooks"] = json!({ "poststop": [
                    { "path": "/bin/sh", "args": ["sh", "-c", format!("cat > {seen}")] }] });
            })?;
            let container = lab.create_from(&bundle)?;
            container.kill("KILL")?;
            container.wait()?;
            until_removed(lab, &["--force", "--stopped"])?;
            has("state", &fs::read_to_string(&seen)?, &container.id)
        }),
    ]
}

/// What must not go.
fn kept() -> Vec<Test> {
    vec![
        test(SECTION, ROWS, "living containers are neither listed nor touched", |lab| {
            only_bulkhead(lab)?;
            let running = lab.running(|_| {})?;
            let created = lab.create(&["pause"], |_| {})?;
            let paused = lab.running(|_| {})?;
            eq("pause", &paused.call(&["pause"])?.code, &Some(0))?;
            eq("list", &gc(lab, &["--force", "--stopped"])?, &json!([]))?;
            running.expect("running")?;
            created.expect("created")?;
            paused.expect("paused")?;
            eq("resume", &paused.call(&["resume"])?.code, &Some(0))?;
            running.end()?;
            created.end()?;
            paused.end()
        }),
        test(
            SECTION,
            ROWS,
            "a stopped container is its manager's, unless --stopped and --older-than say otherwise",
            |lab| {
                only_bulkhead(lab)?;
                let container = lab.running(|_| {})?;
                container.kill("KILL")?;
                container.wait()?;
                eq("list", &gc(lab, &["--force"])?, &json!([]))?;
                eq("list", &gc(lab, &["--force", "--stopped", "--older-than", "1h"])?, &json!([]))?;
                container.expect("stopped")?;
                age(&lab.state.join(&container.id).join("state.json"), Duration::from_secs(0))?;
                let odd = lab.call(&["gc", "--older-than", "1h"]).output()?;
                eq("exit code", &odd.code, &Some(1))?;
                has("error", &odd.err, "--stopped")?;
                until_removed(lab, &["--force", "--stopped"])?;
                lab.nothing_left()
            },
        ),
        test(SECTION, ROWS, "a cgroup that somebody else uses is kept with its processes", |lab| {
            only_bulkhead(lab)?;
            let container = lab.running(|_| {})?;
            container.kill("KILL")?;
            container.wait()?;
            let stranger = std::process::Command::new("/bin/sleep").arg("100").spawn()?;
            let join =
                |file: &Path| fs::write(file.join("cgroup.procs"), stranger.id().to_string());
            let places = cgroups::named(&container.id);
            let Some(place) = places.iter().find(|place| join(place).is_ok()) else {
                return skip("no cgroup took a process");
            };
            let list = gc(lab, &["--force", "--stopped"])?;
            eq("action", &list[0]["action"], &json!("keep"))?;
            has("reason", &list[0]["reason"].to_string(), "processes are in its cgroup")?;
            ensure(place.exists(), "its directory is gone")?;
            let pid = Pid::from_raw(stranger.id() as i32);
            eq("the stranger", &kill(pid, None).is_ok(), &true)?;
            kill(pid, Signal::SIGKILL)?;
            crate::lab::reap_orphans();
            until_removed(lab, &["--force", "--stopped"])?;
            lab.nothing_left()
        }),
        test(
            SECTION,
            ROWS,
            "names in the state root that are no container's are left alone",
            |lab| {
                only_bulkhead(lab)?;
                let container = lab.running(|_| {})?;
                let outside = lab.dir.join("outside");
                fs::create_dir(&outside)?;
                fs::write(outside.join("precious"), "")?;
                std::os::unix::fs::symlink(&outside, lab.state.join("link"))?;
                fs::write(lab.state.join("file"), "")?;
                for name in ["a b", "x\ny", "-", "ü"] {
                    fs::create_dir(lab.state.join(name))?;
                }
                fs::create_dir(lab.state.join("full"))?;
                fs::write(lab.state.join("full/stranger"), "")?;
                let output = lab.call(&["gc", "--force", "--format", "json"]).output()?;
                eq("exit code", &output.code, &Some(1))?;
                let list: Value = parse(&output)?;
                let ids: Vec<&str> = list
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|item| item["id"].as_str())
                    .collect();
                for id in &ids {
                    ensure(["-", "full"].contains(id), format!("{id} is listed"))?;
                }
                has("error", &output.err, "full")?;
                for name in ["link", "file", "a b", "x\ny", "ü", "full/stranger"] {
                    ensure(
                        lab.state.join(name).symlink_metadata().is_ok(),
                        format!("{name} is gone"),
                    )?;
                }
                ensure(
                    outside.join("precious").exists(),
                    "a file outside of the state root is gone",
                )?;
                container.end()
            },
        ),
        test(SECTION, ROWS, "containers of another state root are not seen", |lab| {
            only_bulkhead(lab)?;
            let container = lab.running(|_| {})?;
            let state = lab.state.join(&container.id);
            fs::rename(&state, lab.dir.join("hidden"))?;
            let other = lab.dir.join("other");
            fs::create_dir(&other)?;
            let output = lab
                .call(&["gc", "--force", "--format", "json"])
                .global(&["--root", &other.display().to_string()])
                .output()?;
            eq("list", &parse(&output)?, &json!([]))?;
            fs::rename(lab.dir.join("hidden"), &state)?;
            container.end()
        }),
        test(SECTION, ROWS, "a record of a newer version is kept", |lab| {
            only_bulkhead(lab)?;
            let container = lab.running(|_| {})?;
            let path = lab.state.join(&container.id).join("state.json");
            let text = fs::read_to_string(&path)?;
            fs::write(&path, text.replace("\"version\":1", "\"version\":99"))?;
            let list = gc(lab, &["--force", "--stopped"])?;
            eq("action", &list[0]["action"], &json!("keep"))?;
            has("reason", &list[0]["reason"].to_string(), "newer")?;
            fs::write(&path, text)?;
            container.end()
        }),
        test(SECTION, ROWS, "gc beside create, start and delete disturbs none of them", |lab| {
            only_bulkhead(lab)?;
            fs::create_dir_all(&lab.state)?;
            let failed = lab.dir.join("failed");
            // One process that does not end by itself: this one collects all that do.
            let line =
                format!("while \"$@\"; do :; done; : > {}; exec sleep 300", failed.display());
            let collecting = lab.call(&["gc", "--force"]).shell(&line).spawn()?;
            let until = Instant::now() + Duration::from_secs(3);
            let mut rounds = 0;
            while Instant::now() < until || rounds < 5 {
                let mut container = lab.create(&["pause"], |_| {})?;
                container.start()?;
                container.ready()?;
                container.expect("running")?;
                container.end()?;
                rounds += 1;
            }
            ensure(!failed.exists(), "gc failed")?;
            collecting.kill()?;
            lab.end_processes();
            Ok(())
        }),
        test(SECTION, ROWS, "an ordinary user removes what is its own", |lab| {
            only_bulkhead(lab)?;
            let user = 12_345;
            fs::create_dir_all(lab.state.join("mine"))?;
            for path in [lab.state.clone(), lab.state.join("mine")] {
                std::os::unix::fs::chown(path, Some(user), Some(user))?;
            }
            fs::create_dir(lab.state.join("theirs"))?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            fs::set_permissions(lab.state.join("theirs"), mode)?;
            let output = lab.call(&["gc", "--force", "--format", "json"]).user(user).output()?;
            let list = parse(&output)?;
            eq("mine", &list[0]["action"], &json!("removed"))?;
            eq("theirs", &list[1]["action"], &json!("keep"))?;
            ensure(lab.state.join("theirs").exists(), "what is root's is gone")?;
            ensure(!lab.state.join("mine").exists(), "what is the user's is still there")
        }),
        test(
            SECTION,
            ROWS,
            "a named root that is missing is an error, and an odd format too",
            |lab| {
                only_bulkhead(lab)?;
                eq("exit code", &lab.call(&["gc"]).output()?.code, &Some(1))?;
                fs::create_dir(&lab.state)?;
                let odd = lab.call(&["gc", "--format", "yaml"]).output()?;
                eq("exit code", &odd.code, &Some(1))
            },
        ),
    ]
}

fn only_bulkhead(lab: &Lab) -> Res {
    if lab.kind == Kind::Bulkhead { Ok(()) } else { skip("this runtime has no such command") }
}

fn parse(output: &Output) -> Res<Value> {
    serde_json::from_str(&output.out)
        .or_else(|error| fail(format!("gc printed no JSON ({error}): {}", output.brief())))
}

fn command<'l>(lab: &'l Lab, words: &[&str]) -> Call<'l> {
    let mut all = vec!["gc", "--format", "json"];
    all.extend_from_slice(words);
    lab.call(&all)
}

/// What `gc` lists, which must end well.
fn gc(lab: &Lab, words: &[&str]) -> Res<Value> {
    let output = command(lab, words).output()?;
    eq("exit code of gc", &output.code, &Some(0))?;
    parse(&output)
}

/// Collects until nothing is listed: a process that was killed is in its cgroup for a moment still.
fn until_removed(lab: &Lab, words: &[&str]) -> Res {
    let until = Instant::now() + DEADLINE;
    loop {
        crate::lab::reap_orphans();
        let list = gc(lab, words)?;
        if list == json!([]) {
            return Ok(());
        }
        if Instant::now() > until {
            return fail(format!("gc keeps {list}"));
        }
        pause(5.0);
    }
}

/// Makes a file look older than it is.
fn age(path: &Path, by: Duration) -> Res {
    let file = fs::File::options().write(true).open(path)?;
    Ok(file.set_modified(std::time::SystemTime::now() - by)?)
}

/// Moments, not conditions, are what is varied.
fn pause(milliseconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(milliseconds / 1000.0));
}

fn killed_at(lab: &Lab, words: &[&str], part: f64) -> Res {
    let started = lab.call(words).spawn()?;
    pause(50.0 * part);
    started.kill()
}

fn rounds(lab: &Lab, round: impl Fn(&Lab, f64) -> Res) -> Res {
    only_bulkhead(lab)?;
    sigkill::rounds(lab, round)
}

/// What was killed has left a living container, which `gc` does not touch, or nothing after `gc`.
fn collected(lab: &Lab, bundle: &Bundle) -> Res {
    let state = lab.call(&["state", &bundle.id]).output()?;
    let status = serde_json::from_str(&state.out).unwrap_or(Value::Null)["status"].take();
    if ["created", "running"].iter().any(|word| status == *word) {
        eq("list", &gc(lab, &["--force", "--stopped"])?, &json!([]))?;
        let again = lab.call(&["state", &bundle.id]).output()?;
        let began = status == "created" && again.out.contains("\"running\"");
        // A start that was killed may have been heard, and the program begins a moment later.
        if !began {
            eq("state", &again.out, &state.out)?;
        }
        let output = lab.call(&["delete", "--force", &bundle.id]).output()?;
        return eq("delete", &output.code, &Some(0));
    }
    fs::create_dir_all(&lab.state)?;
    let until = Instant::now() + DEADLINE;
    loop {
        until_removed(lab, &["--force", "--stopped"])?;
        // The child of the killed one holds the lock, and is in use, until it has seen that end.
        let cgroups = cgroups::named(&bundle.id);
        if cgroups.is_empty() && !lab.state.join(&bundle.id).exists() {
            break;
        }
        ensure(Instant::now() < until, format!("left behind: the state, {cgroups:?}"))?;
        pause(5.0);
    }
    let container = lab.create_from(bundle)?;
    container.end()
}
