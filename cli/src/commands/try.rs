//! `bulkhead try`: a shell or a program in a throwaway copy of this machine.
//!
//! The root is a tmpfs with one overlay for each directory of `/`: the host's below, the tmpfs above.
//! One overlay of `/` itself would be simpler, but in a user namespace the kernel refuses a lower
//! layer with mounts of the host beneath it, and `/` always has some. A directory for which the kernel
//! refuses that (`/mnt` with a mount in it, say) is bound read-only, with all that is mounted in it.
//! For root, mounts deeper inside an overlaid directory are not seen: their mount points look empty.
//!
//! All of it lives in a mount namespace of our own, the container's state too, on a directory that
//! every machine has: nothing is made on the host, so the kernel forgets all when the last process is
//! gone. For the case that this is not us, because we were killed, a guard stands by: a process that
//! waits for our end and then deletes the container. Processes die with it, and cgroups.

use std::ffi::OsStr;
use std::fs;
use std::io::PipeWriter;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use oci_spec::runtime::Spec;
use runtime::{Call, Config, Context, CreateOptions, Rootless, Start, quote};
use serde_json::{Value, json};

use super::container::{self, Life};
use crate::argv::Order;
use crate::default_seccomp::default_seccomp;
use crate::isolation;
use crate::program::Failure;
use crate::session::Session;

/// What Docker gives to a container.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Directories of `/` that the container gets fresh.
const FRESH: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];
/// Variables of the caller that the program may see: a terminal program needs them, and none of them
/// is a secret.
const ENVIRONMENT: [&str; 6] = ["HOME", "LANG", "LC_ALL", "TERM", "TZ", "COLORTERM"];
/// Where our tmpfs is mounted; the container does not get the host's (see [`FRESH`]).
const BASE: &str = "/tmp";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Run a program in a throwaway copy of this machine, without network
#[derive(Debug, Args)]
#[command(
    after_help = "What it changes is forgotten at its end. An ordinary user is root inside, but \
    can change only what\nbelongs to this user, and what is directly in a directory of /."
)]
pub struct Try {
    /// The wall around it: namespaces or vm
    #[arg(long, value_name = "wall")]
    isolation: Option<String>,
    /// The program and its arguments [default: $SHELL]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl super::Command for Try {
    const NAME: &'static str = "try";
    const ARITY: super::Arity = super::Arity::AtLeast(0);
    const ORDER: Order = Order::FlagsFirst;
    const GUARDED: bool = true;

    fn run(self, session: &Session) -> Result<u8, Failure> {
        runtime::keep_child_statuses()?;
        let ordinary = !geteuid().is_root();
        enter(ordinary)?;
        self.inside(session, Path::new(BASE), ordinary)
    }
}

impl Try {
    fn inside(self, session: &Session, base: &Path, ordinary: bool) -> Result<u8, Failure> {
        mount_at("tmpfs", base, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
        let layers = Layers { base, ordinary };
        let bound = layers.build()?;
        let asked = isolation::wall(self.isolation.as_deref())?.or(session.wall);
        let config = Config::from(self.spec(&layers.root(), &bound)?);
        let isolation = isolation::choose(asked, &session.image, &config)?;
        let options = CreateOptions {
            isolation,
            no_cgroup: session.no_cgroup,
            rootless: if ordinary { Rootless::Yes } else { session.rootless },
            ..CreateOptions::new(config, base.to_owned(), Start::Here)
        };
        let life = Life { detach: false, keep: false, subreaper: true };
        let own = session.private(base.join("state"));
        let id = name();
        let guard = Guard::post(&own.root, &id)?;
        let ended = container::run(&own, &id, options, life);
        guard.dismiss();
        ended
    }

    fn spec(self, root: &Path, bound: &[String]) -> Result<Spec, Failure> {
        let shell = || std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        let args = if self.command.is_empty() { vec![shell()] } else { self.command };
        let terminal = nix::unistd::isatty(std::io::stdin()).unwrap_or(false);
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        // The caller may sit where no path leads any more.
        let there = !is_fresh(&directory) && fs::metadata(directory.join(".")).is_ok();
        let directory = if there { &directory } else { Path::new("/") };
        let document = document(&args, terminal, directory, root, bound).to_string();
        let mut spec = runtime::parse_config(document.as_bytes(), &mut Vec::new())?.spec;
        let granted = spec
            .process()
            .as_ref()
            .and_then(|process| process.capabilities().as_ref()?.bounding().clone())
            .unwrap_or_default();
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(Some(default_seccomp(&granted)));
        }
        Ok(spec)
    }
}

