//! Steps that end the probe or wait.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, raise};

/// Sends itself `signal` with its default disposition; returns only if that did not end it.
pub fn kill_self(signal: i32) {
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = raise(signal);
    }
}

/// Waits for signals: SIGTERM ends with code 0, SIGUSR2 with 42; every other is printed as `signal N`.
pub fn pause() -> i32 {
    let all = SigSet::all();
    if all.thread_block().is_err() {
        return 125;
    }
    say("ready");
    loop {
        match all.wait() {
            Ok(Signal::SIGTERM) => return 0,
            Ok(Signal::SIGUSR2) => return 42,
            Ok(Signal::SIGWINCH) => {
                let size = crate::sys::window_size(std::os::fd::AsFd::as_fd(&std::io::stdin()));
                say(&format!("size {size:?}"));
            }
            Ok(signal) => say(&format!("signal {}", signal as i32)),
            // A realtime signal has no name in nix; it was received all the same.
            Err(_) => say("signal other"),
        }
    }
}

/// Waits with every signal at its default, so that only an uncatchable one ends a pid 1.
pub fn wait_to_be_killed() -> i32 {
    say("ready");
    loop {
        nix::unistd::pause();
    }
}

/// Appends all of stdin and a newline to the file at `path`: a hook that records its state.
pub fn append_stdin(path: &str) {
    let mut text = String::new();
    let _ = std::io::stdin().read_to_string(&mut text);
    if let Ok(mut file) = std::fs::File::options().append(true).create(true).open(path) {
        let _ = file.write_all(format!("{}\n", text.trim_end()).as_bytes());
    }
}

/// Counts for ever, in its own memory alone, and shows the number in the file at `path` and as lines.
pub fn count(path: &str) -> i32 {
    for number in 1u64.. {
        show(path, &number.to_string());
        say(&number.to_string());
        std::thread::sleep(Duration::from_millis(50));
    }
    0
}

/// Sends numbers on one TCP connection to `port` and has each sent back, for ever; shows the last in the
/// file at `path`, or what went wrong.
pub fn talk(port: u16, path: &str) -> i32 {
    let talked = || -> std::io::Result<()> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        for number in 1u64.. {
            writeln!(&stream, "{number}")?;
            let mut line = String::new();
            lines.read_line(&mut line)?;
            if line.trim() != number.to_string() {
                return Err(std::io::Error::other(format!("{line:?} for {number}")));
            }
            show(path, &number.to_string());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    if let Err(error) = talked() {
        show(path, &format!("broken: {error}"));
    }
    wait_to_be_killed()
}

/// Replaces the file at `path`, so that a reader sees all or nothing.
fn show(path: &str, text: &str) {
    let new = format!("{path}.new");
    let _ = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
}

fn say(text: &str) {
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
    let _ = std::io::stdout().flush();
}
