//! `restore`: a container from its images.
//!
//! As `create`, with CRIU in the place of the container's own process: the state directory describes what is
//! about to exist, the cgroup is made with its limits while it is empty, and CRIU works inside it, so that
//! restored processes are born there.

use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::options::{CgroupMode, RestoreOptions};
use super::request::{self, Prepared};
use super::rpc::InheritFd;
use super::surroundings::{self, CGROUPS, ROOT, Surroundings};
use super::swrk::{INHERITED, Start, Swrk};
use super::{Directories, Missing, attributes, configuration, external, streams};
use crate::cgroup::Cgroup;
use crate::create::{self, Created, Undo};
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
use crate::hooks::Kind;
use crate::host::Host;
use crate::lifecycle::Hooks;
use crate::namespaces::Open;
use crate::plan::{self, Plan};
use crate::report::Process;
use crate::spec;
use crate::state::{self, StateDir};
use crate::sys;

/// Restores a container.
///
/// # Errors
/// As of `create`; what CRIU could not do, with the errors of its log. Nothing is left then.
pub(crate) fn restore(
    root: &Path,
    id: &str,
    options: &RestoreOptions,
    warnings: &mut Vec<String>,
) -> Result<Created> {
    let host = Host::read()?;
    super::refuse_ordinary_user("restore", &host)?;
    super::refuse_unsupported("restore", &options.create.config.spec)?;
    configuration::check(&options.create.config.spec)?;
    if options.create.systemd_cgroup.is_some() {
        let reason = "systemd makes a scope around a process, and CRIU a process in a cgroup";
        return Err(Error::unsupported("restore", "--systemd-cgroup", reason));
    }
    if options.create.no_cgroup {
        let reason = "CRIU restores processes into the container's cgroup";
        return Err(Error::unsupported("restore", "--cgroup-manager disabled", reason));
    }
    let plan = plan::plan(id, &options.create, None, &host, warnings)?;
    create::check_console(&plan, &options.create)?;
    let directories = Directories::open(&options.criu, Missing::Refused)?;
    let dir = StateDir::make(root, id)?;
    let record = create::new_record(&plan, &options.create, &host);
    let mut undo = Undo { dir: Some(dir), record, cgroup_made: false, poststop: None };
    plan.cgroup.refuse_occupied()?;
    let dir = undo.dir.as_ref().expect("set above");
    dir.write_config(&spec::to_stored(&options.create.config))?;
    dir.write_record(&undo.record)?;
    let cgroup = create::make_cgroup(&plan, &mut undo, warnings)?;
    let restoring = Restoring {
        options,
        plan: &plan,
        hooks: &plan.hooks,
        host: &host,
        cgroup: &cgroup,
        directories: &directories,
    };
    let mut live = restoring.run(&root.join(id), &mut undo)?;
    let process = live.announce(options)?;
    let dir = undo.dir.take().expect("set above");
    Ok(Created { dir, record: undo.record.clone(), process, here: None })
}

struct Restoring<'a, 'h> {
    hooks: &'h Hooks,
    host: &'a Host,
    options: &'a RestoreOptions,
    plan: &'a Plan,
    cgroup: &'a Cgroup,
    directories: &'a Directories,
}

