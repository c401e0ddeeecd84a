//! The container's view of the file system: mounts, devices, masks and the root itself.
//!
//! [`plan`] decides everything that the configuration alone decides and touches nothing. The
//! container's process carries the plan out, in states that consume each other:
//!
//! ```text
//! Root::open: mount_all, devices, enter -> Inside: console, finish
//! ```
//!
//! Rootfs, image and every path inside the container are hostile: another container may share a
//! volume and change it while we work. See [`attach`] for how places are found.

pub(crate) mod attach;
pub(crate) mod bind;
pub(crate) mod cgroupfs;
mod copyup;
pub(crate) mod dev;
pub(crate) mod fs;
pub(crate) mod mask;
pub(crate) mod options;
mod procns;
pub(crate) mod rootfs;
#[cfg(test)]
mod tests;

use std::ffi::{CString, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Spec};

use crate::cgroup::layout::Layout;
use crate::error::{Error, Result, quote};
use crate::faults::Faults;
use crate::sys::mount::Depth;
use options::Options;
pub(crate) use procns::Pids;
pub(crate) use rootfs::{Inside, Root};

/// What the container's process asks of its creator, which still has the host's privileges.
pub(crate) trait Creator {
    /// The root file system's directory as [`bind::open_for_child`] opens it.
    fn rootfs(&mut self) -> Result<OwnedFd>;
    /// The source of `mounts[index]` as [`bind::open_for_child`] opens it.
    fn bind_source(&mut self, index: usize) -> Result<OwnedFd>;
    /// The source of `mounts[index]` as [`bind::clone_for_child`] clones it.
    fn clone_source(&mut self, index: usize) -> Result<OwnedFd>;
    /// Maps the ids of a detached tree, which becomes `mounts[index]`, by [`bind::idmap`].
    fn idmap(&mut self, index: usize, tree: BorrowedFd<'_>) -> Result<()>;
}

/// What the plan needs to know besides the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// The container runs in a user namespace, new or joined, that is not ours.
    pub user_namespace: bool,
    /// The container has a mount namespace, new or joined.
    pub mount_namespace: bool,
    /// The container has a pid namespace, new or joined.
    pub pid_namespace: bool,
    /// The container has a cgroup namespace, new or joined.
    pub cgroup_namespace: bool,
    /// `linux.mountLabel`, on a host that has SELinux.
    pub label: Option<String>,
    /// `--no-pivot` is given.
    pub no_pivot: bool,
    /// The host's cgroup hierarchies.
    pub layout: &'a Layout,
    /// The container's directories in them, as host paths.
    pub cgroup_dirs: Vec<PathBuf>,
}

/// What kind of mount to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file or directory of the host.
    Bind(Depth),
    /// New options for what is mounted there.
    Remount,
    /// procfs.
    Proc,
    /// sysfs.
    Sysfs,
    /// The container's view of cgroups.
    Cgroup,
    /// A new file system of this type.
    Filesystem(CString),
}

/// The ids of an idmapped mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap {
    /// Whether the mounts below are mapped too.
    pub depth: Depth,
    /// The maps of uids and gids; absent for those of the container's user namespace.
    pub maps: Option<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
}

impl Plan {
    /// The root file system's absolute path on the host.
    pub(crate) fn rootfs(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.rootfs.as_bytes()))
    }
}

/// One mount of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its index in `mounts`.
    pub index: usize,
    /// The destination relative to the root, clean; never empty.
    pub target: CString,
    /// The source; absolute for a bind mount.
    pub source: Option<CString>,
    /// What to mount.
    pub kind: Kind,
    /// Its options.
    pub options: Options,
    /// Ids to map.
    pub idmap: Option<IdMap>,
    /// Read-only, but only after other mounts and nodes were made in it.
    pub late_readonly: bool,
}

impl Mount {
    /// The destination and the JSON path, as errors name a mount.
    pub(crate) fn subject(&self) -> String {
        format!("{} ({})", self.destination(), self.field())
    }

    /// The destination and all data options, for when the kernel does not say which one it refuses.
    pub(crate) fn subject_with_data(&self) -> String {
        let options = self.options.data.iter();
        let options: Vec<String> = options
            .map(|data| format!("{}.options[{}] {}", self.field(), data.option, data.quoted()))
            .collect();
        match options.is_empty() {
            true => self.subject(),
            false => format!("{} ({})", self.destination(), options.join(", ")),
        }
    }

    /// The destination in quotes.
    pub(crate) fn destination(&self) -> String {
        quote(Path::new("/").join(OsStr::from_bytes(self.target.to_bytes())))
    }

    /// The JSON path.
    pub(crate) fn field(&self) -> String {
        format!("mounts[{}]", self.index)
    }

