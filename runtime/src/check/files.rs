//! The root file system, what is mounted on it, and the programs found in it.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::image::{self, Format};
use super::tree::{EXECUTE, File, Layer, Place, Tree, Who};
use super::{Findings, Subject};
use crate::caps;
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use crate::hooks::Kind as HookKind;
use crate::mount::attach::is;
use crate::mount::{self, Kind, Mount};
use crate::process::program;
use crate::sys::mount::MOUNT_ATTR_NOEXEC;

/// Interpreters of interpreters that the kernel follows.
const MAX_INTERPRETERS: usize = 5;

/// File systems that hold nothing at first.
const EMPTY: [&[u8]; 2] = [b"ramfs", b"tmpfs"];

/// File systems that root of a user namespace may mount (`FS_USERNS_MOUNT`, as of Linux 6.12).
const IN_USER_NAMESPACES: [&[u8]; 13] = [
    b"binder",
    b"binfmt_misc",
    b"bpf",
    b"cgroup",
    b"cgroup2",
    b"devpts",
    b"fuse",
    b"mqueue",
    b"overlay",
    b"proc",
    b"ramfs",
    b"sysfs",
    b"tmpfs",
];

fn open_path(path: &CString, follow: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let flags = if follow { flags } else { flags | OFlag::O_NOFOLLOW };
    open(path.as_c_str(), flags, Mode::empty())
}

/// Who builds the container: root of its user namespace, or the creator.
fn builder(subject: &Subject<'_>) -> Who {
    let plain = Who {
        uid: subject.host.uid.as_raw(),
        gid: subject.host.gid.as_raw(),
        groups: Vec::new(),
        overrides: subject.host.permitted & caps::DAC_OVERRIDE != 0,
        maps: None,
    };
    match &subject.parts.maps {
        None => plain,
        Some((maps, _)) => Who {
            uid: maps.outside_uid(0).unwrap_or(u32::MAX),
            gid: maps.outside_gid(0).unwrap_or(u32::MAX),
            overrides: true,
            maps: Some(maps.clone()),
            ..plain
        },
    }
}

/// Who executes the program.
fn user(subject: &Subject<'_>) -> Option<Who> {
    let program = subject.parts.program.as_ref()?;
    let maps = subject.parts.maps.as_ref().map(|(maps, _)| maps);
    let outside = |id: u32, look: fn(&crate::idmap::Maps, u32) -> Option<u32>| {
        maps.map_or(id, |maps| look(maps, id).unwrap_or(u32::MAX))
    };
    let gid = |id: u32| outside(id, crate::idmap::Maps::outside_gid);
    Some(Who {
        uid: outside(program.uid.as_raw(), crate::idmap::Maps::outside_uid),
        gid: gid(program.gid.as_raw()),
        groups: program.groups.iter().map(|group| gid(group.as_raw())).collect(),
        overrides: program.capabilities.effective & caps::DAC_OVERRIDE != 0,
        maps: maps.cloned(),
    })
}

