//! The forked child's own process: what it inherited and must not hand on.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal};

use super::{Result, check};
use crate::error::Failure;

/// Highest signal number of Linux (`_NSIG`).
const SIGNALS: i32 = 64;

/// Size of the kernel's signal mask in bytes.
const MASK_SIZE: usize = SIGNALS as usize / 8;

/// Resets every signal to its default action and unblocks all. An ignored signal survives `execve`,
/// and Rust ignores SIGPIPE at start, so a container would inherit both ours and the caller's.
///
/// By the bare system call: glibc keeps signals 32 and 33 for its threads and refuses to change them,
/// but its `posix_spawn` leaves them ignored, so whoever is started by that hands them on.
pub(crate) fn reset_signals() -> Result<()> {
    /// A `struct sigaction` of the kernel, the longest of any architecture: all zeroes is `SIG_DFL`
    /// without flags.
    const DEFAULT: [u64; 8] = [0; 8];
    for signal in 1..=SIGNALS {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        let (default, old) = (DEFAULT.as_ptr(), std::ptr::null_mut::<u64>());
        // SAFETY: the kernel reads the structure, whose mask has the size given, and writes no old one.
        let done =
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default, old, MASK_SIZE) };
        check("rt_sigaction", done)?;
    }
    SigSet::empty().thread_set_mask().map_err(|errno| Failure { call: "rt_sigprocmask", errno })
}

/// Ignores a signal, also after `execve`.
pub(crate) fn ignore_signal(signal: Signal) -> Result<()> {
    // SAFETY: SIG_IGN is a valid disposition and runs no code.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }
        .map(drop)
        .map_err(|errno| Failure { call: "rt_sigaction", errno })
}

