use clap::Args;

use crate::program::Failure;
use crate::session::Session;

/// Freeze every process of a container
#[derive(Debug, Args)]
pub struct Pause {
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Pause {
    const NAME: &'static str = "pause";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        session.container(&self.id)?.pause()?;
        Ok(0)
    }
}
