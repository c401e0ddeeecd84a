//! Checkpoint and restore of tasks, by CRIU: it has to be one that this kernel suits.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use oci_tests::check::{Res, ensure, eq, fail, has, skip};

use super::{call, ctr, end, events, exec, id, pid, run, task, topics, until_status};
use crate::grpc::Channel;
use crate::grpc::code::OK;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::wire::{Fields, Message};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a counter goes on from a checkpoint that ctr has made", "F202 F95", by_ctr)
            .within(120),
        scenario("a task that exits with its checkpoint, and one created from it", "F202", by_api)
            .within(120),
        scenario("a second checkpoint, and a log file for a stream", "F202 F213", twice)
            .within(120),
        scenario("images that are none: why, and nothing is left", "F202 F219", corrupt),
        scenario(
            "images of which a part is missing: why, and nothing is left",
            "F202 F219",
            incomplete,
        )
        .within(120),
    ]
}

/// What the program counts in.
const FILE: &str = "/data/n";
/// It says so too, now and then: its standard output is a FIFO of containerd's client.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/data/m; mv /data/m /data/n; \
                     [ $((i%50)) != 0 ] || echo at $i; sleep 0.02; done";
const V1_OPTIONS: &str = "containerd.runc.v1.CheckpointOptions";

fn need_criu() -> Res {
    let check = Command::new("criu").arg("check").stdin(Stdio::null()).output();
    match check {
        Err(_) => skip("criu is not installed"),
        Ok(output) if !output.status.success() => skip("criu check does not pass here"),
        Ok(_) => Ok(()),
    }
}

/// A container that counts; answers its id. CRIU before 3.19 does not restore `noNewPrivileges`.
fn counting(stage: &Stage, options: &[&str]) -> Res<String> {
    let id = id(stage);
    let mut all = vec!["--detach", "--allow-new-privs"];
    all.extend_from_slice(options);
    run(stage, &id, &all, &["sh", "-c", COUNT]).must()?;
    Ok(id)
}

/// How far it has come.
fn number(stage: &Stage, id: &str) -> Res<u64> {
    let output = exec(stage, id, &["cat", FILE])?;
    match output.out.trim().parse() {
        Ok(number) => Ok(number),
        Err(_) => fail(format!("no number: {}", output.brief())),
    }
}

/// Fails unless it counts on, from `from` or above, and not from the start.
fn counts_on(stage: &Stage, id: &str, from: u64) -> Res {
    let first = number(stage, id)?;
    ensure(first >= from, format!("it counts from {first}, and was saved at {from} or later"))?;
    stage.until("it counts on", || Ok(number(stage, id)? > first))
}

fn until_counted(stage: &Stage, id: &str, limit: u64) -> Res<u64> {
    stage.until("it counts", || {
        let output = exec(stage, id, &["cat", FILE])?;
        Ok(output.out.trim().parse::<u64>().is_ok_and(|number| number > limit))
    })?;
    number(stage, id)
}

/// What is mounted for a container.
fn mounts(id: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let part = format!("/{id}/");
    table.lines().filter(|line| line.contains(&part)).map(str::to_owned).collect()
}

fn by_ctr(stage: &Stage) -> Res {
    need_criu()?;
    let first = counting(stage, &["--memory-limit", "67108864"])?;
    let before = until_counted(stage, &first, 20)?;
    let saved = format!("localhost/saved:{first}");
    stage.later(&["ctr", "images", "rm", &saved]);
    let words = ["containers", "checkpoint", "--task", "--rw", "--image", &first, &saved];
    ctr(stage, &words).must()?;
    // It goes on.
    counts_on(stage, &first, before)?;
    end(stage, &first)?;
    ctr(stage, &["snapshots", "rm", &first]).output()?;
    let second = id(stage);
    stage.later(&["ctr", "snapshots", "rm", &second]);
    stage.later(&["ctr", "containers", "rm", &second]);
    stage.later(&["ctr", "tasks", "delete", "--force", &second]);
    ctr(stage, &["containers", "restore", "--rw", "--live", &second, &saved]).must()?;
    until_status(stage, &second, "RUNNING")?;
    let pid = pid(stage, &second)?;
    ensure(Path::new(&format!("/proc/{pid}")).exists(), format!("no process {pid}"))?;
    counts_on(stage, &second, before)?;
    // Its limits are those of the configuration, and its end is seen.
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let place = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
    if let Some(place) = place.filter(|place| *place != "/") {
        let limit = format!("/sys/fs/cgroup{place}/memory.max");
        eq("memory.max", &fs::read_to_string(limit)?.trim(), &"67108864")?;
    }
    end(stage, &second)
}

