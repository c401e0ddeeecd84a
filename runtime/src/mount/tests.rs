//! The mount code on the real kernel: each test in namespaces of its own, on a tmpfs over /tmp.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

use super::*;
use crate::cgroup::layout::{Hierarchy, Unified};
use crate::testing::in_namespaces;

const MNT: CloneFlags = CloneFlags::CLONE_NEWNS;
const USER: CloneFlags = CloneFlags::CLONE_NEWUSER;
const ALL: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// A child that needs nobody's help.
struct Alone;

impl Creator for Alone {
    fn rootfs(&mut self) -> Result<OwnedFd> {
        panic!("asked for the rootfs")
    }
    fn bind_source(&mut self, index: usize) -> Result<OwnedFd> {
        panic!("asked for mounts[{index}]")
    }
    fn clone_source(&mut self, index: usize) -> Result<OwnedFd> {
        panic!("mounts[{index}] was asked for")
    }

    fn idmap(&mut self, index: usize, _: BorrowedFd<'_>) -> Result<()> {
        panic!("asked to map mounts[{index}]")
    }
}

fn spec(mounts: Value, linux: Value, root: Value) -> Spec {
    let json = json!({
        "ociVersion": "1.3.0", "root": root, "mounts": mounts, "linux": linux,
        "annotations": {"run.oci.systemd.force_cgroup_v1": "/v1"},
    });
    serde_json::from_value(json).unwrap()
}

fn facts(layout: &Layout, user_namespace: bool) -> Facts<'_> {
    Facts {
        label: None,
        user_namespace,
        mount_namespace: true,
        pid_namespace: true,
        cgroup_namespace: true,
        no_pivot: false,
        layout,
        cgroup_dirs: Vec::new(),
    }
}

fn plan_of(spec: &Spec, user_namespace: bool) -> Result<Plan> {
    let layout = host_layout();
    let facts = facts(&layout, user_namespace);
    let plan = plan(spec, Path::new("/tmp/b"), &facts, &mut Faults::First, &mut Vec::new())?;
    Ok(plan.expect("a fault would have been an error"))
}

/// The hierarchies of this machine, as mountinfo has them.
fn host_layout() -> Layout {
    let mut layout = Layout::default();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let dash = fields.iter().position(|f| *f == "-").unwrap();
        let mount_point = PathBuf::from(fields[4]);
        match fields[dash + 1] {
            "cgroup2" => layout.unified = Some(Unified { mount_point, own: PathBuf::new() }),
            "cgroup" => {
                let words: Vec<&str> = fields[dash + 3].split(',').filter(|w| *w != "rw").collect();
                let name = words.iter().find_map(|w| w.strip_prefix("name=")).map(str::to_owned);
                let controllers =
                    words.iter().filter(|w| !w.contains('=')).map(|w| (*w).to_owned()).collect();
                layout.v1.push(Hierarchy { controllers, name, mount_point, own: PathBuf::new() });
            }
            _ => {}
        }
    }
    layout
}

/// A bundle in a tmpfs over /tmp, which only this mount namespace sees.
fn bundle() {
    mount(Some("t"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    for dir in ["b/rootfs/etc", "b/rootfs/dev", "host", "host/sub"] {
        fs::create_dir_all(Path::new("/tmp").join(dir)).unwrap();
    }
    fs::write("/tmp/host/file", "host").unwrap();
}

fn carry_out(plan: &Plan, creator: &mut impl Creator) -> Result<()> {
    let mut root = Root::open(plan, creator)?;
    root.mount_all(plan, Pids::Own, creator)?;
    root.devices(plan)?;
    root.enter(plan)?.finish(plan)
}

fn run(mounts: Value, linux: Value) -> Result<()> {
    let userns = is_user_namespace();
    carry_out(&plan_of(&spec(mounts, linux, json!({"path": "rootfs"})), userns)?, &mut Alone)
}

fn is_user_namespace() -> bool {
    !fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295")
}

fn error(mounts: Value, linux: Value) -> String {
    run(mounts, linux).unwrap_err().to_string()
}

/// Mounts `/proc` last of all, to read mountinfo.
fn with_proc(mut mounts: Value) -> Value {
    let proc = json!({"destination": "/proc", "type": "proc", "source": "proc"});
    mounts.as_array_mut().unwrap().push(proc);
    mounts
}

/// Options of the mount (field 6), propagation and options of the file system at `point`; the last.
fn shown(point: &str) -> String {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(point));
    let line = line.unwrap_or_else(|| panic!("{point} in {text}"));
    let fields: Vec<&str> = line.split(' ').collect();
    let dash = fields.iter().position(|f| *f == "-").unwrap();
    format!("{} [{}] {}", fields[5], fields[6..dash].join(" "), fields[dash + 3])
}

fn default_mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro", "noatime"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ])
}

fn default_linux() -> Value {
    json!({
        "maskedPaths": ["/proc/kcore", "/proc/acpi", "/proc/keys", "/proc/timer_list", "/sys/firmware",
            "/proc/scsi", "/no/such/path", "/etc/passwd/nor/this"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        "devices": [
            {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o620},
        ],
    })
}

fn check_default(userns: bool) {
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (path, device) in [
        ("/dev/null", 0x103),
        ("/dev/zero", 0x105),
        ("/dev/full", 0x107),
        ("/dev/random", 0x108),
        ("/dev/urandom", 0x109),
        ("/dev/tty", 0x500),
        ("/dev/net/tun", 0xac8),
    ] {
        let data = fs::metadata(path).unwrap();
        assert!(data.file_type().is_char_device(), "{path}");
        assert_eq!(data.rdev(), device, "{path}");
    }
    assert_eq!(mode("/dev/null"), 0o666);
    assert!(fs::metadata("/dev/fifo").unwrap().file_type().is_fifo());
    assert_eq!(mode("/dev/fifo"), 0o620);
    if !userns {
        let tun = fs::metadata("/dev/net/tun").unwrap();
        assert_eq!((tun.uid(), tun.gid(), tun.mode() & 0o7777), (7, 8, 0o640));
    }
    for (link, text) in
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("ptmx", "pts/ptmx")]
    {
        assert_eq!(fs::read_link(Path::new("/dev").join(link)).unwrap(), Path::new(text));
    }
    assert!(shown("/dev").starts_with("rw,nosuid"), "{}", shown("/dev"));
    assert!(shown("/dev/pts").contains("gid=5,mode=620,ptmxmode=666"), "{}", shown("/dev/pts"));
    assert_eq!(mode("/dev/shm"), 0o1777);
    assert!(shown("/sys").starts_with("ro,nosuid,nodev,noexec"), "{}", shown("/sys"));
    assert!(shown("/dev/mqueue").starts_with("rw,nosuid,nodev,noexec"));
    assert!(
        shown("/sys/fs/cgroup").starts_with("ro,nosuid,nodev,noexec"),
        "{}",
        shown("/sys/fs/cgroup")
    );
    // Masked: nothing to read, no entry, and read-only.
    assert_eq!(fs::read("/proc/timer_list").unwrap_or_default(), b"");
    assert_eq!(fs::metadata("/proc/keys").unwrap().rdev(), 0x103);
    assert!(shown("/proc/keys").starts_with("ro,"), "{}", shown("/proc/keys"));
    assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
    assert!(fs::write("/sys/firmware/x", "").is_err());
    assert!(shown("/proc/sys").starts_with("ro,"));
    assert!(fs::write("/proc/sys/kernel/hostname", "x").is_err());
    assert!(fs::metadata("/tmp").is_err(), "the host's /tmp is gone");
}

