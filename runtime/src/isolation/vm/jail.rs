//! The jail: what the host's side of a machine is as a container of namespaces.
//!
//! Its tree holds nothing but what the guest may see, for the share server. The monitor, and the process that
//! stands for the container, leave even that behind; see [`super::inside`].

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBuilder, LinuxCpu, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, LinuxResourcesBuilder, Mount,
    Process, Root, Spec,
};

use super::Recorded;
use super::guest::Share;
use super::machine::Size;
use crate::error::{Error, Result};
use crate::mount;
use crate::options::CreateOptions;
use crate::spec::Config;

/// Where the share server finds the shares, and procfs.
pub(crate) const SHARES: &str = "/shares";

/// The jail of a container, as options of its own creation. `root` is an empty directory of ours.
pub(crate) fn options(
    container: &CreateOptions,
    root: &Path,
    shares: &[Share],
    size: Size,
) -> Result<CreateOptions> {
    let config = Config::from(spec(&container.config.spec, root, shares, size)?);
    let mut jail = CreateOptions::new(config, container.bundle.clone(), container.start);
    jail.console = container.console.clone();
    jail.no_new_keyring = container.no_new_keyring;
    jail.systemd_cgroup = container.systemd_cgroup.clone();
    jail.rootless = container.rootless;
    jail.parent = container.parent;
    Ok(jail)
}

fn spec(container: &Spec, root: &Path, shares: &[Share], size: Size) -> Result<Spec> {
    let invalid = |error: oci_spec::OciSpecError| Error::invalid("linux", error.to_string());
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    let namespaces = namespaces.map(|kind| LinuxNamespaceBuilder::default().typ(kind).build());
    let namespaces = namespaces.into_iter().collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    let outer = container.linux().clone().unwrap_or_default();
    let resources = resources(outer.resources().as_ref(), size).map_err(invalid)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .resources(resources)
        .build()
        .map_err(invalid)?;
    linux
        .set_cgroups_path(outer.cgroups_path().clone())
        .set_masked_paths(None)
        .set_readonly_paths(None)
        // Volumes that follow the host's mounts do so here as well.
        .set_rootfs_propagation(Some("rslave".to_owned()));
    let mut jail = Spec::default();
    let mut place = Root::default();
    place.set_path(root.to_owned()).set_readonly(Some(true));
    let hooks = container.hooks().clone().map(|mut hooks| {
        hooks.set_start_container(None);
        hooks
    });
    jail.set_version(container.version().clone())
        .set_root(Some(place))
        .set_mounts(Some(mounts(shares)))
        .set_process(Some(process(container)))
        .set_hooks(hooks)
        .set_hostname(None)
        .set_annotations(container.annotations().clone())
        .set_linux(Some(linux));
    Ok(jail)
}

fn mounts(shares: &[Share]) -> Vec<Mount> {
    let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
    let mut proc = Mount::default();
    proc.set_destination("/proc".into())
        .set_typ(Some("proc".into()))
        .set_source(Some("proc".into()))
        .set_options(words(&["ro", "nosuid", "nodev", "noexec"]));
    let mut tree = Mount::default();
    tree.set_destination(SHARES.into())
        .set_typ(Some("tmpfs".into()))
        .set_source(Some("shares".into()))
        .set_options(words(&["ro", "nosuid", "nodev", "noexec", "mode=0755", "size=1m"]));
    let mut mounts = vec![proc, tree];
    for (number, share) in shares.iter().enumerate() {
        let mut mount = Mount::default();
        mount
            .set_destination(Path::new(SHARES).join(number.to_string()))
            .set_typ(Some("bind".into()))
            .set_source(Some(share.source.clone()))
            .set_options(Some(share.options.clone()))
            .set_uid_mappings(share.mappings.0.clone())
            .set_gid_mappings(share.mappings.1.clone());
        mounts.push(mount);
    }
    mounts
}

/// Errors name the mounts of the container's configuration, not those of the jail.
pub(crate) fn rename(plan: &mut mount::Plan, shares: &[Share]) {
    /// Beyond what a configuration has.
    const UNNAMED: usize = 1 << 24;
    let own = plan.mounts.len() - shares.len();
    for (place, mount) in plan.mounts.iter_mut().enumerate() {
        let share = place.checked_sub(own).and_then(|number| shares.get(number));
        mount.index = share.and_then(|share| share.mount).unwrap_or(UNNAMED + place);
    }
    // The jail's processes open none.
    plan.devices = None;
}

/// The process that stands for the container: its terminal and its place among those that are killed for want of
/// memory.
fn process(container: &Spec) -> Process {
    let asked = container.process().clone().unwrap_or_default();
    let mut process = Process::default();
    process
        .set_args(Some(vec!["bulkhead".to_owned()]))
        .set_env(None)
        .set_cwd(PathBuf::from("/"))
        .set_terminal(asked.terminal())
        .set_console_size(asked.console_size())
        .set_oom_score_adj(asked.oom_score_adj())
        .set_capabilities(None)
        .set_rlimits(None)
        .set_no_new_privileges(Some(false));
    process
}

/// What the whole sandbox may use of the host: the guest's memory and what serves it, and as much of processors
/// and disks as the container.
fn resources(
    asked: Option<&LinuxResources>,
    size: Size,
) -> Result<LinuxResources, oci_spec::OciSpecError> {
    let none = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .typ(LinuxDeviceType::A)
        .access("rwm")
        .build()?;
    let memory = LinuxMemoryBuilder::default().limit(size.sandbox_memory()).build()?;
    let mut resources = LinuxResourcesBuilder::default().devices([none]).memory(memory).build()?;
    if let Some(asked) = asked {
        resources
            .set_block_io(asked.block_io().clone())
            .set_cpu(asked.cpu().clone().map(processors));
    }
    Ok(resources)
}

/// What of other limits of a container is for the whole sandbox.
///
/// # Errors
/// The memory limit is more than the machine has: it does not grow.
pub(crate) fn outside(recorded: &Recorded, asked: &LinuxResources) -> Result<LinuxResources> {
    let limit = asked.memory().as_ref().and_then(|memory| memory.limit()).unwrap_or(0);
    let size = i64::from(recorded.memory) << 20;
    if limit > size {
        let reason =
            format!("{limit} bytes are more than the virtual machine has, which are {size}");
        return Err(Error::unsupported("update", "memory.limit", reason));
    }
    let mut resources = LinuxResources::default();
    resources
        .set_devices(None)
        .set_block_io(asked.block_io().clone())
        .set_cpu(asked.cpu().clone().map(processors));
    Ok(resources)
}

/// Real-time periods are for the container's own processes.
fn processors(mut cpu: LinuxCpu) -> LinuxCpu {
    cpu.set_realtime_period(None).set_realtime_runtime(None);
    cpu
}
