//! What is asked of CRIU, from what callers ask of us. No system call is made here.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::configuration;
use super::options::{CgroupMode, CheckpointOptions, CriuOptions, NetworkLock, RestoreOptions};
use super::rpc::{
    CgroupRoot, ExternalMount, InheritFd, JoinNamespace, Options, PageServer, Request, kind,
};
use crate::cgroup::Recorded;
use crate::namespaces;

/// The logs' names, as under runc: callers look for them.
pub(super) const DUMP_LOG: &str = "dump.log";
pub(super) const RESTORE_LOG: &str = "restore.log";

/// CRIU's level for what a person needs to find a mistake; runc's.
const LOG_LEVEL: i32 = 4;

/// Something that CRIU knows since a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// As the command line has it.
    pub what: &'static str,
    /// Major and minor version.
    pub since: (i32, i32),
}

/// What the options need of CRIU, the oldest version for anything first.
pub(super) fn needs(
    options: &CriuOptions,
    spec: &Spec,
    restore: Option<&RestoreOptions>,
) -> Vec<Needs> {
    let lock = options.network_lock;
    let process = spec.process().as_ref();
    let no_new_privileges = process.and_then(|p| p.no_new_privileges()).unwrap_or(false);
    let asked = |what: fn(&RestoreOptions) -> bool| restore.is_some_and(what);
    [
        (true, "checkpoint and restore", (3, 15)),
        (asked(|r| r.lsm_profile.is_some()), "--lsm-profile", (3, 16)),
        (asked(|r| r.lsm_mount_context.is_some()), "--lsm-mount-context", (3, 16)),
        // An older one restores processes that may gain privileges again.
        (no_new_privileges, "process.noNewPrivileges", (3, 19)),
        (lock.is_some(), "--network-lock", (3, 17)),
        (lock == Some(NetworkLock::Skip), "--network-lock skip", (3, 18)),
    ]
    .into_iter()
    .filter(|(applies, ..)| *applies)
    .map(|(_, what, since)| Needs { what, since })
    .collect()
}

/// Numbers of open descriptors in the worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub images: i32,
    pub work: Option<i32>,
    pub status: Option<i32>,
}

/// What was found out about a container that is to be saved.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub pid: i32,
    pub rootfs: PathBuf,
    pub mounts: Vec<ExternalMount>,
    /// Files and namespaces that are the host's.
    pub external: Vec<String>,
    /// The directory of the cgroup hierarchies, where CRIU does not mount them itself.
    pub yard: Option<PathBuf>,
    pub freezer: Option<PathBuf>,
}

/// What was prepared for a container that is to be restored.
#[derive(Clone, Debug, Default)]
pub(super) struct Prepared {
    pub root: PathBuf,
    /// As in [`Found`].
    pub yard: Option<PathBuf>,
    pub mounts: Vec<ExternalMount>,
    pub inherit: Vec<InheritFd>,
    pub join: Vec<JoinNamespace>,
    pub cgroups: Vec<CgroupRoot>,
}

/// The key of a joined namespace, as under runc; those alone that CRIU can leave to others.
pub(super) fn namespace_key(flag: i32) -> Option<&'static str> {
    match flag {
        libc::CLONE_NEWNET => Some("extRootNetNS"),
        libc::CLONE_NEWPID => Some("extRootPidNS"),
        _ => None,
    }
}

/// How a namespace that is the host's is named when it is saved.
pub(super) fn external_namespace(flag: i32, inode: u64) -> Option<String> {
    namespace_key(flag).map(|key| format!("{}[{inode}]:{key}", namespaces::file_name(flag)))
}

/// Namespaces that are joined anew on restore, since CRIU saves them as if they were the container's.
pub(super) fn join(flag: i32, path: &Path) -> Option<JoinNamespace> {
    matches!(flag, libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWTIME).then(|| {
        JoinNamespace {
            kind: namespaces::file_name(flag).to_owned(),
            file: path.to_string_lossy().into_owned(),
        }
    })
}

