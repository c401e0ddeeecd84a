//! The clients: one module each, which starts its daemons and lists its scenarios.

use crate::scenario::Client;

mod containerd;
mod docker;

/// All clients, in the order of lists and results.
pub const ALL: [&Client; 3] = [&containerd::CLIENT, &docker::CLIENT, &docker::REMAPPED];

/// The line that names a scenario.
pub fn title(client: usize, index: usize) -> String {
    let entry = ALL[client];
    (entry.scenarios)().get(index).map(|scenario| entry.title(scenario)).unwrap_or_default()
}
