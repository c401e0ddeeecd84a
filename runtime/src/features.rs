//! What this build can do, in the terms of [features.md].
//!
//! Callers act on it: `rro` among the mount options lets CRI ask for recursive read-only mounts,
//! `mountExtensions.idmap` lets containerd start pods in user namespaces. So nothing stands here
//! that the code does not do, and what the kernel may lack is asked for.
//!
//! [features.md]: https://github.com/opencontainers/runtime-spec/blob/main/features.md

use oci_spec::runtime::{
    ApparmorBuilder, CgroupBuilder, Features, FeaturesBuilder, IDMapBuilder, IntelRdtBuilder,
    LinuxFeature, LinuxFeatureBuilder, MemoryPolicyBuilder, MountExtensionsBuilder,
    NetDevicesBuilder, Seccomp, SeccompBuilder, SelinuxBuilder,
};

use crate::hooks::Kind;
use crate::process::program;
use crate::{caps, cgroup, checkpoint, mount, namespaces, scheduler, seccomp};

/// Oldest and newest version of the runtime specification that a configuration may name.
const VERSIONS: (&str, &str) = ("1.0.0", "1.3.0");

/// Hooks, in the order in which they run.
const HOOKS: [Kind; 6] = [
    Kind::Prestart,
    Kind::CreateRuntime,
    Kind::CreateContainer,
    Kind::StartContainer,
    Kind::Poststart,
    Kind::Poststop,
];

/// No builder here has a required field.
const BUILT: &str = "no field of the document is required";

/// Annotations that this build acts on: each reaches past what the configuration itself says.
const UNSAFE_ANNOTATIONS: [&str; 5] = [
    checkpoint::CONFIGURATION,
    cgroup::systemd::ANNOTATION,
    program::KEEP_GROUPS,
    "run.oci.systemd.force_cgroup_v1",
    cgroup::systemd::SUBGROUP,
];

/// The features document of this build on this host.
pub fn features() -> Features {
    FeaturesBuilder::default()
        .oci_version_min(VERSIONS.0)
        .oci_version_max(VERSIONS.1)
        .hooks(HOOKS.map(|kind| kind.name().to_owned()))
        .mount_options(words(mount::options::known()))
        .linux(linux())
        .potentially_unsafe_config_annotations(words(UNSAFE_ANNOTATIONS))
        .build()
        .expect(BUILT)
}

fn words(list: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    list.into_iter().map(str::to_owned).collect()
}

fn linux() -> LinuxFeature {
    let cgroup = CgroupBuilder::default()
        .v1(true)
        .v2(true)
        .systemd(true)
        .systemd_user(true)
        .rdma(true)
        .build()
        .expect(BUILT);
    let mut namespaces: Vec<_> = namespaces::kinds().collect();
    namespaces.sort_by_key(|&kind| namespaces::file_name(namespaces::flag(kind)));
    let (modes, flags) = scheduler::memory_words();
    let memory_policy = MemoryPolicyBuilder::default().modes(modes).flags(flags);
    let intel_rdt = IntelRdtBuilder::default().enabled(true).schemata(true).monitoring(true);
    let idmap = IDMapBuilder::default().enabled(true).build().expect(BUILT);
    LinuxFeatureBuilder::default()
        .namespaces(namespaces)
        .capabilities(caps::names())
        .cgroup(cgroup)
        .seccomp(seccomp())
        .apparmor(ApparmorBuilder::default().enabled(true).build().expect(BUILT))
        .selinux(SelinuxBuilder::default().enabled(true).build().expect(BUILT))
        .intel_rdt(intel_rdt.build().expect(BUILT))
        .memory_policy(memory_policy.build().expect(BUILT))
        .mount_extensions(MountExtensionsBuilder::default().idmap(idmap).build().expect(BUILT))
        .net_devices(NetDevicesBuilder::default().enabled(true).build().expect(BUILT))
        .build()
        .expect(BUILT)
}

fn seccomp() -> Seccomp {
    let actions = seccomp::actions();
    SeccompBuilder::default()
        .enabled(!actions.is_empty())
        .actions(actions)
        .operators(words(seccomp::OPERATORS))
        .archs(seccomp::ARCHS)
        .known_flags(words(seccomp::known_flags()))
        .supported_flags(words(seccomp::supported_flags()))
        .build()
        .expect(BUILT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_find_what_they_look_for() {
        let json = serde_json::to_value(features()).unwrap();
        assert_eq!(json["ociVersionMin"], "1.0.0");
        assert_eq!(json["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert!(json["mountOptions"].as_array().unwrap().contains(&"rro".into()));
        assert_eq!(json["linux"]["memoryPolicy"]["modes"][2], "MPOL_BIND");
        assert_eq!(json["linux"]["memoryPolicy"]["flags"][2], "MPOL_F_STATIC_NODES");
        assert_eq!(json["linux"]["capabilities"][0], "CAP_CHOWN");
        assert_eq!(json["linux"]["seccomp"]["actions"][0], "SCMP_ACT_ALLOW");
        assert_eq!(json["linux"]["namespaces"][0], "cgroup");
    }
}
