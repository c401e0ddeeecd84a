//! CRIU's log: why it failed, in its own words.

use std::io::Read;
use std::os::fd::BorrowedFd;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

/// As many lines as an error quotes, and as many bytes of each.
const LINES: usize = 4;
const WIDTH: usize = 300;
/// As much of the log's end as is read.
const LONGEST: u64 = 1 << 20;

/// The errors in the log `name` of `directory`; empty when there are none, or no log.
pub(super) fn errors(directory: BorrowedFd<'_>, name: &str) -> Vec<String> {
    // Whatever has the name, a link or FIFO of somebody who may write there, must not be followed or hang.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(file) = openat(directory, name, flags, Mode::empty()) else { return Vec::new() };
    let regular = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    let Ok(stat) = fstat(&file) else { return Vec::new() };
    if !regular(stat.st_mode) {
        return Vec::new();
    }
    let mut file = std::fs::File::from(file);
    let skipped = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(LONGEST);
    let mut bytes = Vec::new();
    let _ = std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(skipped));
    let _ = file.take(LONGEST).read_to_end(&mut bytes);
    excerpt(&String::from_utf8_lossy(&bytes))
}

/// The first of the lines that tell of an error, without time and source line, each once.
fn excerpt(log: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in log.lines() {
        // `(00.012345)   1234: Error (criu/file.c:99): words`
        let Some((_, words)) = line.split_once("Error (") else { continue };
        let words = words.split_once("): ").map_or(words, |(_, words)| words).trim();
        let cut = words.char_indices().nth(WIDTH).map_or(words.len(), |(at, _)| at);
        let words: String = words[..cut].chars().filter(|c| !c.is_control()).collect();
        let is_end = words.ends_with("FAILED.") && !found.is_empty();
        if !words.is_empty() && !is_end && !found.contains(&words) {
            found.push(words);
        }
    }
    found.truncate(LINES);
    found
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_errors_are_quoted_and_nothing_else() {
        let log = "(00.1) Warn  (criu/a.c:1): careful\n\
                   (00.2)    12: Error (criu/sk-inet.c:191): inet: Connected TCP\tsocket\n\
                   (00.3) Error (criu/sk-inet.c:191): inet: Connected TCP\tsocket\n\
                   (00.4) Error (criu/cr-dump.c:2051): Dumping FAILED.\n";
        assert_eq!(excerpt(log), ["inet: Connected TCPsocket"]);
        assert_eq!(excerpt("(00.4) Error (criu/x.c:1): Dumping FAILED.\n"), ["Dumping FAILED."]);
        let many = "Error (criu/a.c:1): x\n".to_owned()
            + &(0..9).map(|n| format!("Error (criu/a.c:1): {n}\n")).collect::<String>();
        assert_eq!(excerpt(&many), ["x", "0", "1", "2"]);
        assert_eq!(excerpt(&format!("Error ({}", "é".repeat(500)))[0].chars().count(), WIDTH);
        assert!(excerpt("fine\n").is_empty());
    }

    #[test]
    fn a_log_that_is_no_file_is_no_log() {
        let path = std::env::temp_dir().join(format!("bulkhead-log-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path.join("dump.log")).unwrap();
        nix::unistd::mkfifo(&path.join("fifo"), Mode::S_IRUSR).unwrap();
        let directory = std::fs::File::open(&path).unwrap();
        for name in ["dump.log", "fifo", "none"] {
            assert!(errors(directory.as_fd(), name).is_empty(), "{name}");
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}
