//! `state.json`.

use std::path::{Component, Path};

use crate::error::ErrorKind;
use crate::state::Record;

/// The id of the container that all records are read for.
const ID: &str = "c1";

/// Asserts that an accepted record can be relied on and survives being written.
pub fn state(input: &[u8]) {
    let record = match Record::parse(input, ID, "state.json") {
        Ok(record) => record,
        Err(error) => {
            super::assert_bounded([&error.to_string()], input);
            assert!(matches!(error.kind(), ErrorKind::System | ErrorKind::Unsupported), "{error}");
            assert_eq!(error.subject(), "state.json");
            return;
        }
    };
    assert_eq!(record.id, ID);
    assert!((1..=Record::VERSION).contains(&record.version));
    assert!(record.pid >= 0);
    assert!(record.bundle.is_absolute() && record.rootfs.is_absolute());
    for group in &record.cgroup.0 {
        if group.check().is_err() {
            continue;
        }
        for path in group.ancestors.iter().chain([&group.path]) {
            assert!(is_below(path, &group.mount_point), "{group:?}");
        }
    }
    let written = serde_json::to_vec(&record).expect("was JSON");
    let read = Record::parse(&written, ID, "state.json").expect("was accepted before");
    assert_eq!(format!("{record:?}"), format!("{read:?}"));
}

/// Whether a path leads below another one when it is walked step by step.
pub(super) fn is_below(path: &Path, base: &Path) -> bool {
    let mut depth = 0_usize;
    let Ok(rest) = path.strip_prefix(base) else { return false };
    for component in rest.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            _ => return false,
        }
    }
    depth > 0
}
