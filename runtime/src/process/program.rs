//! The process of a container: limits, credentials, labels, and the program itself.
//!
//! One plan and one sequence for the init process and for `exec`, so that the second way into a
//! container cannot be weaker than the first.
//!
//! The order of [`Program::confine`] is forced: what needs power (rlimits, labels, chown of standard
//! streams, the bounding set, groups) comes before the ids change; `PR_SET_KEEPCAPS` carries the
//! permitted set over that change; the capability sets come after it, ambient last, because it must
//! be a subset of permitted and inheritable; `no_new_privs` forbids nothing that is done after it.
//!
//! Without `no_new_privs` the kernel lets only CAP_SYS_ADMIN install a filter, so that one capability
//! is held in the effective and permitted sets until `execve`. It need not be dropped by hand: at
//! `execve` the kernel computes the sets anew from the bounding, inheritable and ambient ones
//! (capabilities(7), "Transformation of capabilities during execve()"), in none of which it is.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open};
use nix::sys::personality::Persona;
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, fchown, setresgid, setresuid};
use oci_spec::runtime::Process;

use crate::caps::{self, Capabilities};
use crate::error::{Call, Context, Error, ErrorKind, Failure, Result, quote};
use crate::landlock;
use crate::lsm;
use crate::mount;
use crate::mount::attach::{self, Links};
use crate::oom_score;
use crate::procfs::Procfs;
use crate::rlimits;
use crate::scheduler::{self, MemoryPolicy, Scheduling};
use crate::seccomp;
use crate::sys;

/// What a process of the container is and may do.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    pub uid: Uid,
    pub gid: Gid,
    pub groups: Vec<Gid>,
    /// The groups are the creator's instead.
    pub keeps_groups: bool,
    pub umask: Mode,
    pub terminal: Option<TerminalSize>,
    pub capabilities: Capabilities,
    pub rlimits: Vec<rlimits::Rlimit>,
    pub no_new_privileges: bool,
    /// `linux.personality`, the container's own.
    pub personality: Option<Persona>,
    pub oom_score_adj: Option<i32>,
    pub scheduling: Scheduling,
    /// `linux.memoryPolicy`, the container's own.
    pub memory_policy: Option<MemoryPolicy>,
    pub labels: lsm::Labels,
    pub seccomp: Option<seccomp::Filter>,
    pub landlock: Option<landlock::Rules>,
    /// Descriptors from 3 that the caller of this program hands to the container.
    pub inherited_fds: u32,
}

/// Window size of the terminal; zero where the configuration says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// What the plan of a process takes from the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inherit {
    pub preserve_fds: u32,
    pub listen_fds: u32,
    pub listen_names: Option<String>,
}

impl Inherit {
    /// How many descriptors are inherited, all of which were open when this program was executed. One
    /// that was not would by now be a file of the runtime's own.
    fn checked(&self) -> Result<u32> {
        let count = u64::from(self.listen_fds) + u64::from(self.preserve_fds);
        for number in (u64::from(sys::fd::FIRST)..).take(usize::try_from(count).unwrap_or(0)) {
            if !i32::try_from(number).is_ok_and(sys::fd::is_inherited) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "pass on",
                    format!("file descriptor {number} (--preserve-fds, LISTEN_FDS)"),
                    "is not open",
                ));
            }
        }
        Ok(u32::try_from(count).expect("as many descriptors are open"))
    }
}

/// The words that callers know.
pub(crate) const NOT_FOUND: &str = "executable file not found in $PATH";

/// umask of a container that does not ask for one.
pub(crate) const DEFAULT_UMASK: u32 = 0o022;

