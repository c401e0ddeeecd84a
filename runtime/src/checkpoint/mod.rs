//! Checkpoint and restore, by CRIU (<https://criu.org>).
//!
//! CRIU saves what is inside of a container: processes with their memory, and the namespaces and mounts that
//! were made for them. What is outside of it is ours: we tell what is the host's (`external`), and on restore
//! make the cgroup with its limits, run the hooks and keep the record, as for a new container.
//!
//! - `request` says in CRIU's words what is to be done: pure.
//! - `rpc` are the messages, `swrk` the program and the conversation.
//! - `external`, `streams` and `surroundings` are the edges of a container.
//! - `configuration` is the file with options that an annotation names.
//! - `program` finds CRIU, `log` why it failed.
//!
//! Restoring runs what the images say, with the host's root's power: they are as trusted as the runtime, see
//! docs/threat-model.md.

mod attributes;
mod configuration;
mod dump;
mod external;
mod log;
mod options;
mod program;
mod request;
mod restore;
mod rpc;
mod streams;
mod surroundings;
mod swrk;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};
use oci_spec::runtime::{LinuxSeccompAction, Spec};

pub(crate) use configuration::ANNOTATION as CONFIGURATION;
pub(crate) use dump::{Subject, dump};
pub use options::{CgroupMode, CheckpointOptions, CriuOptions, NetworkLock, RestoreOptions};
pub use program::{criu_configuration, criu_program};
pub(crate) use restore::restore;

use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
use crate::host::Host;
use crate::landlock;
use crate::plan;
use request::{Needs, Numbers};
use rpc::{Features, Request, Response, kind};
use swrk::{INHERITED, Swrk};

/// Directories of images and of work files, open.
#[derive(Debug)]
struct Directories {
    images: OwnedFd,
    work: Option<OwnedFd>,
}

/// Whether a directory that is missing is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Made,
    Refused,
}

impl Directories {
    /// Opens them. The work directory is made when it is missing, as under runc.
    fn open(options: &CriuOptions, images: Missing) -> Result<Self> {
        let work = options.work.as_deref().map(|path| {
            directory(path, "work", Missing::Made).and_then(|fd| writable(fd, path, "work"))
        });
        let opened = directory(&options.images, "image", images)?;
        // Logs are written there too.
        let images = match (images, &work) {
            (Missing::Refused, Some(_)) => opened,
            _ => writable(opened, &options.images, "image")?,
        };
        Ok(Self { images, work: work.transpose()? })
    }

    /// Their numbers in a worker that opens them again, behind `inherited`. The status is the first of
    /// these, if there is one.
    fn numbers(&self, inherited: &[BorrowedFd<'_>], status: bool) -> Numbers {
        let first = INHERITED + inherited.len() as i32;
        Numbers {
            images: first,
            work: self.work.as_ref().map(|_| first + 1),
            status: status.then_some(INHERITED),
        }
    }

    /// The same directories in the mount namespace of the calling process.
    fn opened_again(&self, options: &CriuOptions) -> Result<Vec<OwnedFd>> {
        let mut opened = Vec::new();
        let work = options.work.as_deref().zip(self.work.as_ref());
        for (path, before) in
            [Some((options.images.as_path(), &self.images)), work].into_iter().flatten()
        {
            let again = directory(path, "image or work", Missing::Refused)?;
            if identity(&again)? != identity(before)? {
                let reason = "it is another directory than a moment ago";
                return Err(Error::new(ErrorKind::System, "open", quote(path), reason));
            }
            opened.push(again);
        }
        Ok(opened)
    }

    /// Where logs are.
    fn logs(&self) -> BorrowedFd<'_> {
        self.work.as_ref().unwrap_or(&self.images).as_fd()
    }
}

fn directory(path: &Path, what: &str, missing: Missing) -> Result<OwnedFd> {
    let subject = || format!("{what} directory {}", quote(path));
    if missing == Missing::Made {
        match nix::unistd::mkdir(path, Mode::S_IRWXU) {
            Err(nix::errno::Errno::EEXIST) => {}
            made => made.call("mkdir").context("make", subject())?,
        }
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).call("open").context("open", subject())
}

fn identity(directory: &OwnedFd) -> Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(directory).call("fstat").context("inspect", "directory")?;
    Ok((stat.st_dev, stat.st_ino))
}

fn writable(directory: OwnedFd, path: &Path, what: &str) -> Result<OwnedFd> {
    faccessat(&directory, ".", AccessFlags::W_OK, AtFlags::empty())
        .call("faccessat")
        .context("write to", format!("{what} directory {}", quote(path)))?;
    Ok(directory)
}

/// Refuses what CRIU would save in part, or restore with less confinement, without a word.
fn refuse_unsupported(operation: &str, spec: &Spec) -> Result<()> {
    let refused = |field: String, reason: &str| Err(Error::unsupported(operation, field, reason));
    if plan::listed(spec) & libc::CLONE_NEWUSER != 0 {
        let reason = "a user namespace cannot reach what CRIU restores from";
        return refused("linux.namespaces".to_owned(), reason);
    }
    if spec.annotations().as_ref().is_some_and(|all| all.contains_key(landlock::ANNOTATION)) {
        let field = format!("annotations[{:?}]", landlock::ANNOTATION);
        return refused(field, "CRIU does not restore Landlock rules");
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let words = mount.options().as_deref().unwrap_or_default();
        let is_mapped = words.iter().any(|word| {
            let name = word.split('=').next().unwrap_or_default();
            matches!(name, "idmap" | "ridmap")
        });
        if is_mapped || mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return refused(format!("mounts[{index}]"), "CRIU does not restore idmapped mounts");
        }
    }
    let linux = spec.linux().as_ref();
    if linux.is_some_and(|linux| linux.net_devices().as_ref().is_some_and(|all| !all.is_empty())) {
        let reason = "CRIU does not restore devices of the host";
        return refused("linux.netDevices".to_owned(), reason);
    }
    if linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
        let reason = "CRIU does not restore classes of resctrl";
        return refused("linux.intelRdt".to_owned(), reason);
    }
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
    let rules = seccomp.and_then(|seccomp| seccomp.syscalls().as_ref());
    if rules.into_iter().flatten().any(|rule| notifies(rule.action())) {
        return refused("linux.seccomp".to_owned(), "CRIU does not restore SCMP_ACT_NOTIFY");
    }
    Ok(())
}

