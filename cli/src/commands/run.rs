use clap::Args;
use runtime::Start;

use super::container::{self, Life, NewContainer};
use crate::program::Failure;
use crate::session::Session;

/// Create a container and run its program
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    new: NewContainer,
    /// Return when the program runs
    #[arg(long, short)]
    detach: bool,
    /// Keep the container's state when the program has ended
    #[arg(long)]
    keep: bool,
    /// Leave orphans of the container's processes to the init of the host
    #[arg(long)]
    no_subreaper: bool,
    /// A name that is unique in the state root
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Run {
    const NAME: &'static str = "run";
    const GUARDED: bool = true;

    fn run(self, session: &Session) -> Result<u8, Failure> {
        runtime::keep_child_statuses()?;
        let options = self.new.options(session, Start::Here, self.detach)?;
        let life = Life { detach: self.detach, keep: self.keep, subreaper: !self.no_subreaper };
        container::run(session, &self.id, options, life)
    }
}
