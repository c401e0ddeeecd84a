//! The tests, one file per chapter.

mod cgroups;
mod cgroups_v2;
mod config;
mod contract;
mod devices;
mod exec;
mod hooks;
mod lifecycle;
mod mount_options;
mod mounts;
mod namespaces;
mod paths;
mod process;
mod seccomp;
mod seccomp_notify;

use crate::check::Test;

/// All tests in their fixed order.
pub fn all() -> Vec<Test> {
    let chapters: [fn() -> Vec<Test>; 15] = [
        config::tests,
        process::tests,
        mounts::tests,
        mount_options::tests,
        hooks::tests,
        namespaces::tests,
        devices::tests,
        cgroups::tests,
        cgroups_v2::tests,
        seccomp::tests,
        seccomp_notify::tests,
        paths::tests,
        lifecycle::tests,
        exec::tests,
        contract::tests,
    ];
    chapters.iter().flat_map(|chapter| chapter()).collect()
}
