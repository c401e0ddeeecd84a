//! Which shim serves a container: one shim for all containers of a pod.
//!
//! The annotations of the bundle's configuration say it. Nothing else of that file matters before
//! `Create`, so it is read for them alone: an error elsewhere in it is for `Create` to report.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::errno::Errno;
use runtime::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use serde::Deserialize;

/// In the order of precedence; an annotation of this runtime's own goes before one of another's.
const ANNOTATIONS: [&str; 3] = [
    "io.containerd.bulkhead.v2.group",
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

/// As much as containerd lets a configuration be long in a message, and far more than any is.
const MAX_CONFIG: u64 = 16 << 20;

#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<BTreeMap<String, serde_json::Value>>,
}

/// The group of the container `id` whose bundle this is. Without a configuration, as containerd 2.x
/// makes the bundle of a sandbox that a shim runs by itself, that is the id.
///
/// # Errors
/// The configuration cannot be read, or is no JSON.
pub fn group(bundle: &Path, id: &str) -> Result<String> {
    let path = bundle.join("config.json");
    let mut text = Vec::new();
    let read = File::open(&path)
        .and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut text))
        .call("read");
    match read {
        Err(Failure { errno: Errno::ENOENT, .. }) => return Ok(id.to_owned()),
        read => read.context("read", quote(&path))?,
    };
    let wrong = |reason: String| Error::new(ErrorKind::Invalid, "read", quote(&path), reason);
    if text.len() as u64 > MAX_CONFIG {
        return Err(wrong("is too long".to_owned()));
    }
    let annotated = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(named(&annotated).unwrap_or(id).to_owned())
}

fn named(config: &Annotated) -> Option<&str> {
    let annotations = config.annotations.as_ref()?;
    ANNOTATIONS
        .iter()
        .find_map(|&name| annotations.get(name)?.as_str())
        .filter(|group| !group.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_name_it() {
        let bundle = crate::testing::directory("group");
        let config = |text: &str| {
            std::fs::write(bundle.join("config.json"), text).unwrap();
            group(&bundle, "c1")
        };
        for (text, expected) in [
            ("{}", "c1"),
            (r#"{"annotations":null,"process":7}"#, "c1"),
            (r#"{"annotations":{"x":"y"}}"#, "c1"),
            (r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#, "pod"),
            (r#"{"annotations":{"io.kubernetes.cri.sandbox-id":""}}"#, "c1"),
            (
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#,
                "g",
            ),
            (
                r#"{"annotations":{"io.containerd.bulkhead.v2.group":"b","io.containerd.runc.v2.group":"g"}}"#,
                "b",
            ),
            (r#"{"annotations":{"io.containerd.runc.v2.group":7}}"#, "c1"),
        ] {
            assert_eq!(config(text).unwrap(), expected, "{text}");
        }
        assert!(config("").is_err());
        assert!(config("[").is_err());
        std::fs::remove_file(bundle.join("config.json")).unwrap();
        assert_eq!(group(&bundle, "c1").unwrap(), "c1");
        std::fs::create_dir(bundle.join("config.json")).unwrap();
        assert!(group(&bundle, "c1").unwrap_err().to_string().contains("EISDIR"));
        std::fs::remove_dir_all(bundle).unwrap();
    }
}
