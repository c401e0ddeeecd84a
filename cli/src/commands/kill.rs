use clap::Args;

use crate::program::Failure;
use crate::session::Session;
use crate::signals;

/// Send a signal to a container's init process
#[derive(Debug, Args)]
pub struct Kill {
    /// Accepted for old callers: without an own pid namespace every process gets the signal anyway
    #[arg(long, short)]
    all: bool,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

impl super::Command for Kill {
    const NAME: &'static str = "kill";
    const ARITY: super::Arity = super::Arity::Between(1, 2);

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let container = session.container(&self.id)?;
        let signal = signals::parse(&self.signal)
            .ok_or_else(|| Failure::message(format!("unknown signal {:?}", self.signal)))?;
        container.kill(signal)?;
        Ok(0)
    }
}
