//! Containers of a pod: their life, and what they are told to be.

use oci_tests::check::{Res, ensure, eq, has};

use super::{Pod, ask, call, ended, exec, exec_ok, knob, of, status};
use crate::known::MISSING;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::wire::Message;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("created, running, exited with its code, removed", "F137 F150", life),
        scenario("exec: output, exit code, missing program, timeout", "F150", exec_sync)
            .but_crun(MISSING),
        scenario("stop: SIGTERM is enough, or it is not", "F148", stop),
        scenario("the log has both streams", "F153", log),
        scenario("limits, and their update", "F141", limits),
        scenario("stats of a container and of all", "F141", stats),
        scenario("memory that runs out: OOMKilled, 137", "F142", oom),
        scenario("user, groups, directory, environment", "F153", process),
        scenario("capabilities, no new privileges, read-only root", "F144", secured),
        scenario("seccomp: the default, a profile from a file, none", "F144", seccomp),
        scenario("mounts: read-only, propagation", "F145", mounts),
        scenario("masked and read-only paths", "F144", masked),
        scenario("a device of the host", "F144", device),
        scenario("a terminal", "F152", terminal),
        scenario("a missing program, what cannot be executed, a bad mount", "F147 F149", mistakes)
            .but_crun(MISSING),
        scenario("what is unknown is not found, what is there exists already", "F148", unknown),
        scenario("twelve containers that end at once", "F136", early_exits),
        scenario("all privileges", "F144", privileged),
    ]
}

fn life(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.create(&["sh", "-c", "exit 3"], |config| config)?;
    eq("state", &status(stage, &id)?.number(3), &0)?;
    ask(stage, "StartContainer", &of(&id))?;
    eq("exit code", &ended(stage, &id)?, &3)?;
    eq("reason", &status(stage, &id)?.text(10).as_str(), &"Error")?;
    ask(stage, "RemoveContainer", &of(&id))?;
    ensure(call(stage, "ContainerStatus", &of(&id))?.code != 0, "a removed one has a status")?;
    let id = pod.run(&["true"], |config| config)?;
    eq("exit code of true", &ended(stage, &id)?, &0)?;
    eq("reason", &status(stage, &id)?.text(10).as_str(), &"Completed")
}

fn exec_sync(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let seen = exec(stage, &id, &["sh", "-c", "echo out; echo err >&2; exit 9"])?;
    eq("exec", &seen, &(9, "out\n".to_owned(), "err\n".to_owned()))?;
    let reply = call(stage, "ExecSync", &of(&id).texts(2, &["nosuchprogram"]).number(3, 10))?;
    ensure(reply.code != 0, "exec of a missing program worked")?;
    has("message", &reply.text, "executable file not found in $PATH")?;
    let reply = call(stage, "ExecSync", &of(&id).texts(2, &["sleep", "100"]).number(3, 1))?;
    eq("code of a timeout", &reply.code, &4)?;
    for _ in 0..5 {
        eq("exit code", &exec(stage, &id, &["true"])?.0, &0)?;
    }
    eq(
        "processes that are left",
        &exec_ok(stage, &id, "ps -o comm | grep -c sleep")?.as_str(),
        &"1",
    )
}

fn stop(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let line = "trap 'exit 9' TERM; while :; do sleep 0.02; done";
    let id = pod.run(&["sh", "-c", line], |config| config)?;
    exec_ok(stage, &id, "until grep -q 'SigCgt:.*[4567cdef]...$' /proc/1/status; do :; done")?;
    ask(stage, "StopContainer", &of(&id).number(2, 10))?;
    eq("exit code of the trap", &ended(stage, &id)?, &9)?;
    let id = pod.sleeping()?;
    ask(stage, "StopContainer", &of(&id).number(2, 1))?;
    eq("exit code of one that does not listen", &ended(stage, &id)?, &137)?;
    ask(stage, "StopContainer", &of(&id).number(2, 1))?;
    Ok(())
}

fn log(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.run(&["sh", "-c", "echo out; echo err >&2"], |config| config)?;
    ended(stage, &id)?;
    let path = status(stage, &id)?.text(15);
    stage.until("the log has both lines", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok(text.contains("stdout F out") && text.contains("stderr F err"))
    })
}

/// The options of a container's Linux part: resources and security context.
fn linux(resources: Message, context: Message) -> impl FnOnce(Message) -> Message {
    |config| config.message(15, Message::new().message(1, resources).message(2, context))
}