/// Plans a process; pure, but for a look at the inherited descriptors.
pub(crate) fn plan(
    process: &Process,
    seccomp: Option<seccomp::Filter>,
    landlock: Option<landlock::Rules>,
    labels: lsm::Labels,
    personality: Option<Persona>,
    inherit: &Inherit,
) -> Result<Program> {
    let strings = |list: &[String], field: &str| {
        list.iter()
            .enumerate()
            .map(|(n, text)| c_string(text.as_bytes(), || format!("{field}[{n}]")))
            .collect::<Result<Vec<_>>>()
    };
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(Error::invalid("process.args", "must not be empty"));
    }
    let mut env = strings(process.env().as_deref().unwrap_or_default(), "process.env")?;
    if inherit.listen_fds > 0 {
        // sd_listen_fds(3): the program is pid 1 of its container, or execs into it.
        env.push(c_string(format!("LISTEN_FDS={}", inherit.listen_fds).as_bytes(), String::new)?);
        env.push(c"LISTEN_PID=1".to_owned());
        if let Some(names) = &inherit.listen_names {
            let names = format!("LISTEN_FDNAMES={names}");
            env.push(c_string(names.as_bytes(), || "LISTEN_FDNAMES".into())?);
        }
    }
    let user = process.user();
    let cell = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    Ok(Program {
        args: strings(args, "process.args")?,
        env,
        cwd: c_string(process.cwd().as_os_str().as_bytes(), || "process.cwd".into())?,
        uid: Uid::from_raw(user.uid()),
        gid: Gid::from_raw(user.gid()),
        groups: groups(user.additional_gids().as_deref().unwrap_or_default()),
        keeps_groups: false,
        umask: Mode::from_bits_truncate(user.umask().unwrap_or(DEFAULT_UMASK)),
        terminal: process.terminal().unwrap_or(false).then(|| {
            process.console_size().map_or_else(TerminalSize::default, |size| TerminalSize {
                rows: cell(size.height()),
                columns: cell(size.width()),
            })
        }),
        capabilities: caps::plan(process.capabilities().as_ref()),
        rlimits: rlimits::plan(process.rlimits().as_deref()),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        personality,
        oom_score_adj: process.oom_score_adj(),
        scheduling: scheduler::plan(process),
        memory_policy: None,
        labels,
        seccomp,
        landlock,
        inherited_fds: inherit.checked()?,
    })
}

fn set_groups(groups: &[Gid]) -> Result<()> {
    match nix::unistd::setgroups(groups) {
        // The namespace denies setgroups, for good; only a request for groups is an error then.
        Err(Errno::EPERM) if groups.is_empty() => Ok(()),
        other => other
            .call("setgroups")
            .context("set", format!("process.user.additionalGids {groups:?}")),
    }
}

/// crun's annotation, Podman's `--group-add keep-groups`: the process keeps its creator's additional
/// groups, which an ordinary user could not give to it.
pub(crate) const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Whether the annotations ask to keep the creator's groups.
///
/// # Errors
/// Other groups are asked for as well.
pub(crate) fn keeps_groups(
    annotations: Option<&HashMap<String, String>>,
    process: &Process,
) -> Result<bool> {
    let keeps = annotations.and_then(|map| map.get(KEEP_GROUPS)).is_some_and(|value| value == "1");
    if keeps && process.user().additional_gids().as_ref().is_some_and(|gids| !gids.is_empty()) {
        let reason = format!("cannot be set beside the annotation {KEEP_GROUPS}");
        return Err(Error::invalid("process.user.additionalGids", reason));
    }
    Ok(keeps)
}

/// Every group once: engines name the user's own groups again (`--group-add`), and the kernel keeps
/// what it is given.
fn groups(gids: &[u32]) -> Vec<Gid> {
    let set: std::collections::BTreeSet<u32> = gids.iter().copied().collect();
    set.into_iter().map(Gid::from_raw).collect()
}

/// Text as a C string; a NUL byte is an error that names the field.
pub(crate) fn c_string(bytes: &[u8], field: impl FnOnce() -> String) -> Result<CString> {
    CString::new(bytes).map_err(|e| {
        Error::invalid(field(), format!("holds a NUL byte at position {}", e.nul_position()))
    })
}

/// What the child may ask of a creator that has more power than it has inside its user namespace.
pub(crate) trait Creator {
    fn set_oom_score_adj(&mut self) -> Result<()>;
    fn raise_rlimits(&mut self) -> Result<()>;
}

