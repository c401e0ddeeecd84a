//! What `create` and `run` share: flags, options for the library, and the life of a container in
//! the foreground, which `try` has too.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use runtime::{
    Call, Console, Container, Context, CreateOptions, ErrorKind, Parent, Start, Then, load_config,
    quote,
};

use crate::environment::Environment;
use crate::foreground::{Foreground, check_terminal};
use crate::isolation;
use crate::notify::Proxy;
use crate::program::Failure;
use crate::rootless;
use crate::session::{Session, absolute};

/// Flags of a new container.
#[derive(Debug, Args)]
pub struct NewContainer {
    /// The bundle directory
    #[arg(long, short, value_name = "dir", default_value = ".", hide_default_value = true)]
    bundle: PathBuf,
    /// Unix socket that receives the master end of the container's terminal
    #[arg(long, value_name = "path")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the container's process
    #[arg(long, value_name = "path")]
    pidfd_socket: Option<PathBuf>,
    /// Write the pid of the container's process to this file
    #[arg(long, value_name = "path")]
    pid_file: Option<PathBuf>,
    /// Enter the root file system without pivot_root, for a bundle on a ramdisk
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// The wall around the container: namespaces or vm [default: what the configuration asks for, or namespaces]
    #[arg(long, value_name = "wall")]
    isolation: Option<String>,
    /// Pass this many descriptors on, beside standard streams and those of $LISTEN_FDS
    #[arg(long, value_name = "n", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
}

impl NewContainer {
    /// The flags that a restored container has too.
    pub fn restored(
        bundle: PathBuf,
        console_socket: Option<PathBuf>,
        pid_file: Option<PathBuf>,
        no_pivot: bool,
    ) -> Self {
        Self {
            bundle,
            console_socket,
            pidfd_socket: None,
            pid_file,
            no_pivot,
            no_new_keyring: false,
            isolation: None,
            preserve_fds: 0,
        }
    }

    /// Loads the configuration and resolves everything against the caller's directory.
    ///
    /// # Errors
    /// Also when terminal, `detach` and the console socket do not go together.
    pub fn options(
        self,
        session: &Session,
        start: Start,
        detach: bool,
    ) -> Result<CreateOptions, Failure> {
        let bundle = fs::canonicalize(&self.bundle)
            .call("open")
            .context("open bundle", quote(&self.bundle))?;
        let mut config = session.warned(|warnings| load_config(&bundle, warnings))?;
        rootless::complete(&mut config.spec, session.rootless);
        let terminal = config.spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
        check_terminal(detach, terminal, self.console_socket.is_some())?;
        let path = |path: Option<PathBuf>| path.map(|p| absolute(&p)).transpose();
        let environment = Environment::read();
        let asked = isolation::wall(self.isolation.as_deref())?.or(session.wall);
        let isolation = isolation::choose(asked, &session.image, &config)?;
        Ok(CreateOptions {
            config,
            bundle,
            console: console(path(self.console_socket)?, detach),
            pid_file: path(self.pid_file)?,
            pidfd_socket: path(self.pidfd_socket)?,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds,
            listen_fds: environment.listen_fds,
            listen_names: environment.listen_names.clone(),
            notify_socket: environment.notify_socket.as_ref().map(PathBuf::from),
            systemd_cgroup: session.systemd_cgroup.then(|| environment.service_manager()),
            no_cgroup: session.no_cgroup,
            rootless: session.rootless,
            start,
            parent: Parent::Caller,
            isolation,
        })
    }
}

/// Who gets a terminal: the socket that was named, or we, who relay it, unless we are about to leave.
pub fn console(socket: Option<PathBuf>, detach: bool) -> Console {
    match socket {
        Some(socket) => Console::Socket(socket),
        None if detach => Console::Nobody,
        None => Console::Foreground,
    }
}

/// What becomes of a container after it was started.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// It goes on alone.
    pub detach: bool,
    /// Its state stays when it has ended.
    pub keep: bool,
    /// Orphans of its processes become ours while we wait.
    pub subreaper: bool,
}

/// Creates and starts a container, and stays with it unless it is detached. Returns its exit code.
/// A container that could not be started is gone again.
pub fn run(session: &Session, id: &str, options: CreateOptions, life: Life) -> Result<u8, Failure> {
    let notify = options.notify_socket.clone();
    let foreground = (!life.detach).then(|| Foreground::prepare(life.subreaper)).transpose()?;
    let (mut container, process) =
        session.warned(|warnings| Container::create(&session.root, id, options, warnings))?;
    let started =
        notify.map_or(Ok(None), |host| Proxy::bind(&session.root, id, host)).and_then(|proxy| {
            container.start()?;
            Ok(proxy)
        });
    let ended = started.and_then(|proxy| match (&foreground, proxy) {
        (Some(foreground), proxy) => {
            // Also with `--keep`: a failure to relay ends and deletes the container.
            foreground.relay(process, proxy, || session.confine(&container, Then::Delete))
        }
        (None, Some(proxy)) => {
            let pid = u32::try_from(process.pid).expect("a pid is positive");
            proxy.wait(std::os::fd::AsFd::as_fd(&process.pidfd), pid).map(|()| 0)
        }
        (None, None) => Ok(0),
    });
    finish(session, container, ended, life)
}

/// Deletes a container that has ended, or could not be relayed, unless it is to stay. Returns how it ended.
pub fn finish(
    session: &Session,
    container: Container,
    ended: Result<u8, Failure>,
    life: Life,
) -> Result<u8, Failure> {
    let stays = ended.is_ok() && (life.detach || life.keep);
    if !stays {
        match session.warned(|warnings| container.delete(true, warnings)) {
            // Somebody else was faster.
            Err(Failure::Runtime(error)) if error.kind() == ErrorKind::NotFound => {}
            // The program's own exit code, or the first failure, is what the caller waits for.
            Err(failure) => session.log.warning(&failure.text()),
            Ok(()) => {}
        }
    }
    ended
}
