//! Landlock: file system rules that a process lays upon itself and on all that it executes.
//!
//! The annotation [`ANNOTATION`] asks for them. Its value is a JSON object of absolute paths in the
//! container, each with letters: `r` to read files and list directories, `w` to write, make, remove,
//! rename and truncate, `x` to execute. Whatever no rule allows is denied, to root too, for example:
//!
//! ```text
//! { "/usr": "rx", "/etc": "r", "/tmp": "rw", "/dev/null": "rw" }
//! ```
//!
//! The rules apply to the init process and to every process of `exec`, from just before the seccomp
//! filter on. A kernel without Landlock, or older than version 3 of it (Linux 6.2), which could not keep
//! files from being truncated, is an error and not a container without the rules.
//!
//! <https://docs.kernel.org/userspace-api/landlock.html>

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use serde_json::Value;

use crate::error::{Call, Context, Error, Result};
use crate::sys;

/// The annotation with the rules.
pub(crate) const ANNOTATION: &str = "io.bulkhead.landlock";

/// The first version that knows of truncation.
const OLDEST: u32 = 3;

// `LANDLOCK_ACCESS_FS_*` of `linux/landlock.h`.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Removing and making of each kind of file.
const CHANGE_DIR: u64 = 0x1ff0;
/// Linux 5.19: links and renames from one directory to another.
const REFER: u64 = 1 << 13;
/// Linux 6.2.
const TRUNCATE: u64 = 1 << 14;
/// Linux 6.10: ioctl on devices.
const IOCTL_DEV: u64 = 1 << 15;

const READ: u64 = READ_FILE | READ_DIR | IOCTL_DEV;
const WRITE: u64 = WRITE_FILE | CHANGE_DIR | REFER | TRUNCATE | IOCTL_DEV;
/// What applies to a file; the rest is of directories, and the kernel refuses it for anything else.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

/// Accesses that a version of the interface knows.
fn known(version: u32) -> u64 {
    let first = EXECUTE | WRITE_FILE | READ_FILE | READ_DIR | CHANGE_DIR;
    [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)]
        .iter()
        .filter(|(since, _)| version >= *since)
        .fold(first, |all, (_, access)| all | access)
}

/// The rules' place in errors.
const WHAT: &str = "annotations.\"io.bulkhead.landlock\"";

/// The rules of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules(Vec<(CString, u64)>);

/// The rules in an annotation's value.
pub(crate) fn plan(value: &str) -> Result<Rules> {
    let refuse = |reason: String| Error::invalid(format!("annotations.{ANNOTATION:?}"), reason);
    let object: Value = serde_json::from_str(value)
        .map_err(|error| refuse(format!("is not a JSON object of paths and letters: {error}")))?;
    let Value::Object(members) = object else {
        return Err(refuse("is not a JSON object of paths and letters".into()));
    };
    let rule = |(path, letters): (String, Value)| {
        let odd = || refuse(format!("{path:?} has {letters}, which is not made of r, w and x"));
        let letters = letters.as_str().filter(|text| !text.is_empty()).ok_or_else(odd)?;
        let access = letters.chars().try_fold(0, |all, letter| match letter {
            'r' => Ok(all | READ),
            'w' => Ok(all | WRITE),
            'x' => Ok(all | EXECUTE),
            _ => Err(odd()),
        })?;
        let absolute = CString::new(path.as_str()).ok().filter(|_| path.starts_with('/'));
        let path = absolute.ok_or_else(|| refuse(format!("{path:?} is not an absolute path")))?;
        Ok((path, access))
    };
    members.into_iter().map(rule).collect::<Result<_>>().map(Rules)
}