/// A restored process, killed unless it is handed over.
struct Live {
    pid: i32,
    pidfd: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Live {
    fn announce(&mut self, options: &RestoreOptions) -> Result<Process> {
        let create = &options.create;
        let terminal = create::hand_over(self.terminal.take(), &create.console)?;
        let pidfd = self.pidfd.take().expect("it was restored");
        let (file, socket) = (create.pid_file.as_deref(), create.pidfd_socket.as_deref());
        match create::announce(self.pid, pidfd.as_fd(), file, socket) {
            Ok(()) => Ok(Process { pid: self.pid, pidfd, terminal }),
            Err(error) => {
                self.pidfd = Some(pidfd);
                Err(error)
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            // It may have ended by itself.
            let _ = sys::pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

impl<'h> Restoring<'_, 'h> {
    fn run(&self, place: &Path, undo: &mut Undo<'h>) -> Result<Live> {
        let Self { options, plan, directories, .. } = self;
        let joined = plan.namespaces.open()?;
        let names = streams::read(directories.images.as_fd(), &options.criu.images)?;
        let (streams, inherited, inherit) = (Streams::default(), &mut Vec::new(), &mut Vec::new());
        joined.iter().for_each(|open| pass_namespace(open, inherited, inherit));
        streams.pass(&names, inherited, inherit);
        let prepared = self.prepared(place, std::mem::take(inherit), &joined)?;
        let cgroups = super::only_cgroup2(self.host);
        let worker = Swrk::start(&Start {
            program: &options.criu.program,
            cgroup: Some(self.cgroup),
            parent: options.create.parent,
            namespaces: libc::CLONE_NEWNS,
            // A job of a shell gets the terminal that CRIU has.
            streams: options.criu.shell_job,
            inherited,
            surroundings: &|| {
                // Restored processes have the worker's.
                plan.join_keyring(&self.host.proc)?;
                Surroundings::make(place, cgroups)?.add_sources(&plan.mounts)?;
                directories.opened_again(&options.criu)
            },
        })?;
        let needs = request::needs(&options.criu, &options.create.config.spec, Some(options));
        super::check_version(&worker, &options.criu.program, &needs)?;
        super::check_features(&worker, false, options.criu.lazy_pages)?;
        let numbers = directories.numbers(inherited, false);
        let request = request::restore(options, numbers, prepared);
        let mut live = Live { pid: 0, pidfd: None, terminal: None };
        let others = options.criu.lazy_pages;
        let response = worker.work(&request, others, &mut |script, pid, fd| {
            self.notified(script, pid, fd, undo, &mut live)
        })?;
        drop(worker);
        if !response.success {
            let (id, log) = (&plan.id, request::RESTORE_LOG);
            return Err(super::failed("restore", id, &response, directories, log, &options.criu));
        }
        if live.pidfd.is_none() {
            let reason = "CRIU did not tell which process it restored";
            let subject = format!("container {}", quote(&plan.id));
            return Err(Error::new(ErrorKind::System, "restore", subject, reason));
        }
        Ok(live)
    }

    fn prepared(&self, place: &Path, inherit: Vec<InheritFd>, joined: &[Open]) -> Result<Prepared> {
        let mounts = &self.plan.mounts;
        let table = PathBuf::from("/proc/self/mountinfo");
        let table = std::fs::read(&table).call("read").context("read", quote(&table))?;
        let list = external::list(mounts, &table)?;
        let covers = place.to_string_lossy();
        let is_directory = |path: &str| surroundings::is_directory(mounts, path);
        let cgroups = match self.options.criu.cgroups {
            CgroupMode::Ignore => Vec::new(),
            _ => request::cgroup_roots(&self.cgroup.recorded()),
        };
        Ok(Prepared {
            root: place.join(ROOT),
            yard: super::only_cgroup2(self.host).map(|_| place.join(CGROUPS)),
            mounts: external::to_restore(&list, &covers, &is_directory),
            inherit,
            join: joined
                .iter()
                .filter_map(|open| request::join(open.join.flag, &open.join.path))
                .collect(),
            cgroups,
        })
    }

    /// What is ours to do at a point of CRIU's work.
    fn notified(
        &self,
        script: &str,
        pid: i32,
        fd: Option<OwnedFd>,
        undo: &mut Undo<'h>,
        live: &mut Live,
    ) -> Result<()> {
        match script {
            // The namespaces are there, and nothing in them.
            "setup-namespaces" => {
                undo.poststop = Some(self.hooks);
                self.hooks.run(Kind::Prestart, pid)?;
                self.hooks.run(Kind::CreateRuntime, pid)
            }
            "orphan-pts-master" => {
                live.terminal = fd;
                Ok(())
            }
            // All is restored, and does not run yet.
            "post-restore" => {
                let pidfd = sys::pidfd::open(pid).context("open process", pid)?;
                live.pid = pid;
                let pidfd = live.pidfd.insert(pidfd);
                self.record(pid, undo)?;
                attributes::set(&self.plan.mounts, pidfd.as_fd())
            }
            _ => Ok(()),
        }
    }

    fn record(&self, pid: i32, undo: &mut Undo<'h>) -> Result<()> {
        let (start_time, _) = state::process_identity(pid)?.ok_or_else(|| {
            Error::new(ErrorKind::System, "read", "/proc/PID/stat", "the process is gone")
        })?;
        undo.record.pid = pid;
        undo.record.start_time = start_time;
        // CRIU restores the clocks by a time namespace, which `exec` has to enter too.
        let time = PathBuf::from(format!("/proc/{pid}/ns/time"));
        let own = external::inode(Path::new("/proc/self/ns/time"));
        undo.record.options.time_namespace =
            matches!((external::inode(&time), own), (Ok(a), Ok(b)) if a != b);
        undo.dir.as_ref().expect("set by restore").write_record(&undo.record)
    }
}

/// Passes a namespace on that CRIU is to restore into.
fn pass_namespace<'f>(
    open: &'f Open,
    inherited: &mut Vec<BorrowedFd<'f>>,
    inherit: &mut Vec<InheritFd>,
) {
    if let Some(key) = request::namespace_key(open.join.flag) {
        let fd = INHERITED + inherited.len() as i32;
        inherit.push(InheritFd { key: key.to_owned(), fd });
        inherited.push(open.fd());
    }
}

/// The caller's standard streams.
struct Streams {
    stdin: std::io::Stdin,
    stdout: std::io::Stdout,
    stderr: std::io::Stderr,
}

impl Default for Streams {
    fn default() -> Self {
        Self { stdin: stdin(), stdout: stdout(), stderr: stderr() }
    }
}

impl Streams {
    /// Passes a stream on for each that led out of the container.
    fn pass<'f>(
        &'f self,
        names: &[String],
        inherited: &mut Vec<BorrowedFd<'f>>,
        inherit: &mut Vec<InheritFd>,
    ) {
        let own = [self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()];
        for (name, fd) in names.iter().zip(own) {
            let is_passed = name.starts_with("pipe:[") || name.starts_with("file[");
            // Two streams may be one.
            if is_passed && !inherit.iter().any(|passed| passed.key == *name) {
                let number = INHERITED + inherited.len() as i32;
                inherit.push(InheritFd { key: name.clone(), fd: number });
                inherited.push(fd);
            }
        }
    }
}
