//! The container's configuration, divided: what applies in the guest, and what the host gives.
//!
//! Pure: nothing is opened. A field whose effect cannot cross to another kernel is refused by its name, or warned of.
//! Limits of swap have nothing to limit: the guest has none.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDeviceType, LinuxNamespaceType, LinuxResources, Mount, Spec};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::spec::Config;

/// What the host gives, and what is told to the agent.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The configuration as it applies in the guest.
    pub(crate) config: Value,
    /// Files of the host that the guest sees.
    pub(crate) shares: Vec<Share>,
    /// Where the root file system is.
    pub(crate) root: Root,
    /// Block devices of the host that become disks.
    pub(crate) disks: Vec<Disk>,
}

/// The root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// The first share.
    Shared,
    /// An image with a file system, which becomes the first disk.
    Image(PathBuf),
}

/// A file or directory of the host that the guest sees as `wire::SHARES/N`, N being its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Index in `mounts`; none for the root file system.
    pub(crate) mount: Option<usize>,
    /// An absolute path.
    pub(crate) source: PathBuf,
    /// The mount that the host makes of it: depth, read-only, ids, propagation.
    pub(crate) options: Vec<String>,
    /// Ids to map, as the mount has them.
    pub(crate) mappings: Mappings,
}

type Mappings = (
    Option<Vec<oci_spec::runtime::LinuxIdMapping>>,
    Option<Vec<oci_spec::runtime::LinuxIdMapping>>,
);

/// A block device that becomes a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Index in `linux.devices`.
    pub(crate) index: usize,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) read_only: bool,
}

const OPERATION: &str = "put into a virtual machine";

fn refused(field: impl Into<String>, reason: &str) -> Error {
    Error::unsupported(OPERATION, field, reason)
}

/// Divides the configuration of the container `id`.
pub(crate) fn divide(config: &Config, id: &str, bundle: &Path) -> Result<Guest> {
    let mut spec = config.spec.clone();
    refuse(&spec)?;
    let image = spec.vm().as_ref().and_then(|vm| vm.image().clone());
    let image = image.filter(|image| !image.path().as_os_str().is_empty());
    let mut shares = Vec::new();
    let root = match image {
        Some(image) => {
            if image.format() != "raw" {
                return Err(refused("vm.image.format", "the monitor reads raw images only"));
            }
            Root::Image(image.path().clone())
        }
        None => {
            shares.push(share_root(&mut spec, bundle)?);
            Root::Shared
        }
    };
    share_mounts(&mut spec, bundle, &mut shares)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let first = usize::from(root != Root::Shared);
    let disks = disks(&linux, first)?;
    linux.set_cgroups_path(Some(format!("/containers/{id}").into()));
    if let Some(resources) = linux.resources().clone() {
        linux.set_resources(Some(inside(resources)));
    }
    spec.set_linux(Some(linux)).set_vm(None);
    // These run on the host.
    let hooks = spec.hooks().clone().map(|mut hooks| {
        hooks.set_create_runtime(None).set_poststart(None).set_poststop(None);
        #[allow(deprecated)]
        hooks.set_prestart(None);
        hooks
    });
    spec.set_hooks(hooks);
    let process = spec.process().clone().map(|mut process| {
        // Labels of the host's security module, of which the guest's kernel knows nothing; the jail has them.
        process.set_apparmor_profile(None).set_selinux_label(None);
        process
    });
    spec.set_process(process);
    let config = serde_json::to_value(&spec)
        .map_err(|error| Error::invalid("config.json", error.to_string()))?;
    Ok(Guest { config, shares, root, disks })
}

