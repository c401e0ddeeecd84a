//! From the configuration to directories and knobs, without a system call.
//!
//! `cgroupsPath` means what it means to runc's cgroupfs driver. Absolute: below each hierarchy's mount
//! point. Relative, or absent (then the id): below the creator's own cgroup in each hierarchy; on a
//! host with cgroup v2 alone beside it, because a cgroup that holds the creator cannot pass
//! controllers on to children.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Linux;

use super::devices::Rules;
use super::layout::{Layout, Unified};
use super::resources::{Knob, Version, knobs};
use super::systemd::{self, Scope};
use crate::error::{Error, Result};
use crate::service_manager::ServiceManager;

/// Controllers of cgroup2; `cgroup` and `irq` stand for files of the core.
const V2: [&str; 11] =
    ["cgroup", "cpu", "cpuset", "dmem", "hugetlb", "io", "irq", "memory", "misc", "pids", "rdma"];

/// What missing permissions on cgroups mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// An error.
    Required,
    /// Nothing, unless limits were asked for: somebody with power over cgroups wants it so.
    Tolerated,
    /// The same, of an ordinary user or root of a user namespace. Unrestricted devices are not worth a
    /// word then: the container opens no device that its creator could not, and makes no node.
    Lacking,
}

/// A directory to make in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub version: Version,
    pub controllers: Vec<String>,
    pub name: Option<String>,
    pub mount_point: PathBuf,
    /// Below the mount point, never empty, made of plain names only.
    pub relative: PathBuf,
}

impl Target {
    /// The absolute path.
    pub fn path(&self) -> PathBuf {
        self.mount_point.join(&self.relative)
    }

    /// Whether `knob` is written here.
    pub fn has(&self, knob: &Knob) -> bool {
        self.version == knob.version
            && (self.version == Version::V2 || self.controllers.contains(&knob.controller))
    }
}

/// Everything decided about a container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(super) targets: Vec<Target>,
    pub(super) knobs: Vec<Knob>,
    pub(super) devices: Rules,
    pub(super) permission: Permission,
    /// The systemd unit that the directory belongs to.
    pub(super) scope: Option<Scope>,
}

/// Where a controller is in `layout`.
pub(super) fn version_in<'a>(
    v1: impl Iterator<Item = &'a String> + Clone,
    unified: bool,
    controller: &str,
) -> Option<Version> {
    if v1.clone().any(|c| c == controller) {
        Some(Version::V1)
    } else {
        (unified && V2.contains(&controller)).then_some(Version::V2)
    }
}

/// Decides the cgroup of the container `id`.
///
/// # Errors
/// A `cgroupsPath` that leaves its hierarchy, names its root, or holds the creator itself; a
/// limit whose controller this host lacks.
pub(crate) fn plan(
    linux: &Linux,
    id: &str,
    layout: &Layout,
    permission: Permission,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let list = limits(linux, layout, warnings)?;
    let resources = linux.resources().as_ref();
    if !layout.v1.is_empty()
        && resources.and_then(|r| r.unified().as_ref()).is_some_and(|u| !u.is_empty())
    {
        let field = "linux.resources.unified";
        return Err(Error::unsupported("set", field, "this host has cgroup v1 hierarchies"));
    }
    if layout.is_empty() && permission == Permission::Required {
        return Err(Error::unsupported("make", "cgroup", "no cgroup hierarchy is mounted"));
    }
    let place = Place::parse(linux.cgroups_path().as_deref(), id)?;
    let mut targets = Vec::new();
    for h in &layout.v1 {
        targets.push(Target {
            version: Version::V1,
            controllers: h.controllers.clone(),
            name: h.name.clone(),
            mount_point: h.mount_point.clone(),
            relative: place.below(&h.own, &h.own)?,
        });
    }
    if let Some(u) = &layout.unified {
        let beside = if layout.v1.is_empty() { u.own.parent().unwrap_or(&u.own) } else { &u.own };
        targets.push(Target {
            version: Version::V2,
            controllers: Vec::new(),
            name: None,
            mount_point: u.mount_point.clone(),
            relative: place.below(beside, &u.own)?,
        });
    }
    Ok(Plan { targets, knobs: list, devices: Rules::new(linux)?, permission, scope: None })
}