/// Root file system, mounts and devices. `None` when what is in them cannot be told.
pub(super) fn mounts(subject: &Subject<'_>, found: &mut Findings) -> Option<Tree> {
    let plan = subject.parts.mounts.as_ref()?;
    let namespaces = &subject.parts.namespaces;
    if namespaces.joins(libc::CLONE_NEWNS) {
        return None;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(plan.rootfs.as_c_str(), flags, Mode::empty())
        .call("openat")
        .context("open root.path", quote(plan.rootfs()));
    let root = match root {
        Ok(root) => root,
        Err(error) => {
            found.note("root.path", Err(error));
            return None;
        }
    };
    let mut tree = Tree::new(root);
    let who = builder(subject);
    for mount in &plan.mounts {
        match one_mount(subject, &tree, mount, &who, found) {
            Ok(Some(layer)) => tree.cover(path_of(&mount.target), layer),
            Ok(None) => {}
            Err(error) => {
                let field = super::field_in(error.subject());
                let field = if field.starts_with(&mount.field()) { field } else { "" };
                let field = if field.is_empty() { mount.field() } else { field.to_owned() };
                found.note(field, Err(error));
                // What it would have held is not to be told from what is below.
                tree.cover(path_of(&mount.target), Layer::Opaque);
            }
        }
    }
    for node in plan.devices.iter().flatten() {
        let field = node.field.clone().unwrap_or_default();
        found.note(field, mount::dev::check(node, plan.userns));
    }
    Some(tree)
}

fn path_of(target: &CString) -> std::path::PathBuf {
    Path::new(OsStr::from_bytes(target.as_bytes())).to_owned()
}

fn one_mount(
    subject: &Subject<'_>,
    tree: &Tree,
    mount: &Mount,
    who: &Who,
    found: &mut Findings,
) -> Result<Option<Layer>> {
    let noexec = mount.options.initial() & MOUNT_ATTR_NOEXEC != 0;
    let (layer, directory) = match &mount.kind {
        Kind::Remount => return Ok(None),
        Kind::Bind(depth) => {
            let source = mount.source.as_ref().expect("the plan gave each bind mount a source");
            let follow = !(mount.options.source_nofollow || mount.options.copy_symlink);
            let opened = open_path(source, follow).call("open_tree");
            let source = opened
                .map_err(|failure| mount::bind::explain_clone(mount, source, *depth, failure))?;
            let stat = fstat(&source).call("fstat").context("mount", mount.subject())?;
            if mount.options.copy_symlink && is(&stat, SFlag::S_IFLNK) {
                return Ok(None);
            }
            let directory = is(&stat, SFlag::S_IFDIR);
            if mount.target.to_bytes() == b"proc" {
                (Layer::Opaque, directory)
            } else {
                (Layer::Bound { source, noexec }, directory)
            }
        }
        Kind::Proc | Kind::Sysfs | Kind::Cgroup => (Layer::Opaque, true),
        Kind::Filesystem(kind) => {
            file_system(subject, mount, kind, found)?;
            match EMPTY.contains(&kind.as_bytes()) {
                // A copy of what is there: looked up as that.
                true if mount.options.copy_up => return Ok(None),
                true => (Layer::New { noexec }, true),
                false => (Layer::Opaque, true),
            }
        }
    };
    target(tree, mount, who, directory)?;
    Ok(Some(layer))
}

/// The place of a mount: of the same kind as what is mounted, or to be made.
fn target(tree: &Tree, mount: &Mount, who: &Who, directory: bool) -> Result<()> {
    const OPEN: &str = "open the destination of";
    let path = path_of(&mount.target);
    let follow = !mount.options.target_nofollow;
    let place = tree.look(&path, who, follow).call("openat2").context(OPEN, mount.subject())?;
    if mount.is_kernel_place()
        && let Ok(Place::There(file)) = tree.look(&path, who, false)
        && is(&file.stat, SFlag::S_IFLNK)
    {
        let reason = "the destination is, or is below, a symbolic link";
        return Err(Error::new(ErrorKind::Invalid, "mount", mount.subject(), reason));
    }
    match place {
        Place::Missing(made) => {
            let call = if directory { "mkdirat" } else { "mknodat" };
            made.call(call).context(OPEN, mount.subject())
        }
        Place::There(file) if is(&file.stat, SFlag::S_IFDIR) != directory => {
            let subject =
                format!("{}, one of source and destination is not a directory", mount.subject());
            Err(Error::system(
                "mount",
                subject,
                Failure { call: "move_mount", errno: Errno::ENOTDIR },
            ))
        }
        Place::Made if !directory => {
            let subject =
                format!("{}, one of source and destination is not a directory", mount.subject());
            Err(Error::system(
                "mount",
                subject,
                Failure { call: "move_mount", errno: Errno::ENOTDIR },
            ))
        }
        Place::There(_) | Place::Made | Place::Unknown => Ok(()),
    }
}

/// A type of file system that the kernel has or could load, and options that it takes.
fn file_system(
    subject: &Subject<'_>,
    mount: &Mount,
    kind: &CString,
    found: &mut Findings,
) -> Result<()> {
    let refuse =
        |errno| Err(mount::fs::explain_type(mount, kind, Failure { call: "fsopen", errno }));
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loaded = known
        .lines()
        .filter_map(|line| line.split_whitespace().next_back())
        .any(|name| name.as_bytes() == kind.as_bytes());
    if subject.parts.namespaces.has(libc::CLONE_NEWUSER)
        && !IN_USER_NAMESPACES.contains(&kind.as_bytes())
    {
        return refuse(if loaded { Errno::EPERM } else { Errno::ENODEV });
    }
    if !loaded {
        if has_module(&kind.to_string_lossy()) {
            let text = format!("{}: the module of {kind:?} is not loaded yet", mount.field());
            found.warn(text);
            return Ok(());
        }
        return refuse(Errno::ENODEV);
    }
    // A context without a file system tells whether it would take the options. It takes privilege.
    if subject.host.privileged() { mount::fs::try_options(mount, kind) } else { Ok(()) }
}

/// Whether the kernel's modules have one for a file system.
fn has_module(kind: &str) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let directory = Path::new("/lib/modules").join(name.release());
    let list = std::fs::read_to_string(directory.join("modules.alias")).unwrap_or_default();
    let alias = format!("alias fs-{kind} ");
    list.lines().any(|line| line.starts_with(&alias))
}

