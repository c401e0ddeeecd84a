//! `config.json` and `process.json`, from text to a plan.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};
use oci_spec::runtime::Spec;
use serde_json::Value;

use super::state::is_below;
use super::{Once, assert_bounded, cgroup, paths};
use crate::error::{Error, ErrorKind};
use crate::faults::Faults;
use crate::host::Host;
use crate::lsm::Modules;
use crate::mount::Kind;
use crate::options::{CreateOptions, Start};
use crate::plan::{self, Plan};
use crate::process::program::{Inherit, Program};
use crate::procfs::Procfs;
use crate::seccomp::compare;
use crate::spec::{self, Config};
use crate::{caps, validate};

/// Asserts that a refused configuration is told by its place, and that the plan of an accepted one
/// is the same every time and keeps inside of its bounds.
pub fn config(input: &[u8]) {
    let mut warnings = Vec::new();
    let parsed = spec::parse_config(input, &mut warnings);
    assert_bounded(&warnings, input);
    let config = match parsed {
        Ok(config) => config,
        Err(error) => return refused(&error, input, "config.json"),
    };
    let stored = spec::to_stored(&config);
    assert_eq!(spec::stored(&stored).expect("was written by us"), config.spec);
    let again = spec::parse_config(input, &mut Vec::new()).expect("was accepted before");
    for (host, notify) in hosts().iter().zip([None, Some(Path::new("/run/c/notify"))]) {
        let mut warnings = Vec::new();
        let planned = plan_on(host, &config, notify, &mut warnings);
        assert_bounded(&warnings, input);
        let mut warnings_again = Vec::new();
        let planned_again = plan_on(host, &again, notify, &mut warnings_again);
        // Maps of the configuration have no order of their own; plans do.
        assert_eq!(format!("{planned:?}"), format!("{planned_again:?}"));
        assert_eq!(warnings, warnings_again);
        match planned {
            Ok(plan) => check(&plan, &config.spec),
            Err(error) => refused(&error, input, "config.json"),
        }
    }
}

/// As [`config`], for the process of `exec`.
pub fn process(input: &[u8]) {
    let mut warnings = Vec::new();
    let process = match spec::parse_process(input, &mut warnings) {
        Ok(process) => process,
        Err(error) => return refused(&error, input, "process.json"),
    };
    let written = serde_json::to_vec(&process).expect("was JSON");
    let read: oci_spec::runtime::Process = serde_json::from_slice(&written).expect("was JSON");
    assert_eq!(read, process);
    for host in hosts() {
        for in_user_namespace in [false, true] {
            let planned = validate::process(&process, "process.", &mut Faults::First)
                .and_then(|()| crate::scheduler::affinity(&process).map(drop))
                .and_then(|()| {
                    let (spec, inherit) = (Spec::default(), Inherit::default());
                    let warnings = &mut warnings;
                    plan::process(&process, &spec, &inherit, host, in_user_namespace, warnings)
                });
            match planned {
                Ok(program) => check_program(&program),
                // The whole is a configuration's `process` here.
                Err(error) => refused_in(
                    &error,
                    input,
                    "process.json",
                    |document| serde_json::json!({ "process": document }),
                ),
            }
        }
    }
    assert_bounded(&warnings, input);
}

/// Asserts that the error is about a place of the input.
fn refused(error: &Error, input: &[u8], whole: &str) {
    refused_in(error, input, whole, |document| document);
}

fn refused_in(error: &Error, input: &[u8], whole: &str, place: impl FnOnce(Value) -> Value) {
    assert_bounded([&error.to_string()], input);
    let subject = error.subject();
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::Unsupported => {}
        // The agent's socket is looked for before anything is made.
        ErrorKind::System if subject.starts_with("linux.seccomp.listenerPath ") => return,
        _ => panic!("{:?}: {error}", error.kind()),
    }
    let document: Option<Value> = serde_json::from_slice(input).ok();
    let Some(document @ Value::Object(_)) = document else {
        // Not JSON: the place is where reading stopped.
        assert!(!subject.is_empty(), "{error}");
        return;
    };
    // A key that is given twice has places that the document does not show.
    if serde_json::to_vec(&document).is_ok_and(|written| written == input) {
        assert_ne!(subject, whole, "{error}");
        // A value may follow: `linux.mountLabel "x"`.
        let bare = subject.split_once(" \"").map_or(subject, |(path, _)| path);
        let document = place(document);
        let known = [subject, bare].iter().any(|path| paths::leads_into(&document, path));
        assert!(known, "{error}");
    }
}

