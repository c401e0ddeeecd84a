//! `/init` of Bulkhead's guests.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        let text = "bulkhead-agent: is the first process of a virtual machine, and nothing else";
        let _ = writeln!(std::io::stderr(), "{text}");
        return ExitCode::FAILURE;
    }
    agent::run()
}