/// Every signal, with those that the C library keeps for itself, which `SigSet::all` leaves out.
pub(crate) fn every_signal() -> SigSet {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a sigset_t is an array of bits, of which every pattern is valid; all bytes are written.
    unsafe {
        set.as_mut_ptr().write_bytes(0xff, 1);
        SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

/// Overwrites the argument and environment strings that the kernel put on this process's stack, and
/// leaves `title` there. `/proc/PID/cmdline` and `environ` of a waiting container would otherwise
/// show the creator's to everyone who may look at it from inside.
///
/// Only for the forked child: nothing may read `std::env` afterwards.
pub(crate) fn overwrite_arguments(title: &[u8]) {
    let stat = std::fs::read("/proc/self/stat").unwrap_or_default();
    let Some([arg_start, _, _, env_end]) = argument_bounds(&stat) else { return };
    let Some(length) = env_end.checked_sub(arg_start) else { return };
    if length == 0 {
        return;
    }
    // SAFETY: the kernel reports these bounds for this process (proc(5), fields 48 to 51). They lie
    // in the initial stack, which stays mapped and writable for the life of the process. The child
    // has one thread and holds no reference into the strings.
    let area = unsafe { std::slice::from_raw_parts_mut(arg_start as *mut u8, length) };
    area.fill(0);
    let shown = title.len().min(length - 1);
    area[..shown].copy_from_slice(&title[..shown]);
    // SAFETY: one thread; `environ` is pointed at a static empty list, so that a library call which
    // reads the environment finds nothing instead of wiped strings.
    unsafe {
        libc::clearenv();
    }
}

/// `arg_start arg_end env_start env_end` of a `/proc/PID/stat` line.
fn argument_bounds(stat: &[u8]) -> Option<[usize; 4]> {
    let text = std::str::from_utf8(stat).ok()?;
    // The command in parentheses may hold anything, also parentheses and spaces.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace().skip(48 - 3).map(str::parse);
    let mut next = || fields.next()?.ok().filter(|&n: &usize| n != 0);
    Some([next()?, next()?, next()?, next()?])
}

/// Executes `path` with exactly these arguments and environment. Returns only on failure.
pub(crate) fn execve(path: &CString, args: &[CString], env: &[CString]) -> Failure {
    match nix::unistd::execve(path, args, env) {
        Err(errno) => Failure { call: "execve", errno },
        Ok(never) => match never {},
    }
}

/// Executes the open file `file`; it is close-on-exec, so this cannot run a script.
/// execveat(2), Linux 3.19.
pub(crate) fn execveat(file: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> Failure {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both lists end with a null pointer and outlive the call; the path is an empty C string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Failure::last("execveat")
}

/// Joins namespaces: of one namespace file (`kinds` 0 or its kind) or of a process by its pidfd.
/// setns(2); pidfds since Linux 5.8.
pub(crate) fn setns(fd: BorrowedFd<'_>, kinds: i32) -> Result<()> {
    // SAFETY: no memory is passed.
    check("setns", unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into())?;
    Ok(())
}

/// Leaves the namespaces of `flags` for new ones. unshare(2).
pub(crate) fn unshare(flags: i32) -> Result<()> {
    // SAFETY: no memory is passed.
    check("unshare", unsafe { libc::unshare(flags) }.into())?;
    Ok(())
}

/// Which kind (`CLONE_NEW*`) of namespace a namespace file is. ioctl_ns(2), Linux 4.11.
pub(crate) fn namespace_kind(fd: BorrowedFd<'_>) -> Result<i32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this request takes no argument.
    let kind = check("ioctl", unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) }.into())?;
    Ok(kind as i32)
}

/// The user namespace that owns a namespace; `None` outside of the caller's and those below it.
/// ioctl_ns(2), Linux 4.9.
pub(crate) fn owner_of_namespace(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    relative_of_namespace(fd, NS_GET_USERNS)
}

/// The parent of a user or pid namespace; `None` as above. ioctl_ns(2), Linux 4.9.
pub(crate) fn parent_of_namespace(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    relative_of_namespace(fd, NS_GET_PARENT)
}

fn relative_of_namespace(fd: BorrowedFd<'_>, request: libc::c_ulong) -> Result<Option<OwnedFd>> {
    // SAFETY: these requests take no argument.
    match check("ioctl", unsafe { libc::ioctl(fd.as_raw_fd(), request) }.into()) {
        // SAFETY: the kernel returned a new descriptor, close-on-exec, that nobody else knows of.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })),
        Err(Failure { errno: Errno::EPERM, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Makes this process and its children until `execve` unreadable to processes without
/// CAP_SYS_PTRACE: no ptrace, no `/proc/PID/{mem,fd,environ}` (CVE-2016-9962).
pub(crate) fn set_dumpable(dumpable: bool) -> Result<()> {
    nix::sys::prctl::set_dumpable(dumpable)
        .map_err(|errno| Failure { call: "prctl(PR_SET_DUMPABLE)", errno })
}

/// Brings the loopback interface of the current network namespace up. netdevice(7).
pub(crate) fn loopback_up() -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| Failure { call: "socket", errno })?;
    // SAFETY: ifreq is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq whose name is NUL-terminated.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check("ioctl(SIOCSIFFLAGS)", done.into())?;
    Ok(())
}

/// Random bytes of the kernel's. getrandom(2).
pub(crate) fn random(length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; length];
    // SAFETY: pointer and length describe one vector.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    let filled = check("getrandom", filled as libc::c_long)?;
    // More than 256 bytes may come in part.
    bytes.truncate(filled as usize);
    Ok(bytes)
}

/// Sets the NIS domain name of the UTS namespace. setdomainname(2).
pub(crate) fn setdomainname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length describe one slice.
    let done = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    check("setdomainname", done.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::argument_bounds;

    #[test]
    fn bounds_are_found_behind_a_hostile_command_name() {
        let mut line = String::from("7 (a) 1 (b)");
        for field in 3..=52 {
            line.push_str(&format!(" {field}"));
        }
        assert_eq!(argument_bounds(line.as_bytes()), Some([48, 49, 50, 51]));
        assert_eq!(argument_bounds(b""), None);
        assert_eq!(argument_bounds(b"1 (x) R 1 1"), None);
    }
}
