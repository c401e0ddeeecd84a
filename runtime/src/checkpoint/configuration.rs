//! The annotation that names a file with options for CRIU.
//!
//! Options make CRIU, which is root, execute programs and write files: annotations come from people who may
//! not do that (CVE-2020-27151), so that one can only choose among files that root has put into a directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use oci_spec::runtime::Spec;

use super::options::CriuOptions;
use crate::error::{Call, Context, Error, Result, quote};

/// The annotation; empty for no file at all.
pub(crate) const ANNOTATION: &str = "org.criu.config";
/// Where its files are.
const DIRECTORY: &str = "/etc/criu";
const ROOT: u32 = 0;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The file with options: the annotation's, unless that is empty, before the caller's.
pub(super) fn file(options: &CriuOptions, spec: &Spec) -> Option<String> {
    match annotation(spec) {
        Some(path) => (!path.is_empty()).then(|| path.to_owned()),
        None => options.configuration.as_deref().map(|path| path.to_string_lossy().into_owned()),
    }
}

/// Checks that nobody but root has a say in the annotation's file.
///
/// # Errors
/// What is wrong with it, by the annotation's name.
pub(super) fn check(spec: &Spec) -> Result<()> {
    match annotation(spec) {
        None | Some("") => Ok(()),
        Some(path) => check_file(Path::new(path), Path::new(DIRECTORY), ROOT),
    }
}

fn annotation(spec: &Spec) -> Option<&str> {
    spec.annotations().as_ref()?.get(ANNOTATION).map(String::as_str)
}

/// Nobody but `owner` can change what is looked at here, as every directory on the way is theirs too.
fn check_file(path: &Path, directory: &Path, owner: u32) -> Result<()> {
    let field = format!("annotations[{ANNOTATION:?}]");
    let refused = |place: &Path, reason: &str| {
        Err(Error::invalid(&field, format!("{} {reason}", quote(place))))
    };
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if climbs || path == directory || !path.starts_with(directory) {
        return refused(path, &format!("is not a file beneath {}", quote(directory)));
    }
    for place in path.ancestors().take_while(|place| place.starts_with(directory)) {
        let found = std::fs::symlink_metadata(place)
            .call("lstat")
            .context("inspect", format!("{field} {}", quote(place)))?;
        if place == path && !found.is_file() {
            return refused(place, "is not a regular file");
        }
        if place != path && !found.is_dir() {
            return refused(place, "is not a directory");
        }
        if found.uid() != owner {
            return refused(place, &format!("belongs to user {}, not to {owner}", found.uid()));
        }
        if found.mode() & WRITABLE_BY_OTHERS != 0 {
            return refused(place, "can be written by others than its owner");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;

    fn annotated(path: &str) -> Spec {
        let json = json!({ "ociVersion": "1.0.2", "annotations": { ANNOTATION: path } });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_annotation_comes_before_the_callers_file() {
        let caller = CriuOptions {
            configuration: Some("/etc/criu/runc.conf".into()),
            ..CriuOptions::new("/usr/sbin/criu".into(), "/images".into())
        };
        let none = serde_json::from_value(json!({ "ociVersion": "1.0.2" })).unwrap();
        assert_eq!(file(&caller, &none).as_deref(), Some("/etc/criu/runc.conf"));
        assert_eq!(file(&caller, &annotated("/a")).as_deref(), Some("/a"));
        assert_eq!(file(&caller, &annotated("")), None);
        check(&none).unwrap();
        check(&annotated("")).unwrap();
        let error = check(&annotated("/tmp/criu.conf")).unwrap_err().to_string();
        assert!(error.contains(ANNOTATION) && error.contains("\"/etc/criu\""), "{error}");
    }

    #[test]
    fn a_file_that_others_can_change_is_refused() {
        let base = std::env::temp_dir().join(format!("bulkhead-criu-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let inner = base.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let allow = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        [&base, &inner].into_iter().for_each(|path| allow(path, 0o755).unwrap());
        let path = inner.join("a.conf");
        fs::write(&path, "").unwrap();
        allow(&path, 0o644).unwrap();
        symlink("inner", base.join("link")).unwrap();
        symlink("inner/a.conf", base.join("link.conf")).unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        let checked = |path: &Path, owner| check_file(path, &base, owner);
        let refused = |path: &Path, owner, words: &str| {
            let error = checked(path, owner).unwrap_err().to_string();
            assert!(error.contains(ANNOTATION) && error.contains(words), "{words}: {error}");
        };
        checked(&path, owner).unwrap();
        for outside in [base.clone(), base.join("../x"), inner.join("../inner/a.conf")] {
            refused(&outside, owner, "is not a file beneath");
        }
        refused(Path::new("inner/a.conf"), owner, "is not a file beneath");
        refused(&base.join("link/a.conf"), owner, "link\" is not a directory");
        refused(&base.join("link.conf"), owner, "is not a regular file");
        refused(&inner, owner, "is not a regular file");
        refused(&path, owner + 1, "belongs to user");
        refused(&base.join("none"), owner, "ENOENT");
        for (changed, mode, before) in [
            (&path, 0o664, 0o644),
            (&path, 0o646, 0o644),
            (&inner, 0o775, 0o755),
            (&base, 0o757, 0o755),
        ] {
            allow(changed, mode).unwrap();
            refused(&path, owner, "can be written by others");
            allow(changed, before).unwrap();
        }
        fs::remove_dir_all(&base).unwrap();
    }
}
