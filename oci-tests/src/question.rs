//! What a test is.

use crate::check::Res;
use crate::lab::Lab;

/// The cgroup file systems that a test wants to be visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What the machine has, or what the runtime can stand.
    Any,
    /// Only the cgroup2 hierarchy, at /sys/fs/cgroup.
    V2,
    /// What the machine has, and its pid namespace: systemd is process 1, and cgroup2 is all there is.
    Systemd,
}

/// One question to a runtime.
pub struct Test {
    /// Document and anchor, as `config-linux#namespaces`.
    pub section: &'static str,
    /// Rows of the feature list, as `F21`.
    pub rows: &'static str,
    /// What is required, in our words.
    pub text: String,
    /// The cgroup file systems it needs.
    pub view: View,
    /// The question itself.
    pub run: Box<dyn Fn(&Lab) -> Res>,
}

/// A test with the machine's cgroup view.
pub fn test(
    section: &'static str,
    rows: &'static str,
    text: impl Into<String>,
    run: impl Fn(&Lab) -> Res + 'static,
) -> Test {
    Test { section, rows, text: text.into(), view: View::Any, run: Box::new(run) }
}

impl Test {
    /// The same test in a view with cgroup2 only.
    pub fn on_v2(self) -> Self {
        Self { view: View::V2, ..self }
    }

    /// The same test beside the machine's systemd, which must be able to see its processes.
    pub fn on_systemd(self) -> Self {
        Self { view: View::Systemd, ..self }
    }

    /// The line that names the test in lists and results.
    pub fn title(&self) -> String {
        format!("{}: {} [{}]", self.section, self.text, self.rows)
    }
}