fn limits(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let resources = |quota: i64, memory: i64| {
        Message::new().number(1, 100_000).number(2, quota).number(3, 512).number(4, memory)
    };
    let id = pod.run(&["sleep", "1000"], linux(resources(50_000, 64 << 20), Message::new()))?;
    let memory = ["memory.limit_in_bytes", "memory.max"];
    let quota = ["cpu.cfs_quota_us", "cpu.max"];
    eq("memory", &knob(stage, &id, "memory", memory)?.as_str(), &"67108864")?;
    ensure(knob(stage, &id, "cpu", quota)?.starts_with("50000"), "quota")?;
    let inside = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    has("inside", &exec(stage, &id, &["sh", "-c", inside])?.1, "67108864")?;
    let update = of(&id).message(2, resources(25_000, 128 << 20));
    ask(stage, "UpdateContainerResources", &update)?;
    eq("memory", &knob(stage, &id, "memory", memory)?.as_str(), &"134217728")?;
    ensure(knob(stage, &id, "cpu", quota)?.starts_with("25000"), "quota after the update")?;
    eq("exec after it", &exec(stage, &id, &["true"])?.0, &0)
}

fn stats(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let one = ask(stage, "ContainerStats", &of(&id))?.message(1);
    eq("id", &one.message(1).text(1), &id)?;
    ensure(one.message(3).message(2).number(1) > 0, "no memory")?;
    ensure(one.message(2).message(2).number(1) > 0, "no processor time")?;
    let all = ask(stage, "ListContainerStats", &Message::new())?.messages(1);
    eq("stats of all", &all.len(), &1)
}

fn oom(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let resources = Message::new().number(4, 16 << 20);
    let id = pod.run(&["tail", "/dev/zero"], linux(resources, Message::new()))?;
    eq("exit code", &ended(stage, &id)?, &137)?;
    stage.until("the reason is OOMKilled", || Ok(status(stage, &id)?.text(10) == "OOMKilled"))
}

fn number(value: i64) -> Message {
    Message::new().number(1, value)
}

fn process(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let context = Message::new().message(5, number(1000)).number(8, 3000);
    let id = pod.run(&["sleep", "1000"], |config| {
        let config = config.text(5, "/data").entry(6, "ONE", "1");
        linux(Message::new(), context)(config)
    })?;
    let line = "id -u; id -G; pwd; echo $ONE; readlink /proc/1/cwd";
    let seen = exec_ok(stage, &id, line)?;
    let lines: Vec<&str> = seen.lines().collect();
    eq(
        "user, directory, environment",
        &(lines[0], &lines[2..]),
        &("1000", &["/data", "1", "/data"][..]),
    )?;
    ensure(lines[1].split(' ').any(|group| group == "3000"), format!("groups {}", lines[1]))
}

fn secured(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let capabilities = Message::new().text(1, "NET_ADMIN").text(2, "ALL");
    let context = Message::new().message(1, capabilities).number(7, 1).number(11, 1);
    let id = pod.run(&["sleep", "1000"], linux(Message::new(), context))?;
    let line = "grep -E 'CapEff|NoNewPrivs' /proc/1/status; touch /x 2>&1; true";
    let seen = exec_ok(stage, &id, line)?;
    has("capabilities", &seen, "CapEff:\t0000000000001000")?;
    has("flag", &seen, "NoNewPrivs:\t1")?;
    has("touch", &seen, "Read-only file system")
}

fn seccomp(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let profile = |message: Message| Message::new().message(15, message);
    let line = "grep '^Seccomp:' /proc/1/status; mkdir /tmp/x 2>&1; true";
    let default = profile(Message::new().number(1, 0));
    let id = pod.run(&["sleep", "1000"], linux(Message::new(), default))?;
    has("the default", &exec_ok(stage, &id, line)?, "Seccomp:\t2")?;
    let none = profile(Message::new().number(1, 1));
    let id = pod.run(&["sleep", "1000"], linux(Message::new(), none))?;
    has("none", &exec_ok(stage, &id, line)?, "Seccomp:\t0")?;
    let file = stage.path("profile.json");
    let text = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
        ],
    });
    std::fs::write(&file, text.to_string())?;
    let local = profile(Message::new().number(1, 2).text(2, &file));
    let id = pod.run(&["sleep", "1000"], linux(Message::new(), local))?;
    has("one from a file", &exec_ok(stage, &id, line)?, "No space left on device")
}

fn mounts(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let dir = stage.path("mounted");
    std::fs::create_dir_all(format!("{dir}/sub"))?;
    let mount = |inside: &str| Message::new().text(1, inside).text(2, &dir);
    let id = pod.run(&["sleep", "1000"], |config| {
        config
            .message(7, mount("/mnt").number(5, 1))
            .message(7, mount("/read").number(3, 1))
            .message(7, mount("/shared").number(5, 2))
    })?;
    exec_ok(stage, &id, "echo text > /mnt/file")?;
    eq("file on the host", &std::fs::read_to_string(format!("{dir}/file"))?.as_str(), &"text\n")?;
    let (code, _, err) = exec(stage, &id, &["touch", "/read/x"])?;
    ensure(code != 0 && err.contains("Read-only file system"), err)?;
    stage.cmd(&["mount", "-t", "tmpfs", "later", &format!("{dir}/sub")]).must()?;
    let seen = exec_ok(stage, &id, "grep -c '/sub ' /proc/mounts");
    stage.cmd(&["umount", &format!("{dir}/sub")]).must()?;
    ensure(seen?.parse().unwrap_or(0) >= 2, "a later mount of the host is not seen")
}

