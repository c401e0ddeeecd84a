use std::ffi::OsString;
use std::process::Command;

use clap::Args;

use crate::argv::Order;
use crate::output;
use crate::program::Failure;
use crate::session::Session;

/// Show the processes of a container
#[derive(Debug, Args)]
pub struct Ps {
    /// table or json
    #[arg(value_name = "format", long, short, default_value = "table")]
    format: String,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
    /// Arguments of ps(1) [default: -ef]
    #[arg(value_name = "ps options", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

impl super::Command for Ps {
    const NAME: &'static str = "ps";
    const ARITY: super::Arity = super::Arity::AtLeast(1);
    const ORDER: Order = Order::FlagsFirst;

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let pids = session.container(&self.id)?.processes()?;
        let text = match self.format.as_str() {
            "json" => output::json(&pids)? + "\n",
            "table" => filter(&listing(&self.options)?, &pids)?,
            _ => return Err(Failure::message("invalid format option")),
        };
        output::write(&text)?;
        Ok(0)
    }
}

/// ps(1) knows the formats that its users ask for; only its lines are chosen here.
fn listing(options: &[OsString]) -> Result<String, Failure> {
    runtime::keep_child_statuses()?;
    let mut ps = Command::new("ps");
    if options.is_empty() {
        ps.arg("-ef");
    } else {
        ps.args(options);
    }
    let ran = ps.output().map_err(|error| Failure::message(format!("run ps: {error}")))?;
    if !ran.status.success() {
        let complaint = String::from_utf8_lossy(&ran.stderr);
        return Err(Failure::message(format!("run ps: {}: {}", ran.status, complaint.trim_end())));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// The heading and the lines whose `PID` is one of `pids`.
fn filter(listing: &str, pids: &[i32]) -> Result<String, Failure> {
    let heading = listing.lines().next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Failure::message("couldn't find PID field in ps output"))?;
    let mut text = format!("{heading}\n");
    for line in listing.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let pid = line.split_whitespace().nth(column).unwrap_or_default();
        let pid: i32 = pid
            .parse()
            .map_err(|_| Failure::message(format!("unexpected pid {pid:?} in ps output")))?;
        if pids.contains(&pid) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_pid() {
        let listing = "UID        PID  PPID  C CMD\nroot      12     1  0 sleep 34\nroot      34     1  0 x\n";
        assert_eq!(
            filter(listing, &[12, 1]).unwrap(),
            "UID        PID  PPID  C CMD\nroot      12     1  0 sleep 34\n"
        );
        assert!(filter("UID CMD\n", &[]).is_err());
        assert!(filter("PID\nx\n", &[]).is_err());
    }
}
