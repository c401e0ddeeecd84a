//! Cgroup paths: `cgroupsPath`, the creator's own cgroup, and the container's id, as three lines.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Linux;

use super::state::is_below;
use crate::cgroup::layout::{Hierarchy, Layout, Unified};
use crate::cgroup::{self, Permission};
use crate::error::ErrorKind;
use crate::validate;

/// What separates the fields of the input: a line feed is one of the bytes that must be refused.
const SEPARATOR: char = '\u{1f}';

/// Asserts that every directory of an accepted path is below its hierarchy's mount point, not the
/// creator's own or above it, and accepted again when the state file tells of it.
pub fn cgroup(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut fields = text.split(SEPARATOR);
    let path = fields.next().unwrap_or_default();
    // The kernel's names: no empty ones, no dots alone, no slash in front (`layout` takes it off).
    let own = fields.next().unwrap_or_default();
    let kernel = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']);
    let own = if own.split('/').all(kernel) { own } else { "" };
    let id = fields.next().unwrap_or("c1");
    if validate::validate_id(id).is_err() {
        return;
    }
    let mut linux = Linux::default();
    linux.set_cgroups_path(Some(PathBuf::from(path)));
    for layout in layouts(own) {
        let mut warnings = Vec::new();
        match cgroup::plan(&linux, id, &layout, Permission::Required, &mut warnings) {
            Ok(plan) => accepted(&plan, &layout),
            Err(error) => {
                super::assert_bounded([&error.to_string()], input);
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                assert_eq!(error.subject(), "linux.cgroupsPath", "{error}");
            }
        }
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

fn accepted(plan: &cgroup::Plan, layout: &Layout) {
    let v1 = layout.v1.iter().map(|h| (&h.mount_point, &h.own));
    let places = v1.chain(layout.unified.as_ref().map(|u| (&u.mount_point, &u.own)));
    let recorded = plan.recorded();
    let paths = plan.paths();
    assert_eq!((paths.len(), recorded.0.len()), (places.clone().count(), places.clone().count()));
    for (((mount_point, own), path), group) in places.zip(&paths).zip(&recorded.0) {
        assert!(is_below(path, mount_point), "{path:?} is not below {mount_point:?}");
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::RootDir);
        assert!(path.components().all(plain), "{path:?}");
        assert!(!path.as_os_str().as_encoded_bytes().iter().any(|b| matches!(b, 0 | b'\n')));
        let creator = mount_point.join(own);
        assert!(!creator.starts_with(path), "{path:?} holds the creator in {creator:?}");
        assert_eq!((&group.path, &group.mount_point), (path, mount_point));
        assert!(group.check().is_ok(), "{group:?}");
    }
    let json = serde_json::to_vec(&recorded).expect("paths were text");
    let read: cgroup::Recorded = serde_json::from_slice(&json).expect("was written by us");
    assert_eq!(read, recorded);
}

/// A host of each kind, with mount points that do not exist.
pub(super) fn layouts(own: &str) -> [Layout; 3] {
    let point = |name: &str| Path::new("/nonexistent/cgroup").join(name);
    let hierarchy = |controllers: &[&str], name: Option<&str>| Hierarchy {
        controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
        name: name.map(str::to_owned),
        mount_point: point(controllers.first().copied().or(name).unwrap_or_default()),
        own: PathBuf::from(own),
    };
    let v1 = vec![
        hierarchy(&["cpu", "cpuacct"], None),
        hierarchy(&["memory"], None),
        hierarchy(&["devices"], None),
        hierarchy(&["pids"], None),
        hierarchy(&["blkio"], None),
        hierarchy(&["net_cls", "net_prio"], None),
        hierarchy(&[], Some("systemd")),
    ];
    let unified = |name: &str| Some(Unified { mount_point: point(name), own: PathBuf::from(own) });
    [
        Layout { v1: Vec::new(), unified: unified("") },
        Layout { v1: v1.clone(), unified: None },
        Layout { v1, unified: unified("unified") },
    ]
}