#[test]
fn default_container() {
    in_namespaces(ALL, || {
        bundle();
        // Not the container's null: the mask would follow this link.
        symlink("/etc", "/tmp/b/rootfs/dev/null").unwrap();
        run(default_mounts(), default_linux()).unwrap();
        check_default(false);
    });
}

#[test]
fn default_container_in_a_user_namespace() {
    in_namespaces(ALL | USER, || {
        bundle();
        run(default_mounts(), default_linux()).unwrap();
        check_default(true);
    });
}

#[test]
fn network_of_the_host_means_sysfs_of_the_host() {
    in_namespaces(ALL.difference(CloneFlags::CLONE_NEWNET) | USER, || {
        bundle();
        run(default_mounts(), json!({})).unwrap();
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if fields[4] == "/sys" || fields[4].starts_with("/sys/") {
                assert!(fields[5].starts_with("ro,nosuid,nodev,noexec"), "{line}");
            }
        }
        assert!(fs::read_dir("/sys/class").unwrap().count() > 0);
    });
}

#[test]
fn options_become_what_mountinfo_shows() {
    // Options of a tmpfs and what the mount and the file system then show.
    let table: &[(&[&str], &str, &str)] = &[
        (&[], "rw,relatime", "rw"),
        (&["ro"], "ro,relatime", "rw"),
        (&["ro", "rw"], "rw,relatime", "rw"),
        (&["nosuid", "nodev", "noexec"], "rw,nosuid,nodev,noexec,relatime", "rw"),
        (&["nosuid", "suid", "nodev", "dev", "noexec", "exec"], "rw,relatime", "rw"),
        (&["noatime"], "rw,noatime", "rw"),
        (&["noatime", "atime"], "rw,relatime", "rw"),
        (&["strictatime"], "rw", "rw"),
        (&["strictatime", "nostrictatime"], "rw,relatime", "rw"),
        (&["nodiratime"], "rw,nodiratime,relatime", "rw"),
        (&["nodiratime", "diratime", "norelatime"], "rw,relatime", "rw"),
        (&["nosymfollow"], "rw,relatime,nosymfollow", "rw"),
        (&["nosymfollow", "symfollow"], "rw,relatime", "rw"),
        (&["sync"], "rw,relatime", "rw,sync"),
        (&["sync", "async"], "rw,relatime", "rw"),
        (&["dirsync"], "rw,relatime", "rw,dirsync"),
        (&["rsync"], "rw,relatime", "rw,sync"),
        (&["lazytime"], "rw,relatime", "rw,lazytime"),
        (&["lazytime", "nolazytime"], "rw,relatime", "rw"),
        (&["mand", "nomand", "silent", "loud", "acl", "noacl", "defaults"], "rw,relatime", "rw"),
        (
            &["iversion", "ro", "noatime", "sync", "nosymfollow"],
            "ro,noatime,nosymfollow",
            "ro,sync",
        ),
        (&["iversion", "noiversion"], "rw,relatime", "rw"),
        (
            &["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"],
            "ro,nosuid,nodev,noexec,noatime",
            "rw",
        ),
        (&["rnodiratime", "rnosymfollow", "rstrictatime"], "rw,nodiratime,nosymfollow", "rw"),
        (&["size=64k", "mode=700"], "rw,relatime", "rw,size=64k,mode=700"),
        (&["size=64k,nr_inodes=9"], "rw,relatime", "rw,size=64k,nr_inodes=9"),
    ];
    in_namespaces(ALL, || {
        bundle();
        let mounts = table.iter().enumerate().map(|(i, (words, ..))| {
            json!({"destination": format!("/t{i}"), "type": "tmpfs", "source": "x", "options": words})
        });
        run(with_proc(mounts.collect()), json!({})).unwrap();
        for (i, (words, of_mount, of_fs)) in table.iter().enumerate() {
            let got = shown(&format!("/t{i}")).replace(",inode64", "");
            assert_eq!(got, format!("{of_mount} [] {of_fs}"), "{words:?}");
        }
    });
}

#[test]
fn binds_take_and_lose_flags() {
    let table: &[(&[&str], &str)] = &[
        (&["bind"], "ro,nosuid,noatime []"),
        (&["bind", "nodev"], "ro,nosuid,nodev,noatime []"),
        (&["bind", "rw"], "rw,nosuid,noatime []"),
        (&["bind", "suid", "relatime"], "ro,relatime []"),
        (&["bind", "atime"], "ro,nosuid,relatime []"),
        (&["bind", "strictatime"], "ro,nosuid []"),
        (&["rbind", "rrw", "rsuid", "rrelatime"], "rw,relatime []"),
        (&["bind", "shared"], "ro,nosuid,noatime [shared:N]"),
        (&["bind", "shared", "slave", "private", "unbindable"], "ro,nosuid,noatime [unbindable]"),
        (&["rbind", "runbindable", "rprivate", "rshared"], "ro,nosuid,noatime [shared:N]"),
    ];
    in_namespaces(ALL, || {
        bundle();
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
        mount(Some("x"), "/tmp/host/sub", Some("tmpfs"), flags, None::<&str>).unwrap();
        let mounts = table.iter().enumerate().map(|(i, (words, ..))| {
            json!({"destination": format!("/t{i}"), "source": "/tmp/host/sub", "options": words})
        });
        run(with_proc(mounts.collect()), json!({})).unwrap();
        for (i, (words, expected)) in table.iter().enumerate() {
            let got = shown(&format!("/t{i}"));
            let digits = |c: char| c.is_ascii_digit();
            let got = got.rsplit_once(' ').unwrap().0.split(digits).filter(|p| !p.is_empty());
            assert_eq!(got.collect::<Vec<_>>().join("N"), *expected, "{words:?}");
        }
    });
}

