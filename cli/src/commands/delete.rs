use clap::Args;
use nix::errno::Errno;
use runtime::{Call, Container, Context, ErrorKind};

use crate::program::Failure;
use crate::session::Session;

/// Remove what a container holds
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill the container first if it runs; succeed when there is none
    #[arg(long, short)]
    force: bool,
    /// Wait for the end of standard input first: of the process that has the pipe's other end
    #[arg(long, hide = true)]
    at_end_of_input: bool,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Delete {
    const NAME: &'static str = "delete";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        runtime::keep_child_statuses()?;
        if self.at_end_of_input {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
                .call("read")
                .context("wait for", "end of input")?;
        }
        match Container::load(&session.root, &self.id) {
            Ok(container) => {
                match session.warned(|warnings| container.delete(self.force, warnings)) {
                    // Another `delete` was faster.
                    Err(Failure::Runtime(e)) if self.force && e.kind() == ErrorKind::NotFound => {}
                    deleted => deleted?,
                }
            }
            // A bad name is nobody's remains.
            Err(error) if error.kind() == ErrorKind::Invalid => return Err(error.into()),
            // Out of memory, say: what cannot be read now must not be lost.
            Err(error) if error.errno().is_some_and(|errno| errno != Errno::ENOENT) => {
                return Err(error.into());
            }
            // An aborted create may have left a directory that is no container yet.
            Err(error) if self.force || error.kind() == ErrorKind::NotFound => {
                let removed = Container::delete_remains(&session.root, &self.id);
                if !self.force {
                    return Err(error.into());
                }
                removed
                    .or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(0)
    }
}
