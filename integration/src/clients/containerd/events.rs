//! What containerd says about tasks, and in which order.

use oci_tests::check::{Res, ensure, eq, fail};
use serde_json::Value;

use super::{ctr, delete, end, events, exec_cmd, id, pid, run, sleeping, topics, until_status};
use crate::scenario::{Scenario, scenario};
use crate::stage::{Running, Stage};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("events of a task: create, start, exit, delete", "F142", order),
        scenario("events of an exec: added, started, exit", "F142", exec_order),
        scenario("the exit of twenty short tasks comes after their start", "F142", short),
        scenario("an event says that memory ran out", "F142", oom),
        scenario("events of pause and resume", "F137", pause),
    ]
}

/// The topics without their common part.
fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(topic, _)| topic.trim_start_matches("/tasks/")).collect()
}

fn until_topic(stage: &Stage, running: &Running, id: &str, topic: &str) -> Res {
    let seen = || topics(running, id);
    stage.until(&format!("event {topic} of {id}"), || Ok(names(&seen()).contains(&topic)))
}

/// Waits for a task's last event. containerd's own shim of 2.x often ends before it has sent that.
fn until_delete(stage: &Stage, running: &Running, id: &str) -> Res {
    let topic = if stage.newer_shim() { "exit" } else { "delete" };
    until_topic(stage, running, id, topic)
}

/// The topics that a task's life must have, as far as they have been waited for.
fn wanted(seen: &[(String, Value)]) -> Vec<&'static str> {
    let all = ["create", "start", "exit", "delete"];
    all[..seen.len().clamp(3, 4)].to_vec()
}

fn order(stage: &Stage) -> Res {
    let listener = events(stage)?;
    let id = id(stage);
    let output = run(stage, &id, &["--rm"], &["sh", "-c", "sleep 0.1; exit 3"]).output()?;
    eq("exit code", &output.code, &Some(3))?;
    until_delete(stage, &listener, &id)?;
    let seen = topics(&listener, &id);
    eq("topics", &names(&seen), &wanted(&seen))?;
    let pid = seen[0].1["pid"].as_i64();
    ensure(pid.is_some_and(|pid| pid > 1), format!("pid in the create event: {pid:?}"))?;
    for (topic, event) in &seen {
        eq(&format!("pid of {topic}"), &event["pid"].as_i64(), &pid)?;
    }
    for (topic, event) in &seen[2..] {
        eq(&format!("exit status of {topic}"), &event["exit_status"].as_i64(), &Some(3))?;
        ensure(!event["exited_at"].is_null(), format!("exited_at of {topic}: {event}"))?;
    }
    Ok(())
}

fn exec_order(stage: &Stage) -> Res {
    let listener = events(stage)?;
    let id = sleeping(stage, &[])?;
    let output = exec_cmd(stage, &id, &[], &["sh", "-c", "exit 4"]).output()?;
    eq("exit code", &output.code, &Some(4))?;
    until_topic(stage, &listener, &id, "exit")?;
    let seen = topics(&listener, &id);
    let wanted = vec!["create", "start", "exec-added", "exec-started", "exit"];
    eq("topics", &names(&seen), &wanted)?;
    eq("exit status", &seen[4].1["exit_status"].as_i64(), &Some(4))?;
    ensure(seen[4].1["id"] != seen[4].1["container_id"], "the exit is the task's, not the exec's")?;
    eq("pid", &seen[4].1["pid"].as_i64(), &seen[3].1["pid"].as_i64())?;
    end(stage, &id)?;
    until_delete(stage, &listener, &id)
}

fn short(stage: &Stage) -> Res {
    let listener = events(stage)?;
    for round in 0..20 {
        let id = id(stage);
        run(stage, &id, &["--rm"], &["true"]).must()?;
        until_delete(stage, &listener, &id)?;
        let seen = topics(&listener, &id);
        eq(&format!("topics of round {round}"), &names(&seen), &wanted(&seen))?;
    }
    Ok(())
}

fn oom(stage: &Stage) -> Res {
    let listener = events(stage)?;
    let id = id(stage);
    let options = ["--detach", "--null-io", "--memory-limit", "16777216"];
    run(stage, &id, &options, &["sh", "-c", "sleep 0.2; head -c 100m /dev/zero | tail"]).must()?;
    until_status(stage, &id, "STOPPED")?;
    until_topic(stage, &listener, &id, "oom")?;
    delete(stage, &id)
}

fn pause(stage: &Stage) -> Res {
    let listener = events(stage)?;
    let id = sleeping(stage, &[])?;
    ctr(stage, &["tasks", "pause", &id]).must()?;
    ctr(stage, &["tasks", "resume", &id]).must()?;
    if pid(stage, &id)? <= 1 {
        return fail("no pid");
    }
    until_topic(stage, &listener, &id, "resumed")?;
    let seen = topics(&listener, &id);
    eq("topics", &names(&seen), &vec!["create", "start", "paused", "resumed"])?;
    end(stage, &id)
}
