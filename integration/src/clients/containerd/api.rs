//! containerd's gRPC interface to tasks: what `ctr` cannot ask, and the codes that callers branch on.

use oci_tests::check::{Res, ensure, eq, has};
use serde_json::json;

use super::{call, cgroup, channel, ctr, end, exec, pid, sleeping, until_status};
use crate::grpc::code::{ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND, OK};
use crate::known::MISSING;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::wire::{Fields, Message};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("deleting a running task is refused", "F148", delete_running),
        scenario("what is unknown is not found", "F148", unknown),
        scenario("creating a task twice: it already exists", "F148", twice),
        scenario("a created task: state, start, start again", "F137 F148", created),
        scenario("deleting a created task that was never started", "F160", never_started),
        scenario("a task deleted and created at once, again and again", "F137 F160", at_once),
        scenario("an exec: added, started, waited for, deleted", "F148 F150", exec_life)
            .but_crun(MISSING),
        scenario("killing after the end is not found", "F148", kill_late),
        scenario("update of limits, checked in the cgroup", "F141", update),
        scenario("pids of a task", "F139", pids),
    ]
}

fn of(id: &str) -> Message {
    Message::new().text(1, id)
}

fn delete_running(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let reply = call(stage, "Delete", &of(&id))?;
    // containerd's own shim gives no code, and these words.
    let words = reply.text.contains("cannot delete a running process");
    ensure(reply.code == FAILED_PRECONDITION || reply.code != OK && words, format!("{reply:?}"))?;
    eq("exec after it", &exec(stage, &id, &["true"])?.code, &Some(0))?;
    end(stage, &id)
}

fn unknown(stage: &Stage) -> Res {
    let kill = of("nobody").number(3, 9);
    let requests = [
        ("Get", of("nobody")),
        ("Start", of("nobody")),
        ("Kill", kill),
        ("Delete", of("nobody")),
        ("Pause", of("nobody")),
        ("ListPids", of("nobody")),
    ];
    for (method, request) in requests {
        let reply = call(stage, method, &request)?;
        eq(&format!("code of {method} ({})", reply.text), &reply.code, &NOT_FOUND)?;
    }
    // The same for processes of a task that is there.
    let id = sleeping(stage, &[])?;
    let requests = [
        ("Get", of(&id).text(2, "noexec")),
        ("Start", of(&id).text(2, "noexec")),
        ("Kill", of(&id).text(2, "noexec").number(3, 9)),
        ("DeleteProcess", of(&id).text(2, "noexec")),
        ("ResizePty", of(&id).text(2, "noexec").number(3, 80).number(4, 24)),
    ];
    for (method, request) in requests {
        let reply = call(stage, method, &request)?;
        eq(&format!("code of {method} of an exec ({})", reply.text), &reply.code, &NOT_FOUND)?;
    }
    end(stage, &id)
}

/// A container whose task is created and not started; answers its id.
fn create(stage: &Stage) -> Res<String> {
    let id = sleeping(stage, &[])?;
    ctr(stage, &["tasks", "kill", "--signal", "KILL", &id]).must()?;
    until_status(stage, &id, "STOPPED")?;
    ctr(stage, &["tasks", "delete", &id]).output()?;
    call(stage, "Create", &creation(stage, &id)?)?.ok("Create")?;
    Ok(id)
}

fn creation(stage: &Stage, id: &str) -> Res<Message> {
    let snapshot = Message::new().text(1, "overlayfs").text(2, id);
    let method = "/containerd.services.snapshots.v1.Snapshots/Mounts";
    let mounts = channel(stage)?.call(method, &snapshot, stage.remaining())?.ok("Mounts")?;
    Ok(mounts.copy(1, of(id), 3))
}

fn status(stage: &Stage, id: &str, exec: &str) -> Res<Fields> {
    Ok(call(stage, "Get", &of(id).text(2, exec))?.ok("Get")?.message(1))
}

fn twice(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let reply = call(stage, "Create", &creation(stage, &id)?)?;
    eq(&format!("code of Create ({})", reply.text), &reply.code, &ALREADY_EXISTS)?;
    eq("exec after it", &exec(stage, &id, &["true"])?.code, &Some(0))?;
    end(stage, &id)
}

fn created(stage: &Stage) -> Res {
    let id = create(stage)?;
    let seen = status(stage, &id, "")?;
    eq("status", &seen.number(4), &1)?;
    let pid = seen.number(3);
    ensure(std::path::Path::new(&format!("/proc/{pid}")).exists(), format!("no process {pid}"))?;
    let started = call(stage, "Start", &of(&id))?.ok("Start")?;
    eq("pid of Start", &started.number(1), &pid)?;
    eq("status after Start", &status(stage, &id, "")?.number(4), &2)?;
    let again = call(stage, "Start", &of(&id))?;
    ensure(again.code != OK, "the second Start worked")?;
    eq("status after the second Start", &status(stage, &id, "")?.number(4), &2)?;
    end(stage, &id)
}

fn never_started(stage: &Stage) -> Res {
    let id = create(stage)?;
    call(stage, "Kill", &of(&id).number(3, 9))?.ok("Kill")?;
    until_status(stage, &id, "STOPPED")?;
    let answer = call(stage, "Delete", &of(&id))?.ok("Delete")?;
    eq("exit status", &answer.number(3), &137)?;
    ctr(stage, &["containers", "delete", &id]).must()?;
    Ok(())
}