impl Program {
    /// Takes on what is set through the host's procfs and what a fork inherits.
    pub(crate) fn enter_limits(&self, proc: &Procfs, creator: &mut impl Creator) -> Result<()> {
        self.set_oom_score(proc, creator)?;
        if let Some(persona) = self.personality {
            nix::sys::personality::set(persona)
                .call("personality")
                .context("set", format!("linux.personality {persona:?}"))?;
        }
        self.memory_policy.as_ref().map_or(Ok(()), MemoryPolicy::apply)?;
        self.labels.apply_on_exec(proc)
    }

    /// Takes on limits, user and capabilities. Afterwards the process has no more power than
    /// the container may have, except the one capability in the module's text.
    pub(crate) fn confine(&self, creator: &mut impl Creator) -> Result<()> {
        self.give_standard_streams()?;
        self.raise_rlimits(creator)?;
        rlimits::set_processes(&self.rlimits)?;
        self.capabilities.drop_bounding()?;
        self.set_user()?;
        let filtered = self.seccomp.is_some() || self.landlock.is_some();
        let hold = if filtered && !self.no_new_privileges { caps::SYS_ADMIN } else { 0 };
        self.capabilities.set(hold)?;
        self.capabilities.raise_ambient()?;
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs()
                .call("prctl(PR_SET_NO_NEW_PRIVS)")
                .context("set", "process.noNewPrivileges")?;
        }
        umask(self.umask);
        // A change of ids resets it to the host's fs.suid_dumpable.
        sys::process::set_dumpable(false).context("set", "non-dumpable")
    }

    fn set_oom_score(&self, proc: &Procfs, creator: &mut impl Creator) -> Result<()> {
        let Some(score) = self.oom_score_adj else { return Ok(()) };
        match oom_score::write(proc, "self", score) {
            Err(Failure { errno: Errno::EACCES | Errno::EPERM, .. }) => {
                match oom_score::has(proc, score) {
                    // The creator has lent it.
                    true => Ok(()),
                    false => creator.set_oom_score_adj(),
                }
            }
            other => other.context("set process.oomScoreAdj", score),
        }
    }

    fn raise_rlimits(&self, creator: &mut impl Creator) -> Result<()> {
        match rlimits::raise(&self.rlimits, None) {
            // It takes a capability outside the user namespace.
            Err(error) if error.errno() == Some(Errno::EPERM) => creator.raise_rlimits(),
            other => other,
        }
    }

    /// Gives what the standard streams can write to the container's user, who may want to open
    /// /dev/stdout again. Devices of the host keep their owner, for /dev/null belongs to all, and so do
    /// files that were opened for reading: their owner may write them.
    fn give_standard_streams(&self) -> Result<()> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let streams =
            [("stdin", stdin.as_fd()), ("stdout", stdout.as_fd()), ("stderr", stderr.as_fd())];
        for (name, fd) in streams {
            let Ok(stat) = fstat(fd) else { continue };
            let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
            if kind == SFlag::S_IFCHR || kind == SFlag::S_IFBLK || stat.st_uid == self.uid.as_raw()
            {
                continue;
            }
            let mode = fcntl(fd, FcntlArg::F_GETFL).unwrap_or(0) & libc::O_ACCMODE;
            if mode == libc::O_RDONLY && kind == SFlag::S_IFREG {
                continue;
            }
            match fchown(fd, Some(self.uid), None) {
                // A read-only file system, or an owner that is not mapped: the stream works all the same.
                Ok(()) | Err(Errno::EPERM | Errno::EROFS | Errno::EINVAL) => {}
                other => other.call("fchown").context("give the container's user", name)?,
            }
        }
        Ok(())
    }

    fn set_user(&self) -> Result<()> {
        if !self.keeps_groups {
            set_groups(&self.groups)?;
        }
        caps::keep()?;
        let (uid, gid) = (self.uid, self.gid);
        setresgid(gid, gid, gid)
            .call("setresgid")
            .context("set", format!("process.user.gid {gid}"))?;
        setresuid(uid, uid, uid).call("setresuid").context("set", format!("process.user.uid {uid}"))
    }

    /// Makes the working directory when it is missing. Called inside the container's root, with the power
    /// of its root user: so never through a magic link, which in a container that sees the host's
    /// processes may lead to the host's files.
    pub(crate) fn make_cwd(&self) -> Result<()> {
        let cwd = std::path::Path::new(std::ffi::OsStr::from_bytes(self.cwd.as_bytes()));
        let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let root = root.call("open").context("open", "the container's root")?;
        let path = mount::clean(cwd, "process.cwd")?;
        match attach::make_directory(root.as_fd(), &path, Links::Follow) {
            Ok(_) => Ok(()),
            // The user of the container may be allowed where its root is not (NFS, user namespaces). A way
            // through a magic link of procfs is for `enter_cwd` to judge; nothing is made there.
            Err(failure) if matches!(failure.errno, Errno::EACCES | Errno::ELOOP) => Ok(()),
            Err(failure) => Err(Error::system("make process.cwd", quote(cwd), failure)),
        }
    }

    /// Enters the working directory with the power of the container's root: its user may start in a
    /// directory that only root can enter. Whether that worked.
    pub(crate) fn step_into_cwd(&self) -> bool {
        nix::unistd::chdir(self.cwd.as_c_str()).is_ok()
    }

    /// Enters the working directory as the container's user, unless only root could, and makes sure that it lies inside the
    /// root: `/proc/self/fd/N` of a leaked directory would be the host's (CVE-2024-21626).
    pub(crate) fn enter_cwd(&self, entered_as_root: bool) -> Result<()> {
        let cwd = quote(std::ffi::OsStr::from_bytes(self.cwd.as_bytes()));
        match nix::unistd::chdir(self.cwd.as_c_str()) {
            Err(Errno::EACCES) if entered_as_root => {}
            entered => entered.call("chdir").context("enter process.cwd", &cwd)?,
        }
        match nix::unistd::getcwd() {
            // The kernel marks a directory outside the root by a path that does not begin with '/'.
            Ok(path) if path.as_os_str().as_bytes().starts_with(b"/") => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => Err(Error::new(
                ErrorKind::Invalid,
                "enter process.cwd",
                cwd,
                "current working directory is outside of container mount namespace root",
            )),
            Err(errno) => {
                Err(Error::system("enter process.cwd", cwd, Failure { call: "getcwd", errno }))
            }
        }
    }

    /// As [`Self::resolve`], for a process that is yet to enter the pid namespace.
    pub(crate) fn look_up(&self) -> Result<Executable> {
        let name = self.args[0].to_bytes();
        match SELF.iter().any(|place| name.starts_with(place)) {
            true => Ok(Executable::Inside),
            false => self.resolve().map(Executable::Found),
        }
    }

    /// The file to execute, by `PATH` of the *container's* environment, as the container's user.
    /// Found out before the filter is installed, so that the usual mistakes are told even under a
    /// profile that lets nothing be said.
    pub(crate) fn resolve(&self) -> Result<CString> {
        let name = self.args[0].as_c_str();
        let quoted = format!("{:?}", name.to_string_lossy());
        let not_found = |reason: &str| Error::new(ErrorKind::Exec, "exec:", quoted.clone(), reason);
        if name.is_empty() {
            return Err(not_found(NOT_FOUND));
        }
        if name.to_bytes().contains(&b'/') {
            return match executable(name) {
                Ok(()) => Ok(name.to_owned()),
                Err(errno) => Err(exec_error(&quoted, "stat", errno)),
            };
        }
        let mut denied = false;
        for dir in self.search_path().split(|&b| b == b':') {
            let dir = if dir.is_empty() { &b"."[..] } else { dir };
            let candidate = CString::new([dir, b"/", name.to_bytes()].concat())
                .expect("parts of C strings hold no NUL");
            match executable(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(Errno::EACCES) => denied = true,
                Err(_) => {}
            }
        }
        Err(if denied {
            exec_error(&quoted, "access", Errno::EACCES)
        } else {
            not_found(NOT_FOUND)
        })
    }

    /// `PATH` of the container's environment.
    pub(crate) fn search_path(&self) -> &[u8] {
        let value = |entry: &CStr| entry.to_bytes().strip_prefix(b"PATH=").map(<[u8]>::len);
        // The last entry of a name wins, as for getenv after a shell's export.
        self.env
            .iter()
            .rev()
            .find_map(|entry| value(entry).map(|n| &entry.to_bytes()[entry.to_bytes().len() - n..]))
            .unwrap_or_default()
    }

    /// Adds `HOME` from the container's /etc/passwd when the environment has none or an empty one.
    /// Called inside the container's root; the file is the image's.
    pub(crate) fn add_home(&mut self) {
        const NAME: &[u8] = b"HOME=";
        if self.env.iter().any(|e| e.to_bytes().starts_with(NAME) && e.to_bytes() != NAME) {
            return;
        }
        self.env.retain(|entry| !entry.to_bytes().starts_with(NAME));
        let passwd = read_bounded(c"/etc/passwd").unwrap_or_default();
        let home = home_of(&passwd, self.uid.as_raw()).unwrap_or(b"/");
        // A NUL byte in the image's file: as good as no entry.
        self.env.push(CString::new([NAME, home].concat()).unwrap_or_else(|_| c"HOME=/".to_owned()));
    }

    /// Takes on what leaves no room for the runtime's own needs: Landlock rules, resource limits.
    pub(crate) fn restrict(&self) -> Result<()> {
        self.landlock.as_ref().map_or(Ok(()), landlock::Rules::apply)?;
        rlimits::set(&self.rlimits)
    }

    /// Installs the filter. Returns its listener.
    pub(crate) fn install_filter(&self) -> Result<Option<OwnedFd>> {
        match &self.seccomp {
            Some(filter) => filter.install().context("install", "linux.seccomp"),
            None => Ok(None),
        }
    }

    /// Executes the program; returns only an error.
    pub(crate) fn execute(&self, path: &CString) -> Error {
        let failure = sys::process::execve(path, &self.args, &self.env);
        exec_error(&format!("{:?}", path.to_string_lossy()), failure.call, failure.errno)
    }
}

