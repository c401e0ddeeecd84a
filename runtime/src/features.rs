//! What this build can do, in the terms of [features.md].
//!
//! Callers act on it: `rro` among the mount options lets CRI ask for recursive read-only mounts,
//! `mountExtensions.idmap` lets containerd start pods in user namespaces. So nothing stands here
//! that the code does not do, and what the kernel may lack is asked for.
//!
//! [features.md]: https://github.com/opencontainers/runtime-spec/blob/main/features.md

use std::path::Path;

use oci_spec::runtime::{
    ApparmorBuilder, Arch, CgroupBuilder, Features, FeaturesBuilder, IDMapBuilder, IntelRdtBuilder,
    LinuxFeature, LinuxFeatureBuilder, LinuxNamespaceType, LinuxSeccompAction,
    MountExtensionsBuilder, NetDevicesBuilder, Seccomp, SeccompBuilder, SelinuxBuilder,
};

/// Oldest and newest version of the runtime specification that a configuration may name.
const VERSIONS: (&str, &str) = ("1.0.0", "1.3.0");

/// Hooks, in the order in which they run.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Mount options that are not the file system's own, sorted.
const MOUNT_OPTIONS: [&str; 62] = [
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
];
const MORE_MOUNT_OPTIONS: [&str; 1] = ["unbindable"];

/// Comparisons of system call arguments, sorted.
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Flags of a filter, sorted, with the kernel that brought each: all are in Linux 5.14 but the last,
/// which came with 5.19.
const SECCOMP_FLAGS: [&str; 3] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Annotations that change what a configuration means for the host.
const UNSAFE_ANNOTATIONS: [&str; 3] = ["bundle", "org.systemd.property.", "org.criu.config"];

/// The features document of this build on this host.
pub fn features() -> Features {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    FeaturesBuilder::default()
        .oci_version_min(VERSIONS.0)
        .oci_version_max(VERSIONS.1)
        .hooks(words(&HOOKS))
        .mount_options([words(&MOUNT_OPTIONS), words(&MORE_MOUNT_OPTIONS)].concat())
        .linux(linux())
        .potentially_unsafe_config_annotations(words(&UNSAFE_ANNOTATIONS))
        .build()
        .expect("no field of the document is required")
}

fn linux() -> LinuxFeature {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    const BUILT: &str = "no field of the document is required";
    let cgroup = CgroupBuilder::default()
        .v1(true)
        .v2(true)
        .systemd(false)
        .systemd_user(false)
        .rdma(true)
        .build()
        .expect(BUILT);
    let idmap = IDMapBuilder::default().enabled(true).build().expect(BUILT);
    LinuxFeatureBuilder::default()
        .namespaces([Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts])
        .capabilities(capabilities())
        .cgroup(cgroup)
        .seccomp(seccomp())
        .apparmor(ApparmorBuilder::default().enabled(true).build().expect(BUILT))
        .selinux(SelinuxBuilder::default().enabled(true).build().expect(BUILT))
        .intel_rdt(IntelRdtBuilder::default().enabled(false).build().expect(BUILT))
        .mount_extensions(MountExtensionsBuilder::default().idmap(idmap).build().expect(BUILT))
        .net_devices(NetDevicesBuilder::default().enabled(false).build().expect(BUILT))
        .build()
        .expect(BUILT)
}

/// Every capability by its number.
fn capabilities() -> Vec<String> {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn seccomp() -> Seccomp {
    use LinuxSeccompAction::{
        ScmpActAllow, ScmpActErrno, ScmpActKill, ScmpActKillProcess, ScmpActKillThread, ScmpActLog,
        ScmpActNotify, ScmpActTrace, ScmpActTrap,
    };
    let flags: Vec<String> = SECCOMP_FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    let supported = flags.iter().filter(|flag| has_flag(flag)).cloned().collect::<Vec<_>>();
    SeccompBuilder::default()
        .enabled(Path::new("/proc/sys/kernel/seccomp").exists())
        .actions([
            ScmpActAllow,
            ScmpActErrno,
            ScmpActKill,
            ScmpActKillProcess,
            ScmpActKillThread,
            ScmpActLog,
            ScmpActNotify,
            ScmpActTrace,
            ScmpActTrap,
        ])
        .operators(OPERATORS.map(str::to_owned))
        .archs([
            Arch::ScmpArchAarch64,
            Arch::ScmpArchArm,
            Arch::ScmpArchX32,
            Arch::ScmpArchX86,
            Arch::ScmpArchX86_64,
        ])
        .known_flags(flags)
        .supported_flags(supported)
        .build()
        .expect("no field of the document is required")
}

fn has_flag(flag: &str) -> bool {
    if flag != "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
        return true;
    }
    nix::sys::utsname::uname().is_ok_and(|name| {
        name.release().to_str().and_then(version).is_some_and(|version| version >= (5, 19))
    })
}

/// Major and minor number of a kernel release such as `6.1.0-9-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted() {
        assert!(MOUNT_OPTIONS.iter().chain(&MORE_MOUNT_OPTIONS).is_sorted());
        assert!(OPERATORS.is_sorted() && SECCOMP_FLAGS.is_sorted());
    }

    #[test]
    fn callers_find_what_they_look_for() {
        let json = serde_json::to_value(features()).unwrap();
        assert_eq!(json["ociVersionMin"], "1.0.0");
        assert_eq!(json["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert!(json["mountOptions"].as_array().unwrap().contains(&"rro".into()));
        assert_eq!(json["linux"]["capabilities"][0], "CAP_CHOWN");
        assert_eq!(json["linux"]["seccomp"]["actions"][0], "SCMP_ACT_ALLOW");
        assert_eq!(json["linux"]["namespaces"][0], "cgroup");
    }

    #[test]
    fn kernel_releases() {
        assert_eq!(version("6.1.0-9-amd64"), Some((6, 1)));
        assert_eq!(version("5.19"), Some((5, 19)));
        assert_eq!(version("x"), None);
    }
}
