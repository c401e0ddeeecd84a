//! `/init` of Bulkhead's guests.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        // `bulkhead vm setup` looks for the first line in this file.
        let text = "bulkhead-agent: is the first process of a virtual machine, and nothing else";
        let mut errors = std::io::stderr();
        let _ = errors.write_all(wire::IDENTITY.as_bytes());
        let _ = writeln!(errors, "{text}");
        return ExitCode::FAILURE;
    }
    agent::run()
}
