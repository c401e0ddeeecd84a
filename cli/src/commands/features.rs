use clap::Args;

use crate::output;
use crate::program::Failure;
use crate::session::Session;

/// Print what this runtime can do as JSON
#[derive(Debug, Args)]
pub struct Features {}

impl super::Command for Features {
    const NAME: &'static str = "features";
    const ARITY: super::Arity = super::Arity::Exactly(0);

    fn run(self, _: &Session) -> Result<u8, Failure> {
        output::write(&(output::pretty_json(&runtime::features(), "    ")? + "\n"))?;
        Ok(0)
    }
}
