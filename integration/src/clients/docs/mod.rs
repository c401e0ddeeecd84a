//! The pages of docs/, command by command.
//!
//! A page is one scenario: its `sh` blocks are run in their order, each by a shell of its own, on a host that
//! has the package beside it ([`host`]). What a block must print is the `text` block behind it. Blocks that
//! cannot be run here are scenarios of their own, which are skipped with the reason that the page gives.

mod host;
mod page;

use std::fs;

use oci_tests::check::{Res, Stop, cut, eq, fail};

use crate::grpc::Channel;
use crate::scenario::{Client, Scenario, scenario, skipped};
use crate::stage::Stage;
use crate::wire::Message;
use page::{Block, Page};

const CONTAINERD_PAGE: Page =
    Page { file: "containerd.md", text: include_str!("../../../../docs/containerd.md") };
const KUBERNETES_PAGE: Page =
    Page { file: "kubernetes.md", text: include_str!("../../../../docs/kubernetes.md") };
const DOCKER_PAGE: Page =
    Page { file: "docker.md", text: include_str!("../../../../docs/docker.md") };
const PODMAN_PAGE: Page =
    Page { file: "podman.md", text: include_str!("../../../../docs/podman.md") };
const SHIM_PAGE: Page = Page { file: "shim.md", text: include_str!("../../../../docs/shim.md") };

/// docs/containerd.md.
pub const CONTAINERD: Client = Client {
    name: "docs containerd",
    programs: &["containerd", "ctr", "dpkg", "pgrep", "man"],
    scenarios: || scenarios(&CONTAINERD_PAGE, |stage| run(stage, &CONTAINERD_PAGE)),
    open: open_containerd,
    emptied: containerd_places,
};

/// docs/kubernetes.md.
pub const KUBERNETES: Client = Client {
    name: "docs kubernetes",
    programs: &["containerd", "ctr", "dpkg"],
    scenarios: || {
        scenarios(&KUBERNETES_PAGE, |stage| {
            run(stage, &KUBERNETES_PAGE)?;
            pod(stage)
        })
    },
    open: |stage| {
        host::prepare(stage)?;
        // A machine without the capability to lower OOM scores needs this besides what Debian's file has.
        let file = "/etc/containerd/config.toml";
        let section = "[plugins.\"io.containerd.grpc.v1.cri\"]\n";
        let more = format!("{section}    restrict_oom_score_adj = true\n");
        fs::write(file, fs::read_to_string(file)?.replacen(section, &more, 1))?;
        host::start(stage, &host::CONTAINERD)?;
        host::pause_image(stage)
    },
    emptied: containerd_places,
};

/// docs/shim.md.
pub const SHIM: Client = Client {
    name: "docs shim",
    programs: &["containerd", "ctr", "dpkg", "pgrep"],
    scenarios: || scenarios(&SHIM_PAGE, |stage| run(stage, &SHIM_PAGE)),
    open: |stage| {
        open_containerd(stage)?;
        // The page is for somebody who has installed the package.
        let home = stage.dir.join("home").display().to_string();
        stage.cmd(&["dpkg", "--recursive", "--install", &home]).must().map(drop)
    },
    emptied: containerd_places,
};

/// docs/docker.md.
pub const DOCKER: Client = Client {
    name: "docs docker",
    programs: &["dockerd", "docker", "iptables", "dpkg"],
    scenarios: || scenarios(&DOCKER_PAGE, |stage| run(stage, &DOCKER_PAGE)),
    open: |stage| {
        host::prepare(stage)?;
        host::start(stage, &host::DOCKER)?;
        host::docker_image(stage)
    },
    emptied: |_| vec!["/run/docker/runtime-bulkhead/moby".to_owned()],
};

