//! The same command lines for Bulkhead and for the installed runc, compared byte by byte where their
//! callers read them. Without runc a test says so and passes nothing off as checked.

// Only functions marked as tests count as tests to clippy; what they share is test code too.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory of its own for a test.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bulkhead-cli-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn run(&self, program: &Path, words: &[&str]) -> Output {
        Command::new(program)
            .args(words)
            .current_dir(&self.0)
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn bulkhead(&self, words: &[&str]) -> Output {
        self.run(Path::new(env!("CARGO_BIN_EXE_bulkhead")), words)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The installed runc, or a word about the skipped test.
fn runc(test: &str) -> Option<PathBuf> {
    let path = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join("runc"))
        .find(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped {test}: runc is not installed");
    }
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A log line without its time.
fn timeless(line: &str) -> String {
    let (Some(start), Some(end)) = (line.find("time="), line.find(" level=")) else {
        return line.to_owned();
    };
    format!("{}{}", &line[..start], &line[end..])
}

/// The example of runc 1.1.5 lacks what later releases changed: no ambient capabilities, one more
/// masked path, the version of the specification.
fn modern(example: &str) -> String {
    let ambient = example.find(",\n\t\t\t\"ambient\"").unwrap();
    let end = ambient + example[ambient..].find(']').unwrap() + 1;
    let mut text = format!("{}{}", &example[..ambient], &example[end..]);
    if !text.contains("/sys/devices/virtual/tpm") {
        let scsi = "\t\t\t\"/proc/scsi\"\n";
        let tpm = "\t\t\t\"/proc/scsi\",\n\t\t\t\"/sys/devices/virtual/tpm\"\n";
        text = text.replace(scsi, tpm);
    }
    text.replace("\"1.0.2-dev\"", "\"1.3.0\"")
}

#[test]
fn spec_is_that_of_runc() {
    let Some(runc) = runc("spec_is_that_of_runc") else { return };
    for flags in [&["spec"][..], &["spec", "--rootless"]] {
        let place = Place::new(&format!("spec{}", flags.len()));
        let config = place.0.join("config.json");
        assert!(place.run(&runc, flags).status.success());
        let theirs = fs::read_to_string(&config).unwrap();
        let refused = place.bulkhead(flags);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains("File config.json exists. Remove it first"));
        assert_eq!(fs::read_to_string(&config).unwrap(), theirs);
        fs::remove_file(&config).unwrap();
        let made = place.bulkhead(flags);
        assert!(made.status.success() && made.stdout.is_empty() && made.stderr.is_empty());
        let ours = fs::read_to_string(&config).unwrap();
        let expected = if theirs.contains("\"ambient\"") { modern(&theirs) } else { theirs };
        assert_eq!(ours, expected);
    }
}

#[test]
fn an_empty_list_is_that_of_runc() {
    let Some(runc) = runc("an_empty_list_is_that_of_runc") else { return };
    let place = Place::new("list");
    for flags in
        [&["list"][..], &["list", "-f", "json"], &["list", "-q"], &["list", "--format=json"]]
    {
        fs::create_dir_all(place.0.join("root")).unwrap();
        let words = [&["--root", "root"], flags].concat();
        let (ours, theirs) = (place.bulkhead(&words), place.run(&runc, &words));
        assert_eq!(text(&ours.stdout), text(&theirs.stdout), "{flags:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{flags:?}");
    }
}

/// Command lines whose failure is runc's own: exit code and log line are equal.
#[test]
fn complaints_are_those_of_runc() {
    let Some(runc) = runc("complaints_are_those_of_runc") else { return };
    let place = Place::new("complaints");
    for words in [
        &["create"][..],
        &["create", "a", "b"],
        &["create", "--foo", "a"],
        &["create", "-foo=1", "a"],
        &["create", "--bundle"],
        &["state"],
        &["state", "a", "b"],
        &["kill"],
        &["kill", "a", "TERM", "b"],
        &["exec"],
        &["exec", "-t=foo", "a"],
        &["ps"],
        &["delete"],
        &["features", "a"],
        &["list", "a"],
        &["start", "a", "b"],
        &["restore", "--lsm-mount-context"],
        &["--foo", "state"],
        &["--root"],
        &["--systemd-cgroup=foo", "state", "a"],
        &["--log-format", "xml", "state", "a"],
        &["list", "-f", "xml"],
    ] {
        let (ours, theirs) = (place.bulkhead(words), place.run(&runc, words));
        let line = text(&ours.stderr);
        let theirs_named =
            text(&theirs.stderr).replace(&format!("{}:", runc.display()), "bulkhead:");
        assert_eq!(timeless(&line), timeless(&theirs_named), "{words:?}");
        assert_eq!(line.lines().count(), 1, "{words:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{words:?}");
        // The help below it is our own.
        let first = |output: &Output| text(&output.stdout).lines().next().map(str::to_owned);
        assert_eq!(first(&ours), first(&theirs), "{words:?}");
    }
}

