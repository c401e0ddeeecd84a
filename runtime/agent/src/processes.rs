//! The processes of a container, as `ps -ef` shows them. proc_pid_stat(5).

use std::fs;

use runtime::{Call, Context, Result};
use wire::Row;

/// Clock ticks in a second, as the kernel counts them for programs on every architecture of ours.
const TICKS: u64 = 100;

/// A row for each of the processes that are still there.
///
/// # Errors
/// `/proc/stat` cannot be read.
pub fn rows(pids: &[i32]) -> Result<Vec<Row>> {
    let text = fs::read_to_string("/proc/stat").call("read").context("read", "\"/proc/stat\"")?;
    let booted = text
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        .unwrap_or_default();
    Ok(pids.iter().filter_map(|&pid| row(pid, booted)).collect())
}

fn row(pid: i32, booted: u64) -> Option<Row> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).ok();
    let stat = read("stat")?;
    let status = read("status")?;
    parse(pid, booted, &stat, &status, &read("cmdline").unwrap_or_default())
}

fn parse(pid: i32, booted: u64, stat: &[u8], status: &[u8], arguments: &[u8]) -> Option<Row> {
    let stat = String::from_utf8_lossy(stat);
    // The name is the program's own choice and may have parentheses: the last one ends it.
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    // From the third field on.
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let status = String::from_utf8_lossy(status);
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let words: Vec<_> = arguments
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    Some(Row {
        // The effective one.
        user: ids.split_whitespace().nth(1)?.parse().ok()?,
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: booted + number(22)? / TICKS,
        terminal: terminal(fields.get(4)?.parse().ok()?),
        time: (number(14)? + number(15)?) / TICKS,
        command: if words.is_empty() { format!("[{name}]") } else { words.join(" ") },
    })
}

/// The name of a terminal by its number: minor in bits 0 to 7 and 20 to 31, major in bits 8 to 15.
fn terminal(number: i64) -> String {
    let (major, minor) = ((number >> 8) & 0xff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_changes_nothing() {
        let stat = b"7 (a) 1 (b) S 3 7 7 34816 7 0 1 2 3 4 150 250 0 0 20 0 1 0 1234 0 0";
        let status = b"Name:\tx\nUid:\t1000\t33\t33\t33\n";
        let row = parse(7, 1000, stat, status, b"sleep\x0010\0").unwrap();
        let expected = Row {
            user: 33,
            pid: 7,
            parent: 3,
            started: 1012,
            terminal: "pts/0".to_owned(),
            time: 4,
            command: "sleep 10".to_owned(),
        };
        assert_eq!(row, expected);
        assert_eq!(parse(7, 0, stat, status, b"").unwrap().command, "[a) 1 (b]");
        assert_eq!(parse(7, 0, b"7 (a) S", status, b""), None);
    }

    #[test]
    fn terminals() {
        for (number, name) in [
            (0, "?"),
            (136 << 8, "pts/0"),
            ((136 << 8) | 255, "pts/255"),
            ((136 << 8) | (1 << 20), "pts/256"),
            ((4 << 8) | 1, "tty1"),
            ((4 << 8) | 64, "ttyS0"),
        ] {
            assert_eq!(terminal(number), name);
        }
    }

    #[test]
    fn of_this_very_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let [row] = &rows(&[pid, i32::MAX]).unwrap()[..] else { panic!("not one row") };
        assert_eq!(row.user, nix::unistd::geteuid().as_raw());
        assert_eq!(row.parent, nix::unistd::getppid().as_raw());
        assert!(row.command.contains("agent"), "{}", row.command);
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(row.started <= now + 2 && row.started + 3600 > now, "{} {now}", row.started);
    }
}
