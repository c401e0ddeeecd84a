//! Keeping the host's copy of this program out of a container's reach.
//!
//! A process of a container can reach the program that set it up through `/proc/PID/exe`: while the
//! runtime is inside, or by having the kernel execute `/proc/self/exe` as the interpreter of the
//! container's own program. It cannot write to a running program, but it can keep the link open and
//! write later, as root, to the host's file (CVE-2019-5736).
//!
//! So a program that will go inside runs from a copy that nobody can write, in order of price:
//!
//! 1. Nothing to do: the file lies on a mount or file system without writes, or an ordinary user
//!    runs it who may not write it; that user's containers have no more power over it.
//! 2. A read-only, detached clone of the file's mount (`open_tree(2)`), executed by descriptor. The
//!    tree's descriptor closes at that `execve`: while it was open, `mount_setattr(2)` through it
//!    could clear the flag; afterwards the mount belongs to no namespace and nobody can change it.
//! 3. A sealed memfd with a copy of the file, where mounting is not permitted.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, stat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use crate::error::{Call, Context, Error, ErrorKind, Failure, Result};
use crate::sys;
use crate::sys::mount::Depth;

const EXE: &str = "/proc/self/exe";

/// Set for the second execution, so that a host on which neither way protects cannot make a loop. Its value is the
/// path of the file that was executed first.
const MARK: &str = "_BULKHEAD_SEALED";

/// Returns once the running program cannot be written through `/proc/PID/exe`; for that it may
/// execute itself again with the same arguments and environment. Call it before anything else, from
/// a process with one thread.
///
/// # Errors
/// None of the three ways works here.
pub fn protect_own_binary() -> Result<()> {
    if is_protected().context("inspect", EXE)? {
        // The kernel named the process after the descriptor that it was executed by.
        let _ = nix::sys::prctl::set_name(c"bulkhead");
        return Ok(());
    }
    if std::env::var_os(MARK).is_some() {
        return Err(Error::new(
            ErrorKind::System,
            "protect",
            EXE,
            "this program can still be written after it was executed from a read-only copy",
        ));
    }
    let copy = match read_only_clone() {
        Ok(tree) => tree,
        Err(Failure { errno: Errno::EPERM | Errno::ENOSYS | Errno::EINVAL, .. }) => sealed_copy()?,
        Err(failure) => return Err(Error::system("protect", EXE, failure)),
    };
    Err(Error::system("protect", EXE, execute(copy.as_fd())))
}

/// The path of the file that this program was executed from, before it was protected.
pub fn own_program() -> Option<PathBuf> {
    match std::env::var_os(MARK) {
        Some(path) => Some(path.into()),
        None => std::fs::read_link(EXE).ok(),
    }
}

fn is_protected() -> sys::Result<bool> {
    if statvfs(EXE).call("statfs")?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    let user = geteuid();
    if !user.is_root() {
        let writable = faccessat(nix::fcntl::AT_FDCWD, EXE, AccessFlags::W_OK, AtFlags::AT_EACCESS);
        // The owner could give itself permission; ETXTBSY would mean that only the running protects it.
        let owner = stat(EXE).call("stat")?.st_uid;
        if matches!(writable, Err(Errno::EACCES | Errno::EROFS)) && owner != user.as_raw() {
            return Ok(true);
        }
    }
    Ok(std::env::var_os(MARK).is_some() && is_sealed())
}

fn is_sealed() -> bool {
    let Ok(file) = nix::fcntl::open(EXE, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else {
        return false;
    };
    fcntl(&file, FcntlArg::F_GET_SEALS)
        .is_ok_and(|bits| SealFlag::from_bits_truncate(bits).contains(SealFlag::F_SEAL_WRITE))
}

fn read_only_clone() -> sys::Result<OwnedFd> {
    let exe =
        nix::fcntl::open(EXE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).call("open")?;
    let tree = sys::mount::clone_tree(exe.as_fd(), c"", Depth::Top, true)?;
    sys::mount::set_attributes(tree.as_fd(), Depth::Top, sys::mount::MOUNT_ATTR_RDONLY, 0)?;
    Ok(tree)
}

fn sealed_copy() -> Result<OwnedFd> {
    let context = |failure| Error::system("protect by a sealed copy", EXE, failure);
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = memfd_create(c"bulkhead", flags).call("memfd_create").map_err(context)?;
    let program = std::fs::read(EXE).call("read").map_err(context)?;
    let mut file = std::fs::File::from(copy);
    file.write_all(&program).call("write").map_err(context)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).call("fcntl(F_ADD_SEALS)").map_err(context)?;
    Ok(file.into())
}

fn execute(copy: BorrowedFd<'_>) -> Failure {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).expect("the kernel's strings hold no NUL");
    let args: Vec<_> = std::env::args_os().map(|arg| c_string(arg.into_vec())).collect();
    let mut env: Vec<_> = std::env::vars_os()
        .map(|(name, value)| c_string([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()))
        .collect();
    let own = std::fs::read_link(EXE).unwrap_or_default().into_os_string();
    env.push(c_string([MARK.as_bytes(), b"=", own.as_bytes()].concat()));
    sys::process::execveat(copy, &args, &env)
}
