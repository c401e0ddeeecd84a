//! Streams: nothing is lost, nobody waits who should not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use wire::{Call, Word};

use crate::ground::{ALL, Guest, NONE, OUT, process, read_until, until};

const MIB: usize = 1 << 20;

/// The next of a sequence that never repeats.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn write_sequence(mut to: UnixStream, length: usize) {
    let mut state = 1;
    let mut chunk = Vec::new();
    for _ in 0..length / MIB {
        chunk.clear();
        while chunk.len() < MIB {
            chunk.extend_from_slice(&next(&mut state).to_le_bytes());
        }
        to.write_all(&chunk).unwrap();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

fn check_sequence(mut from: UnixStream, length: usize) {
    let mut state = 1;
    let mut bytes = vec![0; MIB];
    for _ in 0..length / MIB {
        from.read_exact(&mut bytes).unwrap();
        for word in bytes.chunks(8) {
            assert_eq!(word, next(&mut state).to_le_bytes());
        }
    }
    assert_eq!(from.read(&mut [0]).unwrap(), 0);
}

#[test]
fn much_goes_through_unchanged() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "cat", ALL);
    let (stdin, stdout) = (first.stdin.take().unwrap(), first.stdout.take().unwrap());
    let writer = std::thread::spawn(move || write_sequence(stdin, 64 * MIB));
    check_sequence(stdout, 64 * MIB);
    writer.join().unwrap();
    assert_eq!(first.exited(), 0);
    guest.end();
}

#[test]
fn a_reader_that_waits_loses_nothing() {
    let guest = Guest::new();
    // More than all buffers on the way hold, written and ended before the first byte is read.
    let mut first = guest.shell("a", "head -c 100000 /dev/zero; echo end; echo error >&2", ALL);
    assert_eq!(read_until(first.stderr.as_mut().unwrap(), "\n"), "error\n");
    first.say(Word::Signal(9));
    let mut bytes = Vec::new();
    first.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 100_004);
    assert!(bytes.ends_with(b"end\n"));
    first.exited();
    guest.end();
}

#[test]
fn the_exit_comes_after_the_last_byte() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "head -c 3000000 /dev/zero", OUT);
    let connection = first.stdout.as_mut().unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // Whoever does not read holds the program up.
    std::thread::sleep(Duration::from_millis(100));
    let call = Call::Processes { container: "a".to_owned() };
    let wire::Answer::Processes(rows) = guest.call(call) else { panic!("no rows") };
    assert_eq!(rows.len(), 1);
    assert_eq!(first.output().len(), 3_000_000);
    assert_eq!(first.exited(), 0);
    guest.end();
}

#[test]
fn whoever_holds_a_stream_beyond_the_end_holds_nobody() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "sleep 1000", NONE);
    let mut exec = guest.exec("a", process(&["sh", "-c", "sleep 1000 & echo here"]), OUT);
    exec.start();
    assert_eq!(exec.output(), "here\n");
    assert_eq!(exec.exited(), 0);
    // One that writes without end, too.
    let mut exec = guest.exec("a", process(&["sh", "-c", "yes & exit 2"]), OUT);
    exec.start();
    exec.output();
    assert_eq!(exec.exited(), 2);
    first.say(Word::Signal(9));
    first.exited();
    guest.end();
}

#[test]
fn a_program_is_told_that_nobody_reads() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "yes; exit 9", OUT);
    let mut stdout = first.stdout.take().unwrap();
    assert_eq!(read_until(&mut stdout, "\n"), "y\n");
    drop(stdout);
    assert_eq!(first.exited(), 9);
    guest.end();
}

#[test]
fn a_host_is_told_that_nobody_reads() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "exec <&-; echo closed; sleep 1000", ALL);
    assert_eq!(read_until(first.stdout.as_mut().unwrap(), "\n"), "closed\n");
    let mut stdin = first.stdin.take().unwrap();
    until(|| stdin.write_all(&[0; 4096]).is_err());
    first.say(Word::Signal(9));
    assert_eq!(first.exited(), 137);
    guest.end();
}

#[test]
fn streams_can_be_opened_by_name() {
    let guest = Guest::new();
    let script = "echo out >/dev/stdout; echo err >/proc/self/fd/2; cat /dev/stdin";
    let mut config = guest.config("a", &["sh", "-c", script]);
    config["process"]["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 });
    let mut first = guest.first("a", config, ALL);
    first.start();
    first.stdin.as_mut().unwrap().write_all(b"in\n").unwrap();
    first.stdin = None;
    assert_eq!(first.output(), "out\nin\n");
    assert_eq!(crate::ground::to_end(first.stderr.take().unwrap()), "err\n");
    assert_eq!(first.exited(), 0);
    guest.end();
}