    /// Whether the place must be exactly where its name says. A link at /proc or /sys would move
    /// the kernel's own files away from the paths that masks and labels name (CVE-2019-19921,
    /// CVE-2023-27561, CVE-2023-28642, CVE-2025-54867).
    pub(crate) fn is_kernel_place(&self) -> bool {
        matches!(self.kind, Kind::Proc | Kind::Sysfs)
            || beneath(self.target.to_bytes(), b"proc")
            || beneath(self.target.to_bytes(), b"sys")
    }
}

/// Everything about mounts that is decided before the fork.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The root file system's absolute path on the host.
    pub rootfs: CString,
    /// Whether the container's root is read-only.
    pub readonly: bool,
    /// What `linux.rootfsPropagation` asks for.
    pub propagation: Option<(Depth, u64)>,
    /// The mounts in the configuration's order.
    pub mounts: Vec<Mount>,
    /// Nodes and links of /dev; absent when the configuration brings its own /dev.
    pub devices: Option<Vec<dev::Node>>,
    /// Masked and read-only paths.
    pub masks: mask::Masks,
    /// What a cgroup mount shows.
    pub cgroups: cgroupfs::View,
    /// `linux.mountLabel`.
    pub label: Option<CString>,
    /// As [`Facts::user_namespace`].
    pub userns: bool,
    /// As in [`Facts`].
    pub no_pivot: bool,
    /// As in [`Facts`].
    pub mount_namespace: bool,
    /// As in [`Facts`].
    pub pid_namespace: bool,
}

/// Files below /proc that may be mounted over: those that lxcfs emulates, and two knobs.
const PROC_FILES: &[&[u8]] = &[
    b"proc/cpuinfo",
    b"proc/diskstats",
    b"proc/loadavg",
    b"proc/meminfo",
    b"proc/slabinfo",
    b"proc/stat",
    b"proc/swaps",
    b"proc/sys/crypto/fips_enabled",
    b"proc/sys/kernel/ns_last_pid",
    b"proc/uptime",
];

/// crun's annotation for images whose systemd knows no cgroup2: the destination whose mount becomes
/// the `name=systemd` hierarchy.
const FORCE_CGROUP_V1: &str = "run.oci.systemd.force_cgroup_v1";

/// Words of `linux.rootfsPropagation`.
const PROPAGATION: &[(&str, (Depth, u64))] = &[
    ("private", (Depth::Top, libc::MS_PRIVATE)),
    ("rprivate", (Depth::Recursive, libc::MS_PRIVATE)),
    ("rshared", (Depth::Recursive, libc::MS_SHARED)),
    ("rslave", (Depth::Recursive, libc::MS_SLAVE)),
    ("runbindable", (Depth::Recursive, libc::MS_UNBINDABLE)),
    ("shared", (Depth::Top, libc::MS_SHARED)),
    ("slave", (Depth::Top, libc::MS_SLAVE)),
    ("unbindable", (Depth::Top, libc::MS_UNBINDABLE)),
];

/// Plans the mounts of a container whose bundle is the directory `bundle`, an absolute path.
pub(crate) fn plan(
    spec: &Spec,
    bundle: &Path,
    facts: &Facts<'_>,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Result<Option<Plan>> {
    let root = spec.root().as_ref().ok_or_else(|| Error::invalid("root", "is required"));
    let Some(root) = faults.keep(root)? else { return Ok(None) };
    if root.path().as_os_str().is_empty() {
        faults.note(Err(Error::invalid("root.path", "is empty")))?;
    }
    let linux = spec.linux().as_ref();
    let readonly = root.readonly().unwrap_or(false);
    let masks = faults.keep(mask::plan(linux))?.unwrap_or_default();
    let mut mounts = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        mounts.extend(faults.keep(plan_mount(index, mount, spec, bundle, facts))?);
    }
    if !facts.mount_namespace {
        let field = [
            ("root.readonly", readonly),
            ("linux.maskedPaths", !masks.masked.is_empty()),
            ("linux.readonlyPaths", !masks.readonly.is_empty()),
        ];
        if let Some((field, _)) = field.iter().find(|(_, asked)| *asked) {
            faults.note(Err(Error::invalid(*field, "needs a mount namespace")))?;
        }
        if !mounts.is_empty() {
            warnings.push(
                "mounts are ignored: without a mount namespace they would be the host's".to_owned(),
            );
            mounts.clear();
        }
    }
    defer_readonly(&mut mounts);
    let own_dev = |m: &Mount| matches!(m.kind, Kind::Bind(_)) && m.target.to_bytes() == b"dev";
    let devices = match facts.mount_namespace && !mounts.iter().any(own_dev) {
        true => faults.keep(dev::plan(linux))?,
        false => None,
    };
    let rootfs = faults.keep(string(bundle.join(root.path()).as_os_str(), "root.path"))?;
    let Some(rootfs) = rootfs else { return Ok(None) };
    let propagation = plan_propagation(linux.and_then(|l| l.rootfs_propagation().as_deref()));
    Ok(Some(Plan {
        rootfs,
        readonly,
        propagation: faults.keep(propagation)?.flatten(),
        mounts,
        devices,
        masks,
        cgroups: cgroupfs::plan(facts.layout, &facts.cgroup_dirs, facts.cgroup_namespace),
        label: match &facts.label {
            None => None,
            Some(label) => faults.keep(string(OsStr::new(label), "linux.mountLabel"))?,
        },
        userns: facts.user_namespace,
        no_pivot: facts.no_pivot,
        mount_namespace: facts.mount_namespace,
        pid_namespace: facts.pid_namespace,
    }))
}

