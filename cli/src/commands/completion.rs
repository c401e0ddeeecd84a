use clap::Args;
use clap_complete::Shell;

use crate::output;
use crate::program::{Failure, NAME};
use crate::session::Session;

/// Print completions for a shell
#[derive(Debug, Args)]
pub struct Completion {
    /// bash, zsh or fish
    #[arg(value_name = "shell")]
    shell: String,
}

impl super::Command for Completion {
    const NAME: &'static str = "completion";

    fn run(self, _: &Session) -> Result<u8, Failure> {
        let shell = match self.shell.as_str() {
            "bash" => Shell::Bash,
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            other => return Err(Failure::message(format!("no completions for {other:?}"))),
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::tree(), NAME, &mut script);
        output::write(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}
