//! Pods: their sandbox, network, namespaces, and what becomes of them when somebody dies.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_tests::check::{Res, ensure, eq, fail, has, skip};

use super::{Mode, Pod, ask, call, ended, exec, exec_ok, of, pod_config, status};
use crate::clients::containerd;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::wire::Message;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("the runtime is ready", "F144", ready),
        scenario("a pod: ready, stopped, removed", "F161", life),
        scenario("containers of a pod share network, ipc and hostname", "F161", shared),
        scenario("containers of a pod share a pid namespace when told to", "F161", shared_pids),
        scenario("a pod with an address, reached by another", "F164", network),
        scenario("sysctls of a pod", "F161", sysctls),
        scenario("a pod as an ordinary user, with a read-only root", "F161", secured),
        scenario("one shim serves a pod and its containers", "F161", one_shim),
        scenario("stopping a pod ends its containers", "F148", stop_ends),
        scenario("a killed containerd finds pods and containers again", "F160", restart),
        scenario(
            "a killed shim: pod and containers have ended, and can be removed",
            "F160",
            killed_shim,
        ),
        scenario("an unknown runtime handler is refused", "F147", bad_handler),
    ]
}

fn ready(stage: &Stage) -> Res {
    let conditions = ask(stage, "Status", &Message::new())?.message(1).messages(1);
    let runtime = conditions.iter().find(|condition| condition.text(1) == "RuntimeReady");
    eq("RuntimeReady", &runtime.map(|condition| condition.number(2)), &Some(1))?;
    let network = conditions.iter().find(|condition| condition.text(1) == "NetworkReady");
    eq("NetworkReady", &network.map(|condition| condition.number(2)), &Some(1))
}

fn life(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    eq("state", &pod.status()?.number(3), &0)?;
    ask(stage, "StopPodSandbox", &of(&pod.id))?;
    eq("state after stop", &pod.status()?.number(3), &1)?;
    ask(stage, "StopPodSandbox", &of(&pod.id))?;
    ask(stage, "RemovePodSandbox", &of(&pod.id))?;
    ensure(call(stage, "PodSandboxStatus", &of(&pod.id))?.code != 0, "a removed pod has a status")?;
    ask(stage, "RemovePodSandbox", &of(&pod.id))?;
    Ok(())
}

const LINE: &str = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";

fn shared(stage: &Stage) -> Res {
    let pod = Pod::start_with(stage, Mode::Pod, Message::new(), &[])?;
    let (one, two) = (pod.sleeping()?, pod.sleeping()?);
    let (first, second) = (exec_ok(stage, &one, LINE)?, exec_ok(stage, &two, LINE)?);
    let (first, second): (Vec<&str>, Vec<&str>) =
        (first.lines().collect(), second.lines().collect());
    for (place, name) in ["net", "ipc", "uts"].iter().enumerate() {
        eq(name, &first.get(place), &second.get(place))?;
    }
    ensure(first.get(3) != second.get(3), "the pid namespace is shared")?;
    eq("hostname", &exec_ok(stage, &one, "hostname")?.as_str(), &"a-pod")?;
    exec_ok(stage, &one, "echo shared > /dev/shm/file")?;
    eq("/dev/shm of the other", &exec_ok(stage, &two, "cat /dev/shm/file")?.as_str(), &"shared")
}

fn shared_pids(stage: &Stage) -> Res {
    let namespaces = Message::new()
        .number(1, Mode::Node as i64)
        .number(2, Mode::Pod as i64)
        .number(3, Mode::Pod as i64);
    let context = Message::new().message(1, namespaces.clone());
    let pod = Pod::start_with(stage, Mode::Node, context, &[])?;
    let context = || Message::new().message(2, Message::new().message(3, namespaces.clone()));
    let one = pod.run(&["sleep", "1001"], |config| config.message(15, context()))?;
    let two = pod.run(&["sleep", "1002"], |config| config.message(15, context()))?;
    let seen = exec_ok(stage, &one, "ps -o args")?;
    has("processes", &seen, "sleep 1002")?;
    // The end of one container ends no other.
    ask(stage, "StopContainer", &of(&one).number(2, 0))?;
    eq("exec in the other", &exec(stage, &two, &["true"])?.0, &0)
}

