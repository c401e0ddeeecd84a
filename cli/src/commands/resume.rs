use clap::Args;

use crate::program::Failure;
use crate::session::Session;

/// Let a paused container go on
#[derive(Debug, Args)]
pub struct Resume {
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Resume {
    const NAME: &'static str = "resume";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        session.container(&self.id)?.resume()?;
        Ok(0)
    }
}
