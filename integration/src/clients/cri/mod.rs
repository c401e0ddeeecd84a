//! Kubernetes' container runtime interface, answered by containerd's CRI plugin.
//!
//! Messages and field numbers are those of `runtime.v1`:
//! <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>

mod containers;
mod debian;
mod pods;
mod streaming;

use std::path::PathBuf;

use oci_tests::cgroups;
use oci_tests::check::{Res, fail};

use super::containerd;
use crate::grpc::{Channel, Reply};
use crate::images::{BOX, PAUSE};
use crate::scenario::Client;
use crate::stage::Stage;
use crate::wire::{Fields, Message};

/// containerd's CRI plugin.
pub const CLIENT: Client = Client {
    name: "cri",
    programs: &["containerd", "ctr"],
    scenarios: || {
        let mut all = pods::scenarios();
        all.extend(containers::scenarios());
        all.extend(streaming::scenarios());
        all.extend(debian::scenarios());
        all
    },
    open,
    emptied: |stage| {
        let run = stage.dir.join("containerd/run");
        let names = [
            "io.containerd.runtime.v2.task/k8s.io",
            "io.containerd.grpc.v1.cri/sandboxes",
            "io.containerd.grpc.v1.cri/containers",
        ];
        let mut dirs: Vec<String> =
            names.iter().map(|name| run.join(name).display().to_string()).collect();
        dirs.push("/run/containerd/runc/k8s.io".into());
        dirs.push("/run/netns".into());
        dirs
    },
};

/// The modes of a namespace.
#[derive(Clone, Copy)]
enum Mode {
    /// The pod's.
    Pod = 0,
    /// The container's own.
    Container = 1,
    /// The host's.
    Node = 2,
}

fn open(stage: &Stage) -> Res {
    // Sandboxes are found by the CRI plugin in this namespace.
    stage.set_env("CONTAINERD_NAMESPACE", "k8s.io");
    let net = stage.dir.join("cni");
    std::fs::create_dir_all(&net)?;
    let list = serde_json::json!({
        "cniVersion": "0.4.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "cri0", "isGateway": true, "ipMasq": false,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.97.0.0/24" }]] },
        }],
    });
    std::fs::write(net.join("10-pods.conflist"), list.to_string())?;
    let (kind, options) = match &stage.shim {
        Some(shim) => (shim.display().to_string(), String::new()),
        None => (
            "io.containerd.runc.v2".to_owned(),
            format!(
                "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.tested.options]\n\
                 BinaryName = \"{}\"\n",
                stage.runtime.display()
            ),
        ),
    };
    let cri = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{PAUSE}\"\n\
         restrict_oom_score_adj = true\ndisable_apparmor = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"tested\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.tested]\n\
         runtime_type = \"{kind}\"\n{options}",
        net.display()
    );
    stage.keep(containerd::start(stage, Some(&cri))?);
    containerd::load(stage)?;
    [BOX, PAUSE].iter().try_for_each(|image| await_image(stage, image))
}

/// Waits until the CRI plugin has heard of an image.
fn await_image(stage: &Stage, image: &str) -> Res {
    let request = Message::new().message(1, Message::new().text(1, image));
    stage.until(&format!("the CRI plugin has {image}"), || {
        let method = "/runtime.v1.ImageService/ImageStatus";
        let reply = channel(stage)?.call(method, &request, stage.remaining())?;
        Ok(reply.code == 0 && !reply.fields.message(1).text(1).is_empty())
    })
}

fn channel(stage: &Stage) -> Res<Channel> {
    Channel::connect(&containerd::socket(stage), &[])
}

/// Calls a method of the runtime service.
fn call(stage: &Stage, method: &str, message: &Message) -> Res<Reply> {
    let method = format!("/runtime.v1.RuntimeService/{method}");
    channel(stage)?.call(&method, message, stage.remaining())
}

/// The same, which must work.
fn ask(stage: &Stage, method: &str, message: &Message) -> Res<Fields> {
    call(stage, method, message)?.ok(method)
}

fn of(id: &str) -> Message {
    Message::new().text(1, id)
}

/// A pod's configuration with a network namespace mode and further options of its security context.
fn pod_config(stage: &Stage, network: Mode, context: Message, sysctls: &[(&str, &str)]) -> Message {
    let name = format!("pod{}", stage.next());
    let metadata = Message::new().text(1, &name).text(2, format!("uid-{name}")).text(3, "tests");
    let namespaces = Message::new()
        .number(1, network as i64)
        .number(2, Mode::Container as i64)
        .number(3, Mode::Pod as i64);
    let linux = Message::new()
        .text(1, format!("/{}", stage.word))
        .message(2, context.message(1, namespaces));
    let linux = sysctls.iter().fold(linux, |linux, (key, value)| linux.entry(3, key, value));
    let logs = stage.path(&format!("logs-{name}"));
    // The host's name is the pod's when its network is.
    let hostname = if matches!(network, Mode::Node) { "" } else { "a-pod" };
    Message::new().message(1, metadata).text(2, hostname).text(3, logs).message(8, linux)
}