fn plan_on(
    host: &Host,
    config: &Config,
    notify: Option<&Path>,
    warnings: &mut Vec<String>,
) -> Result<Plan, Error> {
    let options = CreateOptions::new(config.clone(), PathBuf::from("/bundle"), Start::Later);
    plan::plan("c1", &options, notify, host, warnings)
}

/// Root on cgroup2 with security modules, and an ordinary user on a hybrid host without.
fn hosts() -> &'static [Host; 2] {
    static HOSTS: Once<[Host; 2]> = Once::new();
    HOSTS.get_or_init(|| {
        let [v2, _, hybrid] = cgroup::layouts("creator.slice/own.scope");
        let host = |id, permitted, layout, module| Host {
            uid: Uid::from_raw(id),
            gid: Gid::from_raw(id),
            permitted,
            layout,
            initial_user_namespace: true,
            modules: Modules { apparmor: module, selinux: module },
            chance: 7,
            // Planning needs the handle's type only.
            proc: Procfs::open().expect("this machine has /proc"),
        };
        [host(0, caps::ALL, v2, true), host(1000, 0, hybrid, false)]
    })
}

fn check(plan: &Plan, spec: &Spec) {
    assert!(plan.rootfs.is_absolute());
    for path in plan.cgroup.paths() {
        assert!(is_below(&path, Path::new("/nonexistent/cgroup")), "{path:?}");
    }
    for mount in &plan.mounts.mounts {
        check_path(&mount.target);
        let bind = matches!(mount.kind, Kind::Bind(_));
        let source = mount.source.as_deref();
        assert!(!bind || source.is_some_and(|source| source.to_bytes().starts_with(b"/")));
        assert!(!bind || mount.options.data.is_empty(), "data for a bind mount");
        // CVE-2019-16884: nothing of the container's may stand in for procfs.
        if mount.target.as_c_str() == c"proc" {
            let stands_in = matches!(mount.kind, Kind::Sysfs | Kind::Cgroup | Kind::Filesystem(_));
            assert!(!stands_in, "{mount:?}");
        }
    }
    let masks = &plan.mounts.masks;
    let nodes = plan.mounts.devices.iter().flatten().map(|node| &node.path);
    masks.masked.iter().chain(nodes).for_each(|path| check_path(path));
    for sysctl in &plan.sysctls {
        let path = Path::new(&sysctl.path);
        assert!(is_below(path, Path::new("sys")), "{sysctl:?}");
        assert!(validate_owner(&sysctl.path), "{sysctl:?}");
    }
    assert_eq!(plan.program.seccomp.is_some(), {
        spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some())
    });
    check_program(&plan.program);
}

/// Whether the parameter is one that belongs to a namespace.
fn validate_owner(path: &str) -> bool {
    ["sys/net/", "sys/fs/mqueue/", "sys/user/", "sys/kernel/msg", "sys/kernel/s", "sys/kernel/d"]
        .iter()
        .any(|start| path.starts_with(start))
}

/// A path of the container is relative to its root and goes down only.
fn check_path(path: &CStr) {
    let text = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    assert!(is_below(text, Path::new("")), "{path:?}");
}

fn check_program(program: &Program) {
    assert!(!program.args.is_empty());
    assert!(program.cwd.to_bytes().starts_with(b"/"), "{:?}", program.cwd);
    let all = &program.capabilities;
    assert_eq!(all.ambient & !(all.permitted & all.inheritable), 0, "{all:x?}");
    assert!(program.umask.bits() <= 0o777);
    assert!(program.uid.as_raw() != u32::MAX && program.gid.as_raw() != u32::MAX);
    assert!(
        program.groups.is_sorted_by_key(|g| g.as_raw())
            && program.groups.iter().all(|g| g.as_raw() != u32::MAX)
    );
    if let Some(filter) = &program.seccomp {
        compare::check(filter);
    }
}
