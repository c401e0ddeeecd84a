//! Containers: made, started, ended, and the calls about them.

use serde_json::json;
use wire::{Answer, Call, ErrorKind, Notice, Word};

use crate::ground::{ALL, Guest, NONE, OUT, to_end, until};

#[test]
fn the_life_of_a_container() {
    let guest = Guest::new();
    let config = guest.config("a", &["sh", "-c", "cat; echo error >&2; exit 7"]);
    let mut first = guest.first("a", config, ALL);
    assert!(first.created() > 1);
    let bundle = guest.run_directory().join("bundles/a");
    assert!(bundle.join("config.json").exists());
    first.say(Word::Start);
    assert_eq!(first.answer(), Answer::Started);
    let mut stdin = first.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"typed").unwrap();
    stdin.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(first.output(), "typed");
    assert_eq!(to_end(first.stderr.take().unwrap()), "error\n");
    assert_eq!(first.exited(), 7);
    assert!(!bundle.exists());
    assert_eq!(std::fs::read_dir(guest.run_directory().join("state")).unwrap().count(), 0);
    guest.end();
}

#[test]
fn what_cannot_be_made_says_why_and_leaves_nothing() {
    let guest = Guest::new();
    let mut config = guest.config("a", &["true"]);
    config["linux"]["namespaces"][0]["type"] = "nonsense".into();
    let error = guest.first("a", config, NONE).failure();
    assert_eq!(
        (error.kind, error.subject.as_str()),
        (ErrorKind::Invalid, "linux.namespaces[0].type")
    );
    guest.until_gone("a");

    let mut config = guest.config("a", &["true"]);
    config["root"]["path"] = "/absent".into();
    let error = guest.first("a", config, OUT).failure();
    assert!(error.call.as_ref().is_some_and(|(_, errno)| *errno == 2), "{error:?}");
    guest.until_gone("a");

    let error = guest.first("../a", guest.config("a", &["true"]), NONE).failure();
    assert_eq!(error.kind, ErrorKind::Invalid);

    let mut started = guest.shell("b", "sleep 1000", NONE);
    let error = guest.first("b", guest.config("c", &["true"]), NONE).failure();
    assert_eq!(error.kind, ErrorKind::Exists);
    started.say(Word::Signal(9));
    assert_eq!(started.exited(), 137);
    guest.end();
}

#[test]
fn a_program_that_cannot_be_executed_fails_the_start() {
    let guest = Guest::new();
    // A missing program is found missing when the container is made, as under runc.
    let error = guest.first("a", guest.config("a", &["/absent"]), OUT).failure();
    assert_eq!(error.kind, ErrorKind::Exec);
    assert!(error.call.is_some_and(|(_, errno)| errno == 2));
    guest.until_gone("a");
    std::fs::write(
        guest.config("a", &[])["root"]["path"].as_str().unwrap().to_owned() + "/bin/odd",
        "\x7fELF of another kind",
    )
    .unwrap();
    let odd = guest.config("a", &[])["root"]["path"].as_str().unwrap().to_owned() + "/bin/odd";
    std::fs::set_permissions(odd, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut first = guest.first("a", guest.config("a", &["odd"]), OUT);
    first.created();
    first.say(Word::Start);
    let error = first.failure();
    assert_eq!(error.kind, ErrorKind::Exec);
    assert!(error.call.is_some_and(|(call, errno)| call == "execve" && errno == 8));
    guest.until_gone("a");
    guest.end();
}

#[test]
fn a_host_that_goes_before_the_start_leaves_nothing() {
    let guest = Guest::new();
    let mut first = guest.first("a", guest.config("a", &["sleep", "1000"]), ALL);
    first.created();
    drop(first);
    guest.until_gone("a");
    // Not even its making was waited for.
    drop(guest.first("b", guest.config("b", &["sleep", "1000"]), ALL));
    guest.until_gone("b");
    guest.end();
}

#[test]
fn a_host_that_goes_later_takes_the_process_with_it() {
    let guest = Guest::new();
    let first = guest.shell("a", "sleep 1000", ALL);
    let call = || Call::Processes { container: "a".to_owned() };
    let Answer::Processes(rows) = guest.call(call()) else { panic!("no rows") };
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].command.as_str(), rows[0].user), ("sleep 1000", 0));
    drop(first);
    guest.until_gone("a");
    guest.end();
}

