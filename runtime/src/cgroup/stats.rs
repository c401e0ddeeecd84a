//! stats
/// Figures of a container's cgroup, serialised as the `data` object of `events --stats`.
#[derive(Debug, Default, serde::Serialize)]
pub struct Stats {}
