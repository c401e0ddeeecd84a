//! Steps that end the probe or wait.

use std::io::{Read, Write};

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

fn say(text: &str) {
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
    let _ = std::io::stdout().flush();
}