#[test]
fn a_container_that_is_killed_before_its_start_has_ended() {
    let guest = Guest::new();
    let mut first = guest.first("a", guest.config("a", &["true"]), OUT);
    first.created();
    let signal = Call::Signal { container: "a".to_owned(), signal: 9, all: true };
    assert_eq!(guest.call(signal), Answer::Done { warnings: vec![] });
    assert_eq!(first.output(), "");
    assert_eq!(first.exited(), 137);
    guest.until_gone("a");
    guest.end();
}

#[test]
fn calls_about_a_container() {
    let guest = Guest::new();
    assert_eq!(guest.call(Call::Ping), Answer::Done { warnings: vec![] });
    let container = || "a".to_owned();
    let error = guest.refused(Call::Stats { container: container() });
    assert_eq!(error.kind, ErrorKind::NotFound);
    let mut first = guest.shell("a", "trap 'exit 5' TERM; sleep 1000 & wait", OUT);
    let Answer::Stats(figures) = guest.call(Call::Stats { container: container() }) else {
        panic!("no figures")
    };
    let figures = runtime::Stats::from_whole(figures).unwrap();
    assert!(figures.pids.current >= 1, "{figures:?}");
    let update = |resources| Call::Update { container: container(), resources };
    let answer = guest.call(update(json!({ "pids": { "limit": 77 } })));
    assert_eq!(answer, Answer::Done { warnings: vec![] });
    let Answer::Stats(figures) = guest.call(Call::Stats { container: container() }) else {
        panic!("no figures")
    };
    assert_eq!(runtime::Stats::from_whole(figures).unwrap().pids.limit, 77);
    let error = guest.refused(update(json!({ "pids": { "limit": "many" } })));
    assert_eq!((error.kind, error.subject.as_str()), (ErrorKind::Invalid, "pids.limit"));
    let call = || Call::Processes { container: container() };
    until(|| matches!(guest.call(call()), Answer::Processes(rows) if rows.len() == 2));
    let Answer::Processes(rows) = guest.call(call()) else { panic!("no rows") };
    assert_eq!((rows[1].parent, rows[1].command.as_str()), (rows[0].pid, "sleep 1000"));
    let signal = Call::Signal { container: container(), signal: 15, all: false };
    assert_eq!(guest.call(signal), Answer::Done { warnings: vec![] });
    assert_eq!(first.output(), "");
    assert_eq!(first.exited(), 5);
    guest.end();
}

#[test]
fn kills_for_want_of_memory_are_told() {
    let mut guest = Guest::new();
    // It keeps what it has read until there is a line.
    let mut config = guest.config("a", &["tail", "/dev/zero"]);
    config["linux"]["resources"] = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    let mut first = guest.first("a", config, NONE);
    first.start();
    let Notice::OutOfMemory { container, kills } = guest.notice() else { panic!("no kill") };
    // Cgroup v1 tells of attempts too.
    assert!(container == "a" && kills >= 1, "{container} {kills}");
    assert_eq!(first.exited(), 137);
    guest.end();
}

#[test]
fn hooks_of_the_guest_run_in_the_bundle() {
    let guest = Guest::new();
    let mut config = guest.config("a", &["true"]);
    let seen = guest.run_directory().join("seen");
    config["hooks"] = json!({ "createRuntime": [{
        "path": "/bin/sh", "args": ["sh", "-c", "cat >/run/bulkhead/seen"],
    }] });
    let mut first = guest.first("a", config, NONE);
    first.start();
    assert_eq!(first.exited(), 0);
    let state: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(seen).unwrap()).unwrap();
    assert_eq!(state["bundle"], "/run/bulkhead/bundles/a");
    guest.end();
}