/// Options of a checkpoint after which the task has ended.
fn exit() -> Message {
    let options = Message::new().number(1, 1);
    Message::new().text(1, V1_OPTIONS).text(2, options.bytes())
}

/// Saves a task by containerd's interface; answers the descriptor of the images. A lease keeps them from
/// containerd's garbage collection.
fn checkpoint(stage: &Stage, id: &str, options: Message) -> Res<Fields> {
    let lease = format!("lease-{}", stage.next());
    stage.later(&["ctr", "leases", "delete", &lease]);
    ctr(stage, &["leases", "create", "--id", &lease]).must()?;
    let metadata = [("containerd-namespace", stage.word.as_str()), ("containerd-lease", &lease)];
    let request = Message::new().text(1, id).message(3, options);
    let method = "/containerd.services.tasks.v1.Tasks/Checkpoint";
    let channel = Channel::connect(&super::socket(stage), &metadata)?;
    channel.call(method, &request, stage.remaining())?.ok("Checkpoint")
}

/// The `Create` of a container's task with its snapshot.
fn creation(stage: &Stage, id: &str) -> Res<Message> {
    let snapshot = Message::new().text(1, "overlayfs").text(2, id);
    let method = "/containerd.services.snapshots.v1.Snapshots/Mounts";
    let mounts = super::channel(stage)?.call(method, &snapshot, stage.remaining())?;
    Ok(mounts.ok("Mounts")?.copy(1, Message::new().text(1, id), 3))
}

/// Creates a task from images that were saved, and starts it.
fn go_on(stage: &Stage, id: &str, saved: &Fields, stdout: &str) -> Res<i64> {
    // The first one: the second is the configuration.
    let descriptor = saved.messages(1).into_iter().next().unwrap_or_else(|| Fields::parse(&[]));
    has("media type", &descriptor.text(1), "checkpoint.criu")?;
    let checkpoint = Message::new()
        .text(1, descriptor.text(1))
        .text(2, descriptor.text(2))
        .number(3, descriptor.number(3));
    let request = creation(stage, id)?.text(5, stdout).message(8, checkpoint);
    let created = call(stage, "Create", &request)?.ok("Create")?;
    eq("pid of Create", &created.number(2), &0)?;
    eq("status", &task(stage, id)?.map(|(_, status)| status), &Some("CREATED".to_owned()))?;
    Ok(call(stage, "Start", &Message::new().text(1, id))?.ok("Start")?.number(1))
}

fn by_api(stage: &Stage) -> Res {
    need_criu()?;
    let id = counting(stage, &["--null-io"])?;
    let before = until_counted(stage, &id, 20)?;
    let heard = events(stage)?;
    let saved = checkpoint(stage, &id, exit())?;
    until_status(stage, &id, "STOPPED")?;
    stage.until("its end was told", || {
        Ok(topics(&heard, &id).iter().any(|(topic, of)| {
            topic == "/tasks/exit" && of["id"] == id.as_str() && of["exit_status"] == 137
        }))
    })?;
    ctr(stage, &["tasks", "delete", &id]).must()?;
    let pid = go_on(stage, &id, &saved, "")?;
    eq("pid of the task", &i64::from(super::pid(stage, &id)?), &pid)?;
    counts_on(stage, &id, before)?;
    end(stage, &id)?;
    stage.until("all was told", || {
        Ok(topics(&heard, &id).iter().filter(|(topic, _)| topic == "/tasks/delete").count() == 2)
    })?;
    let told: Vec<String> = topics(&heard, &id).into_iter().map(|(topic, _)| topic).collect();
    heard.kill();
    let of = |topic: &str| told.iter().filter(|told| *told == topic).count();
    // Those of `exec`, by which the number is read, are between them.
    for (topic, times) in [("/tasks/checkpointed", 1), ("/tasks/create", 1), ("/tasks/start", 1)] {
        ensure(of(topic) == times, format!("{topic} was told {} times: {told:?}", of(topic)))?;
    }
    Ok(())
}