/// The shim of the one before is about to end, or has, when the next one of the same name is asked for.
fn at_once(stage: &Stage) -> Res {
    let id = create(stage)?;
    let creation = creation(stage, &id)?;
    for round in 0..20 {
        call(stage, "Kill", &of(&id).number(3, 9))?.ok("Kill")?;
        call(stage, "Wait", &of(&id))?.ok("Wait")?;
        call(stage, "Delete", &of(&id))?.ok("Delete")?;
        call(stage, "Create", &creation)?.ok(&format!("Create {round}"))?;
    }
    let started = call(stage, "Start", &of(&id))?.ok("Start")?;
    eq("pid", &i64::from(pid(stage, &id)?), &started.number(1))?;
    end(stage, &id)
}

fn exec_life(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let spec = |args: &[&str]| {
        let process = json!({
            "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": true,
        });
        Message::new()
            .text(1, "types.containerd.io/opencontainers/runtime-spec/1/Process")
            .text(2, process.to_string())
    };
    let request = |exec: &str, args: &[&str]| of(&id).message(6, spec(args)).text(7, exec);
    let line = ["sh", "-c", "sleep 0.1; exit 12"];
    call(stage, "Exec", &request("one", &line))?.ok("Exec")?;
    let again = call(stage, "Exec", &request("one", &line))?;
    eq(&format!("code of the second Exec ({})", again.text), &again.code, &ALREADY_EXISTS)?;
    eq("status before Start", &status(stage, &id, "one")?.number(4), &1)?;
    let started = call(stage, "Start", &of(&id).text(2, "one"))?.ok("Start")?;
    eq("pid", &status(stage, &id, "one")?.number(3), &started.number(1))?;
    let waited = call(stage, "Wait", &of(&id).text(2, "one"))?.ok("Wait")?;
    eq("exit status", &waited.number(1), &12)?;
    eq("status after the end", &status(stage, &id, "one")?.number(4), &3)?;
    let deleted = call(stage, "DeleteProcess", &of(&id).text(2, "one"))?.ok("DeleteProcess")?;
    eq("exit status of DeleteProcess", &deleted.number(3), &12)?;
    let gone = call(stage, "Get", &of(&id).text(2, "one"))?;
    eq("code of Get", &gone.code, &NOT_FOUND)?;
    // An exec that was added and never started can be deleted.
    call(stage, "Exec", &request("two", &["true"]))?.ok("Exec")?;
    call(stage, "DeleteProcess", &of(&id).text(2, "two"))?.ok("DeleteProcess of two")?;
    // One that cannot be started leaves nothing that lasts.
    call(stage, "Exec", &request("three", &["/no/such/program"]))?.ok("Exec")?;
    let reply = call(stage, "Start", &of(&id).text(2, "three"))?;
    ensure(reply.code != OK, "an exec without a program started")?;
    has("message", &reply.text, "no such file or directory")?;
    call(stage, "DeleteProcess", &of(&id).text(2, "three"))?;
    end(stage, &id)
}

fn kill_late(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    call(stage, "Kill", &of(&id).number(3, 9))?.ok("Kill")?;
    let waited = call(stage, "Wait", &of(&id))?.ok("Wait")?;
    eq("exit status", &waited.number(1), &137)?;
    let reply = call(stage, "Kill", &of(&id).number(3, 9))?;
    eq(&format!("code of the second Kill ({})", reply.text), &reply.code, &NOT_FOUND)?;
    super::delete(stage, &id)
}

fn update(stage: &Stage) -> Res {
    let id = sleeping(stage, &["--memory-limit", "67108864"])?;
    let resources = json!({
        "memory": { "limit": 134_217_728 }, "cpu": { "quota": 50_000, "period": 100_000 },
        "pids": { "limit": 77 },
    });
    let any = Message::new()
        .text(1, "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources")
        .text(2, resources.to_string());
    call(stage, "Update", &of(&id).message(2, any))?.ok("Update")?;
    let wanted = [
        ("memory", ["memory.limit_in_bytes", "memory.max"], ["134217728", "134217728"]),
        ("cpu", ["cpu.cfs_quota_us", "cpu.max"], ["50000", "50000 100000"]),
        ("pids", ["pids.max", "pids.max"], ["77", "77"]),
    ];
    for (controller, files, values) in wanted {
        let dir = cgroup(stage, controller, &id)?;
        let v2 = usize::from(!dir.join(files[0]).exists());
        let seen = std::fs::read_to_string(dir.join(files[v2]))?;
        eq(files[v2], &seen.trim(), &values[v2])?;
    }
    end(stage, &id)
}

fn pids(stage: &Stage) -> Res {
    let id = sleeping(stage, &[])?;
    let answer = call(stage, "ListPids", &of(&id))?.ok("ListPids")?;
    let pids: Vec<i64> = answer.messages(1).iter().map(|process| process.number(1)).collect();
    eq("pids", &pids, &vec![i64::from(pid(stage, &id)?)])?;
    end(stage, &id)
}