fn plan_propagation(word: Option<&str>) -> Result<Option<(Depth, u64)>> {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(None) };
    match PROPAGATION.binary_search_by_key(&word, |&(name, _)| name) {
        Ok(at) => Ok(Some(PROPAGATION[at].1)),
        Err(_) => {
            let known: Vec<_> = PROPAGATION.iter().map(|&(name, _)| name).collect();
            let reason = format!("{word:?} is none of {}", known.join(", "));
            Err(Error::invalid("linux.rootfsPropagation", reason))
        }
    }
}

fn plan_mount(
    index: usize,
    mount: &oci_spec::runtime::Mount,
    spec: &Spec,
    bundle: &Path,
    facts: &Facts<'_>,
) -> Result<Mount> {
    let field = format!("mounts[{index}]");
    let target = clean(mount.destination(), &format!("{field}.destination"))?;
    if target.is_empty() {
        // The root's descriptor would be left beneath the new mount, and with it all that follows.
        return Err(Error::invalid(format!("{field}.destination"), "is the root itself"));
    }
    let mut options = options::parse(&field, mount.options().as_deref().unwrap_or_default())?;
    let typ = mount.typ().as_deref().unwrap_or_default();
    let kind = match (options.remount, options.bind, typ) {
        (true, _, _) => Kind::Remount,
        (_, Some(depth), _) => Kind::Bind(depth),
        (_, None, "" | "none" | "bind") => {
            let reason = format!("{typ:?} needs the option bind or rbind");
            return Err(Error::invalid(format!("{field}.type"), reason));
        }
        (_, None, "proc") => Kind::Proc,
        (_, None, "sysfs") => Kind::Sysfs,
        (_, None, "cgroup" | "cgroup2") => Kind::Cgroup,
        (_, None, other) => Kind::Filesystem(string(OsStr::new(other), &format!("{field}.type"))?),
    };
    let source = mount.source().as_deref().filter(|source| !source.as_os_str().is_empty());
    let source_field = format!("{field}.source");
    let source = match (&kind, source) {
        (Kind::Bind(_), None) => return Err(Error::invalid(source_field, "is missing")),
        (Kind::Bind(_), Some(path)) => Some(string(bundle.join(path).as_os_str(), &source_field)?),
        (_, path) => path.map(|path| string(path.as_os_str(), &source_field)).transpose()?,
    };
    if let (Kind::Bind(_), Some(data)) = (&kind, options.data.first()) {
        // The kernel would ignore it, and a size or mode that was asked for would not be there.
        let reason = format!("{:?} is for a file system, and a bind mount makes none", data.key);
        return Err(Error::invalid(format!("{field}.options[{}]", data.option), reason));
    }
    if let (Kind::Cgroup, Some(data)) = (&kind, options.data.first())
        && !(facts.cgroup_namespace && facts.layout.v1.is_empty())
    {
        // What is shown is the host's mount, whose options are not this container's to change.
        let reason = format!("{} has no effect on a cgroup mount here", data.quoted());
        return Err(Error::invalid(format!("{field}.options[{}]", data.option), reason));
    }
    if options.copy_up && !matches!(&kind, Kind::Filesystem(name) if name.as_c_str() == c"tmpfs") {
        return Err(Error::invalid(format!("{field}.options"), "tmpcopyup needs type tmpfs"));
    }
    check_proc(&field, &target, &kind)?;
    check_devpts(&field, &kind, &options, spec)?;
    let idmap = plan_idmap(&field, mount, &kind, &mut options, facts)?;
    let mut planned = Mount { index, target, source, kind, options, idmap, late_readonly: false };
    if is_forced_v1(spec, &planned.target) {
        planned.kind = Kind::Filesystem(c"cgroup".to_owned());
        planned.source = Some(c"cgroup".to_owned());
        let words = ["none", "name=systemd", "xattr"].map(str::to_owned);
        planned.options.data = options::parse(&field, &words)?.data;
    }
    Ok(planned)
}

