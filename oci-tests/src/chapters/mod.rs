//! The tests, one file per chapter.

mod cgroups;
mod cgroups_v2;
mod config;
mod contract;
mod devices;
mod exec;
mod failure;
mod hooks;
mod idmap;
mod lifecycle;
mod mount_options;
mod mounts;
mod namespaces;
mod odd;
mod paths;
mod process;
mod rootless;
mod seccomp;
mod seccomp_notify;
mod sigkill;

use crate::check::Test;

/// All tests in their fixed order.
pub fn all() -> Vec<Test> {
    let chapters: [fn() -> Vec<Test>; 20] = [
        config::tests,
        process::tests,
        mounts::tests,
        mount_options::tests,
        idmap::tests,
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
        failure::tests,
        sigkill::tests,
        odd::tests,
        rootless::tests,
    ];
    chapters.iter().flat_map(|chapter| chapter()).collect()
}