#[test]
fn recursive_means_recursive() {
    in_namespaces(ALL, || {
        bundle();
        mount(Some("x"), "/tmp/host/sub", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::create_dir("/tmp/host/sub/deep").unwrap();
        mount(Some("x"), "/tmp/host/sub/deep", Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .unwrap();
        let bind = |at: &str, words: &[&str]| json!({"destination": at, "source": "/tmp/host", "options": words});
        let mounts = json!([
            bind("/a", &["rbind", "rro"]),
            bind("/b", &["rbind", "ro"]),
            bind("/c", &["bind", "ro"]),
            bind("/d", &["rbind", "rro", "rw"]),
            bind("/e", &["rbind", "rprivate"]),
        ]);
        run(with_proc(mounts), json!({"readonlyPaths": ["/e"]})).unwrap();
        let writable = |path: &str| fs::write(Path::new(path).join("x"), "").is_ok();
        for (path, expected) in [
            ("/a", false),
            ("/a/sub", false),
            ("/a/sub/deep", false),
            ("/b", false),
            ("/b/sub", true),
            ("/b/sub/deep", true),
            ("/c", false),
            ("/c/sub", false),
            ("/d", true),
            ("/d/sub", false),
            ("/d/sub/deep", false),
            ("/e/sub/deep", false),
        ] {
            assert_eq!(writable(path), expected, "{path}");
        }
    });
}

#[test]
fn host_read_only_stays_so_in_a_user_namespace() {
    in_namespaces(MNT, || {
        bundle();
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("x"), "/tmp/host/sub", Some("tmpfs"), flags, None::<&str>).unwrap();
        // The bundle is made inside, so the volume is what must keep its flags.
        let bind = |words: &[&str]| json!([{"destination": "/v", "source": "/tmp/host/sub", "options": words}]);
        in_namespaces(ALL | USER, || {
            let failed = error(bind(&["rbind", "rw", "suid", "dev"]), json!({}));
            assert!(
                failed.contains("mounts[0]") && failed.contains("rw, suid contradicts"),
                "{failed}"
            );
        });
        in_namespaces(ALL | USER, || {
            run(with_proc(bind(&["rbind", "nodev"])), json!({})).unwrap();
            assert!(shown("/v").starts_with("ro,nosuid,nodev,noexec"), "{}", shown("/v"));
            let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            mount(None::<&str>, "/v", None::<&str>, remount, None::<&str>).unwrap_err();
            let v =
                nix::fcntl::open("/v", nix::fcntl::OFlag::O_PATH, nix::sys::stat::Mode::empty())
                    .unwrap();
            use std::os::fd::AsFd;
            crate::sys::mount::set_attributes(v.as_fd(), Depth::Top, 0, 1).unwrap_err();
            fs::write("/v/x", "").unwrap_err();
        });
    });
}

#[test]
fn links_of_the_image_lead_nowhere() {
    let cases: &[(&str, &str, Value, &str)] = &[
        ("dev", "/tmp/host", json!([]), "open \"/dev\""),
        ("dev", "../host", json!([]), "open \"/dev\""),
        ("proc", "/tmp/host", with_proc(json!([])), "symbolic link"),
        ("proc", "/etc", with_proc(json!([])), "symbolic link"),
        ("sys", "/etc", json!([{"destination": "/sys", "type": "sysfs"}]), "symbolic link"),
        (
            "l",
            "/proc",
            json!([
            {"destination": "/proc", "type": "proc"},
            {"destination": "/l/sys", "type": "tmpfs"}]),
            "into /proc",
        ),
        ("l", "/", json!([{"destination": "/l", "type": "tmpfs"}]), "leads to the root"),
        ("l", "l", json!([{"destination": "/l", "type": "tmpfs"}]), "ELOOP"),
        ("l", "l", json!([{"destination": "/l/x/y", "type": "tmpfs"}]), "ELOOP"),
    ];
    for (name, text, mounts, expected) in cases {
        in_namespaces(ALL, || {
            bundle();
            fs::remove_dir("/tmp/b/rootfs/dev").unwrap();
            symlink(text, Path::new("/tmp/b/rootfs").join(name)).unwrap();
            let before = fs::read_dir("/tmp/host").unwrap().count();
            let failed = error(mounts.clone(), json!({}));
            assert!(failed.contains(expected), "{name}: {failed}");
            assert_eq!(fs::read_dir("/tmp/host").unwrap().count(), before);
            assert_eq!(fs::read_dir("/tmp/host/sub").unwrap().count(), 0);
        });
    }
}

#[test]
fn missing_ends_of_links_are_made_inside() {
    in_namespaces(ALL, || {
        bundle();
        // The second is how systemd's images have it.
        for (name, text) in [
            ("abs", "/tmp/host/new"),
            ("etc/resolv.conf", "../run/stub"),
            ("up", "../../../../up-target"),
            ("etc/a", "b/../c/./d"),
            ("self", "/abs/file"),
        ] {
            symlink(text, Path::new("/tmp/b/rootfs").join(name)).unwrap();
        }
        let file =
            |at: &str| json!({"destination": at, "source": "/tmp/host/file", "options": ["bind"]});
        let mounts = json!([
            {"destination": "/abs/x", "type": "tmpfs"},
            file("/etc/resolv.conf"), file("up"), file("/etc/a"), file("self"), file("relative/deep/file"),
        ]);
        run(with_proc(mounts), json!({})).unwrap();
        for path in
            ["/run/stub", "/up-target", "/etc/c/d", "/tmp/host/new/file", "/relative/deep/file"]
        {
            assert_eq!(fs::read_to_string(path).unwrap(), "host", "{path}");
        }
        assert!(shown("/tmp/host/new/x").starts_with("rw"));
    });
}

#[test]
fn a_race_for_a_target_stays_inside() {
    in_namespaces(MNT, || {
        bundle();
        fs::create_dir("/tmp/b/rootfs/a").unwrap();
        let Some(attacker) = crate::sys::testing::fork() else {
            // Another container with the same volume: a directory, a link to the host, nothing.
            loop {
                let a = "/tmp/b/rootfs/a";
                let _ = fs::remove_dir(a);
                let _ = symlink("/tmp/host", a);
                let _ = fs::remove_file(a);
                let _ = symlink("../../../tmp/host", a);
                let _ = fs::remove_file(a);
                let _ = fs::create_dir(a);
            }
        };
        for _ in 0..150 {
            in_namespaces(MNT, || {
                let mounts = json!([
                    {"destination": "/a/new", "source": "/tmp/host/file", "options": ["bind"]},
                    {"destination": "/a/sub", "type": "tmpfs"},
                ]);
                // It may fail; it must not leave the root.
                let spec = spec(mounts, json!({}), json!({"path": "rootfs"}));
                let _ = carry_out(&plan_of(&spec, false).unwrap(), &mut Alone);
            });
        }
        nix::sys::signal::kill(attacker, nix::sys::signal::Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(attacker, None).unwrap();
        let names =
            fs::read_dir("/tmp/host").unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::read_dir("/tmp/host/sub").unwrap().count(), 0);
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!text.contains("/tmp/b") && !text.contains("/tmp/host"), "{text}");
    });
}

