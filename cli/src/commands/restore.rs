use std::path::PathBuf;

use clap::Args;
use runtime::{Container, RestoreOptions, Start, Then};

use super::container::{Life, NewContainer, finish};
use crate::criu::Criu;
use crate::foreground::Foreground;
use crate::program::Failure;
use crate::session::Session;

/// Restore a container from what `checkpoint` has saved
#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    criu: Criu,
    /// The bundle directory
    #[arg(long, short, value_name = "dir", default_value = ".", hide_default_value = true)]
    bundle: PathBuf,
    /// Unix socket that receives the master end of the container's terminal
    #[arg(long, value_name = "path")]
    console_socket: Option<PathBuf>,
    /// Return when the container runs
    #[arg(long, short)]
    detach: bool,
    /// Write the pid of the container's process to this file
    #[arg(long, value_name = "path")]
    pid_file: Option<PathBuf>,
    /// Leave orphans of the container's processes to the init of the host
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for runc's callers: CRIU decides how the root file system is entered
    #[arg(long)]
    no_pivot: bool,
    /// Security profile of the processes, TYPE:NAME
    #[arg(long, value_name = "profile")]
    lsm_profile: Option<String>,
    /// SELinux context of mounts
    #[arg(long, value_name = "context")]
    lsm_mount_context: Option<String>,
    /// A name that is unique in the state root
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Restore {
    const NAME: &'static str = "restore";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        runtime::keep_child_statuses()?;
        let new =
            NewContainer::restored(self.bundle, self.console_socket, self.pid_file, self.no_pivot);
        let mut create = new.options(session, Start::Here, self.detach)?;
        // Descriptors and sockets of this caller are not in the images.
        (create.listen_fds, create.listen_names, create.notify_socket) = (0, None, None);
        let options = RestoreOptions {
            criu: self.criu.options(session)?,
            create,
            lsm_profile: self.lsm_profile,
            lsm_mount_context: self.lsm_mount_context,
        };
        let foreground =
            (!self.detach).then(|| Foreground::prepare(!self.no_subreaper)).transpose()?;
        let (container, process) = session
            .warned(|warnings| Container::restore(&session.root, &self.id, options, warnings))?;
        let ended = match &foreground {
            Some(foreground) => {
                foreground.relay(process, None, || session.confine(&container, Then::Delete))
            }
            None => Ok(0),
        };
        let life = Life { detach: self.detach, keep: false, subreaper: !self.no_subreaper };
        finish(session, container, ended, life)
    }
}
