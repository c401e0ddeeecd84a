use clap::Args;

use crate::output;
use crate::program::Failure;
use crate::session::Session;

/// Print the state of a container as JSON
#[derive(Debug, Args)]
pub struct State {
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for State {
    const NAME: &'static str = "state";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let mut report = session.container(&self.id)?.report()?;
        // runc names the owner in `list` only.
        report.owner.clear();
        output::write(&output::pretty_json(&report, "  ")?)?;
        Ok(0)
    }
}
