//! Reading and writing the files of a cgroup directory through its descriptor.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::write;

use super::resources::{Absent, Knob, Value, Version, cpu_max};
use crate::error::{Call, Error, ErrorKind, Failure, Result};

/// Opens a file of a cgroup.
pub(super) fn open(dir: impl AsFd, file: &str, flags: OFlag) -> Result<OwnedFd, Failure> {
    openat(dir, file, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()).call("openat")
}

/// Whether a directory has a file.
pub(super) fn exists(dir: impl AsFd, file: &str) -> bool {
    nix::sys::stat::fstatat(dir, file, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

/// The whole text of a file.
pub(crate) fn read(dir: impl AsFd, file: &str) -> Result<String, Failure> {
    let mut text = String::new();
    std::fs::File::from(open(dir, file, OFlag::O_RDONLY)?)
        .read_to_string(&mut text)
        .call("read")?;
    Ok(text)
}

/// Writes `value` in one call: the kernel takes each write for a whole setting.
pub(crate) fn put(dir: impl AsFd, file: &str, value: &str) -> Result<(), Failure> {
    put_open(&open(dir, file, OFlag::O_WRONLY)?, value)
}

/// As [`put`], to an open file.
pub(super) fn put_open(file: impl AsFd, value: &str) -> Result<(), Failure> {
    loop {
        // Shrinking a memory limit reclaims pages and is interrupted by signals.
        match write(&file, value.as_bytes()) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop).call("write"),
        }
    }
}

/// The number in a file; `max` is `u64::MAX`.
pub(super) fn number(dir: impl AsFd, file: &str) -> Option<u64> {
    let text = read(dir, file).ok()?;
    let text = text.trim();
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// Writes every knob. `dir_of` gives the directory of the hierarchy that has its controller.
///
/// Some pairs of limits are accepted in one order only, which depends on the values in force: memory
/// and memory with swap, period and quota, quota and burst, weight and idle. So what is refused
/// with EINVAL is tried once more after all the others.
pub(super) fn apply<'a>(
    knobs: &[Knob],
    dir_of: &dyn Fn(&Knob) -> Result<BorrowedFd<'a>>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut again = Vec::new();
    for knob in knobs {
        match write_knob(dir_of(knob)?, knob, warnings) {
            Err(e) if e.errno() == Some(Errno::EINVAL) => again.push(knob),
            result => result?,
        }
    }
    again.into_iter().try_for_each(|knob| write_knob(dir_of(knob)?, knob, warnings))
}

fn write_knob(dir: BorrowedFd<'_>, knob: &Knob, warnings: &mut Vec<String>) -> Result<()> {
    for (file, value) in &knob.choices {
        let opened = match open(dir, file, OFlag::O_WRONLY) {
            Err(f) if f.errno == Errno::ENOENT => continue,
            Err(failure) => return Err(Error::system("set", subject(knob, file, ""), failure)),
            Ok(opened) => opened,
        };
        for text in texts(dir, knob, value)? {
            put_open(&opened, &text).map_err(|failure| match (failure.errno, value) {
                (Errno::EBUSY, Value::Memory { limit, .. }) => below_use(dir, knob, *limit),
                _ => Error::system("set", subject(knob, file, &text), failure),
            })?;
        }
        return Ok(());
    }
    let files: Vec<&str> = knob.choices.iter().map(|(file, _)| file.as_str()).collect();
    let reason = format!("the kernel has no {}", files.join(" nor "));
    match knob.absent {
        Absent::Ignore => {}
        Absent::Warn => warnings.push(format!("{} is ignored: {reason}", knob.field)),
        Absent::Error => return Err(Error::unsupported("set", &knob.field, reason)),
    }
    Ok(())
}

/// `linux.resources.pids.limit (pids.max "5")`
fn subject(knob: &Knob, file: &str, text: &str) -> String {
    format!("{} ({file} {text:?})", knob.field)
}

/// The texts to write, one per call.
pub(super) fn texts(dir: BorrowedFd<'_>, knob: &Knob, value: &Value) -> Result<Vec<String>> {
    Ok(vec![match value {
        Value::Text(text) => text.clone(),
        Value::Lines(text) => {
            return Ok(text.lines().filter(|l| !l.is_empty()).map(str::to_string).collect());
        }
        Value::Memory { text, limit, check } => {
            if *check && *limit >= 0 && usage(dir, knob).is_some_and(|used| used > *limit as u64) {
                return Err(below_use(dir, knob, *limit));
            }
            text.clone()
        }
        Value::CpuMax { quota: Some(quota), period: Some(period) } => {
            cpu_max(Some(*quota), Some(*period), "")
        }
        Value::CpuMax { quota, period } => {
            cpu_max(*quota, *period, &read(dir, "cpu.max").unwrap_or_default())
        }
        Value::SwapTotal(total) => match number(dir, "memory.max") {
            Some(limit) if limit <= *total as u64 => (*total as u64 - limit).to_string(),
            _ => {
                let reason = format!(
                    "{total} is memory and swap together and needs a memory limit not above it"
                );
                return Err(Error::invalid(&knob.field, reason));
            }
        },
    }])
}

fn usage(dir: BorrowedFd<'_>, knob: &Knob) -> Option<u64> {
    let v1 = knob.version == Version::V1;
    number(dir, if v1 { "memory.usage_in_bytes" } else { "memory.current" })
}

fn below_use(dir: BorrowedFd<'_>, knob: &Knob, limit: i64) -> Error {
    let used = usage(dir, knob).unwrap_or_default();
    let file = knob.choices.first().map_or("", |(file, _)| file);
    let reason = format!("is below the {used} bytes in use");
    Error::new(ErrorKind::System, "set", subject(knob, file, &limit.to_string()), reason)
}
