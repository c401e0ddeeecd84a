//! Black-box tests of a container runtime under the programs that call runtimes.
//!
//! One program plays four parts, chosen by its first word:
//!
//! - `integration`: the command line; lists, runs and compares (see `cli`);
//! - `integration outer`: makes the namespaces that one client's daemon and containers live in;
//! - `integration init`: pid 1 there, collects orphans and nothing else;
//! - `integration worker`: starts the client's daemon, runs its scenarios and looks for what is left.
//!
//! The parts hand on the same words, see `job`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod clients;
mod daemon;
mod grpc;
mod images;
mod job;
mod known;
mod left;
mod runner;
mod sandbox;
mod scenario;
mod spdy;
mod stage;
mod terminal;
mod wire;
mod worker;

fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let code = match words.first().map(String::as_str) {
        Some("outer") => sandbox::outer(&words[1..]),
        Some("init") => sandbox::init(&words[1..]),
        Some("worker") => worker::main(&words[1..]),
        _ => cli::main(&words),
    };
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
