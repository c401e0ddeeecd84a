//! What the host's CRIU can do, for `check`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::{Facility, Standing};

/// How long CRIU may take for its own check.
const DEADLINE: Duration = Duration::from_secs(10);

/// The CRIU that `--criu` names or a search path has: its version, and whether its own check passes.
pub fn facility(named: Option<&Path>, search: &OsStr) -> Facility {
    const WITHOUT: &str = "checkpoint and restore do not work";
    let facility = |standing, found: String, advice: String| Facility {
        name: "CRIU",
        standing,
        needed: false,
        found,
        advice,
    };
    let Ok(program) = super::program(named, Some(search)) else {
        let advice = format!("{WITHOUT}: install criu");
        return facility(Standing::Missing, "no criu in PATH".to_owned(), advice);
    };
    let version = match said(&program, "--version") {
        Ok(version) => version,
        Err(reason) => {
            let advice = format!("{WITHOUT}: {}", reason.trim());
            return facility(Standing::Missing, program.display().to_string(), advice);
        }
    };
    let version = version.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap_or("?");
    let found = format!("{} {version}", program.display());
    match said(&program, "check") {
        Ok(_) => facility(Standing::Ok, found, String::new()),
        Err(reason) => {
            let reason = reason.lines().next_back().unwrap_or_default().trim().to_owned();
            let advice = format!("{WITHOUT} for every container: `criu check`: {reason}");
            facility(Standing::Limited, found, advice)
        }
    }
}

/// What a command of CRIU prints; in error what it complains of, or that it has not ended.
fn said(program: &Path, command: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .arg(command)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let until = Instant::now() + DEADLINE;
    // It prints a few lines, which a pipe holds.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() > until {
            // It may have ended this very moment.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it did not end within {} s", DEADLINE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