/// Why a file would not be executed.
enum Trouble {
    /// The kernel's answer, and more of the reason.
    Fails(Errno, String),
    /// It may be.
    Unsure(String),
}

/// Whether `who` could execute the file at `path` of the tree.
fn runnable(tree: &Tree, path: &Path, who: &Who, depth: usize) -> Result<(), Trouble> {
    let fails = |errno, reason: &str| Err(Trouble::Fails(errno, reason.to_owned()));
    let file = match tree.look(path, who, true) {
        Err(errno) => return fails(errno, ""),
        Ok(Place::Missing(_)) => return fails(Errno::ENOENT, ""),
        Ok(Place::Made) => return fails(Errno::EACCES, "it is a directory"),
        Ok(Place::Unknown) => {
            let text = format!("{} is on a file system that is not mounted yet", quote(path));
            return Err(Trouble::Unsure(text));
        }
        Ok(Place::There(file)) => file,
    };
    if !is(&file.stat, SFlag::S_IFREG) {
        return fails(Errno::EACCES, "it is not a regular file");
    }
    if file.noexec {
        return fails(Errno::EACCES, "it is on a mount with noexec");
    }
    if !who.may(&file.stat, EXECUTE) {
        return fails(Errno::EACCES, "it is not executable for this user");
    }
    let unsure = |text: String| Trouble::Unsure(format!("{}: {text}", quote(path)));
    let read = read_again(&file).and_then(|file| image::format(&file));
    match read.map_err(|error| unsure(error.to_string()))? {
        Format::Alone => Ok(()),
        Format::Refused(reason) => fails(Errno::ENOEXEC, &reason),
        Format::Foreign(reason) if image::has_handlers() => Err(unsure(reason)),
        Format::Foreign(reason) => fails(Errno::ENOEXEC, &reason),
        Format::With(_) if depth == MAX_INTERPRETERS => {
            fails(Errno::ELOOP, "too many interpreters")
        }
        Format::With(interpreter) => match runnable(tree, &interpreter, who, depth + 1) {
            Err(Trouble::Fails(errno, reason)) => {
                let more = if reason.is_empty() { reason } else { format!(": {reason}") };
                let text = format!("its interpreter {}{more}", quote(&interpreter));
                Err(Trouble::Fails(errno, text))
            }
            other => other,
        },
    }
}

/// The file of a handle, opened for reading; only what was seen to be a regular file.
fn read_again(file: &File) -> std::io::Result<std::fs::File> {
    std::fs::File::open(format!("/proc/self/fd/{}", file.fd.as_fd().as_raw_fd()))
}