fn limits(linux: &Linux, layout: &Layout, warnings: &mut Vec<String>) -> Result<Vec<Knob>> {
    let v1 = layout.v1.iter().flat_map(|h| h.controllers.iter());
    let version = |c: &str| version_in(v1.clone(), layout.unified.is_some(), c);
    let resources = linux.resources().as_ref();
    resources.map_or(Ok(Vec::new()), |r| knobs(r, &version, warnings))
}

/// As [`plan`], for a scope of `manager`'s in the place of a directory of ours. `uid` is the creator's.
///
/// # Errors
/// Also a `cgroupsPath` that is not of the form `slice:prefix:name`, an annotation that is no property,
/// and a host with v1 hierarchies, of which systemd keeps only some for a scope.
pub(crate) fn plan_scope<'a>(
    linux: &Linux,
    id: &str,
    layout: &Layout,
    (manager, uid): (&ServiceManager, u32),
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
    permission: Permission,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let unified = unified_alone(layout)?;
    let list = limits(linux, layout, warnings)?;
    let place = systemd::Place::parse(linux.cgroups_path().as_deref(), id, manager.user)?;
    let root = if manager.user { systemd::root_of_user(unified, uid) } else { PathBuf::new() };
    let target = Target {
        version: Version::V2,
        controllers: Vec::new(),
        name: None,
        mount_point: unified.mount_point.clone(),
        relative: place.below(&root),
    };
    let scope = Some(place.scope(id, manager, &list, annotations)?);
    let devices = Rules::new(linux)?;
    Ok(Plan { targets: vec![target], knobs: list, devices, permission, scope })
}

/// The hierarchy that scopes of systemd are in.
///
/// # Errors
/// There are v1 hierarchies too, or there is none at all.
pub(crate) fn unified_alone(layout: &Layout) -> Result<&Unified> {
    let unified = layout.unified.as_ref().filter(|_| layout.v1.is_empty());
    unified.ok_or_else(|| {
        let reason = "scopes of systemd need a host with cgroup v2 alone; this one has cgroup v1 \
                      hierarchies (boot it with systemd.unified_cgroup_hierarchy=1), or none";
        Error::unsupported("use", "the systemd cgroup driver", reason)
    })
}

impl Plan {
    /// The container's directory in every hierarchy, to be recorded before they are made.
    pub fn paths(&self) -> Vec<PathBuf> {
        let inner = self.scope.as_ref().and_then(|scope| scope.subgroup.as_deref());
        let path = |target: &Target| match inner {
            Some(name) => target.path().join(name),
            None => target.path(),
        };
        self.targets.iter().map(path).collect()
    }
}

/// A parsed `cgroupsPath`.
struct Place {
    absolute: bool,
    path: PathBuf,
}

