use clap::Args;
use runtime::{Container, Start};

use super::container::NewContainer;
use crate::program::Failure;
use crate::session::Session;

/// Create a container; `start` runs its program
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    new: NewContainer,
    /// A name that is unique in the state root
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Create {
    const NAME: &'static str = "create";
    const GUARDED: bool = true;

    fn run(self, session: &Session) -> Result<u8, Failure> {
        runtime::keep_child_statuses()?;
        let options = self.new.options(session, Start::Later, true)?;
        session.warned(|warnings| {
            Container::create(&session.root, &self.id, options, warnings).map(drop)
        })?;
        Ok(0)
    }
}