fn network(stage: &Stage) -> Res {
    let server = Pod::start_with(stage, Mode::Pod, Message::new(), &[])?;
    let address = server.status()?.message(5).text(1);
    ensure(address.starts_with("10.97.0."), format!("address {address:?}"))?;
    let line = "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www";
    server.run(&["sh", "-c", line], |config| config)?;
    let client = Pod::start_with(stage, Mode::Pod, Message::new(), &[])?;
    let id = client.sleeping()?;
    let get = format!("wget -q -O - http://{address}/");
    stage.until("the other pod serves", || {
        Ok(exec(stage, &id, &["sh", "-c", &get])?.1 == "served\n")
    })
}

fn sysctls(stage: &Stage) -> Res {
    let wanted = [("net.ipv4.ip_unprivileged_port_start", "81"), ("kernel.msgmax", "4096")];
    let pod = Pod::start_with(stage, Mode::Pod, Message::new(), &wanted)?;
    let id = pod.sleeping()?;
    let line = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    eq("values", &exec_ok(stage, &id, line)?.as_str(), &"81\n4096")
}

fn secured(stage: &Stage) -> Res {
    let context = Message::new().message(3, Message::new().number(1, 1000)).number(4, 1);
    let pod = Pod::start_with(stage, Mode::Node, context, &[])?;
    eq("state", &pod.status()?.number(3), &0)
}

fn one_shim(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let ids = [pod.sleeping()?, pod.sleeping()?];
    let shim = |id: &str| crate::left::find_process("shim", &format!("-id {id} "));
    ensure(shim(&pod.id).is_some(), "no shim serves the pod")?;
    ensure(ids.iter().all(|id| shim(id).is_none()), "a container has a shim of its own")
}

fn stop_ends(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    ask(stage, "StopPodSandbox", &of(&pod.id))?;
    eq("exit code", &ended(stage, &id)?, &137)?;
    // A container cannot be started in a pod that is no more.
    let reply = pod.create_reply(&["true"], |config| config)?;
    let started =
        reply.code == 0 && call(stage, "StartContainer", &of(&reply.fields.text(1)))?.code == 0;
    ensure(!started, "a container was started")
}

fn restart(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let Some(daemon) = stage.take_daemon() else {
        return fail("containerd does not run");
    };
    daemon.kill();
    stage.keep(containerd::again(stage)?);
    // Its socket is there before its plugins are.
    stage.until("the CRI plugin answers", || {
        Ok(call(stage, "Version", &Message::new())?.code == 0
            && call(stage, "ListPodSandbox", &Message::new())?.code == 0)
    })?;
    eq("pod's state", &pod.status()?.number(3), &0)?;
    eq("container's state", &status(stage, &id)?.number(3), &1)?;
    eq("exec", &exec(stage, &id, &["sh", "-c", "exit 5"])?.0, &5)?;
    ask(stage, "StopContainer", &of(&id).number(2, 0))?;
    eq("exit code", &ended(stage, &id)?, &137)
}

fn killed_shim(stage: &Stage) -> Res {
    if stage.newer_shim() {
        return skip(
            "containerd of this version leaves the pod's processes when its shim is killed",
        );
    }
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let Some(shim) = crate::left::find_process("shim", &format!("-id {} ", pod.id)) else {
        return fail("no shim");
    };
    kill(Pid::from_raw(shim), Signal::SIGKILL)?;
    eq("exit code", &ended(stage, &id)?, &137)
        .or_else(|_| eq("exit code", &ended(stage, &id)?, &255))?;
    stage.until("the pod is not ready", || Ok(pod.status()?.number(3) == 1))?;
    ask(stage, "RemoveContainer", &of(&id))?;
    Ok(())
}

fn bad_handler(stage: &Stage) -> Res {
    let config = pod_config(stage, Mode::Node, Message::new(), &[]);
    let reply = call(stage, "RunPodSandbox", &Message::new().message(1, config).text(2, "none"))?;
    ensure(reply.code != 0, "a pod was started")?;
    has("message", &reply.text, "none")
}