#[test]
fn what_the_image_has_for_devices_is_replaced() {
    in_namespaces(ALL, || {
        bundle();
        fs::write("/tmp/b/rootfs/dev/null", "image").unwrap();
        symlink("/etc/passwd", "/tmp/b/rootfs/dev/zero").unwrap();
        symlink("/etc/passwd", "/tmp/b/rootfs/dev/ptmx").unwrap();
        symlink("/proc/self/fd", "/tmp/b/rootfs/dev/fd").unwrap();
        symlink("/etc", "/tmp/b/rootfs/dev/net").unwrap();
        run(with_proc(json!([])), json!({})).unwrap();
        assert_eq!(fs::symlink_metadata("/dev/null").unwrap().rdev(), 0x103);
        assert_eq!(fs::symlink_metadata("/dev/zero").unwrap().rdev(), 0x105);
        assert_eq!(fs::read_link("/dev/ptmx").unwrap(), Path::new("pts/ptmx"));
    });
    in_namespaces(ALL, || {
        bundle();
        symlink("/etc", "/tmp/b/rootfs/dev/net").unwrap();
        let failed = error(json!([]), default_linux());
        assert!(failed.contains("/dev/net/tun") && failed.contains("ELOOP"), "{failed}");
        assert!(fs::metadata("/tmp/b/rootfs/etc/tun").is_err());
    });
}

#[test]
fn a_bound_dev_is_left_alone() {
    in_namespaces(ALL, || {
        bundle();
        let mounts = json!([{"destination": "/dev/", "source": "/tmp/host", "options": ["rbind"]}]);
        run(mounts, json!({})).unwrap();
        assert_eq!(fs::read_dir("/dev").unwrap().count(), 2);
    });
}

#[test]
fn thousands_of_mounts_and_few_descriptors() {
    in_namespaces(ALL, || {
        bundle();
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, 40, 40).unwrap();
        let mounts = (0..2000).map(|i| match i % 4 {
            0 => json!({"destination": format!("/d/{i}"), "type": "tmpfs", "options": ["ro"]}),
            _ => json!({"destination": format!("/d/{i}"), "source": "/tmp/host/file", "options": ["bind", "ro"]}),
        });
        run(with_proc(mounts.collect()), json!({})).unwrap();
        assert_eq!(fs::read_dir("/d").unwrap().count(), 2000);
        assert!(shown("/d/1999").starts_with("ro,"));
    });
}

#[test]
fn read_only_comes_last() {
    in_namespaces(ALL, || {
        bundle();
        let mounts = json!([
            {"destination": "/dev", "type": "tmpfs", "options": ["ro", "nosuid"]},
            {"destination": "/run", "type": "tmpfs", "options": ["ro"]},
            {"destination": "/run/secrets/x", "source": "/tmp/host/file", "options": ["bind"]},
        ]);
        let spec = spec(
            with_proc(mounts),
            json!({"rootfsPropagation": "shared"}),
            json!({"path": "rootfs", "readonly": true}),
        );
        carry_out(&plan_of(&spec, false).unwrap(), &mut Alone).unwrap();
        assert!(shown("/dev").starts_with("ro,nosuid"), "{}", shown("/dev"));
        assert!(shown("/run").starts_with("ro,"));
        assert_eq!(fs::read_to_string("/run/secrets/x").unwrap(), "host");
        assert!(shown("/").starts_with("ro,relatime [shared:"), "{}", shown("/"));
        assert!(fs::write("/x", "").is_err());
    });
}

