//! `bulkhead-vmm NUMBER`: runs the machine that is described, as JSON, in descriptor NUMBER.
//!
//! | exit status | the machine |
//! |---|---|
//! | 0 | switched itself off |
//! | 1 | could not be made or kept running |
//! | 2 | asked for a reset |
//! | 3 | had a kernel that panicked |
//! | 4 | died of a triple fault |
//! | 143 | was ended from outside, by SIGTERM |
//!
//! Unless it is 0 or 143, standard error has the reason in one line, and the last lines of the guest's console.

use std::fs::File;
use std::io::{Read, Write, stderr};
use std::os::fd::{FromRawFd, RawFd};
use std::process::ExitCode;

use vmm::{Config, Ending, Machine};

/// How much of the console is shown.
const LINES: usize = 10;

fn main() -> ExitCode {
    let (ending, lines) = match run() {
        Ok((ending, lines)) => (ending, lines),
        Err(reason) => {
            tell(&reason, &[]);
            return ExitCode::from(1);
        }
    };
    let status = match ending {
        Ending::PowerOff => return ExitCode::SUCCESS,
        Ending::Failed(_) => 1,
        Ending::Reset => 2,
        Ending::Panic => 3,
        Ending::TripleFault => 4,
    };
    tell(&ending.to_string(), &lines);
    ExitCode::from(status)
}

fn run() -> Result<(Ending, Vec<String>), String> {
    vmm::end_when_told().map_err(|error| error.to_string())?;
    let description = description()?;
    let config = Config::read(&description).map_err(|error| error.to_string())?;
    let mut machine = Machine::new(config).map_err(|error| error.to_string())?;
    let ending = machine.run();
    Ok((ending, machine.last_lines(LINES)))
}

/// The largest description, in bytes.
const LARGEST: u64 = 64 << 10;

#[allow(unsafe_code)]
fn description() -> Result<String, String> {
    let mut arguments = std::env::args().skip(1);
    let number = arguments.next().and_then(|word| word.parse::<RawFd>().ok()).filter(|&n| n > 2);
    let (Some(number), None) = (number, arguments.next()) else {
        return Err(
            "usage: bulkhead-vmm NUMBER (of the descriptor that has the machine's description)"
                .into(),
        );
    };
    // SAFETY: the caller gives the descriptor to this program; one that is not open fails to be read.
    let file = unsafe { File::from_raw_fd(number) };
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(|error| {
        format!("read the machine's description from descriptor {number}: {error}")
    })?;
    Ok(text)
}

/// The caller may have closed its end.
fn tell(reason: &str, lines: &[String]) {
    let mut text = format!("bulkhead-vmm: {reason}\n");
    for line in lines {
        text.push_str(&format!("  guest: {line}\n"));
    }
    let _ = stderr().write_all(text.as_bytes());
}
