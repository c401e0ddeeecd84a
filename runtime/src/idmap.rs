//! Id maps of user namespaces. user_namespaces(7), newuidmap(1).
//!
//! A creator with power over the ids (root) writes `/proc/PID/{uid,gid}_map`. An ordinary user may
//! map only its own id, and the group map only after denying `setgroups` (CVE-2014-8989: dropping a
//! group could *gain* access); more ids come through `newuidmap` and `newgidmap`, which check
//! /etc/subuid and /etc/subgid.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use nix::fcntl::{OFlag, openat};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Gid, Pid, Uid, write};
use oci_spec::runtime::LinuxIdMapping;

use crate::error::{Call, Context, Error, ErrorKind, Result};
use crate::options::Parent;
use crate::sys;
use crate::sys::clone::{Cloned, SingleThreaded};

/// One line of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many ids.
    pub size: u32,
}

/// Both maps of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Maps {
    pub uids: Vec<Range>,
    pub gids: Vec<Range>,
}

/// The configuration's lists. `validate` has checked overflow and overlap.
pub(crate) fn plan(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Maps {
    let ranges = |list: &[LinuxIdMapping]| {
        list.iter()
            .map(|m| Range { inside: m.container_id(), outside: m.host_id(), size: m.size() })
            .collect()
    };
    Maps { uids: ranges(uids), gids: ranges(gids) }
}

/// How the maps get written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The creator has power over all ids.
    Direct,
    /// The creator maps only its own ids, and must deny `setgroups`.
    Own,
    /// `newuidmap` and `newgidmap`.
    Programs,
}

impl Maps {
    /// How a creator with these effective ids gets them written.
    pub(crate) fn writer(&self, uid: Uid, gid: Gid) -> Writer {
        let own = |ranges: &[Range], id: u32| matches!(ranges, [Range { outside, size: 1, .. }] if *outside == id);
        if uid.is_root() {
            Writer::Direct
        } else if own(&self.uids, uid.as_raw()) && own(&self.gids, gid.as_raw()) {
            Writer::Own
        } else {
            Writer::Programs
        }
    }

    /// Whether both ids of a file on the host have a name inside.
    pub(crate) fn holds(&self, uid: u32, gid: u32) -> bool {
        let holds = |ranges: &[Range], id: u32| {
            ranges.iter().any(|range| id.checked_sub(range.outside).is_some_and(|n| n < range.size))
        };
        holds(&self.uids, uid) && holds(&self.gids, gid)
    }

    /// The host's gid behind `inside`.
    pub(crate) fn outside_gid(&self, inside: u32) -> Option<u32> {
        outside(&self.gids, inside)
    }

    /// The host's uid behind `inside`.
    pub(crate) fn outside_uid(&self, inside: u32) -> Option<u32> {
        outside(&self.uids, inside)
    }

    /// Writes both maps of the process `pid`, whose new user namespace has none yet. `proc` is the
    /// host's procfs.
    pub(crate) fn write(&self, proc: BorrowedFd<'_>, pid: i32, writer: Writer) -> Result<()> {
        match writer {
            Writer::Direct | Writer::Own => {
                if writer == Writer::Own {
                    write_file(proc, pid, "setgroups", b"deny", "process.user")?;
                }
                write_file(
                    proc,
                    pid,
                    "gid_map",
                    lines(&self.gids).as_bytes(),
                    "linux.gidMappings",
                )?;
                write_file(proc, pid, "uid_map", lines(&self.uids).as_bytes(), "linux.uidMappings")
            }
            Writer::Programs => {
                run("newgidmap", pid, &self.gids, "linux.gidMappings")?;
                run("newuidmap", pid, &self.uids, "linux.uidMappings")
            }
        }
    }
}

fn outside(ranges: &[Range], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.size).then(|| range.outside + offset)
    })
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let Range { inside, outside, size } = range;
        writeln!(text, "{inside} {outside} {size}").expect("a String takes any text");
        text
    })
}

fn write_file(proc: BorrowedFd<'_>, pid: i32, name: &str, value: &[u8], field: &str) -> Result<()> {
    let path = format!("{pid}/{name}");
    let subject = || format!("{field}: /proc/{path} {:?}", String::from_utf8_lossy(value));
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(proc, path.as_str(), flags, Mode::empty())
        .call("open")
        .context("write", subject())?;
    // The kernel takes a map in one write only.
    write(&file, value).call("write").context("write", subject()).map(drop)
}

fn run(program: &str, pid: i32, ranges: &[Range], field: &str) -> Result<()> {
    let numbers = ranges.iter().flat_map(|r| [r.inside, r.outside, r.size]);
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers.map(|n| n.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            Error::new(
                ErrorKind::System,
                "map",
                field,
                format!("this user may map only its own id; {program} is needed for more: {e}"),
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(
        ErrorKind::System,
        "map",
        field,
        format!("{program} ended with {}: {}", output.status, said.trim()),
    ))
}

/// A user namespace with these maps and no process in it, for an idmapped mount
/// (mount_setattr(2), "ID-mapped mounts"). Needs power over the ids.
pub(crate) fn throwaway(
    proof: &SingleThreaded,
    proc: BorrowedFd<'_>,
    maps: &Maps,
    field: &str,
) -> Result<OwnedFd> {
    let cloned = sys::clone::clone3(proof, libc::CLONE_NEWUSER as u64, Parent::Caller, None)
        .context("make a user namespace for", field)?;
    let Cloned::Parent { pid, pidfd } = cloned else {
        // Lives until it is killed, or its creator is; its only purpose is to hold the namespace.
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        loop {
            nix::unistd::pause();
        }
    };
    let made = maps.write(proc, pid, Writer::Direct).and_then(|()| {
        let path = CString::new(format!("{pid}/ns/user")).expect("digits hold no NUL");
        openat(proc, path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .call("open")
            .context("open the user namespace of", field)
    });
    // It is our child and nobody else waits for it, so neither call can miss.
    let _ = sys::pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::empty()));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(inside: u32, outside: u32, size: u32) -> Range {
        Range { inside, outside, size }
    }

    #[test]
    fn the_writer_follows_from_the_ids() {
        let own = Maps { uids: vec![range(0, 1000, 1)], gids: vec![range(0, 100, 1)] };
        let many = Maps { uids: vec![range(0, 1000, 1), range(1, 100_000, 65536)], ..own.clone() };
        let (user, group) = (Uid::from_raw(1000), Gid::from_raw(100));
        assert_eq!(own.writer(Uid::from_raw(0), Gid::from_raw(0)), Writer::Direct);
        assert_eq!(own.writer(user, group), Writer::Own);
        assert_eq!(own.writer(user, Gid::from_raw(101)), Writer::Programs);
        assert_eq!(many.writer(user, group), Writer::Programs);
    }

    #[test]
    fn lines_and_lookup() {
        let ranges = [range(0, 1000, 1), range(1, 100_000, 65535)];
        assert_eq!(lines(&ranges), "0 1000 1\n1 100000 65535\n");
        assert_eq!(outside(&ranges, 0), Some(1000));
        assert_eq!(outside(&ranges, 65535), Some(165_534));
        assert_eq!(outside(&ranges, 65536), None);
    }
}