#[test]
fn tmpfs_looks_like_what_it_covers() {
    in_namespaces(ALL, || {
        bundle();
        let dir = Path::new("/tmp/b/rootfs/data");
        fs::create_dir_all(dir.join("in/ner")).unwrap();
        fs::write(dir.join("in/file"), "text").unwrap();
        fs::set_permissions(dir.join("in/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        std::os::unix::fs::chown(dir.join("in/file"), Some(11), Some(12)).unwrap();
        fs::set_permissions(dir.join("in/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o1751)).unwrap();
        symlink("/tmp/host/file", dir.join("link")).unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let mounts = json!([
            {"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "ro"]},
            {"destination": "/etc", "type": "tmpfs", "options": ["mode=0700"]},
            {"destination": "/new", "type": "tmpfs", "options": ["tmpcopyup"]},
        ]);
        run(with_proc(mounts), json!({})).unwrap();
        let mode = |path: &str| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode("/data"), mode("/etc"), mode("/new")), (0o1751, 0o700, 0o1777));
        let file = fs::metadata("/data/in/file").unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (11, 12, 0o4711));
        assert_eq!(fs::read_to_string("/data/in/file").unwrap(), "text");
        assert_eq!(fs::read_link("/data/link").unwrap(), Path::new("/tmp/host/file"));
        assert!(fs::symlink_metadata("/data/fifo").unwrap().file_type().is_fifo());
        assert!(shown("/data").starts_with("ro,"), "{}", shown("/data"));
    });
}

#[test]
fn no_pivot() {
    in_namespaces(ALL, || {
        bundle();
        let layout = host_layout();
        let facts = Facts { no_pivot: true, ..facts(&layout, false) };
        let spec = spec(default_mounts(), default_linux(), json!({"path": "rootfs"}));
        let plan = plan(&spec, Path::new("/tmp/b"), &facts, &mut Faults::First, &mut Vec::new())
            .unwrap()
            .unwrap();
        carry_out(&plan, &mut Alone).unwrap();
        check_default(false);
        let text = fs::read_to_string("/proc/1/mountinfo").unwrap();
        assert_eq!(
            text.lines().filter(|l| l.contains(" - proc ") && l.contains(" / / ")).count(),
            0
        );
    });
}

#[test]
fn without_a_mount_namespace_the_root_is_only_changed() {
    in_namespaces(MNT, || {
        bundle();
        let layout = host_layout();
        let facts = Facts { mount_namespace: false, ..facts(&layout, false) };
        let mut warnings = Vec::new();
        let bare = spec(default_mounts(), json!({}), json!({"path": "rootfs"}));
        let plan_ = plan(&bare, Path::new("/tmp/b"), &facts, &mut Faults::First, &mut warnings)
            .unwrap()
            .unwrap();
        assert_eq!(warnings.len(), 1);
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        in_namespaces(CloneFlags::empty(), || {
            carry_out(&plan_, &mut Alone).unwrap();
            assert!(fs::metadata("/etc").is_ok() && fs::metadata("/proc").is_err());
        });
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
        let masked = spec(json!([]), default_linux(), json!({"path": "rootfs"}));
        let failed = plan(&masked, Path::new("/tmp/b"), &facts, &mut Faults::First, &mut warnings)
            .unwrap_err();
        assert_eq!(failed.subject(), "linux.maskedPaths");
    });
}

#[test]
fn propagation_reaches_only_who_asked() {
    for (word, from_host, to_host) in [
        ("rshared", true, true),
        ("rslave", true, false),
        ("", true, false),
        ("private", false, false),
    ] {
        in_namespaces(MNT, || {
            bundle();
            mount(Some("x"), "/tmp/host", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            fs::create_dir_all("/tmp/host/in").unwrap();
            fs::create_dir_all("/tmp/host/out").unwrap();
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_SHARED | MsFlags::MS_REC,
                None::<&str>,
            )
            .unwrap();
            let bind = if word.is_empty() { json!(["rbind"]) } else { json!(["rbind", word]) };
            let (reader, writer) = nix::unistd::pipe().unwrap();
            let (answer, answered) = nix::unistd::pipe().unwrap();
            let before = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
            let Some(child) = crate::sys::testing::fork() else {
                drop((reader, answered));
                nix::sched::unshare(MNT).unwrap();
                let mounts = with_proc(json!([
                    {"destination": "/v", "source": "/tmp/host", "options": bind},
                    {"destination": "/etc", "type": "tmpfs"},
                ]));
                run(mounts, json!({"rootfsPropagation": word, "maskedPaths": ["/proc/keys"]}))
                    .unwrap();
                mount(Some("x"), "/v/out", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
                nix::unistd::write(&writer, b"m").unwrap();
                nix::unistd::read(&answer, &mut [0]).unwrap();
                let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
                crate::sys::testing::exit(i32::from(text.contains(" /v/in ")));
            };
            drop((writer, answer));
            assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 1, "{word}");
            let now = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert_eq!(now.contains(" /tmp/host/out "), to_host, "{word}: {now}");
            assert_eq!(now.lines().count(), before + usize::from(to_host), "{word}: {now}");
            mount(Some("x"), "/tmp/host/in", Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .unwrap();
            nix::unistd::write(&answered, b"g").unwrap();
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            let expected = nix::sys::wait::WaitStatus::Exited(child, i32::from(from_host));
            assert_eq!(status, expected, "{word}");
        });
    }
}

#[test]
fn remount_and_links_as_sources() {
    in_namespaces(ALL, || {
        bundle();
        symlink("file", "/tmp/host/link").unwrap();
        symlink("/etc", "/tmp/b/rootfs/there").unwrap();
        let link = |at: &str, words: &[&str]| json!({"destination": at, "source": "/tmp/host/link", "options": words});
        let mounts = json!([
            {"destination": "/t", "type": "tmpfs", "options": ["size=64k"]},
            {"destination": "/t", "options": ["remount", "size=128k", "nosuid"]},
            {"destination": "/v", "source": "/tmp/host", "options": ["rbind"]},
            {"destination": "/v", "options": ["remount", "bind", "ro"]},
            link("/copied", &["bind", "copy-symlink"]),
            link("/followed", &["bind"]),
            link("/etc/kept", &["bind", "src-nofollow", "dest-nofollow"]),
        ]);
        symlink("x", "/tmp/b/rootfs/etc/kept").unwrap();
        run(with_proc(mounts), json!({})).unwrap();
        assert!(shown("/t").starts_with("rw,nosuid,relatime [] rw,size=128k"), "{}", shown("/t"));
        assert!(shown("/v").starts_with("ro,"), "{}", shown("/v"));
        assert_eq!(fs::read_link("/copied").unwrap(), Path::new("file"));
        assert_eq!(fs::read_to_string("/followed").unwrap(), "host");
        assert_eq!(fs::read_link("/etc/kept").unwrap(), Path::new("file"));
    });
}

#[test]
fn long_values_and_kernel_messages() {
    in_namespaces(ALL, || {
        bundle();
        let mut lower = Vec::new();
        for i in 0..20 {
            let dir = format!("/tmp/host/a-long-name-for-a-layer-{i}");
            fs::create_dir(&dir).unwrap();
            fs::write(format!("{dir}/{i}"), "").unwrap();
            lower.push(dir);
        }
        let lower = format!("lowerdir={}", lower.join(":"));
        let mounts = json!([
            {"destination": "/o", "type": "overlay", "source": "overlay", "options": ["ro", "nodev", lower]},
        ]);
        run(with_proc(mounts), json!({})).unwrap();
        assert_eq!(fs::read_dir("/o").unwrap().count(), 20);
        assert!(shown("/o").starts_with("ro,nodev"));
    });
    in_namespaces(ALL, || {
        bundle();
        let tmpfs =
            |word: &str| json!([{"destination": "/t", "type": "tmpfs", "options": ["ro", word]}]);
        for (mounts, expected) in [
            (
                tmpfs("sise=1"),
                "mount \"/t\" (mounts[0].options[1] \"sise=1\") (tmpfs: Unknown parameter 'sise'): fsconfig: EINVAL",
            ),
            (tmpfs("size=x"), "(tmpfs: Bad value for 'size'): fsconfig: EINVAL"),
            (
                json!([{"destination": "/t", "type": "no-such-fs"}]),
                "of type \"no-such-fs\": fsopen: ENODEV",
            ),
            (
                json!([{"destination": "/t", "source": "/none", "options": ["bind"]}]),
                "mount \"/t\" (mounts[0]) from \"/none\": open_tree: ENOENT",
            ),
            (
                json!([{"destination": "/etc", "source": "/tmp/host/file", "options": ["bind"]}]),
                "one of source and destination is not a directory",
            ),
            (
                json!([{"destination": "/proc", "source": "/tmp/host", "options": ["bind"]}]),
                "mounts[0].source: only a procfs",
            ),
            (
                json!([{"destination": "/proc", "source": "/proc/sys", "options": ["rbind"]}]),
                "mounts[0].source: only a procfs",
            ),
        ] {
            in_namespaces(MNT, || {
                let failed = error(mounts, json!({}));
                assert!(failed.contains(expected), "{failed}");
            });
        }
        run(json!([{"destination": "/proc", "source": "/proc", "options": ["rbind"]}]), json!({}))
            .unwrap();
        assert!(fs::metadata("/proc/self/status").is_ok());
    });
}

#[test]
fn rootfs_may_be_a_link_or_the_root() {
    in_namespaces(ALL, || {
        bundle();
        symlink("rootfs", "/tmp/b/link").unwrap();
        let linked = spec(
            with_proc(json!([])),
            json!({"maskedPaths": ["/proc/keys"]}),
            json!({"path": "link"}),
        );
        carry_out(&plan_of(&linked, false).unwrap(), &mut Alone).unwrap();
        assert!(fs::metadata("/etc").is_ok() && fs::metadata("/tmp").is_err());
    });
    in_namespaces(ALL, || {
        bundle();
        let root = spec(
            with_proc(json!([
            {"destination": "/dev", "type": "tmpfs"}])),
            json!({"maskedPaths": ["/proc/keys"]}),
            json!({"path": "/"}),
        );
        carry_out(&plan_of(&root, false).unwrap(), &mut Alone).unwrap();
        assert_eq!(fs::metadata("/proc/keys").unwrap().rdev(), 0x103);
        assert!(shown("/dev").starts_with("rw"));
        assert_eq!(fs::read_to_string("/tmp/host/file").unwrap(), "host");
    });
}

#[test]
fn console_is_the_terminal_itself() {
    in_namespaces(ALL, || {
        bundle();
        let plan =
            plan_of(&spec(default_mounts(), json!({}), json!({"path": "rootfs"})), false).unwrap();
        let mut root = Root::open(&plan, &mut Alone).unwrap();
        root.mount_all(&plan, Pids::Own, &mut Alone).unwrap();
        root.devices(&plan).unwrap();
        let inside = root.enter(&plan).unwrap();
        use std::os::fd::AsFd;
        let null = fs::File::open("/dev/null").unwrap();
        assert!(inside.console(null.as_fd()).is_err());
        let master =
            nix::pty::posix_openpt(nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY)
                .unwrap();
        nix::pty::unlockpt(&master).unwrap();
        let slave = fs::File::options().read(true).write(true).open("/dev/pts/0").unwrap();
        symlink("/etc", "/dev/console").unwrap();
        assert!(inside.console(slave.as_fd()).is_err());
        fs::remove_file("/dev/console").unwrap();
        inside.console(slave.as_fd()).unwrap();
        inside.finish(&plan).unwrap();
        assert_eq!(fs::metadata("/dev/console").unwrap().rdev(), slave.metadata().unwrap().rdev());
    });
}

/// A creator in the process that made the user namespace: asks over a socket as the real one does.
struct Outside(std::os::unix::net::UnixStream);

impl Outside {
    fn ask(&mut self, request: u8, fd: Option<BorrowedFd<'_>>) -> Option<OwnedFd> {
        send(&self.0, request, fd);
        receive(&self.0).1
    }
}

impl Creator for Outside {
    fn rootfs(&mut self) -> Result<OwnedFd> {
        Ok(self.ask(b'r', None).unwrap())
    }
    fn bind_source(&mut self, index: usize) -> Result<OwnedFd> {
        Ok(self.ask(index as u8, None).unwrap())
    }
    fn clone_source(&mut self, index: usize) -> Result<OwnedFd> {
        panic!("mounts[{index}] was asked for")
    }

    fn idmap(&mut self, _: usize, tree: BorrowedFd<'_>) -> Result<()> {
        self.ask(b'i', Some(tree));
        Ok(())
    }
}

fn send(socket: &std::os::unix::net::UnixStream, byte: u8, fd: Option<BorrowedFd<'_>>) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let control: Vec<_> = fd.map(|_| ControlMessage::ScmRights(&fds)).into_iter().collect();
    let data = [std::io::IoSlice::new(std::slice::from_ref(&byte))];
    sendmsg::<()>(socket.as_raw_fd(), &data, &control, MsgFlags::empty(), None).unwrap();
}

fn receive(socket: &std::os::unix::net::UnixStream) -> (Option<u8>, Option<OwnedFd>) {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::AsRawFd;
    let mut byte = [0];
    let mut control = nix::cmsg_space!([i32; 1]);
    let mut data = [std::io::IoSliceMut::new(&mut byte)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut control), MsgFlags::empty())
            .unwrap();
    let fd = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => Some(crate::sys::testing::adopt(fds[0])),
        _ => None,
    });
    let is_end = message.bytes == 0;
    (Some(byte[0]).filter(|_| !is_end), fd)
}

