//! The plan of a usual configuration, as text beside this file: a difference in it is a change of
//! behaviour that a reviewer sees. `BLESS=1 cargo test -p bulkhead-runtime plan::tests` writes it anew.

use std::path::PathBuf;

use nix::unistd::Gid;

use super::*;
use crate::cgroup::layout::{Layout, Unified};
use crate::lsm::Modules;
use crate::options::Start;
use crate::spec::parse_config;

/// A host with cgroup v2 and no security module, whoever runs the test.
fn host(uid: u32) -> Host {
    let unified = Unified { mount_point: "/sys/fs/cgroup".into(), own: "user.slice".into() };
    Host {
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(uid),
        permitted: if uid == 0 { caps::ALL } else { 0 },
        layout: Layout { v1: Vec::new(), unified: Some(unified) },
        initial_user_namespace: true,
        modules: Modules { apparmor: false, selinux: false },
        chance: 4711,
        proc: Procfs::open().unwrap(),
    }
}

fn planned(config: &str, uid: u32) -> String {
    let mut warnings = Vec::new();
    let config = parse_config(config.as_bytes(), &mut warnings).unwrap();
    let options = CreateOptions::new(config, PathBuf::from("/"), Start::Later);
    let plan = plan("name", &options, None, &host(uid), &mut warnings).unwrap();
    format!("{plan:#?}\nwarnings: {warnings:#?}\n")
}

fn compare(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/plan").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (n, (is, was)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(is, was, "line {} of {name}", n + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "lines of {name}");
}

#[test]
fn a_container_of_root() {
    compare("root.txt", &planned(include_str!("root.json"), 0));
}

#[test]
fn a_container_of_an_ordinary_user() {
    compare("user.txt", &planned(include_str!("user.json"), 1000));
}
