//! Black-box conformance suite of the OCI runtime specification 1.3 for Linux.
//!
//! One static program plays three parts, chosen by the name or first word it is called with:
//!
//! - `oci-tests`: the suite's command line; lists, runs and compares (see `cli`);
//! - `oci-tests worker`: one test, as pid 1 of its own pid and mount namespace (see `worker`), so
//!   that a crash, a hang or a leak is a failure of that test alone;
//! - `probe`: the program inside each container, a link to the same file, which reports what it
//!   sees as JSON (see `probe`).
//!
//! One file instead of two, since `cargo run` builds only the binary that it runs, and a probe that
//! is older than its suite reports nonsense.
//!
//! `main` is the C function, not Rust's: the standard library's start-up ignores `SIGPIPE` and opens
//! `/dev/null` for closed standard streams, which would hide what a runtime hands to its container.
#![no_main]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod chapters;
mod cli;
mod elf32;
mod lab;
mod probe;
#[cfg(target_arch = "x86_64")]
mod ptrace;
mod question;
mod report;
mod requirements;
mod runner;
mod worker;

use oci_tests::{compare, devices, format, options, outcome, results, shield, sys};

/// What a test is, and how it judges.
mod check {
    pub use crate::question::{Test, View, test};
    pub use oci_tests::check::*;
}

/// The C entry point: dispatches on the program's name, then on the first argument.
// The one symbol that the C library calls; nothing else in this program has this name.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let name = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    let name = name.rsplit('/').next().unwrap_or_default();
    if name.starts_with("probe") {
        return probe::main(&words);
    }
    match words.first().map(String::as_str) {
        Some("worker") => worker::outer(&words[1..]),
        Some("worker-inner") => worker::inner(&words[1..]),
        _ => cli::main(&words),
    }
}
