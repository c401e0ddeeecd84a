//! Whose ids, groups and labels the container may have.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Findings, Subject};
use crate::error::{Error, ErrorKind, Failure};
use crate::host::user_name;
use crate::idmap::{Range, Writer};

/// The id maps of a new user namespace.
pub(super) fn maps(subject: &Subject<'_>, found: &mut Findings) {
    let Some((maps, writer)) = &subject.parts.maps else { return };
    let host = subject.host;
    let lists = [
        ("linux.uidMappings", &maps.uids, "newuidmap", "/etc/subuid", host.uid.as_raw(), "uid_map"),
        ("linux.gidMappings", &maps.gids, "newgidmap", "/etc/subgid", host.gid.as_raw(), "gid_map"),
    ];
    for (field, ranges, program, file, own, map) in lists {
        let refuse = |reason: String| Err(Error::new(ErrorKind::System, "map", field, reason));
        match writer {
            Writer::Own => {}
            Writer::Direct => {
                let mine = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
                for range in ranges.iter().filter(|range| !is_mapped(&mine, range)) {
                    let Range { outside, size, .. } = range;
                    let reason = format!("{size} ids from {outside} are not all the caller's own");
                    found.note(field, refuse(reason));
                }
            }
            Writer::Programs => match find(program, subject.search) {
                None => {
                    let reason = format!(
                        "this user may map only its own id; {program} is needed for more: it is not in PATH"
                    );
                    found.note(field, refuse(reason));
                }
                Some(path) => {
                    if !has_power(&path) {
                        let reason = format!("{} is not setuid root", crate::error::quote(&path));
                        found.note(field, refuse(reason));
                    }
                    let text = fs::read_to_string(file).unwrap_or_default();
                    let given = subordinate(&text, host.uid.as_raw());
                    for range in ranges.iter().filter(|range| !is_given(&given, range, own)) {
                        let Range { outside, size, .. } = range;
                        let reason =
                            format!("{file} does not give this user {size} ids from {outside}");
                        found.note(field, refuse(reason));
                    }
                }
            },
        }
    }
}

/// Groups where the kernel denies `setgroups`.
pub(super) fn groups(subject: &Subject<'_>, found: &mut Findings) {
    let Some(program) = &subject.parts.program else { return };
    let own = matches!(&subject.parts.maps, Some((_, Writer::Own)));
    if own && !program.groups.is_empty() {
        let failure = Failure { call: "setgroups", errno: Errno::EPERM };
        let what = format!(
            "process.user.additionalGids {:?} (a user who maps only its own id may set no groups)",
            program.groups
        );
        found.note("process.user.additionalGids", Err(Error::system("set", what, failure)));
    }
}

/// Labels of security modules: whether a profile is loaded.
pub(super) fn labels(subject: &Subject<'_>, found: &mut Findings) {
    let Some(program) = &subject.parts.program else { return };
    let field = "process.apparmorProfile";
    if let Some(profile) = program.labels.apparmor().filter(|name| *name != "unconfined") {
        match loaded_profiles() {
            Some(list) if is_plain(profile) && !list.iter().any(|known| known == profile) => {
                let reason = format!("profile {profile:?} is not loaded");
                found.note(field, Err(Error::invalid(field, reason)));
            }
            Some(_) if is_plain(profile) => {}
            _ => found.warn(format!("{field}: whether {profile:?} is loaded could not be seen")),
        }
    }
    if program.labels.selinux().is_some() {
        found.warn("process.selinuxLabel: whether the policy knows it was not looked at");
    }
}

/// Neither a stack of profiles nor one of another policy namespace.
fn is_plain(profile: &str) -> bool {
    !profile.contains("//&") && !profile.starts_with(':')
}

/// The names of AppArmor profiles in force; only root sees them.
pub(super) fn loaded_profiles() -> Option<Vec<String>> {
    let text = fs::read_to_string("/sys/kernel/security/apparmor/profiles").ok()?;
    let name = |line: &str| line.rsplit_once(" (").map(|(name, _)| name.to_owned());
    Some(text.lines().filter_map(name).collect())
}

/// A program in a search path.
pub(super) fn find(program: &str, search: &OsStr) -> Option<PathBuf> {
    search
        .as_bytes()
        .split(|&byte| byte == b':')
        .map(|directory| Path::new(OsStr::from_bytes(directory)).join(program))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}

/// Whether a program runs as root or has capabilities of its own.
pub(super) fn has_power(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let setuid = fs::metadata(path).is_ok_and(|file| file.uid() == 0 && file.mode() & 0o4000 != 0);
    setuid || crate::sys::xattr::length(path, c"security.capability").is_ok_and(|length| length > 0)
}

/// The ranges that subuid(5) text gives a user, by name or by number.
pub(super) fn subordinate(text: &str, uid: u32) -> Vec<(u32, u32)> {
    let (name, number) = (user_name(uid), uid.to_string());
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let mine = owner == number || Some(owner) == name.as_deref();
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        mine.then_some(range)
    };
    text.lines().filter_map(parse).collect()
}

/// newuidmap(1): the own id alone, or a part of one range of the file.
fn is_given(given: &[(u32, u32)], range: &Range, own: u32) -> bool {
    (range.outside == own && range.size == 1) || holds(given.iter().copied(), range)
}

fn is_mapped(map: &str, range: &Range) -> bool {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().ok());
        Some((fields.next()??, fields.nth(1)??))
    };
    holds(map.lines().filter_map(parse), range)
}

fn holds(mut ranges: impl Iterator<Item = (u32, u32)>, range: &Range) -> bool {
    ranges.any(|(first, count)| {
        range
            .outside
            .checked_sub(first)
            .is_some_and(|offset| u64::from(offset) + u64::from(range.size) <= u64::from(count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(outside: u32, size: u32) -> Range {
        Range { inside: 0, outside, size }
    }

    #[test]
    fn ids_that_are_given() {
        let given = subordinate("# note\n54321:100000:65536\nnobody-known:1:2\n54321:5:x\n", 54321);
        assert_eq!(given, [(100_000, 65_536)]);
        assert!(is_given(&given, &range(54_321, 1), 54_321));
        assert!(!is_given(&given, &range(54_321, 2), 54_321));
        assert!(is_given(&given, &range(100_000, 65_536), 54_321));
        assert!(!is_given(&given, &range(100_001, 65_536), 54_321));
        assert!(is_mapped("         0          0 4294967295\n", &range(5, 10)));
        assert!(is_mapped("0 1000 1\n1 100000 10\n", &range(1, 10)));
        assert!(!is_mapped("0 1000 1\n1 100000 10\n", &range(0, 2)));
    }

    #[test]
    fn programs_are_found_in_their_path() {
        assert_eq!(find("sh", OsStr::new("/no/such:/bin")), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("sh", OsStr::new("/no/such")), None);
    }
}
