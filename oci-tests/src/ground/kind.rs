//! Whose runtime it is.

use std::path::Path;

/// Which runtime is asked, as far as the suite treats one differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The workspace's own; `quality` notes are failures for it.
    Bulkhead,
    /// Refuses hybrid cgroup layouts.
    Crun,
    /// Anything else.
    Other,
}

impl Kind {
    /// What `--version` says it is.
    pub fn of(runtime: &Path) -> Self {
        let output = std::process::Command::new(runtime).arg("--version").output();
        let text =
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        match text.split_whitespace().next() {
            Some("crun") => Self::Crun,
            _ if text.contains("bulkhead") => Self::Bulkhead,
            _ if runtime.file_name().is_some_and(|name| name == "bulkhead") => Self::Bulkhead,
            _ => Self::Other,
        }
    }
}
