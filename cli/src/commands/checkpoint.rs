use std::path::PathBuf;

use clap::Args;

use super::restore::Criu;
use crate::program::Failure;
use crate::session::Session;

/// Save the state of a running container (not supported)
#[derive(Debug, Args)]
pub struct Checkpoint {
    #[command(flatten)]
    criu: Criu,
    /// Images of an earlier pre-dump
    #[arg(long, value_name = "dir")]
    parent_path: Option<PathBuf>,
    /// Leave the container running
    #[arg(long)]
    leave_running: bool,
    /// Dump memory only
    #[arg(long)]
    pre_dump: bool,
    /// Descriptor that is written to when lazy pages are ready
    #[arg(long, value_name = "fd")]
    status_fd: Option<i32>,
    /// Address and port of a page server
    #[arg(long, value_name = "address")]
    page_server: Option<String>,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Checkpoint {
    const NAME: &'static str = "checkpoint";

    fn run(self, _: &Session) -> Result<u8, Failure> {
        Err(Failure::message("checkpoint: not supported"))
    }
}
