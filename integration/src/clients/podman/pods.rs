//! Pods, whose members share namespaces.

use oci_tests::cgroups;
use oci_tests::check::{Res, ensure, eq, has};

use super::{exec, inspect, podman, run, sh_ok, sleeping};
use crate::images::BOX;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("members share network, ipc and uts namespace", "F144", shared),
        scenario("members share a pid namespace", "F144", shared_pids),
        scenario("a pod is paused, stopped, started, removed", "F137", life),
        scenario("a pod from a Kubernetes description", "F144", play),
    ]
}

fn pod(stage: &Stage, options: &[&str]) -> Res<String> {
    let name = format!("p{}", stage.next());
    // Podman removes a pod's cgroup from the hierarchies that it knows, which are not all.
    let rest: Vec<String> = cgroups::hierarchies()
        .iter()
        .map(|h| format!("{}/{}/[0-9a-f]*", h.point.display(), stage.word))
        .collect();
    stage.later(&["sh", "-c", &format!("rmdir {}", rest.join(" "))]);
    stage.later(&["podman", "pod", "rm", "--force", "--time", "0", "--ignore", &name]);
    let parent = format!("/{}", stage.word);
    let words = ["pod", "create", "--name", &name, "--network", "none", "--cgroup-parent", &parent];
    podman(stage, &words).args(options).must()?;
    Ok(name)
}

const LINE: &str = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";

fn shared(stage: &Stage) -> Res {
    let pod = pod(stage, &["--hostname", "together"])?;
    let first = sleeping(stage, &["--pod", &pod])?;
    let seen = exec(stage, &first, &["sh", "-c", LINE])?.out;
    let second = sh_ok(stage, &["--pod", &pod], LINE)?;
    let (seen, second): (Vec<&str>, Vec<&str>) = (seen.lines().collect(), second.lines().collect());
    for (place, name) in ["net", "ipc", "uts"].iter().enumerate() {
        eq(name, &seen.get(place), &second.get(place))?;
    }
    ensure(seen.get(3) != second.get(3), "the pid namespace is shared too")?;
    eq("hostname", &sh_ok(stage, &["--pod", &pod], "hostname")?.as_str(), &"together")
}

fn shared_pids(stage: &Stage) -> Res {
    let pod = pod(stage, &["--share", "pid,net,ipc"])?;
    let first = sleeping(stage, &["--pod", &pod])?;
    let output = run(stage, &["--rm", "--pod", &pod], &["ps", "-o", "args"]).must()?;
    has("processes", &output, "sleep 1000")?;
    eq("exit code of an exec", &exec(stage, &first, &["sh", "-c", "exit 5"])?.code, &Some(5))
}

fn life(stage: &Stage) -> Res {
    let pod = pod(stage, &[])?;
    let member = sleeping(stage, &["--pod", &pod])?;
    let status = |wanted: &str| {
        stage.until(&format!("{member} is {wanted}"), || {
            Ok(inspect(stage, &member, "/State/Status")? == wanted)
        })
    };
    podman(stage, &["pod", "pause", &pod]).must()?;
    status("paused")?;
    podman(stage, &["pod", "unpause", &pod]).must()?;
    status("running")?;
    podman(stage, &["pod", "stop", "--time", "0", &pod]).must()?;
    status("exited")?;
    podman(stage, &["pod", "start", &pod]).must()?;
    status("running")?;
    podman(stage, &["pod", "top", &pod]).must()?;
    podman(stage, &["pod", "rm", "--force", "--time", "0", &pod]).must()?;
    Ok(())
}

fn play(stage: &Stage) -> Res {
    let file = stage.path("pod.yaml");
    let name = format!("k{}", stage.next());
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  hostNetwork: true\n  \
         restartPolicy: Never\n  containers:\n  - name: one\n    image: {BOX}\n    \
         imagePullPolicy: Never\n    command: [sleep, \"1000\"]\n    securityContext:\n      \
         runAsUser: 1000\n      readOnlyRootFilesystem: true\n"
    );
    std::fs::write(&file, text)?;
    stage.later(&["podman", "pod", "rm", "--force", "--time", "0", "--ignore", &name]);
    podman(stage, &["play", "kube", &file]).must()?;
    let member = format!("{name}-one");
    let output = exec(stage, &member, &["sh", "-c", "id -u; touch /x"])?;
    has("user", &output.out, "1000")?;
    has("touch", &output.err, "Read-only file system")?;
    podman(stage, &["play", "kube", "--down", &file]).must()?;
    Ok(())
}
