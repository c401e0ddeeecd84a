use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;

use crate::environment::Environment;
use crate::notify::Proxy;
use crate::program::Failure;
use crate::session::Session;

/// Run the program of a created container
#[derive(Debug, Args)]
pub struct Start {
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Start {
    const NAME: &'static str = "start";
    const GUARDED: bool = true;

    fn run(self, session: &Session) -> Result<u8, Failure> {
        runtime::keep_child_statuses()?;
        let mut container = session.container(&self.id)?;
        let Some(host) = Environment::read().notify_socket else {
            container.start()?;
            return Ok(0);
        };
        let pid = container.report()?.pid;
        let pidfd = container.pidfd()?;
        let proxy = Proxy::bind(&session.root, &self.id, PathBuf::from(host))?;
        container.start()?;
        if let Some(proxy) = proxy {
            proxy.wait(pidfd.as_fd(), u32::try_from(pid).unwrap_or_default())?;
        }
        Ok(0)
    }
}