/// Refuses mounts over /proc: ordinary files there would swallow the labels and sysctls that
/// somebody writes by path (CVE-2019-16884).
fn check_proc(field: &str, target: &CString, kind: &Kind) -> Result<()> {
    let path = target.to_bytes();
    let reason = match kind {
        Kind::Remount => return Ok(()),
        Kind::Proc | Kind::Bind(_) if path == b"proc" => return Ok(()),
        _ if path == b"proc" => "can only be procfs",
        _ if beneath(path, b"proc") && !PROC_FILES.contains(&path) => "is inside /proc",
        _ => return Ok(()),
    };
    Err(Error::invalid(
        format!("{field}.destination"),
        format!("\"/{}\" {reason}", path.escape_ascii()),
    ))
}

/// devpts answers a gid without a map with a bare EINVAL; say what is missing.
fn check_devpts(field: &str, kind: &Kind, options: &Options, spec: &Spec) -> Result<()> {
    if !matches!(kind, Kind::Filesystem(name) if name.as_c_str() == c"devpts") {
        return Ok(());
    }
    let maps = spec.linux().as_ref().and_then(|linux| linux.gid_mappings().as_deref());
    let Some(maps) = maps.filter(|maps| !maps.is_empty()) else { return Ok(()) };
    for data in options.data.iter().filter(|data| data.key.as_c_str() == c"gid") {
        let value = data.value.as_ref().and_then(|v| v.to_str().ok());
        let Some(gid) = value.and_then(|v| v.parse::<u32>().ok()) else { continue };
        let maps_it = |map: &LinuxIdMapping| {
            gid.checked_sub(map.container_id()).is_some_and(|offset| offset < map.size())
        };
        if !maps.iter().any(maps_it) {
            let reason = format!("gid {gid} is not mapped by linux.gidMappings");
            return Err(Error::invalid(format!("{field}.options[{}]", data.option), reason));
        }
    }
    Ok(())
}

fn plan_idmap(
    field: &str,
    mount: &oci_spec::runtime::Mount,
    kind: &Kind,
    options: &mut Options,
    facts: &Facts<'_>,
) -> Result<Option<IdMap>> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    let depth = match (options.idmap, uids.is_empty() && gids.is_empty()) {
        (None, true) => return Ok(None),
        (None, false) => Depth::Top,
        (Some(depth), _) => depth,
    };
    let invalid = |name: &str, reason: &str| Err(Error::invalid(format!("{field}.{name}"), reason));
    if !matches!(kind, Kind::Bind(_)) {
        return invalid("options", "only bind mounts can be idmapped");
    }
    let maps = match (uids.is_empty(), gids.is_empty()) {
        (true, true) if facts.user_namespace => None,
        (true, true) => return invalid("options", "idmap needs mappings or a user namespace"),
        (false, true) => return invalid("gidMappings", "is missing beside uidMappings"),
        (true, false) => return invalid("uidMappings", "is missing beside gidMappings"),
        (false, false) => Some((uids.to_vec(), gids.to_vec())),
    };
    Ok(Some(IdMap { depth, maps }))
}

fn is_forced_v1(spec: &Spec, target: &CString) -> bool {
    let path = spec.annotations().as_ref().and_then(|all| all.get(FORCE_CGROUP_V1));
    path.is_some_and(|path| clean(Path::new(path), FORCE_CGROUP_V1).is_ok_and(|p| p == *target))
}

/// Marks mounts that become read-only last: in /dev nodes are made, and in a tmpfs the places of the
/// mounts that the configuration puts below it.
fn defer_readonly(mounts: &mut [Mount]) {
    for at in 0..mounts.len() {
        let (head, later) = mounts.split_at_mut(at + 1);
        let mount = &mut head[at];
        let is_new = matches!(mount.kind, Kind::Filesystem(_));
        let parent = mount.target.to_bytes();
        mount.late_readonly = is_new
            && mount.options.readonly()
            && (parent == b"dev" || later.iter().any(|m| beneath(m.target.to_bytes(), parent)));
    }
}

/// Whether a clean path is `parent` or below it.
pub(crate) fn beneath(path: &[u8], parent: &[u8]) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A path of the container without its leading slash, `.`, `..` and doubled slashes. A relative
/// path is relative to the root.
pub(crate) fn clean(path: &Path, field: &str) -> Result<CString> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(field, "is empty"));
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    string(clean.as_os_str(), field)
}

fn string(text: &OsStr, field: &str) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Error::invalid(field, "has a NUL byte"))
}
