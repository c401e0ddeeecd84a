//! `bulkhead`: runc's commands and flags over the `runtime` library.
//!
//! The library decides nothing about defaults, paths, log formats or the environment; that is all
//! here. One file per command in [`commands`], what they share beside it.

mod argv;
mod commands;
mod criu;
mod default_seccomp;
mod duration;
mod environment;
mod foreground;
mod guest_image;
mod hints;
mod isolation;
mod log;
mod notify;
mod output;
mod program;
mod rootless;
mod session;
mod signals;
mod size;
mod table;
mod user;

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(program::run(std::env::args_os().skip(1).collect()))
}