/// A tmpfs can be idmapped since Linux 6.3.
fn tmpfs_has_idmaps() -> bool {
    let uname = nix::sys::utsname::uname().unwrap();
    let mut numbers = uname.release().to_str().unwrap().split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3)
}

#[test]
fn the_creator_opens_and_maps_for_the_child() {
    if !tmpfs_has_idmaps() {
        println!("skipped: this kernel's tmpfs cannot be idmapped");
        return;
    }
    in_namespaces(MNT | CloneFlags::CLONE_NEWPID, || {
        use std::os::fd::AsFd;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
        bundle();
        // Host root's alone: uid 100000 cannot pass.
        fs::create_dir_all("/tmp/closed/volume").unwrap();
        fs::rename("/tmp/b", "/tmp/closed/b").unwrap();
        fs::set_permissions("/tmp/closed", fs::Permissions::from_mode(0o700)).unwrap();
        mount(Some("x"), "/tmp/closed/volume", Some("tmpfs"), MsFlags::MS_NOSUID, None::<&str>)
            .unwrap();
        fs::write("/tmp/closed/volume/file", "closed").unwrap();
        let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, "/tmp/closed/volume", None::<&str>, remount, None::<&str>).unwrap();
        for dir in ["closed/b/rootfs", "closed/b/rootfs/dev", "closed/b/rootfs/etc"] {
            std::os::unix::fs::chown(Path::new("/tmp").join(dir), Some(100000), Some(100000))
                .unwrap();
        }
        let mounts = json!([
            {"destination": "/v", "source": "/tmp/closed/volume", "options": ["rbind"]},
            {"destination": "/m", "source": "/tmp/closed/volume", "options": ["rbind", "idmap"]},
        ]);
        let plan = plan_of(
            &spec(
                mounts,
                json!({"maskedPaths": ["/etc"]}),
                json!({"path": "/tmp/closed/b/rootfs"}),
            ),
            true,
        )
        .unwrap();
        let (outer, inner) = std::os::unix::net::UnixStream::pair().unwrap();
        let (pid_reader, pid_writer) = nix::unistd::pipe().unwrap();
        let Some(child) = crate::sys::testing::fork() else {
            drop(outer);
            let mut creator = Some(Outside(inner));
            crate::testing::in_mapped_namespaces(
                ALL.difference(CloneFlags::CLONE_NEWPID) | USER,
                "0 100000 65536",
                || {
                    nix::unistd::write(&pid_writer, &std::process::id().to_ne_bytes()).unwrap();
                    carry_out(&plan, &mut creator.take().unwrap()).unwrap();
                    assert_eq!(fs::read_to_string("/v/file").unwrap(), "closed");
                    assert_eq!(fs::metadata("/v/file").unwrap().uid(), 65534);
                    assert_eq!(fs::metadata("/m/file").unwrap().uid(), 0);
                    for path in ["/v", "/m"] {
                        assert!(fs::write(Path::new(path).join("x"), "").is_err());
                        let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
                        mount(None::<&str>, path, None::<&str>, remount, None::<&str>).unwrap_err();
                    }
                },
            );
            crate::sys::testing::exit(0);
        };
        drop((inner, pid_writer));
        let mut bytes = [0; 4];
        nix::unistd::read(&pid_reader, &mut bytes).unwrap();
        let pid = i32::from_ne_bytes(bytes);
        let proc = fs::File::open("/proc").unwrap();
        let mut seen = Vec::new();
        while let (Some(request), fd) = receive(&outer) {
            seen.push(request);
            let answer = match request {
                b'r' => Some(
                    bind::open_for_child(&plan, bind::Wanted::Rootfs, pid, proc.as_fd()).unwrap(),
                ),
                b'i' => {
                    let userns = fs::File::open(format!("/proc/{pid}/ns/user")).unwrap();
                    bind::idmap(&plan, 1, fd.unwrap().as_fd(), userns.as_fd()).unwrap();
                    None
                }
                index => {
                    let wanted = bind::Wanted::Source(index.into());
                    Some(bind::open_for_child(&plan, wanted, pid, proc.as_fd()).unwrap())
                }
            };
            send(&outer, 0, answer.as_ref().map(AsFd::as_fd));
        }
        let status = nix::sys::wait::waitpid(child, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        assert_eq!(seen, [b'r', 0, 1, b'i']);
    });
}