fn twice(stage: &Stage) -> Res {
    need_criu()?;
    let logs = ["0", "1", "2"].map(|number| stage.path(&format!("counted-{number}.log")));
    let id = counting(stage, &["--log-uri", &format!("file://{}", logs[0])])?;
    let mut last = until_counted(stage, &id, 20)?;
    for log in &logs[1..] {
        let saved = checkpoint(stage, &id, exit())?;
        until_status(stage, &id, "STOPPED")?;
        ctr(stage, &["tasks", "delete", &id]).output()?;
        // The configuration is the same each time, which containerd 1.6 takes for an error.
        let configuration = saved.messages(1).into_iter().nth(1).map(|of| of.text(2));
        ctr(stage, &["content", "rm", &configuration.unwrap_or_default()]).must()?;
        go_on(stage, &id, &saved, &format!("file://{log}"))?;
        counts_on(stage, &id, last)?;
        last = number(stage, &id)?;
        // Its output goes to whatever the new task has.
        stage.until("it says how far it is", || {
            Ok(fs::read_to_string(log).is_ok_and(|text| text.starts_with("at ")))
        })?;
    }
    end(stage, &id)
}

/// Creates and starts a task from a directory of images; answers why it did not start.
fn refused(stage: &Stage, id: &str, images: &str) -> Res<String> {
    let options = Message::new().text(10, images);
    let any = Message::new().text(1, "containerd.runc.v1.Options").text(2, options.bytes());
    let request = creation(stage, id)?.message(9, any);
    let reply = call(stage, "Create", &request)?;
    if reply.code != OK {
        return Ok(reply.text);
    }
    let reply = call(stage, "Start", &Message::new().text(1, id))?;
    ensure(reply.code != OK, "it was restored")?;
    // There is no process: it can be deleted.
    call(stage, "Delete", &Message::new().text(1, id))?.ok("Delete")?;
    Ok(reply.text)
}

/// A container without a task; answers its id.
fn without_task(stage: &Stage) -> Res<String> {
    let id = counting(stage, &["--null-io"])?;
    end_task(stage, &id)?;
    Ok(id)
}

fn nothing_left(stage: &Stage, id: &str) -> Res {
    eq("task", &task(stage, id)?, &None)?;
    eq("mounts", &mounts(id), &Vec::new())?;
    ctr(stage, &["containers", "delete", id]).must()?;
    Ok(())
}

fn corrupt(stage: &Stage) -> Res {
    if stage.shim.is_none() {
        return skip("containerd's own shim is not the one under test");
    }
    let id = without_task(stage)?;
    let images = stage.path("corrupt");
    fs::create_dir_all(&images)?;
    has("without images", &refused(stage, &id, &images)?, "has no inventory.img")?;
    fs::write(format!("{images}/inventory.img"), "these are not CRIU's words")?;
    let reason = refused(stage, &id, &images)?;
    match need_criu() {
        Ok(()) => has("the reason", &reason, "Magic doesn't match")?,
        // This host has none, or one that says so itself.
        Err(_) => has("the reason", &reason, "criu")?,
    }
    nothing_left(stage, &id)
}

fn incomplete(stage: &Stage) -> Res {
    need_criu()?;
    if stage.shim.is_none() {
        return skip("containerd's own shim is not the one under test");
    }
    let id = counting(stage, &["--null-io"])?;
    until_counted(stage, &id, 5)?;
    // Of a container whose images are left by a checkpoint of the command line's.
    let root = format!("/run/containerd/bulkhead/{}", stage.word);
    let images = stage.path("images");
    let bulkhead = stage.runtime.display().to_string();
    let words = [&bulkhead, "--root", &root, "checkpoint", "--leave-running", "--image-path"];
    stage.cmd(&words).args(&[&images, &id]).must()?;
    end_task(stage, &id)?;
    fs::remove_file(format!("{images}/files.img"))?;
    let reason = refused(stage, &id, &images)?;
    has("the reason", &reason, "criu failed: type RESTORE")?;
    has("CRIU's own words", &reason, "No entry for reg-file-ID")?;
    nothing_left(stage, &id)
}

fn end_task(stage: &Stage, id: &str) -> Res {
    ctr(stage, &["tasks", "kill", "--signal", "KILL", id]).must()?;
    until_status(stage, id, "STOPPED")?;
    ctr(stage, &["tasks", "delete", id]).output()?;
    eq("task", &task(stage, id)?, &None)
}
