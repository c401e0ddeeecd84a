//! Rules of id mappings: of the user namespace, of mounts, and of the ids that the process uses.
//!
//! See [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Kind, Mount, Process};

use super::{Namespaces, Origin, list};
use crate::error::{Error, Result};
use crate::faults::Faults;

/// `UID_GID_MAP_MAX_EXTENTS` of the kernel, since 4.15.
const MOST_LINES: usize = 340;

/// The mappings of the container's user namespace.
pub(super) fn user_namespace(
    linux: &Linux,
    namespaces: &Namespaces,
    faults: &mut Faults,
) -> Result<()> {
    let maps = [
        ("linux.uidMappings", list(linux.uid_mappings())),
        ("linux.gidMappings", list(linux.gid_mappings())),
    ];
    let origin = namespaces.get(Kind::User);
    for (field, map) in maps {
        // What wraps or overlaps maps nothing that could be looked up.
        if faults.keep(mappings(field, map))?.is_none() {
            continue;
        }
        faults.note(match origin {
            Origin::Shared if !map.is_empty() => namespaces.need(Kind::User, field),
            Origin::New if map.is_empty() => {
                Err(Error::invalid(field, "is required for a new user namespace"))
            }
            // The container's process becomes this user to own what it sets up.
            Origin::New if mapped(map, 0).is_none() => {
                Err(Error::invalid(field, "does not map the container's id 0"))
            }
            // A joined namespace has mappings already; the creator compares them with these.
            Origin::Shared | Origin::New | Origin::Joined => Ok(()),
        })?;
    }
    if maps[0].1.is_empty() != maps[1].1.is_empty() {
        let (missing, _) = maps[usize::from(!maps[0].1.is_empty())];
        let reason = "is required when the other mapping is given";
        faults.note(Err(Error::invalid(missing, reason)))?;
    }
    Ok(())
}

/// The ids of the process in a new user namespace: `setresuid` to one that is not mapped is a bare
/// EINVAL.
pub(super) fn process_ids(
    process: &Process,
    linux: &Linux,
    namespaces: &Namespaces,
    faults: &mut Faults,
) -> Result<()> {
    if namespaces.get(Kind::User) != Origin::New {
        return Ok(());
    }
    let user = process.user();
    let (uids, gids) = (list(linux.uid_mappings()), list(linux.gid_mappings()));
    let check = |field: &str, map: &[LinuxIdMapping], by: &str, id: u32| match mapped(map, id) {
        Some(_) => Ok(()),
        None => {
            Err(Error::invalid(format!("process.user.{field}"), format!("{id} is not in {by}")))
        }
    };
    faults.note(check("uid", uids, "linux.uidMappings", user.uid()))?;
    faults.note(check("gid", gids, "linux.gidMappings", user.gid()))?;
    for (index, gid) in list(user.additional_gids()).iter().enumerate() {
        let field = format!("additionalGids[{index}]");
        faults.note(check(&field, gids, "linux.gidMappings", *gid))?;
    }
    Ok(())
}

/// Idmapped mounts: both mappings or none, bind mounts only, and without mappings of their own the
/// options need a user namespace to take them from.
pub(super) fn mount(
    field: &str,
    mount: &Mount,
    bind: bool,
    option: bool,
    namespaces: &Namespaces,
) -> Result<()> {
    let maps =
        [("uidMappings", list(mount.uid_mappings())), ("gidMappings", list(mount.gid_mappings()))];
    for (name, map) in maps {
        let field = format!("{field}.{name}");
        mappings(&field, map)?;
        if map.is_empty() && maps.iter().any(|(_, map)| !map.is_empty()) {
            return Err(Error::invalid(field, "is required when the other mapping is given"));
        }
        if !map.is_empty() && !bind {
            return Err(Error::invalid(field, "is only for bind mounts"));
        }
    }
    if option && maps[0].1.is_empty() {
        if !bind {
            return Err(Error::invalid(
                format!("{field}.options"),
                "idmap and ridmap are only for bind mounts",
            ));
        }
        if namespaces.get(Kind::User) == Origin::Shared {
            return Err(Error::invalid(
                format!("{field}.uidMappings"),
                "is required by the option idmap or ridmap without a user namespace",
            ));
        }
    }
    Ok(())
}

/// What the kernel refuses to take as a map: empty ranges, ranges that wrap or overlap, too many.
fn mappings(field: &str, map: &[LinuxIdMapping]) -> Result<()> {
    if map.len() > MOST_LINES {
        let lines = map.len();
        return Err(Error::invalid(
            field,
            format!("{lines} ranges, the kernel takes {MOST_LINES}"),
        ));
    }
    for (index, range) in map.iter().enumerate() {
        let at = |name: &str| format!("{field}[{index}].{name}");
        let size = range.size();
        if size == 0 {
            return Err(Error::invalid(at("size"), "0 maps nothing"));
        }
        for (name, first) in [("containerID", range.container_id()), ("hostID", range.host_id())] {
            // The last id that exists is 2^32 - 2: -1 means "no id".
            if first.checked_add(size).is_none() {
                return Err(Error::invalid(
                    at("size"),
                    format!("{size} ids from {name} {first} go beyond 4294967294"),
                ));
            }
        }
        for earlier in &map[..index] {
            for (name, a, b) in [
                ("containerID", range.container_id(), earlier.container_id()),
                ("hostID", range.host_id(), earlier.host_id()),
            ] {
                if a < b + earlier.size() && b < a + size {
                    return Err(Error::invalid(
                        at(name),
                        format!("{a} overlaps with an earlier range"),
                    ));
                }
            }
        }
    }
    Ok(())
}

/// The host's id of an id of the container.
fn mapped(map: &[LinuxIdMapping], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.container_id())?;
        (offset < range.size()).then(|| range.host_id().saturating_add(offset))
    })
}