/// A pod that runs.
struct Pod<'s> {
    stage: &'s Stage,
    id: String,
    config: Message,
    network: Mode,
}

impl<'s> Pod<'s> {
    /// Starts a pod on the host's network, which needs no CNI.
    fn start(stage: &'s Stage) -> Res<Self> {
        Self::start_with(stage, Mode::Node, Message::new(), &[])
    }

    fn start_with(
        stage: &'s Stage,
        network: Mode,
        context: Message,
        sysctls: &[(&str, &str)],
    ) -> Res<Self> {
        let config = pod_config(stage, network, context, sysctls);
        let request = Message::new().message(1, config.clone()).text(2, "tested");
        let id = ask(stage, "RunPodSandbox", &request)?.text(1);
        Ok(Self { stage, id, config, network })
    }

    /// Creates a container; `change` adds to its configuration.
    fn create(&self, command: &[&str], change: impl FnOnce(Message) -> Message) -> Res<String> {
        self.create_reply(command, change)?.ok("CreateContainer").map(|fields| fields.text(1))
    }

    fn create_reply(
        &self,
        command: &[&str],
        change: impl FnOnce(Message) -> Message,
    ) -> Res<Reply> {
        let name = format!("c{}", self.stage.next());
        // A field that comes again is merged with the first: `change` can say otherwise.
        let namespaces = Message::new()
            .number(1, self.network as i64)
            .number(2, Mode::Container as i64)
            .number(3, Mode::Pod as i64);
        let context = Message::new().message(3, namespaces);
        let config = Message::new()
            .message(15, Message::new().message(2, context))
            .message(1, Message::new().text(1, &name))
            .message(2, Message::new().text(1, BOX))
            .texts(3, command)
            .text(11, format!("{name}.log"));
        let request = of(&self.id).message(2, change(config)).message(3, self.config.clone());
        call(self.stage, "CreateContainer", &request)
    }

    /// Creates and starts one.
    fn run(&self, command: &[&str], change: impl FnOnce(Message) -> Message) -> Res<String> {
        let id = self.create(command, change)?;
        ask(self.stage, "StartContainer", &of(&id))?;
        Ok(id)
    }

    /// One that sleeps.
    fn sleeping(&self) -> Res<String> {
        self.run(&["sleep", "1000"], |config| config)
    }

    /// The pod's status.
    fn status(&self) -> Res<Fields> {
        Ok(ask(self.stage, "PodSandboxStatus", &of(&self.id))?.message(1))
    }
}

impl Drop for Pod<'_> {
    /// Stops and removes it; what is then left is the runtime's.
    fn drop(&mut self) {
        let _ = ask(self.stage, "StopPodSandbox", &of(&self.id));
        let _ = ask(self.stage, "RemovePodSandbox", &of(&self.id));
    }
}

/// A container's status.
fn status(stage: &Stage, id: &str) -> Res<Fields> {
    Ok(ask(stage, "ContainerStatus", &of(id))?.message(1))
}

/// Waits until a container has ended; answers its exit code.
fn ended(stage: &Stage, id: &str) -> Res<i64> {
    stage.until("the container ends", || Ok(status(stage, id)?.number(3) == 2))?;
    Ok(status(stage, id)?.number(7))
}

/// Executes in a container: exit code, output, error output.
fn exec(stage: &Stage, id: &str, command: &[&str]) -> Res<(i64, String, String)> {
    let request = of(id).texts(2, command).number(3, 20);
    let fields = ask(stage, "ExecSync", &request)?;
    Ok((fields.number(3), fields.text(1), fields.text(2)))
}

/// Runs a line of the shell in a new container of the pod; answers what it printed.
fn exec_ok(stage: &Stage, id: &str, line: &str) -> Res<String> {
    match exec(stage, id, &["sh", "-c", line])? {
        (0, out, _) => Ok(out.trim().to_owned()),
        (code, out, err) => fail(format!("{line}: {code}: {out} {err}")),
    }
}

/// A knob of a container's cgroup, by its names in v1 and v2.
fn knob(stage: &Stage, id: &str, controller: &str, files: [&str; 2]) -> Res<String> {
    let dir: PathBuf = cgroups::either(controller, &format!("/{}/{id}", stage.word))?;
    match files.iter().map(|file| dir.join(file)).find(|file| file.exists()) {
        Some(file) => Ok(std::fs::read_to_string(file)?.trim().to_owned()),
        None => fail(format!("{} has neither of {files:?}", dir.display())),
    }
}
