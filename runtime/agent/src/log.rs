//! Lines in the kernel's log, which the console shows and the monitor keeps the last of. Failures alone.

use std::fs::File;
use std::io::Write;

/// Of an error, so that it is shown with `quiet` too: <linux/kern_levels.h>.
const LEVEL: &str = "<3>";
/// The kernel takes no longer records.
const LONGEST: usize = 900;

/// Writes one line. There is nobody to tell when that fails.
pub fn say(text: &str) {
    let line: String = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    let kernel = File::options().write(true).open("/dev/kmsg");
    let _ = match kernel {
        Ok(mut log) => writeln!(log, "{LEVEL}bulkhead-agent: {line}"),
        Err(_) => writeln!(std::io::stderr(), "bulkhead-agent: {line}"),
    };
}
