use std::ffi::OsString;
use std::process::Command;

use clap::Args;
use runtime::GuestProcess;

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
        let container = session.container(&self.id)?;
        let text = match (self.format.as_str(), container.guest_processes()?) {
            ("json", None) => output::json(&container.processes()?)? + "\n",
            ("json", Some(guests)) => {
                output::json(&guests.iter().map(|row| row.pid).collect::<Vec<_>>())? + "\n"
            }
            ("table", None) => filter(&listing(&self.options)?, &container.processes()?)?,
            ("table", Some(guests)) => guest_listing(&guests, &self.options)?,
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

/// Processes of a guest, which ps(1) cannot see: as `ps -ef` shows them.
fn guest_listing(guests: &[GuestProcess], options: &[OsString]) -> Result<String, Failure> {
    if !options.is_empty() && options != ["-ef"] {
        let options: Vec<_> = options.iter().map(|option| option.to_string_lossy()).collect();
        let reason = "ps runs on the host and cannot see the processes of a virtual machine";
        return Err(Failure::message(format!("ps options {:?}: {reason}", options.join(" "))));
    }
    let mut text =
        format!("{:<8} {:>7} {:>7}  C STIME TTY          TIME CMD\n", "UID", "PID", "PPID");
    for row in guests {
        let (hours, minutes, seconds) = (row.time / 3600, row.time / 60 % 60, row.time % 60);
        let (hour, minute) = (row.started / 3600 % 24, row.started / 60 % 60);
        text.push_str(&format!(
            "{:<8} {:>7} {:>7}  0 {hour:02}:{minute:02} {:<8} {hours:02}:{minutes:02}:{seconds:02} {}\n",
            row.user,
            row.pid,
            row.parent,
            output::printable(&row.terminal),
            output::printable(&row.command),
        ));
    }
    Ok(text)
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
