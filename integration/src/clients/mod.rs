//! The clients: one module each, which starts its daemons and lists its scenarios.

use oci_tests::check::{Res, Stop, cut, skip};

use crate::scenario::Client;

mod buildah;
mod containerd;
mod cri;
mod debian;
mod docker;
mod docs;
mod engine;
mod podman;

/// All clients, in the order of lists and results.
pub const ALL: [&Client; 13] = [
    &containerd::CLIENT,
    &cri::CLIENT,
    &docker::CLIENT,
    &docker::REMAPPED,
    &podman::CLIENT,
    &podman::ROOTLESS,
    &buildah::CLIENT,
    &buildah::ROOTLESS,
    &docs::CONTAINERD,
    &docs::KUBERNETES,
    &docs::SHIM,
    &docs::DOCKER,
    &docs::PODMAN,
];

/// Whether a client is a page of docs/. Its daemons run with their usual cgroups, and so need a root of
/// their own for these.
pub fn is_page(client: usize) -> bool {
    ALL[client].name.starts_with("docs ")
}

/// The line that names a scenario.
pub fn title(client: usize, index: usize) -> String {
    let entry = ALL[client];
    (entry.scenarios)().get(index).map(|scenario| entry.title(scenario)).unwrap_or_default()
}

/// A failure to give all privileges is a skip where root does not have them all.
fn without_resource<T>(stop: Stop) -> Res<T> {
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t"));
    let set = bounding.and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or_default();
    match stop {
        // CAP_SYS_RESOURCE is bit 24.
        Stop::Fail(reason) if set >> 24 & 1 == 0 => {
            skip(format!("this machine's root lacks CAP_SYS_RESOURCE: {}", cut(&reason)))
        }
        other => Err(other),
    }
}

/// Makes `tester` the user 1000 of this sandbox.
fn add_user() -> Res {
    for (file, line) in
        [("/etc/passwd", "tester:x:1000:1000::/:/bin/sh\n"), ("/etc/group", "tester:x:1000:\n")]
    {
        let others = std::fs::read_to_string(file)?;
        let others = others.lines().filter(|line| line.split(':').nth(2) != Some("1000"));
        let text: String = others.map(|line| format!("{line}\n")).collect();
        std::fs::write(file, text + line)?;
    }
    Ok(())
}