fn document(args: &[String], terminal: bool, cwd: &Path, root: &Path, bound: &[String]) -> Value {
    let inherited =
        ENVIRONMENT.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let env: Vec<String> = [PATH.to_owned()].into_iter().chain(inherited).collect();
    let fixed = [
        ("/proc", "proc", &["nosuid", "noexec", "nodev"][..]),
        ("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    let fixed = fixed.map(|(destination, kind, options)| {
        json!({"destination": destination, "type": kind, "source": kind, "options": options})
    });
    let bound = bound.iter().map(|path| {
        json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "rro"]})
    });
    let namespaces =
        ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": crate::program::SPEC,
        "hostname": "try",
        "root": {"path": root},
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": env,
            "cwd": cwd,
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
        },
        "mounts": fixed.into_iter().chain(bound).collect::<Vec<_>>(),
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
                "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

/// A name that no other call has: the container's cgroup is named after it, and the same pid may be
/// taken once in each pid namespace that sees these cgroups.
fn name() -> String {
    let space = fs::metadata("/proc/self/ns/pid").map_or(0, |file| file.ino());
    format!("try-{space}-{}", std::process::id())
}

/// Deletes the container when this process ends without having done so. It is a process group of its
/// own: who kills ours, or hits a key, does not reach it.
struct Guard {
    child: Child,
    /// Closed by the kernel when we end, however we do.
    alive: PipeWriter,
}

impl Guard {
    fn post(root: &Path, id: &str) -> Result<Self, Failure> {
        let (end, alive) = std::io::pipe().call("pipe").context("make", "pipe")?;
        let child = std::process::Command::new("/proc/self/exe")
            .arg("--root")
            .arg(root)
            .args(["delete", "--force", "--at-end-of-input", id])
            .stdin(end)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .call("execve")
            .context("start", "\"/proc/self/exe\"")?;
        Ok(Self { child, alive })
    }

    /// Lets it find nothing to do, and waits for it.
    fn dismiss(mut self) {
        drop(self.alive);
        // ECHILD: it was collected among the container's orphans.
        let _ = self.child.wait();
    }
}

/// Enters a mount namespace from which nothing propagates; an ordinary user becomes root of a user
/// namespace that knows only this user.
fn enter(ordinary: bool) -> Result<(), Failure> {
    let (uid, gid) = (geteuid(), getegid());
    let mut kinds = CloneFlags::CLONE_NEWNS;
    kinds.set(CloneFlags::CLONE_NEWUSER, ordinary);
    unshare(kinds).call("unshare").context("make", "namespaces")?;
    if ordinary {
        for (file, text) in [
            // Groups must be fixed first: dropping one could grant what it denies (CVE-2014-8989).
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ] {
            let path = Path::new("/proc/self").join(file);
            fs::write(&path, text).call("write").context("write", quote(&path))?;
        }
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .call("mount")
        .context("make private", "\"/\"")?;
    Ok(())
}

fn mount_at(kind: &str, target: &Path, flags: MsFlags, data: &str) -> Result<(), Failure> {
    mount(Some(kind), target, Some(kind), flags, Some(data))
        .call("mount")
        .context("mount", quote(target))?;
    Ok(())
}

fn is_fresh(path: &Path) -> bool {
    let first = path.iter().nth(1).and_then(OsStr::to_str);
    first.is_some_and(|name| FRESH.contains(&name))
}

/// The copy of the host's root.
struct Layers<'a> {
    base: &'a Path,
    ordinary: bool,
}

