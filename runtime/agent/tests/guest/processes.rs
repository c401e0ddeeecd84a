//! Further processes, terminals, signals, and the end of everything.

use std::io::Write;
use std::net::Shutdown;

use nix::sys::signal::{Signal, kill};
use wire::{Answer, ErrorKind, Size, Word};

use crate::ground::{ALL, Guest, NONE, OUT, TERMINAL, on_terminal, process, read_until, until};

#[test]
fn a_further_process() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "sleep 1000", NONE);
    let mut exec = guest.exec("a", process(&["sh", "-c", "cat; exit 3"]), ALL);
    assert!(exec.created() > 1);
    exec.stdin.as_mut().unwrap().write_all(b"typed before the start").unwrap();
    exec.stdin.take().unwrap().shutdown(Shutdown::Write).unwrap();
    exec.say(Word::Start);
    assert_eq!(exec.answer(), Answer::Started);
    assert_eq!(exec.output(), "typed before the start");
    assert_eq!(exec.exited(), 3);

    for (name, errno) in [("/absent", 2), ("/text", 13)] {
        let mut exec = guest.exec("a", process(&[name]), OUT);
        let error = match exec.answer() {
            Answer::Failed(error) => error,
            Answer::Created { .. } => {
                exec.say(Word::Start);
                exec.failure()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(error.kind, ErrorKind::Exec, "{error:?}");
        assert!(error.call.as_ref().is_some_and(|(_, e)| *e == errno), "{error:?}");
    }
    let mut wrong = process(&["true"]);
    wrong["cwd"] = "relative".into();
    let error = guest.exec("a", wrong, OUT).failure();
    assert_eq!((error.kind, error.subject.as_str()), (ErrorKind::Invalid, "process.cwd"));
    let error = guest.exec("b", process(&["true"]), OUT).failure();
    assert_eq!(error.kind, ErrorKind::NotFound);

    first.say(Word::Signal(9));
    assert_eq!(first.exited(), 137);
    let error = guest.exec("a", process(&["true"]), OUT).failure();
    assert_eq!(error.kind, ErrorKind::NotFound);
    guest.end();
}

#[test]
fn a_further_process_that_nobody_starts_ends_with_its_host() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "sleep 1000", NONE);
    let mut exec = guest.exec("a", process(&["sleep", "1000"]), ALL);
    let pid = exec.created();
    let inside = format!("/proc/{}/root/proc/{pid}", guest.agent());
    assert!(std::path::Path::new(&inside).exists());
    drop(exec);
    until(|| !std::path::Path::new(&inside).exists());
    first.say(Word::Signal(9));
    assert_eq!(first.exited(), 137);
    guest.end();
}

#[test]
fn a_hundred_at_the_same_time() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "sleep 1000", NONE);
    let script = |number| format!("read x; echo $x; exit {number}");
    let mut all: Vec<_> = (0..100)
        .map(|number| guest.exec("a", process(&["sh", "-c", &script(number)]), ALL))
        .collect();
    for exec in &mut all {
        exec.created();
        exec.say(Word::Start);
    }
    for (number, exec) in all.iter_mut().enumerate().rev() {
        assert_eq!(exec.answer(), Answer::Started);
        writeln!(exec.stdin.as_mut().unwrap(), "word {number}").unwrap();
    }
    for (number, exec) in all.iter_mut().enumerate() {
        assert_eq!(exec.output(), format!("word {number}\n"));
        assert_eq!(usize::from(exec.exited()), number);
    }
    first.say(Word::Signal(9));
    assert_eq!(first.exited(), 137);
    until(|| guest.children().is_empty());
    guest.end();
}