/// Refuses what another kernel cannot have.
fn refuse(spec: &Spec) -> Result<()> {
    let linux = spec.linux().clone().unwrap_or_default();
    namespaces(&linux)?;
    let hooks = spec.hooks().clone().unwrap_or_default();
    let has = |hooks: &Option<Vec<oci_spec::runtime::Hook>>| {
        hooks.as_ref().is_some_and(|h| !h.is_empty())
    };
    if has(hooks.create_container()) {
        let reason = "its program is on the host and would have to run in the guest";
        return Err(refused("hooks.createContainer", reason));
    }
    if linux.intel_rdt().is_some() {
        return Err(refused("linux.intelRdt", "the guest's processors have no such classes"));
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(refused(
            "linux.netDevices",
            "the guest's kernel cannot own a device of the host's",
        ));
    }
    let seccomp = linux.seccomp().as_ref();
    if seccomp.is_some_and(|seccomp| seccomp.listener_path().is_some()) {
        let reason = "the agent that would answer is on the host";
        return Err(refused("linux.seccomp.listenerPath", reason));
    }
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return Err(refused("linux.mountLabel", "the guest's kernel has no SELinux"));
    }
    let resources = linux.resources().clone().unwrap_or_default();
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(refused("linux.resources.rdma", "the guest has no RDMA device"));
    }
    if resources
        .network()
        .as_ref()
        .is_some_and(|n| n.class_id().is_some() || n.priorities().is_some())
    {
        return Err(refused("linux.resources.network", "the guest has no network device"));
    }
    Ok(())
}

fn namespaces(linux: &Linux) -> Result<()> {
    use LinuxNamespaceType as Kind;
    let list = linux.namespaces().clone().unwrap_or_default();
    for (index, namespace) in list.iter().enumerate() {
        if namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
            let reason = "the guest's kernel cannot join a namespace of the host";
            return Err(refused(format!("linux.namespaces[{index}].path"), reason));
        }
    }
    let needed = [
        (Kind::Mount, "mount"),
        (Kind::Pid, "pid"),
        (Kind::Network, "network"),
        (Kind::Ipc, "ipc"),
    ];
    for (kind, word) in needed {
        if !list.iter().any(|namespace| namespace.typ() == kind) {
            let reason = format!("without a {word} namespace it would share the host's");
            return Err(refused("linux.namespaces", &reason));
        }
    }
    Ok(())
}

/// What the host's bind mounts of shares have in any case, with all that is mounted in them: nothing there is for the
/// host to execute.
const HARMLESS: [&str; 3] = ["rnosuid", "rnodev", "rnoexec"];

fn share_root(spec: &mut Spec, bundle: &Path) -> Result<Share> {
    let root = spec.root().clone().ok_or_else(|| Error::invalid("root", "is required"))?;
    let read_only = root.readonly().unwrap_or(false);
    let source = bundle.join(root.path());
    let mut options = vec!["rbind".to_owned()];
    options.extend(HARMLESS.map(str::to_owned));
    if read_only {
        options.push("rro".to_owned());
    }
    let mut inside = root;
    inside.set_path(place(0));
    spec.set_root(Some(inside));
    Ok(Share { mount: None, source, options, mappings: (None, None) })
}

/// Where the guest finds the share with this number.
fn place(number: usize) -> PathBuf {
    Path::new(wire::SHARES).join(number.to_string())
}

/// Options that the host's mount of a share has as well.
const BOTH: [&str; 9] = [
    "ro",
    "rro",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "norelatime",
    "atime",
    "diratime",
];
/// Options that the host's mount of a share has in the place of the guest's.
const HOSTS: [&str; 11] = [
    "idmap",
    "ridmap",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "runbindable",
    "src-nofollow",
];