/// What leads to the files of the process that looks, which procfs knows by its pid.
const SELF: [&[u8]; 2] = [b"/proc/", b"/dev/fd/"];

/// The file to execute.
#[derive(Debug)]
pub(crate) enum Executable {
    Found(CString),
    /// It is to be looked up in the pid namespace.
    Inside,
}

impl Executable {
    /// Its path, for the process that executes it.
    pub(crate) fn inside(self, program: &Program) -> Result<CString> {
        match self {
            Self::Found(path) => Ok(path),
            Self::Inside => program.resolve(),
        }
    }
}

fn exec_error(quoted: &str, call: &'static str, errno: Errno) -> Error {
    Error::system("exec:", quoted, Failure { call, errno }).with_kind(ErrorKind::Exec)
}

/// Whether the current user may execute the regular file at `path`.
fn executable(path: &CStr) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Errno::EACCES);
    }
    faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// A file of the container: never blocks on a fifo, never reads more than an administrator would
/// write. Links are followed (images built by Nix have one at /etc/passwd), but no magic ones, and not to
/// a file that the kernel makes up, such as its log, which is gone once it is read: those have no size.
fn read_bounded(path: &CStr) -> Option<Vec<u8>> {
    use std::io::Read;
    const LONGEST: u64 = 1 << 20;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let resolve = libc::RESOLVE_NO_MAGICLINKS;
    let file = sys::openat2::openat2(nix::fcntl::AT_FDCWD, path, flags.bits(), 0, resolve).ok()?;
    let stat = fstat(&file).ok()?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG || stat.st_size == 0 {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The home directory of `uid` in passwd(5) text.
fn home_of(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':').skip(2);
        let id: u32 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let home = fields.nth(2)?;
        (id == uid && !home.is_empty()).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_set_once() {
        assert_eq!(groups(&[10, 1000, 10]), [Gid::from_raw(10), Gid::from_raw(1000)]);
    }

    #[test]
    fn home_comes_from_the_right_line() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad\nx:x:1:1:::\nu:x:7:7:a:/home/u:/bin/sh";
        assert_eq!(home_of(passwd, 0), Some(&b"/root"[..]));
        assert_eq!(home_of(passwd, 7), Some(&b"/home/u"[..]));
        assert_eq!(home_of(passwd, 1), None, "empty field");
        assert_eq!(home_of(passwd, 2), None);
        assert_eq!(home_of(b"", 0), None);
    }
}
