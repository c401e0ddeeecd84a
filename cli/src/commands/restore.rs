use std::path::PathBuf;

use clap::Args;

use crate::program::Failure;
use crate::session::Session;

/// Flags that `checkpoint` and `restore` share.
#[derive(Debug, Args)]
pub struct Criu {
    /// Directory of the images
    #[arg(long, value_name = "dir")]
    image_path: Option<PathBuf>,
    /// Directory of logs and work files
    #[arg(long, value_name = "dir")]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow Unix sockets of others
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow jobs of a shell
    #[arg(long)]
    shell_job: bool,
    /// Allow file locks
    #[arg(long)]
    file_locks: bool,
    /// Treatment of cgroups
    #[arg(long, value_name = "mode")]
    manage_cgroups_mode: Option<String>,
    /// Namespace to leave empty
    #[arg(long, value_name = "namespace")]
    empty_ns: Vec<String>,
    /// Deduplicate memory images
    #[arg(long)]
    auto_dedup: bool,
    /// Bring memory pages when they are used
    #[arg(long)]
    lazy_pages: bool,
}

/// Restore a container from its saved state (not supported)
#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    criu: Criu,
    /// The bundle directory
    #[arg(long, short, value_name = "dir")]
    bundle: Option<PathBuf>,
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
    /// Enter the root file system without pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// Security profile, TYPE:NAME
    #[arg(long, value_name = "profile")]
    lsm_profile: Option<String>,
    /// Security context of mounts
    #[arg(long, value_name = "context")]
    lsm_mount_context: Option<String>,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Restore {
    const NAME: &'static str = "restore";

    fn run(self, _: &Session) -> Result<u8, Failure> {
        Err(Failure::message("restore: not supported"))
    }
}