#[test]
fn cgroup_views() {
    let layout = host_layout();
    let names: Vec<String> = layout
        .v1
        .iter()
        .map(|h| h.mount_point.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    if names.is_empty() {
        return;
    }
    let view = |cgroup_namespace: bool, user: bool, words: Value, check: &dyn Fn(&str)| {
        let flags =
            if cgroup_namespace { ALL } else { ALL.difference(CloneFlags::CLONE_NEWCGROUP) };
        in_namespaces(if user { flags | USER } else { flags }, || {
            bundle();
            // An ordinary user's container has none of the cgroups planned for it: rootless Podman.
            let none = |h: &Hierarchy| h.mount_point.join("none-was-made");
            let cgroup_dirs = layout.v1.iter().filter(|_| user).map(none).collect();
            let facts = Facts { cgroup_namespace, cgroup_dirs, ..facts(&layout, user) };
            let mounts = json!([
                {"destination": "/proc", "type": "proc"},
                {"destination": "/sys", "type": "sysfs"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": words},
            ]);
            let spec = spec(mounts, json!({}), json!({"path": "rootfs"}));
            let plan =
                plan(&spec, Path::new("/tmp/b"), &facts, &mut Faults::First, &mut Vec::new())
                    .unwrap()
                    .unwrap();
            carry_out(&plan, &mut Alone).unwrap();
            for name in names.iter().map(String::as_str).chain(["unified"]) {
                check(name);
            }
        });
    };
    let point = |name: &str| shown(&format!("/sys/fs/cgroup/{name}"));
    for (namespace, user) in [(true, false), (false, false), (true, true), (false, true)] {
        view(namespace, user, json!(["nosuid", "noexec", "nodev", "noatime", "ro"]), &|name| {
            let got = point(name);
            assert!(got.starts_with("ro,nosuid,nodev,noexec"), "{namespace} {user} {name}: {got}");
            assert!(shown("/sys/fs/cgroup").starts_with("ro,"));
            assert!(fs::metadata(format!("/sys/fs/cgroup/{name}/cgroup.procs")).is_ok(), "{name}");
            assert!(fs::create_dir(format!("/sys/fs/cgroup/{name}/x")).is_err());
        });
    }
    view(true, false, json!(["rw"]), &|name| {
        assert!(point(name).starts_with("rw,nosuid,nodev,noexec"), "{}", point(name));
    });
}

#[test]
fn comounted_controllers_have_links() {
    let hierarchy = Hierarchy {
        controllers: vec!["cpu".into(), "cpuacct".into()],
        name: None,
        mount_point: "/sys/fs/cgroup/cpu,cpuacct".into(),
        own: "a".into(),
    };
    let unified = Unified { mount_point: "/sys/fs/cgroup/unified".into(), own: "u".into() };
    let layout = Layout { v1: vec![hierarchy], unified: Some(unified) };
    let dirs =
        [PathBuf::from("/sys/fs/cgroup/unified/box"), PathBuf::from("/sys/fs/cgroup/cpu/no")];
    let text = format!("{:?}", cgroupfs::plan(&layout, &dirs, true));
    for part in [
        "name: \"cpu,cpuacct\"",
        "\"/sys/fs/cgroup/cpu,cpuacct/a\"",
        "\"/sys/fs/cgroup/unified/box\"",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn plan_names_the_field() {
    let ok = json!({"destination": "/ok", "type": "tmpfs"});
    let cases: &[(Value, &str)] = &[
        (json!({"destination": "/", "type": "tmpfs"}), "mounts[1].destination: is the root itself"),
        (
            json!({"destination": "/a/..", "type": "tmpfs"}),
            "mounts[1].destination: is the root itself",
        ),
        (json!({"destination": "", "type": "tmpfs"}), "mounts[1].destination: is empty"),
        (json!({"destination": "/a\u{0}", "type": "tmpfs"}), "mounts[1].destination: has a NUL"),
        (
            json!({"destination": "/a", "type": "bind", "source": "/x"}),
            "mounts[1].type: \"bind\" needs the option",
        ),
        (json!({"destination": "/a", "source": "/x"}), "mounts[1].type"),
        (json!({"destination": "/a", "options": ["bind"]}), "mounts[1].source: is missing"),
        (
            json!({"destination": "/a", "source": "/x", "options": ["bind", "ro", "size=1"]}),
            "mounts[1].options[2]",
        ),
        (
            json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}),
            "mounts[1].options: tmpcopyup",
        ),
        (
            json!({"destination": "/proc", "type": "tmpfs"}),
            "mounts[1].destination: \"/proc\" can only be procfs",
        ),
        (json!({"destination": "/x/../proc/./sys", "type": "tmpfs"}), "is inside /proc"),
        (
            json!({"destination": "proc/self/attr", "source": "/x", "options": ["bind"]}),
            "is inside /proc",
        ),
        (json!({"destination": "/a", "type": "tmpfs", "options": ["idmap"]}), "only bind mounts"),
        (
            json!({"destination": "/a", "source": "/x", "options": ["bind", "idmap"]}),
            "idmap needs mappings",
        ),
        (
            json!({"destination": "/a", "source": "/x", "options": ["bind"],
            "uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}]}),
            "mounts[1].gidMappings: is missing",
        ),
        (
            json!({"destination": "/dev/pts", "type": "devpts", "options": ["gid=5"]}),
            "gid 5 is not mapped",
        ),
    ];
    for (mount, expected) in cases {
        let linux = json!({"gidMappings": [{"hostID": 1000, "containerID": 0, "size": 1}]});
        let spec = spec(json!([ok, mount]), linux, json!({"path": "rootfs"}));
        let failed = plan_of(&spec, false).unwrap_err().to_string();
        assert!(failed.contains(expected), "{mount}: {failed}");
    }
    let linux: &[(Value, &str)] = &[
        (json!({"rootfsPropagation": "x"}), "linux.rootfsPropagation"),
        (json!({"maskedPaths": ["/a", "b"]}), "linux.maskedPaths[1]"),
        (json!({"maskedPaths": ["/a", "/"]}), "linux.maskedPaths[1]"),
        (json!({"readonlyPaths": [""]}), "linux.readonlyPaths[0]"),
        (json!({"devices": [{"path": "/dev/x", "type": "a"}]}), "linux.devices[0].type"),
        (json!({"devices": [{"path": "dev/x", "type": "c"}]}), "linux.devices[0].path"),
        (
            json!({"devices": [{"path": "/dev/x", "type": "c", "major": -1}]}),
            "linux.devices[0].major",
        ),
        (
            json!({"devices": [{"path": "/dev/x", "type": "c", "major": 4096}]}),
            "linux.devices[0].major",
        ),
        (
            json!({"devices": [{"path": "/dev/x", "type": "b", "minor": 1048576}]}),
            "linux.devices[0].minor",
        ),
    ];
    for (linux, expected) in linux {
        let spec = spec(json!([]), linux.clone(), json!({"path": "rootfs"}));
        assert_eq!(plan_of(&spec, false).unwrap_err().subject(), *expected);
    }
}

#[test]
fn plan_resolves_paths() {
    let mounts = json!([
        {"destination": "a/./b//c/../d", "source": "vol", "options": ["rbind"]},
        {"destination": "/proc/uptime", "source": "/lxcfs", "options": ["bind"]},
        {"destination": "/v1", "type": "tmpfs", "options": ["nosuid"]},
        {"destination": "/x", "type": "tmpfs", "options": ["ro"]},
        {"destination": "/x/y", "type": "tmpfs", "options": ["ro"]},
    ]);
    let linux = json!({"devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}]});
    let plan =
        plan_of(&spec(mounts, linux, json!({"path": "rootfs", "readonly": true})), false).unwrap();
    assert_eq!(plan.rootfs(), Path::new("/tmp/b/rootfs"));
    assert!(plan.readonly);
    assert_eq!(plan.mounts[0].target.as_c_str(), c"a/b/d");
    assert_eq!(plan.mounts[0].source.as_deref(), Some(c"/tmp/b/vol"));
    assert_eq!(plan.mounts[0].subject(), "\"/a/b/d\" (mounts[0])");
    assert_eq!(plan.mounts[2].kind, Kind::Filesystem(c"cgroup".to_owned()));
    assert_eq!(plan.mounts[2].options.data.len(), 3);
    let late: Vec<bool> = plan.mounts.iter().map(|m| m.late_readonly).collect();
    assert_eq!(late, [false, false, false, true, false]);
    let nodes = plan.devices.unwrap();
    assert_eq!(nodes.len(), 6);
    assert_eq!(nodes.last().unwrap().mode, 0o600);
}
