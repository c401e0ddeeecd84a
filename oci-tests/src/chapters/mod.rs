//! The tests, one file per chapter.

mod apparmor;
mod binds;
mod callers;
mod cgroup_paths;
mod cgroups;
mod cgroups_rare;
mod cgroups_v2;
mod cgroups_v2_limits;
mod check;
mod checkpoint;
mod config;
mod contract;
mod devices;
mod exec;
mod failure;
mod features;
mod foreground;
mod gc;
mod hooks;
mod hostile;
mod idmap;
#[cfg(target_arch = "x86_64")]
pub mod injection;
mod intel_rdt;
mod joined_pids;
mod landlock;
mod lifecycle;
mod limits;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod no_cgroup;
mod odd;
mod paths;
mod process;
mod refused_values;
mod required;
mod rootless;
mod scheduling;
mod seccomp;
mod seccomp_notify;
mod sigkill;
#[cfg(target_arch = "x86_64")]
mod syscalls;
mod systemd;
mod terminal;

use crate::check::Test;

/// All tests in their fixed order.
pub fn all() -> Vec<Test> {
    let chapters: [fn() -> Vec<Test>; 43] = [
        config::tests,
        required::tests,
        process::tests,
        apparmor::tests,
        limits::tests,
        scheduling::tests,
        mounts::tests,
        binds::tests,
        mount_options::tests,
        idmap::tests,
        hooks::tests,
        namespaces::tests,
        joined_pids::tests,
        net_devices::tests,
        devices::tests,
        cgroups::tests,
        cgroup_paths::tests,
        cgroups_rare::tests,
        refused_values::tests,
        cgroups_v2::tests,
        cgroups_v2_limits::tests,
        systemd::tests,
        seccomp::tests,
        seccomp_notify::tests,
        intel_rdt::tests,
        paths::tests,
        lifecycle::tests,
        exec::tests,
        contract::tests,
        callers::tests,
        terminal::tests,
        foreground::tests,
        features::tests,
        failure::tests,
        sigkill::tests,
        check::tests,
        gc::tests,
        no_cgroup::tests,
        odd::tests,
        rootless::tests,
        landlock::tests,
        checkpoint::tests,
        hostile::tests,
    ];
    let tests = chapters.iter().flat_map(|chapter| chapter());
    #[cfg(target_arch = "x86_64")]
    let tests = tests.chain(injection::tests());
    tests.collect()
}