impl Rules {
    /// The paths of the rules, in the container.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &CStr> {
        self.0.iter().map(|(path, _)| path.as_c_str())
    }

    /// Whether the kernel has what the rules need.
    pub(crate) fn check_kernel(&self) -> Result<()> {
        let version = sys::landlock::version().context("apply", WHAT)?;
        if version >= OLDEST {
            return Ok(());
        }
        let reason = format!("this kernel has version {version} of Landlock, {OLDEST} is needed");
        Err(Error::unsupported("apply", WHAT, reason))
    }

    /// Restricts the calling process, inside the container's root. Needs `no_new_privs` or CAP_SYS_ADMIN.
    pub(crate) fn apply(&self) -> Result<()> {
        self.check_kernel()?;
        let known = known(sys::landlock::version().context("apply", WHAT)?);
        let ruleset = sys::landlock::create_ruleset(known).context("apply", WHAT)?;
        for (path, access) in &self.0 {
            let subject = || format!("{WHAT}: {path:?}");
            let file = open(path.as_c_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
            let file = file.call("open").context("apply", subject())?;
            allow(ruleset.as_fd(), file, access & known).context("apply", subject())?;
        }
        sys::landlock::restrict_self(ruleset.as_fd()).context("apply", WHAT)
    }
}

/// Keeps the calling process from executing anything and from changing files, but beneath these
/// directories. Does nothing where the kernel has no Landlock.
pub(crate) fn write_only_beneath(directories: Vec<OwnedFd>) -> sys::Result<()> {
    let Ok(version) = sys::landlock::version() else { return Ok(()) };
    let denied = known(version) & (WRITE | EXECUTE) & !IOCTL_DEV;
    let ruleset = sys::landlock::create_ruleset(denied)?;
    for directory in directories {
        allow(ruleset.as_fd(), directory, denied & WRITE)?;
    }
    sys::landlock::restrict_self(ruleset.as_fd())
}

fn allow(ruleset: BorrowedFd<'_>, file: OwnedFd, access: u64) -> sys::Result<()> {
    let mode = fstat(&file).call("fstat")?.st_mode;
    let directory = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    let access = if directory { access } else { access & OF_FILES };
    sys::landlock::allow_beneath(ruleset, file.as_fd(), access)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::testing::in_child;

    #[test]
    fn letters_are_accesses() {
        let rules = plan(r#"{"/a": "r", "/b b": "wx"}"#).unwrap();
        assert_eq!(rules, Rules(vec![(c"/a".into(), READ), (c"/b b".into(), WRITE | EXECUTE)]));
        assert_eq!(plan("{}").unwrap(), Rules(Vec::new()));
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let cases = [
            ("", "is not a JSON object"),
            ("[]", "is not a JSON object"),
            (r#"{"/a": 7}"#, "\"/a\" has 7"),
            (r#"{"/a": ""}"#, "\"/a\" has \"\""),
            (r#"{"/a": "rq"}"#, "\"/a\" has \"rq\""),
            (r#"{"a": "r"}"#, "\"a\" is not an absolute path"),
            (r#"{"/\u0000": "r"}"#, "is not an absolute path"),
        ];
        for (value, expected) in cases {
            let error = plan(value).unwrap_err().to_string();
            assert!(error.contains("annotations.\"io.bulkhead.landlock\""), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn only_what_is_allowed_can_be_done() {
        if !sys::landlock::version().is_ok_and(|version| version >= OLDEST) {
            println!("skipped: this kernel has no Landlock of version {OLDEST}");
            return;
        }
        let base = std::env::temp_dir().join(format!("bh-landlock-{}", std::process::id()));
        std::fs::create_dir_all(base.join("free")).unwrap();
        std::fs::create_dir_all(base.join("kept")).unwrap();
        std::fs::write(base.join("kept/file"), "x").unwrap();
        in_child(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let value = format!(r#"{{"{0}/free": "rw", "{0}/kept": "r"}}"#, base.display());
            plan(&value).unwrap().apply().unwrap();
            std::fs::write(base.join("free/new"), "1").unwrap();
            assert_eq!(std::fs::read(base.join("kept/file")).unwrap(), b"x");
            let denied = |result: std::io::Result<()>| {
                assert_eq!(result.unwrap_err().raw_os_error(), Some(Errno::EACCES as i32));
            };
            denied(std::fs::write(base.join("kept/file"), "y"));
            denied(std::fs::write(base.join("kept/new"), "y"));
            denied(std::fs::remove_file(base.join("kept/file")));
            denied(std::fs::read("/etc/passwd").map(drop));
            denied(std::process::Command::new("/bin/true").status().map(drop));
        });
        std::fs::remove_dir_all(base).unwrap();
    }
}