/// Where a restored container's processes are to be, in each hierarchy.
pub(super) fn cgroup_roots(recorded: &Recorded) -> Vec<CgroupRoot> {
    let mut roots: Vec<CgroupRoot> = recorded
        .0
        .iter()
        .filter_map(|group| {
            let relative = group.path.strip_prefix(&group.mount_point).ok()?;
            let controller = match (&group.name, group.unified) {
                // Without a controller it is for all hierarchies that are not named.
                (_, true) => None,
                (Some(name), _) => Some(format!("name={name}")),
                (None, _) => Some(group.controllers.join(",")),
            };
            Some(CgroupRoot { controller, path: format!("/{}", relative.display()) })
        })
        .collect();
    roots.sort_by(|a, b| a.controller.cmp(&b.controller));
    roots
}

/// The freezer that holds a container's processes.
pub(super) fn freezer(recorded: &Recorded) -> Option<PathBuf> {
    let has = |name: &str, controllers: &[String]| controllers.iter().any(|c| c == name);
    let v1 = recorded.0.iter().find(|group| has("freezer", &group.controllers));
    v1.or_else(|| recorded.0.iter().find(|group| group.unified)).map(|group| group.path.clone())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn shared(options: &CriuOptions, spec: &Spec, numbers: Numbers, log: &str) -> Options {
    let set = |flag: bool| flag.then_some(true);
    Options {
        images_dir_fd: numbers.images,
        work_dir_fd: numbers.work,
        log_level: Some(LOG_LEVEL),
        log_file: Some(log.to_owned()),
        notify_scripts: Some(true),
        orphan_pts_master: Some(true),
        manage_cgroups: Some(true),
        manage_cgroups_mode: Some(match options.cgroups {
            CgroupMode::Ignore => 0,
            CgroupMode::Soft => 3,
            CgroupMode::Full => 4,
            CgroupMode::Strict => 5,
        }),
        tcp_established: set(options.tcp_established),
        tcp_close: set(options.tcp_close),
        ext_unix_sk: set(options.ext_unix_sk),
        shell_job: set(options.shell_job),
        file_locks: set(options.file_locks),
        auto_dedup: set(options.auto_dedup),
        lazy_pages: set(options.lazy_pages),
        link_remap: set(options.link_remap),
        empty_ns: options.empty_network.then_some(libc::CLONE_NEWNET as u32),
        network_lock: options.network_lock.map(|lock| match lock {
            NetworkLock::Iptables => 1,
            NetworkLock::Nftables => 2,
            NetworkLock::Skip => 3,
        }),
        config_file: configuration::file(options, spec),
        ..Options::default()
    }
}

/// The request that saves a container.
pub(super) fn dump(
    options: &CheckpointOptions,
    spec: &Spec,
    numbers: Numbers,
    found: Found,
) -> Request {
    let set = |flag: bool| flag.then_some(true);
    let asked = Options {
        pid: Some(found.pid),
        root: Some(text(&found.rootfs)),
        leave_running: set(options.leave_running),
        tcp_skip_in_flight: set(options.tcp_skip_in_flight),
        status_fd: numbers.status,
        page_server: options.page_server.as_ref().map(|(address, port)| PageServer {
            address: Some(address.clone()),
            port: Some(i32::from(*port)),
        }),
        parent_img: options.parent_images.as_deref().map(text),
        // Each image of a chain says which pages the next may leave out.
        track_mem: set(options.pre_dump || options.parent_images.is_some()),
        cgroup_yard: found.yard.as_deref().map(text),
        freeze_cgroup: found.freezer.as_deref().map(text),
        external_mounts: found.mounts,
        external: found.external,
        ..shared(&options.criu, spec, numbers, DUMP_LOG)
    };
    let kind = if options.pre_dump { kind::PRE_DUMP } else { kind::DUMP };
    Request { kind, options: Some(asked), ..Request::default() }
}

/// The request that restores a container.
pub(super) fn restore(options: &RestoreOptions, numbers: Numbers, prepared: Prepared) -> Request {
    let spec = &options.create.config.spec;
    let asked = Options {
        root: Some(text(&prepared.root)),
        cgroup_yard: prepared.yard.as_deref().map(text),
        rst_sibling: Some(true),
        evasive_devices: Some(true),
        external_mounts: prepared.mounts,
        inherit_fds: prepared.inherit,
        join_ns: prepared.join,
        cgroup_roots: prepared.cgroups,
        lsm_profile: options.lsm_profile.clone(),
        lsm_mount_context: options.lsm_mount_context.clone(),
        ..shared(&options.criu, spec, numbers, RESTORE_LOG)
    };
    Request { kind: kind::RESTORE, options: Some(asked), ..Request::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cgroup::RecordedGroup;

    fn spec(json: serde_json::Value) -> Spec {
        serde_json::from_value(json).unwrap()
    }

    fn minimal() -> Spec {
        spec(json!({ "ociVersion": "1.0.2" }))
    }

    fn options() -> CriuOptions {
        CriuOptions::new("/usr/sbin/criu".into(), "/images".into())
    }

    #[test]
    fn an_older_criu_is_not_asked_for_what_it_would_skip() {
        let needs = |options: &CriuOptions, spec: &Spec| -> Vec<_> {
            super::needs(options, spec, None).iter().map(|need| (need.what, need.since)).collect()
        };
        let all = ("checkpoint and restore", (3, 15));
        assert_eq!(needs(&options(), &minimal()), [all]);
        let confined = spec(json!({
            "ociVersion": "1.0.2",
            "process": { "cwd": "/", "noNewPrivileges": true, "user": { "uid": 0, "gid": 0 } },
        }));
        assert_eq!(needs(&options(), &confined), [all, ("process.noNewPrivileges", (3, 19))]);
        let skip = CriuOptions { network_lock: Some(NetworkLock::Skip), ..options() };
        assert_eq!(needs(&skip, &minimal()).last(), Some(&("--network-lock skip", (3, 18))));
    }

    #[test]
    fn restored_processes_are_in_the_new_containers_cgroups() {
        let group = |controllers: &[&str], name: Option<&str>, unified, path: &str| RecordedGroup {
            controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
            name: name.map(str::to_owned),
            unified,
            mount_point: "/sys/fs/cgroup/x".into(),
            path: Path::new("/sys/fs/cgroup/x").join(path),
            ancestors: Vec::new(),
            subgroup: None,
        };
        let recorded = Recorded(vec![
            group(&["cpu", "cpuacct"], None, false, "a"),
            group(&["freezer"], None, false, "f"),
            group(&[], Some("systemd"), false, "s"),
            group(&[], None, true, "b/c"),
        ]);
        let roots: Vec<_> =
            cgroup_roots(&recorded).into_iter().map(|root| (root.controller, root.path)).collect();
        let named = |name: &str, path: &str| (Some(name.to_owned()), path.to_owned());
        assert_eq!(
            roots,
            [
                (None, "/b/c".to_owned()),
                named("cpu,cpuacct", "/a"),
                named("freezer", "/f"),
                named("name=systemd", "/s"),
            ]
        );
        assert_eq!(freezer(&recorded), Some("/sys/fs/cgroup/x/f".into()));
        assert_eq!(
            freezer(&Recorded(recorded.0[3..].to_vec())),
            Some("/sys/fs/cgroup/x/b/c".into())
        );
    }

    #[test]
    fn only_network_and_pid_namespaces_can_be_external() {
        let key = |flag| external_namespace(flag, 7);
        assert_eq!(key(libc::CLONE_NEWNET).as_deref(), Some("net[7]:extRootNetNS"));
        assert_eq!(key(libc::CLONE_NEWPID).as_deref(), Some("pid[7]:extRootPidNS"));
        assert_eq!(key(libc::CLONE_NEWIPC), None);
        let joined = join(libc::CLONE_NEWIPC, Path::new("/run/ns/x")).unwrap();
        assert_eq!((joined.kind.as_str(), joined.file.as_str()), ("ipc", "/run/ns/x"));
        assert_eq!(join(libc::CLONE_NEWUSER, Path::new("/x")), None);
    }

    #[test]
    fn a_pre_dump_tracks_memory() {
        let asked = |pre_dump, parent: Option<&str>| {
            let options = CheckpointOptions {
                criu: options(),
                leave_running: false,
                pre_dump,
                parent_images: parent.map(PathBuf::from),
                tcp_skip_in_flight: false,
                status: None,
                page_server: None,
            };
            let numbers = Numbers { images: 4, work: None, status: None };
            let request = dump(&options, &minimal(), numbers, Found::default());
            let asked = request.options.unwrap();
            (request.kind, asked.track_mem, asked.parent_img)
        };
        assert_eq!(asked(false, None), (kind::DUMP, None, None));
        assert_eq!(asked(true, None), (kind::PRE_DUMP, Some(true), None));
        assert_eq!(asked(false, Some("../a")), (kind::DUMP, Some(true), Some("../a".into())));
    }
}