fn masked(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let context = Message::new().text(13, "/proc/keys").text(14, "/proc/sys");
    let id = pod.run(&["sleep", "1000"], linux(Message::new(), context))?;
    let line = "cat /proc/keys | wc -c; echo 1 > /proc/sys/kernel/printk";
    let (_, out, err) = exec(stage, &id, &["sh", "-c", line])?;
    eq("bytes of a masked file", &out.trim(), &"0")?;
    has("a read-only path", &err, "Read-only file system")
}

fn device(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let device = Message::new().text(1, "/dev/fuse").text(2, "/dev/fuse").text(3, "rw");
    let id = pod.run(&["sleep", "1000"], |config| config.message(8, device))?;
    exec_ok(stage, &id, "head -c0 /dev/fuse")?;
    let other = pod.sleeping()?;
    let (code, ..) = exec(stage, &other, &["sh", "-c", "mknod /tmp/f c 10 229; head -c0 /tmp/f"])?;
    ensure(code != 0, "a device that was not given can be opened")
}

fn terminal(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod
        .run(&["sh", "-c", "tty; exec sleep 1000"], |config| config.number(12, 1).number(14, 1))?;
    let path = status(stage, &id)?.text(15);
    stage.until("the log names the terminal", || {
        Ok(std::fs::read_to_string(&path).unwrap_or_default().contains("/dev/pts/0"))
    })
}

fn mistakes(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    for (command, words) in [
        (&["nosuchprogram"][..], "executable file not found in $PATH"),
        (&["/no/such/program"], "no such file or directory"),
        (&["/etc/plain"], "permission denied"),
    ] {
        let id = pod.create(command, |config| config)?;
        let reply = call(stage, "StartContainer", &of(&id))?;
        ensure(reply.code != 0, format!("{command:?} started"))?;
        has("message", &reply.text, words)?;
        let seen = status(stage, &id)?;
        eq("state", &seen.number(3), &2)?;
        ensure([127, 128].contains(&seen.number(7)), format!("exit code {}", seen.number(7)))?;
        eq("reason", &seen.text(10).as_str(), &"StartError")?;
        ask(stage, "RemoveContainer", &of(&id))?;
    }
    let mount = Message::new().text(1, "/etc/plain").text(2, "/etc");
    let reply = pod.create_reply(&["true"], |config| config.message(7, mount))?;
    let reply = match reply.code {
        0 => call(stage, "StartContainer", &of(&reply.fields.text(1)))?,
        _ => reply,
    };
    ensure(reply.code != 0, "a directory was mounted on a file")?;
    has("message", &reply.text, "not a directory")?;
    // The pod is none the worse.
    let id = pod.run(&["true"], |config| config)?;
    eq("exit code after it", &ended(stage, &id)?, &0)
}

fn unknown(stage: &Stage) -> Res {
    eq("ContainerStatus", &call(stage, "ContainerStatus", &of("nobody"))?.code, &5)?;
    eq("RemoveContainer", &call(stage, "RemoveContainer", &of("nobody"))?.code, &0)?;
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let again = call(stage, "StartContainer", &of(&id))?;
    ensure(again.code != 0, "a container was started twice")?;
    eq("exec", &exec(stage, &id, &["true"])?.0, &0)
}

fn early_exits(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    for round in 0..12 {
        let id = pod.run(&["sh", "-c", &format!("exit {round}")], |config| config)?;
        eq("exit code", &ended(stage, &id)?, &round)?;
        ask(stage, "RemoveContainer", &of(&id))?;
    }
    Ok(())
}

fn privileged(stage: &Stage) -> Res {
    let context = Message::new().number(6, 1);
    let pod = match Pod::start_with(stage, super::Mode::Node, context, &[]) {
        Ok(pod) => pod,
        Err(stop) => return crate::clients::without_resource(stop),
    };
    let started = pod.run(&["sleep", "1000"], linux(Message::new(), Message::new().number(2, 1)));
    let id = match started {
        Ok(id) => id,
        Err(stop) => return crate::clients::without_resource(stop),
    };
    exec_ok(stage, &id, "mount -t tmpfs x /mnt && head -c0 /dev/fuse")?;
    Ok(())
}