#[test]
fn help_and_version_succeed() {
    let place = Place::new("help");
    for words in [
        &["--help"][..],
        &["-h"],
        &[],
        &["checkpoint", "--help"],
        &["create", "-h"],
        &["exec", "--help"],
        &["help"],
        &["help", "run"],
        &["--version"],
        &["-v"],
        &["--version", "state"],
    ] {
        let output = place.bulkhead(words);
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}");
        assert!(!output.stdout.is_empty(), "{words:?}");
    }
    assert_eq!(place.bulkhead(&["foo"]).status.code(), Some(3));
}

#[test]
fn a_failure_is_one_line_in_the_log_and_one_on_standard_error() {
    let place = Place::new("log");
    for (format, begin) in [("text", "time=\""), ("json", "{\"level\":\"error\",\"msg\":\"")] {
        let words = ["--log", "log", "--log-format", format, "list", "-f", "xml"];
        let output = place.bulkhead(&words);
        assert_eq!(text(&output.stderr), "invalid format option\n");
        place.bulkhead(&words);
        let log = fs::read_to_string(place.0.join("log")).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with(begin)), "{log}");
        fs::remove_file(place.0.join("log")).unwrap();
    }
    let output = place.bulkhead(&["--log", "/dev/stderr", "list", "-f", "xml"]);
    assert_eq!(text(&output.stderr).lines().count(), 1);
}

#[test]
fn ids_of_users_are_refused_before_anything_else() {
    let place = Place::new("ids");
    for user in ["4294967296", "-1", "1x", "1:", "4294967295", ":0", "root"] {
        let output = place.bulkhead(&["--root", "r", "exec", "--user", user, "a", "true"]);
        assert_eq!(output.status.code(), Some(1), "{user}");
        let line = text(&output.stderr);
        assert!(line.contains(&format!("invalid value \\\"{user}\\\" for flag -user")), "{line}");
    }
}

#[test]
fn numbers_of_update_name_flag_and_value() {
    let place = Place::new("update");
    for (flag, value) in [
        ("memory", "10x"),
        ("memory-swap", "-2"),
        ("pids-limit", "many"),
        ("cpu-share", "-1"),
        ("cpu-quota", "1.5"),
        ("blkio-weight", "70000"),
    ] {
        let output = place.bulkhead(&["update", &format!("--{flag}"), value, "a"]);
        assert_eq!(output.status.code(), Some(1), "{flag}");
        let line = text(&output.stderr);
        let expected = format!("invalid value \\\"{value}\\\" for flag -{flag}: ");
        assert!(line.contains(&expected), "{line}");
    }
}

#[test]
fn closed_streams_change_nothing() {
    let place = Place::new("closed");
    for script in
        ["\"$0\" --version >&-", "\"$0\" --version | true", "\"$0\" --version <&- >&- 2>&-"]
    {
        let status = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_bulkhead")])
            .current_dir(&place.0)
            .status()
            .unwrap();
        assert!(status.success(), "{script}");
    }
}

#[test]
fn a_named_root_must_exist_and_not_be_the_root_directory() {
    let place = Place::new("roots");
    let output = place.bulkhead(&["--root", "missing", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no such file or directory"));
    assert_eq!(place.bulkhead(&["--root", "/", "list"]).status.code(), Some(1));
}

#[test]
fn completions_and_manual_pages_are_made() {
    let place = Place::new("pages");
    for shell in ["bash", "zsh", "fish"] {
        let output = place.bulkhead(&["completion", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("console-socket"));
    }
    assert!(place.bulkhead(&["man", "."]).status.success());
    for page in ["bulkhead.8", "bulkhead-create.8", "bulkhead-exec.8"] {
        assert!(fs::read_to_string(place.0.join(page)).unwrap().contains(".TH"), "{page}");
    }
}
