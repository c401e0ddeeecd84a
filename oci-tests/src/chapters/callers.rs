//! What the runtime prints for programs: tables, figures and events, byte by byte where callers read them.

use serde_json::{Value, json};

use super::cgroups_v2::need;
use crate::check::{Res, Test, ensure, eq, fail, has, same, skip, test};
use crate::lab::call::Lines;
use crate::lab::{Kind, Lab};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    tables().into_iter().chain(events()).chain(records()).collect()
}

/// The record of a container that another version of the runtime has written.
fn records() -> Vec<Test> {
    let section = "contract#state-root";
    vec![
        test(section, "F163", "a record with fields of a newer version is read", |lab| {
            let container = lab.running(|_| {})?;
            rewrite(lab, &container.id, |record| record["field_of_the_future"] = json!(1))?;
            container.expect("running")?;
            container.end()
        }),
        test(
            section,
            "F163",
            "a record whose fields mean something else is refused, and kept",
            |lab| {
                let container = lab.running(|_| {})?;
                let mut before = Value::Null;
                rewrite(lab, &container.id, |record| {
                    before = record.clone();
                    record["version"] = json!(1_000_000);
                })?;
                for words in [&["state"][..], &["delete", "--force"]] {
                    let mut all = words.to_vec();
                    all.push(&container.id);
                    let output = lab.call(&all).output()?;
                    ensure(output.code.is_some_and(|code| code != 0), output.brief())?;
                    has("error", &output.err, "version 1000000 is newer")?;
                }
                ensure(container.alive()?, "the program ended")?;
                rewrite(lab, &container.id, |record| *record = before.clone())?;
                container.expect("running")?;
                container.end()
            },
        ),
    ]
}

fn rewrite(lab: &Lab, id: &str, edit: impl FnOnce(&mut Value)) -> Res {
    if lab.kind != Kind::Bulkhead {
        return skip("the record is each runtime's own");
    }
    let path = lab.state.join(id).join("state.json");
    let mut record = serde_json::from_slice(&std::fs::read(&path)?).unwrap_or(Value::Null);
    edit(&mut record);
    Ok(std::fs::write(&path, record.to_string())?)
}

fn tables() -> Vec<Test> {
    vec![
        test("contract#ps", "F140", "the table has a PID column and the program's line", |lab| {
            let container = lab.running(|_| {})?;
            let output = container.call(&["ps"])?;
            eq("code", &output.code, &Some(0))?;
            eq("standard error", &output.err.as_str(), &"")?;
            let mut lines = output.out.lines();
            let head: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
            let Some(column) = head.iter().position(|word| *word == "PID") else {
                return fail(format!("the first line is {head:?}"));
            };
            let pid = container.pid().to_string();
            let own = lines.find(|line| line.split_whitespace().nth(column) == Some(&pid));
            has("the program's line", own.unwrap_or_default(), "probe")?;
            container.end()
        }),
        test("contract#ps", "F140", "words behind the id are options of ps", |lab| {
            let container = lab.running(|_| {})?;
            let output = container.call(&["ps", "-o", "pid,args"])?;
            eq("code", &output.code, &Some(0))?;
            has("first line", output.out.lines().next().unwrap_or_default(), "COMMAND")?;
            has("lines", &output.out, &format!("{} /bin/probe pause", container.pid()))?;
            container.end()
        }),
        test(
            "contract#annotations",
            "F161",
            "what a CRI writes into annotations changes nothing",
            |lab| {
                let plain = lab.report(|_| {})?;
                let told = lab.report(|spec| {
                    spec["annotations"] = json!({
                        "io.kubernetes.cri.container-type": "sandbox",
                        "io.kubernetes.cri.sandbox-id": "pod",
                    });
                })?;
                for key in ["args", "env", "uid", "gid", "cwd", "caps"] {
                    same(key, &told[key], plain[key].clone())?;
                }
                Ok(())
            },
        ),
    ]
}

fn events() -> Vec<Test> {
    let section = "contract#events";
    vec![
        test(section, "F141", "events --stats prints one line with the keys of runc", |lab| {
            let container = lab.running(|_| {})?;
            let stats = once(lab, &container.id)?;
            same("type", &stats["type"], json!("stats"))?;
            same("id", &stats["id"], json!(container.id))?;
            let data = &stats["data"];
            for key in ["cpu", "memory", "pids", "blkio"] {
                ensure(data[key].is_object(), format!("no {key} in {data}"))?;
            }
            let total = &data["cpu"]["usage"]["total"];
            ensure(total.as_u64().is_some_and(|total| total > 0), format!("cpu usage {total}"))?;
            let usage = &data["memory"]["usage"]["usage"];
            ensure(usage.as_u64().is_some_and(|usage| usage > 0), format!("memory usage {usage}"))?;
            same("pids.current", &data["pids"]["current"], json!(1))?;
            container.end()
        }),
        test(
            section,
            "F142",
            "the stream has figures at each interval and ends with the container",
            |lab| {
                let container = lab.running(|_| {})?;
                let (started, mut lines) =
                    lab.call(&["events", "--interval", "50ms", &container.id]).spawn_piped()?;
                for _ in 0..3 {
                    same("type", &event(&mut lines)?["type"], json!("stats"))?;
                }
                container.kill("KILL")?;
                container.wait()?;
                let output = started.wait()?;
                eq("code", &output.code, &Some(0))?;
                eq("standard error", &output.err.as_str(), &"")?;
                container.delete()
            },
        ),
        test(section, "F142", "a kill for want of memory is an event", |lab| {
            need("memory")?;
            let mut container = lab.create(&["allocate 100", "pause"], |spec| {
                spec["linux"]["resources"] = json!({ "memory": { "limit": 32 << 20 } });
            })?;
            let (started, mut lines) =
                lab.call(&["events", "--interval", "50ms", &container.id]).spawn_piped()?;
            event(&mut lines)?;
            container.start()?;
            container.ready()?;
            let mut types = (0..50).map(|_| Ok(event(&mut lines)?["type"].clone()));
            let seen: Res<Vec<Value>> = types.by_ref().take(50).collect();
            ensure(seen?.contains(&json!("oom")), "50 events, and none of type oom")?;
            started.kill()?;
            container.end()
        })
        .on_v2(),
        test(section, "F143", "figures have the pressure where the kernel tells it", |lab| {
            if !std::path::Path::new("/proc/pressure/cpu").exists() {
                return skip("this kernel has no pressure figures");
            }
            let container = lab.running(|_| {})?;
            let data = once(lab, &container.id)?["data"].take();
            for key in ["cpu", "memory", "blkio"] {
                let psi = &data[key]["psi"];
                ensure(psi["some"]["total"].is_u64(), format!("{key}.psi is {psi}"))?;
            }
            container.end()
        })
        .on_v2(),
    ]
}

/// What `events --stats` prints, which is one line and nothing else.
fn once(lab: &Lab, id: &str) -> Res<Value> {
    let output = lab.call(&["events", "--stats", id]).output()?;
    eq("code", &output.code, &Some(0))?;
    eq("standard error", &output.err.as_str(), &"")?;
    eq("lines", &output.out.lines().count(), &1)?;
    serde_json::from_str(&output.out).or_else(|error| fail(format!("{error}: {}", output.out)))
}

fn event(lines: &mut Lines) -> Res<Value> {
    let line = lines.next()?;
    serde_json::from_str(&line).or_else(|error| fail(format!("{error}: {line}")))
}
