//! Who the kernel's OOM killer has ended.
//!
//! A cgroup only counts its kills; the kernel log tells each in one record
//! (<https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg>):
//!
//! ```text
//! 6,812,1908762998,-;oom-kill:constraint=CONSTRAINT_MEMCG,...,task_memcg=/pod/c,task=tail,pid=61,uid=0
//! ```
//!
//! The name is the victim's own choice, and may hold commas and equals signs; cgroups below the
//! container's may have names of its choice too. So the cgroup is read up to the first comma and must
//! begin with the container's, and the pid is the last field of its name.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek, read};

/// How often and how long to look: the record may come after the event, and there need not be one.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);
/// The longest record.
const RECORD: usize = 8192;

/// A process that was killed for lack of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Its pid in the host's pid namespace.
    pub pid: i32,
    /// Its name, as it has chosen it.
    pub name: String,
}

/// The kernel log from the moment of its opening on.
#[derive(Debug)]
pub(super) struct KernelLog(Option<OwnedFd>);

impl KernelLog {
    /// Opens the log; one that this process may not read holds no victims.
    pub(super) fn open() -> Self {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = open("/dev/kmsg", flags, Mode::empty()).ok();
        Self(file.filter(|file| lseek(file, 0, Whence::SeekEnd).is_ok()))
    }

    /// The next victim in the cgroup at `group`.
    pub(super) fn next(&self, group: &Path) -> Option<Victim> {
        let log = self.0.as_ref()?;
        let mut record = [0; RECORD];
        for _ in 0..LOOKS {
            loop {
                match read(log, &mut record) {
                    Ok(length) => {
                        if let Some(victim) = victim(&record[..length], group) {
                            return Some(victim);
                        }
                    }
                    Err(Errno::EAGAIN) => break,
                    // EPIPE: records were overwritten before they were read; the next one is there.
                    Err(Errno::EPIPE | Errno::EINTR) => {}
                    Err(_) => return None,
                }
            }
            std::thread::sleep(PAUSE);
        }
        None
    }
}

fn victim(record: &[u8], group: &Path) -> Option<Victim> {
    let text = record.splitn(2, |&byte| byte == b';').nth(1)?;
    let text = text.split(|&byte| byte == b'\n').next()?;
    let text = text.strip_prefix(b"oom-kill:")?;
    let after = |text: &[u8], key: &[u8]| -> Option<Vec<u8>> {
        let at = text.windows(key.len()).position(|window| window == key)?;
        Some(text[at + key.len()..].to_vec())
    };
    let rest = after(text, b",task_memcg=")?;
    let end = rest.iter().position(|&byte| byte == b',')?;
    if !is_below(Path::new(OsStr::from_bytes(&rest[..end])), group) {
        return None;
    }
    let task = String::from_utf8_lossy(&rest[end..]).into_owned();
    let (before, _uid) = task.rsplit_once(",uid=")?;
    let (before, pid) = before.rsplit_once(",pid=")?;
    let name = before.strip_prefix(",task=")?;
    Some(Victim { pid: pid.parse().ok()?, name: name.to_owned() })
}

/// Whether a cgroup, by its path in its hierarchy, is the one at `group` in the file system, or below it.
fn is_below(cgroup: &Path, group: &Path) -> bool {
    cgroup.ancestors().any(|ancestor| {
        ancestor
            .strip_prefix("/")
            .is_ok_and(|name| !name.as_os_str().is_empty() && group.ends_with(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let group = Path::new("/sys/fs/cgroup/memory/pod/c");
        let record = |cgroup: &str, task: &str| {
            format!(
                "6,8,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,\
                 oom_memcg=/pod/c,task_memcg={cgroup},task={task},pid=61,uid=0\n SUBSYSTEM=x"
            )
        };
        let read = |record: String| victim(record.as_bytes(), group).map(|v| (v.pid, v.name));
        assert_eq!(read(record("/pod/c", "tail")), Some((61, "tail".into())));
        assert_eq!(read(record("/pod/c/sub", "a,pid=1,b")), Some((61, "a,pid=1,b".into())));
        assert_eq!(read(record("/pod/cc", "tail")), None);
        assert_eq!(read(record("/", "tail")), None);
        assert_eq!(read("6,8,1,-;Killed process 61".to_owned()), None);
    }
}
