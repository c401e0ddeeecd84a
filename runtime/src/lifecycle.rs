//! All hooks of a container, and the state that they are told.

use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::json;

use crate::error::Result;
use crate::hooks::{self, Command, Kind};

/// The hooks of a configuration, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Hooks {
    lists: Vec<(Kind, Vec<Command>)>,
    /// The state document without status and pid.
    state: serde_json::Map<String, serde_json::Value>,
}

impl Hooks {
    /// Plans the hooks of `spec`.
    pub(crate) fn plan(spec: &Spec, id: &str, bundle: &Path) -> Result<Self> {
        let mut lists = Vec::new();
        if let Some(hooks) = spec.hooks() {
            #[allow(deprecated, reason = "callers still use prestart hooks")]
            let all = [
                (Kind::Prestart, hooks.prestart()),
                (Kind::CreateRuntime, hooks.create_runtime()),
                (Kind::CreateContainer, hooks.create_container()),
                (Kind::StartContainer, hooks.start_container()),
                (Kind::Poststart, hooks.poststart()),
                (Kind::Poststop, hooks.poststop()),
            ];
            for (kind, list) in all {
                let commands = hooks::plan(kind, list.as_deref())?;
                if !commands.is_empty() {
                    lists.push((kind, commands));
                }
            }
        }
        let mut state = serde_json::Map::new();
        state.insert("ociVersion".into(), json!(spec.version()));
        state.insert("id".into(), json!(id));
        state.insert("bundle".into(), json!(bundle));
        if let Some(annotations) = spec.annotations().as_ref().filter(|map| !map.is_empty()) {
            state.insert("annotations".into(), json!(annotations));
        }
        Ok(Self { lists, state })
    }

    /// The hooks of one kind, in order.
    pub(crate) fn of(&self, kind: Kind) -> &[Command] {
        self.lists.iter().find(|(k, _)| *k == kind).map_or(&[], |(_, commands)| commands)
    }

    /// Whether any hook of this kind is configured.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.lists.iter().any(|(k, _)| *k == kind)
    }

    /// Whether the child must stop for hooks before it enters its root.
    pub(crate) fn before_pivot(&self) -> bool {
        self.has(Kind::Prestart) || self.has(Kind::CreateRuntime) || self.has(Kind::CreateContainer)
    }

    /// Runs the hooks of one kind in order, up to the first that fails. `pid` is the container's
    /// process as seen by the hook, 0 when there is none.
    pub(crate) fn run(&self, kind: Kind, pid: i32) -> Result<()> {
        let Some((_, commands)) = self.lists.iter().find(|(k, _)| *k == kind) else {
            return Ok(());
        };
        hooks::run(commands, &self.state(kind, pid))
    }

    /// Runs every hook of one kind; failures are warnings.
    pub(crate) fn run_all(&self, kind: Kind, warnings: &mut Vec<String>) {
        if let Some((_, commands)) = self.lists.iter().find(|(k, _)| *k == kind) {
            hooks::run_all(commands, &self.state(kind, 0), warnings);
        }
    }

    fn state(&self, kind: Kind, pid: i32) -> Vec<u8> {
        let status = match kind {
            Kind::Prestart | Kind::CreateRuntime | Kind::CreateContainer => "creating",
            Kind::StartContainer => "created",
            Kind::Poststart => "running",
            Kind::Poststop => "stopped",
        };
        let mut state = self.state.clone();
        state.insert("status".into(), json!(status));
        if pid != 0 {
            state.insert("pid".into(), json!(pid));
        }
        serde_json::to_vec(&state).expect("a map with string keys is JSON")
    }
}
