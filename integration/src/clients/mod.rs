//! The clients: one module each, which starts its daemons and lists its scenarios.

use crate::scenario::Client;

mod containerd;
mod docs;

/// All clients, in the order of lists and results.
pub const ALL: [&Client; 6] = [
    &containerd::CLIENT,
    &docs::CONTAINERD,
    &docs::KUBERNETES,
    &docs::SHIM,
    &docs::DOCKER,
    &docs::PODMAN,
];

/// Whether a client gets a root of its own in every cgroup hierarchy.
pub fn needs_own_cgroups(client: usize) -> bool {
    docs::needs_own_cgroups(ALL[client])
}

/// The line that names a scenario.
pub fn title(client: usize, index: usize) -> String {
    let entry = ALL[client];
    (entry.scenarios)().get(index).map(|scenario| entry.title(scenario)).unwrap_or_default()
}