#[test]
fn a_terminal_has_the_size_of_the_hosts() {
    let guest = Guest::new();
    let script = "stty size; read x; stty size; echo got $x; exit 4";
    let mut config = guest.config("a", &["sh", "-c", script]);
    config["process"] = on_terminal(config["process"].clone());
    let mut first = guest.first("a", config, TERMINAL);
    first.created();
    first.say(Word::Resize(Size { columns: 80, rows: 24 }));
    first.say(Word::Start);
    assert_eq!(first.answer(), Answer::Started);
    let mut shown = first.stdout.take().unwrap();
    assert_eq!(read_until(&mut shown, "\n"), "24 80\r\n");
    first.say(Word::Resize(Size { columns: 132, rows: 43 }));
    // Words are heard in their order, which says nothing of the stream beside them: a signal is behind the size.
    first.say(Word::Signal(0));
    let mut exec =
        guest.exec("a", on_terminal(process(&["sh", "-c", "stty size; exit 6"])), TERMINAL);
    exec.created();
    exec.say(Word::Resize(Size { columns: 7, rows: 8 }));
    exec.say(Word::Start);
    assert_eq!(exec.answer(), Answer::Started);
    assert_eq!(exec.output(), "8 7\r\n");
    assert_eq!(exec.exited(), 6);
    first.stdin.as_mut().unwrap().write_all(b"this\n").unwrap();
    assert_eq!(read_until(&mut shown, "got this\r\n"), "this\r\n43 132\r\ngot this\r\n");
    assert_eq!(crate::ground::to_end(shown), "");
    assert_eq!(first.exited(), 4);
    guest.end();
}

#[test]
fn typing_goes_to_the_terminals_program_and_ends_nothing_else() {
    let guest = Guest::new();
    let mut first = guest.shell("a", "sleep 1000", NONE);
    let script = "read x; echo got $x; exec sleep 1000";
    let mut exec = guest.exec("a", on_terminal(process(&["sh", "-c", script])), TERMINAL);
    exec.start();
    let mut stdin = exec.stdin.take().unwrap();
    let mut shown = exec.stdout.take().unwrap();
    stdin.write_all(b"word\n").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    drop(stdin);
    // The end of typing is not the end.
    assert_eq!(read_until(&mut shown, "got word\r\n"), "word\r\ngot word\r\n");
    exec.say(Word::Signal(2));
    assert_eq!(crate::ground::to_end(shown), "");
    assert_eq!(exec.exited(), 130);

    let mut exec = guest.exec("a", on_terminal(process(&["sleep", "1000"])), TERMINAL);
    exec.start();
    exec.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(exec.output(), "^C");
    assert_eq!(exec.exited(), 130);
    first.say(Word::Signal(9));
    assert_eq!(first.exited(), 137);
    guest.end();
}

#[test]
fn orphans_are_reaped() {
    let guest = Guest::new();
    // No pid namespace of its own: what it leaves behind is the agent's.
    let mut config =
        guest.config("a", &["sh", "-c", "(sh -c 'sleep 0.1' &) ; echo done; sleep 1000"]);
    config["linux"]["namespaces"].as_array_mut().unwrap().remove(0);
    let mut first = guest.first("a", config, OUT);
    first.start();
    assert_eq!(read_until(first.stdout.as_mut().unwrap(), "\n"), "done\n");
    // The keeper is left, and nobody who has ended.
    until(|| guest.children().len() == 1 && guest.children()[0].1 != 'Z');
    first.say(Word::Signal(9));
    assert_eq!(first.exited(), 137);
    guest.end();
}

#[test]
fn a_host_that_is_gone_takes_everything_with_it() {
    let guest = Guest::new();
    let mut shells = Vec::new();
    for name in ["a", "b", "c"] {
        shells.push(guest.shell(name, "trap '' TERM; sleep 1000 & sleep 1000", ALL));
        let mut exec = guest.exec(name, process(&["sleep", "1000"]), ALL);
        exec.start();
        shells.push(exec);
    }
    guest.end();
}

#[test]
fn a_signal_to_the_first_process_ends_the_guest() {
    let mut guest = Guest::new();
    let first = guest.shell("a", "sleep 1000", ALL);
    let agent = guest.agent();
    kill(agent, Signal::SIGTERM).unwrap();
    guest.ended(agent);
    drop(first);
}
