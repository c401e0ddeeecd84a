use std::path::PathBuf;

use clap::Args;
use runtime::{CheckpointOptions, ErrorKind, Parent};

use crate::criu::Criu;
use crate::program::Failure;
use crate::session::Session;

/// Save a running container, which then ends
#[derive(Debug, Args)]
pub struct Checkpoint {
    #[command(flatten)]
    criu: Criu,
    /// Images of an earlier pre-dump, relative to those of this one
    #[arg(long, value_name = "dir")]
    parent_path: Option<PathBuf>,
    /// Leave the container running
    #[arg(long)]
    leave_running: bool,
    /// Save memory only, for a later checkpoint, and leave the container running
    #[arg(long)]
    pre_dump: bool,
    /// Descriptor that is written to when lazy pages are ready
    #[arg(long, value_name = "fd")]
    status_fd: Option<i32>,
    /// ADDRESS:PORT of a page server
    #[arg(long, value_name = "address")]
    page_server: Option<String>,
    /// Keep files that were deleted while open by a link beside them
    #[arg(long)]
    link_remap: bool,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Checkpoint {
    const NAME: &'static str = "checkpoint";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        runtime::keep_child_statuses()?;
        let mut container = session.container(&self.id)?;
        let mut criu = self.criu.options(session)?;
        criu.link_remap = self.link_remap;
        let options = CheckpointOptions {
            criu,
            leave_running: self.leave_running,
            pre_dump: self.pre_dump,
            parent_images: self.parent_path,
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            // runc's default is -1.
            status: self.status_fd.filter(|fd| *fd >= 0),
            page_server: self.page_server.as_deref().map(page_server).transpose()?,
        };
        container.checkpoint(&options, Parent::Caller)?;
        if options.leave_running || options.pre_dump {
            return Ok(0);
        }
        match session.warned(|warnings| container.delete(false, warnings)) {
            // Whoever waited for its end was faster.
            Err(Failure::Runtime(error)) if error.kind() == ErrorKind::NotFound => Ok(0),
            deleted => deleted.map(|()| 0),
        }
    }
}

/// Splits at the last colon: an IPv6 address has more of them, and may stand in brackets.
fn page_server(text: &str) -> Result<(String, u16), Failure> {
    let parsed = text.rsplit_once(':').and_then(|(address, port)| {
        let address = address.trim_start_matches('[').trim_end_matches(']');
        Some((address.to_owned(), port.parse().ok()?))
    });
    parsed
        .filter(|(address, _)| !address.is_empty())
        .ok_or_else(|| Failure::message("Use --page-server ADDRESS:PORT to specify page server"))
}

#[cfg(test)]
mod tests {
    use super::page_server;

    #[test]
    fn page_servers() {
        assert_eq!(page_server("10.0.0.1:27").unwrap(), ("10.0.0.1".to_owned(), 27));
        assert_eq!(page_server("[::1]:27").unwrap(), ("::1".to_owned(), 27));
        for wrong in ["", "host", "host:", ":27", "host:70000"] {
            assert!(page_server(wrong).is_err(), "{wrong}");
        }
    }
}