/// Where cgroup2 is mounted, on a host that has no other hierarchy.
fn only_cgroup2(host: &Host) -> Option<&Path> {
    let unified = host.layout.unified.as_ref().filter(|_| host.layout.v1.is_empty());
    unified.map(|unified| unified.mount_point.as_path())
}

/// CRIU's unprivileged mode restores no namespaces.
fn refuse_ordinary_user(operation: &str, host: &Host) -> Result<()> {
    if host.privileged() {
        return Ok(());
    }
    Err(Error::unsupported(operation, "container", "CRIU needs root of the host"))
}

/// Checks that this CRIU knows all that is asked: it skips options that it does not know.
fn check_version(worker: &Swrk, program: &Path, needs: &[Needs]) -> Result<()> {
    let answer = worker.ask(Request { kind: kind::VERSION, ..Request::default() })?;
    let Some(version) = answer.version.filter(|_| answer.success) else {
        let reason = "it does not tell its version: is it CRIU?";
        return Err(Error::new(ErrorKind::Unsupported, "use", quote(program), reason));
    };
    // CRIU counts the sublevel of a release in between as one more minor version.
    let found = (version.major, version.minor);
    match needs.iter().find(|need| need.since > found) {
        Some(need) => {
            let shown = format!("{}.{}.{}", version.major, version.minor, version.sublevel());
            let (major, minor) = need.since;
            let reason = format!("{} needs CRIU {major}.{minor}, and this is {shown}", need.what);
            Err(Error::unsupported("use", quote(program), reason))
        }
        None => Ok(()),
    }
}

/// Asks for what the kernel must have.
fn check_features(worker: &Swrk, pre_dump: bool, lazy_pages: bool) -> Result<()> {
    if !(pre_dump || lazy_pages) {
        return Ok(());
    }
    let features = Features { mem_track: Some(pre_dump), lazy_pages: Some(lazy_pages) };
    let request =
        Request { kind: kind::FEATURE_CHECK, features: Some(features), ..Request::default() };
    let found = worker.ask(request)?.features.unwrap_or_default();
    for (asked, has, what) in [
        (pre_dump, found.mem_track(), "--pre-dump: tracking of memory changes"),
        (lazy_pages, found.lazy_pages(), "--lazy-pages: userfaultfd"),
    ] {
        if asked && !has {
            let reason = "this kernel or this CRIU does not have it";
            return Err(Error::unsupported("use", what, reason));
        }
    }
    Ok(())
}

/// CRIU's failure as an error: its log's words, and where the log is. `runc` says "criu failed: type" too,
/// which callers look for.
fn failed(
    operation: &str,
    id: &str,
    response: &Response,
    directories: &Directories,
    log: &str,
    options: &CriuOptions,
) -> Error {
    let path = options.work.as_ref().unwrap_or(&options.images).join(log);
    let mut reason =
        format!("criu failed: type {} errno {}", kind::name(response.kind), response.errno());
    let mut words = log::errors(directories.logs(), log);
    if words.is_empty() {
        words.extend(response.message.as_deref().map(|text| text.trim().to_owned()));
    }
    if !words.is_empty() {
        reason = format!("{reason}: {}", words.join("; "));
    }
    let subject = format!("container {}", quote(id));
    Error::new(
        ErrorKind::System,
        operation,
        subject,
        format!("{reason}; log file: {}", quote(path)),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_criu_would_lose_is_refused() {
        let refusal = |more: serde_json::Value| {
            let mut json = json!({ "ociVersion": "1.0.2", "linux": {} });
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let spec: Spec = serde_json::from_value(json).unwrap();
            refuse_unsupported("checkpoint", &spec).err().map(|error| error.to_string())
        };
        let mount = |more: serde_json::Value| {
            let mut mount = json!({ "destination": "/a", "type": "bind", "source": "/a" });
            mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "mounts": [mount] })
        };
        let rules = |action: &str| {
            let rule = json!({ "names": ["mount"], "action": action });
            json!({ "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] } } })
        };
        assert_eq!(refusal(mount(json!({ "options": ["rbind", "ro"] }))), None);
        assert_eq!(refusal(rules("SCMP_ACT_ERRNO")), None);
        let map = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
        for (json, field) in [
            (mount(json!({ "options": ["rbind", "idmap"] })), "mounts[0]"),
            (mount(json!({ "options": ["ridmap=uids=0-1-1"] })), "mounts[0]"),
            (mount(json!({ "uidMappings": map, "gidMappings": map })), "mounts[0]"),
            (json!({ "annotations": { "io.bulkhead.landlock": "{}" } }), "io.bulkhead.landlock"),
            (rules("SCMP_ACT_NOTIFY"), "linux.seccomp"),
            (json!({ "linux": { "namespaces": [{ "type": "user" }] } }), "linux.namespaces"),
        ] {
            let error = refusal(json.clone()).unwrap_or_else(|| panic!("{json}"));
            assert!(error.contains(field) && error.contains("CRIU"), "{error}");
        }
    }
}
