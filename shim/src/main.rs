//! `containerd-shim-bulkhead-v2`: containerd's runtime shim over the `runtime` library.
//!
//! One process a pod, which serves containerd's task service and executes no second binary. What is
//! asked of it once is in [`start`], [`delete`] and [`info`], what it does in between in [`serve`].

mod announce;
mod args;
mod bootstrap;
mod code;
mod config;
mod container;
mod criu;
mod daemon;
mod delete;
mod ending;
mod events;
mod forward;
mod group;
mod info;
mod input;
mod log;
mod logger;
mod metrics;
mod options;
mod pod;
mod process;
mod rootfs;
mod sandbox;
mod serve;
mod service;
mod socket;
mod spawner;
mod start;
mod stdio;
mod terminal;
#[cfg(test)]
mod testing;
mod work;

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use args::{Action, Arguments};
use runtime::{Error, ErrorKind, Result};

fn main() -> ExitCode {
    match run() {
        Ok(output) => match io::stdout().write_all(&output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Vec<u8>> {
    runtime::survive_file_size_limit()?;
    let mut words = env::args_os();
    let program = PathBuf::from(words.next().unwrap_or_default());
    let arguments = Arguments::parse(words)?;
    match arguments.action {
        Action::Version => Ok(info::version(&program).into_bytes()),
        Action::Info => info::info(&input::read_all(io::stdin().as_fd(), input::PATIENCE)?),
        Action::Delete => {
            let deleted = delete::delete(&arguments)?;
            deleted.warnings.iter().for_each(|warning| complain(warning));
            Ok(deleted.response)
        }
        Action::Start => {
            // Once for the daemon and all its containers. It executes the program again, before
            // anything of standard input was read.
            runtime::protect_own_binary()?;
            start::start(&arguments)
        }
        Action::None => {
            Err(Error::new(ErrorKind::Invalid, "read command line:", "action", "is not given"))
        }
    }
}

fn complain(text: &str) {
    // Nobody is left to tell.
    let _ = writeln!(io::stderr(), "{}: {text}", log::RUNTIME);
}
