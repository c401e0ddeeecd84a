//! `checkpoint`: saves a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;

use super::options::CheckpointOptions;
use super::request::{self, Found};
use super::surroundings::{CGROUPS, Surroundings};
use super::swrk::{Start, Swrk};
use super::{Directories, Missing, configuration, external, streams};
use crate::cgroup::Cgroup;
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
use crate::host::Host;
use crate::options::{self, CreateOptions, Parent};
use crate::plan;
use crate::spec::Config;
use crate::state::Record;
use crate::sys;

/// The container that is saved.
pub(crate) struct Subject<'a> {
    pub record: &'a Record,
    pub spec: &'a Spec,
    pub cgroup: &'a Cgroup,
    /// Its state directory.
    pub place: &'a Path,
    /// It is frozen already, and stays so.
    pub paused: bool,
    pub parent: Parent,
}

/// How long a process that CRIU has killed may take to end.
const END: Duration = Duration::from_secs(10);

/// Saves a container. Its processes have ended afterwards unless they were to go on.
///
/// # Errors
/// `Unsupported` for what CRIU cannot save; otherwise what failed, with the errors of CRIU's log. The
/// container goes on then.
pub(crate) fn dump(subject: &Subject<'_>, options: &CheckpointOptions) -> Result<()> {
    let host = Host::read()?;
    super::refuse_ordinary_user("checkpoint", &host)?;
    super::refuse_unsupported("checkpoint", subject.spec)?;
    configuration::check(subject.spec)?;
    let program = &options.criu.program;
    let directories = Directories::open(&options.criu, Missing::Made)?;
    check_parent(options, &directories)?;
    let status = options.status.map(status).transpose()?;
    let inherited: Vec<_> = status.iter().map(AsFd::as_fd).collect();
    let numbers = directories.numbers(&inherited, !inherited.is_empty());
    let cgroups = super::only_cgroup2(&host);
    let worker = Swrk::start(&Start {
        program,
        cgroup: None,
        parent: subject.parent,
        namespaces: libc::CLONE_NEWNS,
        streams: false,
        inherited: &inherited,
        surroundings: &|| {
            Surroundings::make(subject.place, cgroups)?;
            directories.opened_again(&options.criu)
        },
    })?;
    super::check_version(&worker, program, &request::needs(&options.criu, subject.spec, None))?;
    super::check_features(&worker, options.pre_dump, options.criu.lazy_pages)?;
    let found = found(subject, options, &host, &directories)?;
    let pidfd = sys::pidfd::open(subject.record.pid).context("open process", subject.record.pid)?;
    let request = request::dump(options, subject.spec, numbers, found);
    let others = options.criu.lazy_pages || options.page_server.is_some();
    let answered = worker.work(&request, others, &mut |_, _, _| Ok(()));
    drop(worker);
    let result = answered.and_then(|response| match response.success {
        true => Ok(()),
        false => {
            let id = &subject.record.id;
            let log = request::DUMP_LOG;
            Err(super::failed("checkpoint", id, &response, &directories, log, &options.criu))
        }
    });
    // Of a CRIU that was killed the freezer stays as it was.
    if !subject.paused && (result.is_err() || options.leave_running || options.pre_dump) {
        let _ = subject.cgroup.thaw();
    }
    result?;
    if options.leave_running || options.pre_dump { Ok(()) } else { ended(subject, pidfd.as_fd()) }
}

/// Waits for the process that CRIU has killed.
fn ended(subject: &Subject<'_>, pidfd: BorrowedFd<'_>) -> Result<()> {
    subject.cgroup.let_killed_go()?;
    let timeout = PollTimeout::try_from(END).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(pidfd, PollFlags::POLLIN)];
    if nix::poll::poll(&mut polled, timeout) == Ok(0) {
        let reason = format!("the process did not end within {} s", END.as_secs());
        let id = quote(&subject.record.id);
        return Err(Error::new(ErrorKind::System, "end container", id, reason));
    }
    Ok(())
}

/// CRIU follows a link that it makes in the images' directory, which an absolute path would tie to this
/// machine.
fn check_parent(options: &CheckpointOptions, directories: &Directories) -> Result<()> {
    let Some(parent) = &options.parent_images else { return Ok(()) };
    if parent.is_absolute() {
        return Err(Error::invalid("--parent-path", "must be relative to the image directory"));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(&directories.images, parent, flags, Mode::empty())
        .call("open")
        .context("open parent images", quote(parent))
        .map(drop)
}

/// The caller's descriptor `number`, as a copy.
fn status(number: RawFd) -> Result<OwnedFd> {
    sys::fd::copy_above(number, 0).context("copy", format!("descriptor {number} (--status-fd)"))
}

fn found(
    subject: &Subject<'_>,
    options: &CheckpointOptions,
    host: &Host,
    directories: &Directories,
) -> Result<Found> {
    let record = subject.record;
    let mut found = Found {
        pid: record.pid,
        rootfs: record.rootfs.clone(),
        yard: super::only_cgroup2(host).map(|_| subject.place.join(CGROUPS)),
        freezer: request::freezer(&subject.cgroup.recorded()),
        ..Found::default()
    };
    if options.pre_dump {
        return Ok(found);
    }
    let plan = plan::plan(&record.id, &planned(subject), None, host, &mut Vec::new())?;
    for join in &plan.namespaces.joined {
        let inode = external::inode(&join.path).context(
            "look at",
            format!("linux.namespaces[{}] {}", join.index, quote(&join.path)),
        )?;
        found.external.extend(request::external_namespace(join.flag, inode));
    }
    let table = PathBuf::from("/proc/self/mountinfo");
    let table = std::fs::read(&table).call("read").context("read", quote(&table))?;
    found.mounts = external::to_save(&external::list(&plan.mounts, &table)?, record.pid)?;
    let streams = streams::of(record.pid, &subject.cgroup.pids()?);
    streams::write(directories.images.as_fd(), &options.criu.images, &streams)?;
    found.external.extend(streams.external);
    Ok(found)
}

/// The options with which the container may have been created, as far as they matter for its mounts.
fn planned(subject: &Subject<'_>) -> CreateOptions {
    let config = Config::from(subject.spec.clone());
    let kept = &subject.record.options;
    CreateOptions {
        systemd_cgroup: kept.unit.as_ref().map(|unit| unit.manager.clone()),
        no_cgroup: kept.no_cgroup,
        ..CreateOptions::new(config, subject.record.bundle.clone(), options::Start::Here)
    }
}
