//! What an ordinary user's configuration must have and often lacks: a user namespace and its id maps.
//!
//! Whoever may not make namespaces gets them in a user namespace of the container's own. Root there is the
//! user; the ids above are the user's subordinate ones, subuid(5), which newuidmap(1) checks once more.
//! A configuration that has maps keeps them.

use std::fs;
use std::path::PathBuf;

use nix::unistd::{getegid, geteuid};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Spec,
};
use runtime::Rootless;

/// A range of ids of the host: the first, and how many.
type Range = (u32, u32);

/// Completes the configuration of an ordinary user, unless `--rootless=false` says that there is none.
pub fn complete(spec: &mut Spec, rootless: Rootless) {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() || rootless == Rootless::No || !lacks_maps(spec) {
        return;
    }
    let name = name_of(uid.as_raw());
    let ranges = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        subordinate(&text, uid.as_raw(), name.as_deref())
    };
    let (uids, gids) = (ranges("/etc/subuid"), ranges("/etc/subgid"));
    add(spec, &maps(uid.as_raw(), &uids), &maps(gid.as_raw(), &gids));
}

/// Whether the container makes a user namespace without saying which ids are in it, or none at all.
fn lacks_maps(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return true };
    let user = linux
        .namespaces()
        .iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    let none = |maps: &Option<Vec<LinuxIdMapping>>| maps.as_ref().is_none_or(Vec::is_empty);
    none(linux.uid_mappings())
        && none(linux.gid_mappings())
        && user.is_none_or(|namespace| {
            namespace.path().as_ref().is_none_or(|path| path == &PathBuf::new())
        })
}

fn add(spec: &mut Spec, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        let user = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build();
        namespaces.extend(user);
    }
    linux.set_namespaces(Some(namespaces));
    linux.set_uid_mappings(Some(uids.to_vec()));
    linux.set_gid_mappings(Some(gids.to_vec()));
    spec.set_linux(Some(linux));
}

/// Root is the user, and from 1 on come the subordinate ids.
fn maps(own: u32, ranges: &[Range]) -> Vec<LinuxIdMapping> {
    let mut inside = 0;
    let all = [(own, 1)].into_iter().chain(ranges.iter().copied());
    let map = |(outside, size): Range| {
        let map = LinuxIdMappingBuilder::default()
            .container_id(inside)
            .host_id(outside)
            .size(size)
            .build()
            .expect("all three are set");
        inside += size;
        map
    };
    all.map(map).collect()
}

/// The ranges of a user in the text of /etc/subuid, `NAME-OR-UID:FIRST:COUNT` a line. What is no range, or
/// would make more ids than there are, is left out.
fn subordinate(text: &str, uid: u32, name: Option<&str>) -> Vec<Range> {
    let number = uid.to_string();
    let mut left = u32::MAX - 1;
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let whose = fields.next()?;
        if whose != number && Some(whose) != name {
            return None;
        }
        let (first, count): (u32, u32) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        first.checked_add(count)?;
        (count > 0).then_some((first, count))
    };
    text.lines()
        .filter_map(range)
        .filter(|(_, count)| {
            let fits = *count <= left;
            left = left.saturating_sub(*count);
            fits
        })
        .collect()
}

/// The user's name in /etc/passwd.
fn name_of(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn subordinate_ids() {
        let text =
            "a:100000:65536\nb:1:2\n7:300000:10\n# a:1:1\na:5\na:x:1\na:4294967295:2\na:9:0\n";
        assert_eq!(subordinate(text, 7, Some("a")), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(subordinate(text, 8, Some("b")), [(1, 2)]);
        assert_eq!(subordinate(text, 8, None), []);
        let huge = "a:0:4294967290\na:0:4294967290\n";
        assert_eq!(subordinate(huge, 1, Some("a")), [(0, 4_294_967_290)]);
    }

    fn spec(linux: Value) -> Spec {
        serde_json::from_value(json!({ "ociVersion": "1.2.0", "linux": linux })).unwrap()
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let given = json!([{ "containerID": 0, "hostID": 5, "size": 1 }]);
        for (linux, lacks) in [
            (json!({}), true),
            (json!({ "namespaces": [{ "type": "user" }] }), true),
            (json!({ "namespaces": [{ "type": "user", "path": "/proc/1/ns/user" }] }), false),
            (json!({ "namespaces": [{ "type": "user" }], "uidMappings": given }), false),
            (json!({ "gidMappings": given }), false),
        ] {
            assert_eq!(lacks_maps(&spec(linux.clone())), lacks, "{linux}");
        }
        let mut completed = spec(json!({ "namespaces": [{ "type": "pid" }] }));
        add(&mut completed, &maps(1000, &[(100_000, 10), (500, 2)]), &maps(100, &[]));
        let linux = serde_json::to_value(completed.linux()).unwrap();
        assert_eq!(linux["namespaces"], json!([{ "type": "pid" }, { "type": "user" }]));
        assert_eq!(
            linux["uidMappings"],
            json!([
                { "containerID": 0, "hostID": 1000, "size": 1 },
                { "containerID": 1, "hostID": 100_000, "size": 10 },
                { "containerID": 11, "hostID": 500, "size": 2 },
            ])
        );
        assert_eq!(linux["gidMappings"], json!([{ "containerID": 0, "hostID": 100, "size": 1 }]));
    }
}