impl Place {
    fn parse(given: Option<&Path>, id: &str) -> Result<Place> {
        let invalid = |reason: &str| Err(Error::invalid("linux.cgroupsPath", reason));
        let given = given.filter(|p| !p.as_os_str().is_empty());
        let text = given.unwrap_or(Path::new(id));
        let bytes = text.as_os_str().as_encoded_bytes();
        if !bytes.contains(&b'/') && bytes.iter().filter(|b| **b == b':').count() == 2 {
            return invalid("has the form slice:prefix:name, which needs the systemd driver");
        }
        // The kernel refuses a name with a line feed, and a NUL would cut the path short.
        if bytes.iter().any(|b| *b == 0 || *b == b'\n') {
            return invalid("contains a control character");
        }
        let mut path = PathBuf::new();
        for component in text.components() {
            match component {
                Component::Normal(name) => path.push(name),
                // A `..` reaches other containers' and the host's own cgroups.
                Component::ParentDir => return invalid("contains \"..\""),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if path.as_os_str().is_empty() {
            return invalid("names no cgroup of its own");
        }
        Ok(Place { absolute: text.is_absolute(), path })
    }

    /// The place in one hierarchy. `own` is the creator's cgroup: a container there or above would
    /// take the creator with it when it is frozen, killed or deleted.
    fn below(&self, base: &Path, own: &Path) -> Result<PathBuf> {
        let path = if self.absolute { self.path.clone() } else { base.join(&self.path) };
        if own.starts_with(&path) {
            return Err(Error::invalid("linux.cgroupsPath", "is the cgroup of its creator"));
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Hierarchy, Unified};
    use super::*;

    fn layout(v1: &[(&str, &str)], unified: Option<&str>) -> Layout {
        let hierarchy = |&(name, own): &(&str, &str)| Hierarchy {
            controllers: vec![name.to_string()],
            name: None,
            mount_point: PathBuf::from(format!("/sys/fs/cgroup/{name}")),
            own: PathBuf::from(own),
        };
        let unified = unified.map(|own| Unified {
            mount_point: PathBuf::from("/sys/fs/cgroup/unified"),
            own: PathBuf::from(own),
        });
        Layout { v1: v1.iter().map(hierarchy).collect(), unified }
    }

    fn paths(json: &str, layout: &Layout) -> std::result::Result<Vec<String>, String> {
        let linux: Linux = serde_json::from_str(json).unwrap();
        let plan = plan(&linux, "ID", layout, Permission::Required, &mut Vec::new());
        let paths = plan.map_err(|e| e.to_string())?.paths();
        Ok(paths
            .iter()
            .map(|p| p.strip_prefix("/sys/fs/cgroup").unwrap().display().to_string())
            .collect())
    }

    #[test]
    fn places() {
        let hybrid = layout(&[("cpu", ""), ("memory", "own/x")], Some("u"));
        let v2 = layout(&[], Some("a/b.scope"));
        let root = layout(&[], Some(""));
        for (json, layout, expected) in [
            (r#"{}"#, &hybrid, &["cpu/ID", "memory/own/x/ID", "unified/u/ID"][..]),
            (
                r#"{"cgroupsPath":"p//q/"}"#,
                &hybrid,
                &["cpu/p/q", "memory/own/x/p/q", "unified/u/p/q"],
            ),
            (r#"{"cgroupsPath":"/p/./q"}"#, &hybrid, &["cpu/p/q", "memory/p/q", "unified/p/q"]),
            (r#"{"cgroupsPath":"p"}"#, &v2, &["unified/a/p"]),
            (r#"{"cgroupsPath":""}"#, &root, &["unified/ID"]),
            (r#"{"cgroupsPath":"/a:b/c:d"}"#, &root, &["unified/a:b/c:d"]),
        ] {
            assert_eq!(paths(json, layout).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn refused() {
        let v2 = layout(&[], Some("a/b"));
        let v1 = layout(&[("memory", "")], None);
        for (json, layout, part) in [
            (r#"{"cgroupsPath":"../x"}"#, &v2, "\"..\""),
            (r#"{"cgroupsPath":"/x/../../y"}"#, &v2, "\"..\""),
            (r#"{"cgroupsPath":"/"}"#, &v2, "no cgroup of its own"),
            (r#"{"cgroupsPath":"."}"#, &v2, "no cgroup of its own"),
            (r#"{"cgroupsPath":"/a"}"#, &v2, "creator"),
            (r#"{"cgroupsPath":"/a/b"}"#, &v2, "creator"),
            (r#"{"cgroupsPath":"a.slice:b:c"}"#, &v2, "systemd"),
            (r#"{"cgroupsPath":":b:c"}"#, &v2, "systemd"),
            (r#"{"cgroupsPath":"/a\n"}"#, &v2, "control"),
            (r#"{"resources":{"pids":{"limit":1}}}"#, &v1, "linux.resources.pids.limit"),
            (r#"{"resources":{"unified":{"memory.max":"1"}}}"#, &v1, "unified"),
            (r#"{}"#, &Layout::default(), "no cgroup hierarchy"),
        ] {
            let error = paths(json, layout).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
