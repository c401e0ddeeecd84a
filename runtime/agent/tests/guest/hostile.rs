//! What is no message, and connections that belong to nobody.

use std::io::Read;

use wire::{Answer, Call, Exec, Opening, StreamName, Token};

use crate::ground::{Guest, NONE, OUT, frame, process, said_to};

fn reason(answer: Option<Answer>) -> String {
    match answer {
        Some(Answer::Failed(error)) => error.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_message_is_refused() {
    let guest = Guest::new();
    assert!(reason(said_to(&guest, &u32::MAX.to_le_bytes())).contains("longer than"));
    assert!(reason(said_to(&guest, &frame(&"nonsense"))).contains("no message"));
    let deep = "[".repeat(100_000);
    let deep = [&(deep.len() as u32).to_le_bytes()[..], deep.as_bytes()].concat();
    assert!(reason(said_to(&guest, &deep)).contains("no message"));
    // Half a frame, and away.
    drop(guest.connect());
    let mut half = guest.connect();
    std::io::Write::write_all(&mut half, &frame(&Opening::Call(Call::Ping))[..7]).unwrap();
    drop(half);
    // In a process' connection: whoever stands for it is broken, which is its end.
    let mut first = guest.first("a", guest.config("a", &["sleep", "1000"]), NONE);
    first.created();
    first.say_bytes(&u32::MAX.to_le_bytes());
    assert!(first.failure().reason.contains("longer than"));
    guest.until_gone("a");
    let mut first = guest.shell("a", "sleep 1000", NONE);
    first.say_bytes(&frame(&"nonsense"));
    assert_eq!(first.exited(), 137);
    assert_eq!(guest.call(Call::Ping), Answer::Done { warnings: vec![] });
    guest.end();
}

#[test]
fn forged_streams_get_nothing() {
    let guest = Guest::new();
    let token = Token("theirs".to_owned());
    let mut real = guest.stream(&token, StreamName::Stdout);
    // Another one under the same name is closed at once.
    let mut second = guest.stream(&token, StreamName::Stdout);
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    // One that the process has not announced is closed when that is made.
    let mut unannounced = guest.stream(&token, StreamName::Stderr);
    let mut first = guest.shell("a", "sleep 1000", NONE);
    let exec = |token: &Token| Exec {
        container: "a".to_owned(),
        process: process(&["echo", "word"]),
        token: token.clone(),
        streams: OUT,
    };
    let mut connection = guest.open(&Opening::Exec(Box::new(exec(&token))));
    assert_eq!(unannounced.read(&mut [0]).unwrap(), 0);
    std::io::Write::write_all(&mut connection, &frame(&wire::Word::Start)).unwrap();
    let mut text = String::new();
    real.read_to_string(&mut text).unwrap();
    assert_eq!(text, "word\n");
    // A second process does not get the streams of one that waits for its own.
    let waiting = Token("waiting".to_owned());
    let opening = Opening::Exec(Box::new(exec(&waiting)));
    let mut patient = guest.open(&opening);
    assert!(reason(said_to(&guest, &frame(&opening))).contains("token"));
    let mut stdout = guest.stream(&waiting, StreamName::Stdout);
    std::io::Write::write_all(&mut patient, &frame(&wire::Word::Start)).unwrap();
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "word\n");
    first.say(wire::Word::Signal(9));
    first.exited();
    guest.end();
}

#[test]
fn many_connections_that_say_nothing_keep_nobody_from_being_served() {
    let guest = Guest::new();
    let silent: Vec<_> = (0..200).map(|_| guest.connect()).collect();
    assert_eq!(guest.call(Call::Ping), Answer::Done { warnings: vec![] });
    drop(silent);
    guest.end();
}