/// Adds what keeps a program from being executed.
fn judge(
    found: &mut Findings,
    field: &str,
    exec: (&str, &str, &'static str),
    result: Result<(), Trouble>,
) {
    let (operation, what, call) = exec;
    match result {
        Ok(()) => {}
        Err(Trouble::Unsure(text)) => found.warn(format!("{field}: {text}")),
        Err(Trouble::Fails(errno, reason)) => {
            let more = if reason.is_empty() { reason } else { format!(" ({reason})") };
            let error = Error::system(operation, format!("{what}{more}"), Failure { call, errno });
            found.note(field, Err(error));
        }
    }
}

/// The host's own files, as the creator sees them.
fn host_tree() -> Result<Tree> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open("/", flags, Mode::empty()).call("open").context("open", "\"/\"").map(Tree::new)
}

fn caller(subject: &Subject<'_>) -> Who {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    Who {
        uid: subject.host.uid.as_raw(),
        gid: subject.host.gid.as_raw(),
        groups: groups.iter().map(|group| group.as_raw()).collect(),
        overrides: subject.host.permitted & caps::DAC_OVERRIDE != 0,
        maps: None,
    }
}

/// Hooks of one kind, whose programs are looked up in `tree`.
fn hooks_in(subject: &Subject<'_>, tree: &Tree, who: &Who, kind: HookKind, found: &mut Findings) {
    for hook in subject.parts.hooks.iter().flat_map(|hooks| hooks.of(kind)) {
        let path = Path::new(OsStr::from_bytes(hook.path().to_bytes()));
        let result = runnable(tree, path, who, 0);
        let exec = ("run", hook.subject(), "posix_spawn");
        let before = found.failures.len();
        judge(found, super::field_in(hook.subject()), exec, result);
        if kind == HookKind::Poststop {
            // A hook that fails after the end is a warning of `delete`.
            let failed = found.failures.drain(before..).map(|failing| failing.error.to_string());
            found.warnings.extend(failed);
        }
    }
}

/// Hooks that run before the container has its root: on the host's files.
pub(super) fn hooks(subject: &Subject<'_>, found: &mut Findings) {
    match host_tree() {
        Err(error) => found.note("hooks", Err(error)),
        Ok(tree) => {
            for kind in [HookKind::Prestart, HookKind::CreateRuntime, HookKind::CreateContainer] {
                hooks_in(subject, &tree, &caller(subject), kind, found);
            }
        }
    }
}

/// Hooks of `start`, whose programs are the container's, and those after it.
pub(super) fn late_hooks(subject: &Subject<'_>, tree: &Tree, found: &mut Findings) {
    if let Some(who) = user(subject) {
        hooks_in(subject, tree, &who, HookKind::StartContainer, found);
    }
    match host_tree() {
        Err(error) => found.note("hooks", Err(error)),
        Ok(tree) => {
            for kind in [HookKind::Poststart, HookKind::Poststop] {
                hooks_in(subject, &tree, &caller(subject), kind, found);
            }
        }
    }
}

/// The working directory is made when it is missing, and entered by root or by the user.
pub(super) fn directory(subject: &Subject<'_>, tree: &Tree, found: &mut Findings) {
    let (Some(program), Some(user)) = (&subject.parts.program, user(subject)) else { return };
    let path = Path::new(OsStr::from_bytes(program.cwd.as_bytes()));
    let root = builder(subject);
    let fails = |operation, call, errno| {
        let failure = Failure { call, errno };
        Err(Error::system(operation, quote(path), failure))
    };
    let result = match tree.look(path, &root, true) {
        Ok(Place::There(file)) if !is(&file.stat, SFlag::S_IFDIR) => {
            fails("make process.cwd", "mkdirat", Errno::ENOTDIR)
        }
        Ok(Place::There(file))
            if root.may(&file.stat, EXECUTE) || user.may(&file.stat, EXECUTE) =>
        {
            Ok(())
        }
        Ok(Place::There(_)) => fails("enter process.cwd", "chdir", Errno::EACCES),
        Ok(Place::Missing(Err(Errno::EACCES))) => {
            fails("enter process.cwd", "chdir", Errno::ENOENT)
        }
        Ok(Place::Missing(made)) => {
            made.or_else(|errno| fails("make process.cwd", "mkdirat", errno))
        }
        Ok(Place::Made | Place::Unknown) | Err(Errno::EACCES) => Ok(()),
        Err(errno) => fails("make process.cwd", "openat2", errno),
    };
    found.note("process.cwd", result);
    if program.terminal.is_some() && !has_terminals(subject) {
        let reason = "needs a mount of the type devpts at /dev/pts";
        found.note("process.terminal", Err(Error::invalid("process.terminal", reason)));
    }
}