fn share_mounts(spec: &mut Spec, bundle: &Path, shares: &mut Vec<Share>) -> Result<()> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (index, mount) in mounts.iter_mut().enumerate() {
        let options = mount.options().clone().unwrap_or_default();
        let depth = options.iter().rev().find(|word| *word == "bind" || *word == "rbind");
        let Some(depth) = depth.cloned() else { continue };
        if options.iter().any(|word| word == "remount") {
            continue;
        }
        if options.iter().any(|word| word == "copy-symlink") {
            let reason = "copy-symlink would copy the host's link";
            return Err(refused(format!("mounts[{index}].options"), reason));
        }
        if mount.destination() == Path::new("/dev/shm") {
            *mount = shared_memory(mount);
            continue;
        }
        let source = mount.source().clone().filter(|source| !source.as_os_str().is_empty());
        let source = source
            .ok_or_else(|| Error::invalid(format!("mounts[{index}].source"), "is missing"))?;
        let number = shares.len();
        let mut on_host = vec![depth];
        let hosts =
            |word: &&String| BOTH.contains(&word.as_str()) || HOSTS.contains(&word.as_str());
        on_host.extend(options.iter().filter(hosts).cloned());
        on_host.extend(HARMLESS.map(str::to_owned));
        let mappings = (mount.uid_mappings().clone(), mount.gid_mappings().clone());
        shares.push(Share {
            mount: Some(index),
            source: bundle.join(source),
            options: on_host,
            mappings,
        });
        let inside = options.into_iter().filter(|word| !HOSTS.contains(&word.as_str()));
        mount
            .set_options(Some(inside.collect()))
            .set_source(Some(place(number)))
            .set_uid_mappings(None)
            .set_gid_mappings(None);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// `/dev/shm` is shared between processes by the memory that it is: one of the guest's own in its place.
fn shared_memory(mount: &Mount) -> Mount {
    let mut inside = Mount::default();
    let options = ["nosuid", "nodev", "noexec", "mode=1777"].map(str::to_owned);
    inside
        .set_destination(mount.destination().clone())
        .set_typ(Some("tmpfs".to_owned()))
        .set_source(Some("shm".into()))
        .set_options(Some(options.into()));
    inside
}

/// The block devices of the container. Character devices of the host other than those that every container has
/// cannot cross.
fn disks(linux: &Linux, first: usize) -> Result<Vec<Disk>> {
    /// Those that the guest has itself: memory devices and terminals.
    const OWN: [(i64, i64); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    /// Disks of one machine: the letters of `/dev/vda`.
    const MOST: usize = 24;
    let mut disks = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let field = || format!("linux.devices[{index}]");
        let numbers = (device.major(), device.minor());
        match device.typ() {
            LinuxDeviceType::B => disks.push(Disk {
                index,
                major: numbers.0,
                minor: numbers.1,
                read_only: !may_write(linux, numbers),
            }),
            LinuxDeviceType::C | LinuxDeviceType::U if !OWN.contains(&numbers) => {
                let reason = "a character device of the host cannot be given to the guest's kernel";
                return Err(refused(field(), reason));
            }
            _ => {}
        }
        if first + disks.len() > MOST {
            return Err(refused(field(), "the machine can have no more disks"));
        }
    }
    Ok(disks)
}

/// Whether the rules for devices let a block device be written; the last one that fits counts.
fn may_write(linux: &Linux, (major, minor): (i64, i64)) -> bool {
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_ref());
    let Some(rules) = rules else { return true };
    let fits = |rule: &&oci_spec::runtime::LinuxDeviceCgroup| {
        let number =
            |asked: Option<i64>, is: i64| asked.is_none_or(|asked| asked < 0 || asked == is);
        matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::B))
            && number(rule.major(), major)
            && number(rule.minor(), minor)
            && rule.access().as_ref().is_none_or(|access| access.is_empty() || access.contains('w'))
    };
    rules.iter().rev().find(fits).is_none_or(|rule| rule.allow())
}

/// Resources as the guest limits them. What is counted on the host only is left to the jail's cgroup.
pub(super) fn inside(mut resources: LinuxResources) -> LinuxResources {
    // The disks that these name are the host's.
    resources.set_block_io(None);
    if let Some(mut memory) = *resources.memory() {
        // The guest has no swap.
        memory.set_swap(None).set_swappiness(None);
        resources.set_memory(Some(memory));
    }
    if let Some(mut cpu) = resources.cpu().clone() {
        // Processors of the host; the guest has as many as the jail lets it use.
        cpu.set_cpus(None).set_mems(None);
        resources.set_cpu(Some(cpu));
    }
    resources
}