impl Layers<'_> {
    fn root(&self) -> PathBuf {
        self.base.join("root")
    }

    /// Builds the root; returns the directories that must be bound instead of overlaid.
    fn build(&self) -> Result<Vec<String>, Failure> {
        let root = self.root();
        self.make(&root, 0o755)?;
        let mut bound = Vec::new();
        let entries = fs::read_dir("/").call("open").context("read", "\"/\"")?;
        for entry in entries {
            let entry = entry.call("getdents64").context("read", "\"/\"")?;
            let (host, target) = (entry.path(), root.join(entry.file_name()));
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_symlink() {
                let to = fs::read_link(&host).call("readlink").context("read", quote(&host))?;
                symlink(to, &target).call("symlink").context("create", quote(&target))?;
            } else if kind.is_dir() {
                let name = entry.file_name();
                if FRESH.iter().any(|fresh| *fresh == name) {
                    self.make(&target, if name == "tmp" { 0o1777 } else { 0o755 })?;
                } else if self.overlay(&host, &target).is_err() {
                    bound.extend(host.into_os_string().into_string());
                }
            }
        }
        Ok(bound)
    }

    fn overlay(&self, host: &Path, target: &Path) -> Result<(), Failure> {
        let stat = fs::metadata(host).call("stat").context("read", quote(host))?;
        let name = host.file_name().expect("a directory of / has a name");
        let (upper, work) = (self.base.join("upper").join(name), self.base.join("work").join(name));
        // The merged directory shows owner and mode of its upper layer.
        for directory in [&upper, &work, &target.to_owned()] {
            self.make(directory, stat.mode() & 0o7777)?;
        }
        // In a user namespace an owner that is not mapped cannot be given.
        let _ = chown(&upper, Some(stat.uid()), Some(stat.gid()));
        let data = overlay_data(host, &upper, &work, self.ordinary)
            .ok_or_else(|| Failure::message("no mount option can hold the name"))?;
        mount_at("overlay", target, MsFlags::MS_NODEV, &data)
    }

    fn make(&self, path: &Path, mode: u32) -> Result<(), Failure> {
        fs::create_dir_all(path).call("mkdir").context("create", quote(path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .call("chmod")
            .context("protect", quote(path))?;
        Ok(())
    }
}

/// Mount options; `None` for a name with characters that mean something there.
fn overlay_data(lower: &Path, upper: &Path, work: &Path, ordinary: bool) -> Option<String> {
    let plain = |path: &Path| {
        path.to_str().filter(|text| !text.contains([',', ':', '\\', '"'])).map(str::to_owned)
    };
    let data =
        format!("lowerdir={},upperdir={},workdir={}", plain(lower)?, plain(upper)?, plain(work)?);
    // Without privilege over the host, attributes of overlayfs live in the user's name space (5.11).
    Some(if ordinary { data + ",userxattr" } else { data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_parses() {
        let args = ["/bin/sh".to_owned()];
        let document =
            document(&args, true, Path::new("/root"), Path::new("/x/root"), &["/mnt".to_owned()]);
        let mut warnings = Vec::new();
        let spec =
            runtime::parse_config(document.to_string().as_bytes(), &mut warnings).unwrap().spec;
        assert_eq!(warnings, [""; 0]);
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
        let process = spec.process().as_ref().unwrap();
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), CAPABILITIES.len());
        assert_eq!(capabilities.inheritable(), &None);
    }

    #[test]
    fn names_that_mean_something_are_left_out() {
        let data =
            |name: &str| overlay_data(Path::new(name), Path::new("/u"), Path::new("/w"), true);
        assert_eq!(data("/usr").unwrap(), "lowerdir=/usr,upperdir=/u,workdir=/w,userxattr");
        assert_eq!(data("/a:b"), None);
        assert_eq!(data("/a,b"), None);
    }

    #[test]
    fn directories_that_are_fresh() {
        assert!(is_fresh(Path::new("/tmp/x")) && is_fresh(Path::new("/run")));
        assert!(!is_fresh(Path::new("/")) && !is_fresh(Path::new("/home/tmp")));
    }
}