/// Whether /dev/ptmx of the container will lead to something.
fn has_terminals(subject: &Subject<'_>) -> bool {
    let namespaces = &subject.parts.namespaces;
    let Some(plan) = subject.parts.mounts.as_ref() else { return true };
    !namespaces.creates(libc::CLONE_NEWNS)
        || plan.mounts.iter().any(|mount| {
            matches!(mount.target.to_bytes(), b"dev" | b"dev/pts")
                && (mount.target.to_bytes() == b"dev/pts" || matches!(mount.kind, Kind::Bind(_)))
        })
}

/// The program: found as `start` would find it, and of a format that this machine executes.
pub(super) fn program(subject: &Subject<'_>, tree: &Tree, found: &mut Findings) {
    const FIELD: &str = "process.args[0]";
    let (Some(program), Some(who)) = (&subject.parts.program, user(subject)) else { return };
    let name = program.args[0].to_bytes();
    let shown = format!("{:?}", program.args[0].to_string_lossy());
    let cwd = Path::new(OsStr::from_bytes(program.cwd.as_bytes()));
    let try_at = |path: &Path| runnable(tree, &cwd.join(path), &who, 0);
    if name.contains(&b'/') {
        let result = try_at(Path::new(OsStr::from_bytes(name)));
        return judge(found, FIELD, ("exec:", &shown, "execve"), result);
    }
    let mut best = None;
    for directory in program.search_path().split(|&byte| byte == b':').filter(|_| !name.is_empty())
    {
        let path = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name));
        match try_at(&path) {
            // Passed over, as by `start`: not there, or not to be executed by this user.
            Err(Trouble::Fails(errno, reason))
                if !reason.starts_with("its ") && errno != Errno::ENOEXEC =>
            {
                if errno == Errno::EACCES {
                    best = Some(Trouble::Fails(errno, reason));
                }
            }
            result => return judge(found, FIELD, ("exec:", &shown, "execve"), result),
        }
    }
    match best {
        Some(trouble) => judge(found, FIELD, ("exec:", &shown, "access"), Err(trouble)),
        None => {
            let reason = program::NOT_FOUND;
            found.note(FIELD, Err(Error::new(ErrorKind::Exec, "exec:", shown, reason)));
        }
    }
}

/// The paths of Landlock rules, which must be there.
pub(super) fn landlock(subject: &Subject<'_>, tree: &Tree, found: &mut Findings) {
    let Some(rules) = subject.parts.program.as_ref().and_then(|program| program.landlock.as_ref())
    else {
        return;
    };
    let field = format!("annotations.{:?}", crate::landlock::ANNOTATION);
    found.note(&field, rules.check_kernel());
    let Some(who) = user(subject) else { return };
    for path in rules.paths() {
        let place = tree.look(Path::new(OsStr::from_bytes(path.to_bytes())), &who, true);
        let errno = match place {
            Ok(Place::Missing(_)) => Errno::ENOENT,
            Err(errno) => errno,
            Ok(_) => continue,
        };
        let failure = Failure { call: "open", errno };
        found.note(&field, Err(Error::system("apply", format!("{field}: {path:?}"), failure)));
    }
}