/// docs/podman.md.
pub const PODMAN: Client = Client {
    name: "docs podman",
    programs: &["podman", "buildah", "dpkg"],
    scenarios: || {
        scenarios(&PODMAN_PAGE, |stage| {
            // A podman that ends with an error leaves its storage mounted.
            let umount = "while umount --lazy /var/lib/containers/storage/overlay 2>/dev/null; do sleep 0.1; done";
            stage.later(&["sh", "-c", umount]);
            run(stage, &PODMAN_PAGE)
        })
    },
    open: |stage| {
        host::prepare(stage)?;
        host::podman_image(stage)
    },
    emptied: |_| vec!["/run/bulkhead".to_owned()],
};

fn containerd_places(_: &Stage) -> Vec<String> {
    ["/run/containerd/s", "/run/containerd/bulkhead/default", "/run/containerd/bulkhead/k8s.io"]
        .map(str::to_owned)
        .into()
}

fn open_containerd(stage: &Stage) -> Res {
    host::prepare(stage)?;
    host::start(stage, &host::CONTAINERD)?;
    host::containerd_image(stage, "default")
}

/// The page, and each of its blocks that is not run.
fn scenarios(page: &Page, run: fn(&Stage) -> Res) -> Vec<Scenario> {
    let mut all = vec![scenario("every command of the page", "docs", run).within(180)];
    // A page that cannot be read is told by the run itself.
    for block in page.blocks().unwrap_or_default() {
        if let Some(reason) = block.reason {
            let name = block.commands.lines().next().unwrap_or_default();
            all.push(skipped(name, "docs", reason));
        }
    }
    all
}

/// Runs a page's commands.
fn run(stage: &Stage, page: &Page) -> Res {
    let blocks = page.blocks()?;
    let mut commands = 0;
    for block in blocks.iter().filter(|block| block.reason.is_none()) {
        commands += block.commands.lines().count();
        run_block(stage, block).map_err(|stop| match stop {
            Stop::Fail(reason) => Stop::Fail(format!(
                "docs/{}:{} ({}): {reason}",
                page.file, block.line, block.heading
            )),
            skip => skip,
        })?;
    }
    stage.note(format!("{commands} lines of commands"));
    Ok(())
}

fn run_block(stage: &Stage, block: &Block) -> Res {
    // Pages show what a terminal would: both streams. In a file, since a command line with the commands in
    // it would be found by those that look for processes.
    let script = stage.path("tmp/block");
    fs::write(&script, format!("cd; exec 2>&1\n{}\n", block.commands))?;
    let output = stage.cmd(&["sh", "-eu", &script]).output()?;
    if output.code != Some(0) {
        return fail(format!("{} {}", output.brief(), cut(&output.out)));
    }
    match block.output.and_then(|wanted| page::missing(wanted, &output.out)) {
        Some(line) => fail(format!("wanted a line {line:?}, saw {:?}", cut(&output.out))),
        None => Ok(()),
    }
}

/// A pod with the handler of the RuntimeClass, as a kubelet asks for it.
fn pod(stage: &Stage) -> Res {
    const SERVICE: &str = "/runtime.v1.RuntimeService";
    let channel = Channel::connect("/run/containerd/containerd.sock".as_ref(), &[])?;
    let call = |method: &str, message: &Message| {
        channel.call(&format!("{SERVICE}/{method}"), message, stage.remaining())?.ok(method)
    };
    let metadata = Message::new().text(1, "example").text(2, "uid").text(3, "default");
    // The host's network: no plugin has to make one.
    let linux = Message::new()
        .message(2, Message::new().message(1, Message::new().number(1, 2).number(2, 1)));
    let config = Message::new().message(1, metadata).message(8, linux);
    let request = Message::new().message(1, config).text(2, "bulkhead");
    let id = call("RunPodSandbox", &request)?.text(1);
    let list = ["bulkhead", "--root", "/run/containerd/bulkhead/k8s.io", "list", "--quiet"];
    let listed = stage.cmd(&list).must();
    let request = Message::new().text(1, &id);
    call("StopPodSandbox", &request)?;
    call("RemovePodSandbox", &request)?;
    eq("bulkhead list", &listed?, &id)
}
