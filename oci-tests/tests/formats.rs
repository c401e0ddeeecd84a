//! What `oci-tests` writes is read by those it is written for: Perl's TAP::Parser and Python's XML parser.
//! Needs root, for the runs; the runtimes are /bin/true and /bin/false, which no container ever sees.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use oci_tests::format::{Format, Sink};
use oci_tests::outcome::{Outcome, Verdict};
use oci_tests::results::Run;

/// Counts of TAP::Parser, and what it has to complain of.
const TAP: &str = r#"
    use TAP::Parser;
    my $parser = TAP::Parser->new({ source => $ARGV[0] });
    my @odd;
    while (my $result = $parser->next) {
        push @odd, $result->as_string if $result->is_unknown;
        print "detail: ", $result->data->{message}, "\n" if $result->is_yaml && $result->data->{message};
        print "skip: ", $result->explanation, "\n" if $result->is_test && $result->has_skip;
    }
    printf "%d planned, %d passed, %d failed, %d skipped, %d todo\n", $parser->tests_planned,
        scalar $parser->passed, scalar $parser->failed, scalar $parser->skipped, scalar $parser->todo;
    print "unknown: $_\n" for @odd;
    print "error: $_\n" for $parser->parse_errors;
"#;

/// Counts of a JUnit document, and all that its failures say.
const JUNIT: &str = r#"
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
cases = root.findall("testsuite/testcase")
failures = [c.find("failure") for c in cases if c.find("failure") is not None]
skips = [c.find("skipped") for c in cases if c.find("skipped") is not None]
print(root.tag, root.get("tests"), len(cases), len(failures), len(skips))
print(sum(int(s.get("failures")) for s in root.findall("testsuite")), root.get("skipped"))
for failure in failures: print("failure:", repr(failure.text))
for skip in skips: print("skip:", repr(skip.get("message")))
for case in cases: assert float(case.get("time")) >= 0 and case.get("classname"), case.attrib
"#;

/// Every control character, and what has a meaning in either format.
fn hostile() -> String {
    let controls: String = (0u8..32).map(char::from).collect();
    format!(
        "{controls}\u{7f}\u{85}\u{9b}31m\u{fffe}\u{ffff}]]>&amp;<!-- \"'\nok 7 - forged\n1..9\n\\ # SKIP no\n..."
    )
}

fn outcomes() -> Vec<Outcome> {
    let outcome = |title: &str, verdict, reason: &str| Outcome {
        section: "config#root",
        title: format!("config#root: {title} [F1]"),
        verdict,
        reason: reason.to_owned(),
        notes: vec![hostile(), "plain".into()],
        took: Duration::from_millis(1234),
    };
    vec![
        outcome("plain", Verdict::Ok, ""),
        outcome("a \"b\" <c> & d\\e", Verdict::NotOk, &hostile()),
        outcome("not # SKIP ped #todo", Verdict::NotOk, "plain"),
        outcome("skipped", Verdict::Skip, "no such\nkernel"),
    ]
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("oci-tests-formats-{}-{name}", std::process::id()))
}

fn written(format: Format, name: &str) -> PathBuf {
    let (path, outcomes) = (scratch(name), outcomes());
    let mut sink = Sink::open(format, Some(&path), "run\u{1b}time", outcomes.len()).unwrap();
    for (place, outcome) in outcomes.iter().enumerate() {
        sink.each(place + 1, outcome).unwrap();
    }
    sink.end(&outcomes, Duration::from_secs(5)).unwrap();
    path
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the program prints of the file, which is then removed.
fn read_by(program: &str, option: &str, script: &str, path: &PathBuf) -> String {
    let mut command = Command::new("timeout");
    let output = command.args(["60", program, option, script]).arg(path).output().unwrap();
    std::fs::remove_file(path).unwrap();
    text(&output)
}

/// A run of the suite itself.
fn run(runtime: &str, words: &[&str]) -> Output {
    Command::new("timeout")
        .args(["120", env!("CARGO_BIN_EXE_oci-tests"), "--runtime", runtime])
        .args(["--filter", "runtime# without an id is an error"])
        .args(words)
        .output()
        .unwrap()
}

#[test]
fn tap_is_read_by_perl() {
    let told = read_by("perl", "-e", TAP, &written(Format::Tap, "file.tap"));
    assert!(told.contains("4 planned, 2 passed, 2 failed, 1 skipped, 0 todo\n"), "{told}");
    assert!(told.contains("skip: no such\\nkernel\n"), "{told}");
    assert!(told.contains("detail: plain\n") && told.contains("ok 7 - forged"), "{told}");
    assert!(!told.contains("unknown:") && !told.contains("error:"), "{told}");
}

#[test]
fn junit_is_read_by_python() {
    let told = read_by("python3", "-c", JUNIT, &written(Format::Junit, "junit"));
    assert!(told.starts_with("testsuites 4 4 2 1\n2 1\n"), "{told}");
    assert!(told.contains("skip: 'no such\\nkernel'\n"), "{told}");
    assert!(told.contains("failure: 'plain'\n") && told.contains("u{fffe}"), "{told}");
}

#[test]
fn text_has_a_line_for_each_result() {
    let path = written(Format::Text, "text");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{text:?}");
    let results: Vec<&str> = text.lines().filter(|line| line.contains("config#root")).collect();
    assert_eq!(results.len(), 4, "{text}");
    assert!(results[0].starts_with("ok        1.23 s  config#root: plain"), "{text}");
    assert!(
        text.ends_with(
            "run\u{1b}time: 1 ok, 2 not ok, 1 skipped in 5.0 s\n"
                .replace('\u{1b}', "\\u{1b}")
                .as_str()
        ),
        "{text}"
    );
}

#[test]
fn json_comes_back_as_it_was() {
    let path = written(Format::Json, "json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let run = Run::parse(&text).unwrap();
    assert_eq!(run.tests.len(), 4);
    assert_eq!(run.tests["config#root: a \"b\" <c> & d\\e [F1]"].reason, hostile());
    let cut = text.trim_end().rsplit_once('\n').unwrap().0;
    assert_eq!(Run::parse(cut).unwrap_err(), "3 results of 4");
    assert!(
        Run::parse(&format!("{text}{{\"title\":1}}\n")).unwrap_err().starts_with("line 6 is no")
    );
}

#[test]
fn a_run_is_told_in_every_format() {
    let wrong = run("/bin/true", &["--format", "tap"]);
    assert_eq!(wrong.status.code(), Some(1));
    let path = scratch("run.tap");
    std::fs::write(&path, &wrong.stdout).unwrap();
    let told = read_by("perl", "-e", TAP, &path);
    assert!(told.contains("5 planned, 0 passed, 5 failed, 0 skipped, 0 todo\n"), "{told}");
    assert!(told.contains("detail: ") && !told.contains("error:"), "{told}");
    let right = run("/bin/false", &["--format", "junit", "--output", path.to_str().unwrap()]);
    assert_eq!(text(&right), "");
    let told = read_by("python3", "-c", JUNIT, &path);
    assert!(told.starts_with("testsuites 5 5 0 0\n"), "{told}");
    let right = text(&run("/bin/false", &["--format", "text"]));
    assert_eq!(right.lines().filter(|line| line.starts_with("ok ")).count(), 5, "{right}");
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let output = run("/bin/false", &["--output", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("write results to /no/such/file: No such file"), "{told}");
    let full = run("/bin/false", &["--format", "json", "--output", "/dev/full"]);
    assert_eq!(full.status.code(), Some(2));
}

#[test]
fn every_requirement_has_a_test_or_a_reason_and_is_in_the_document() {
    let output = Command::new(env!("CARGO_BIN_EXE_oci-tests")).arg("report").output().unwrap();
    let table = text(&output);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let document = include_str!("../../docs/conformance.md");
    // The rows without results: a demand that the document does not have was added since.
    let row = |line: &str| line.split(" | ").take(2).collect::<Vec<_>>().join(" | ");
    let demands =
        table.lines().filter(|line| line.starts_with("| MUST") || line.starts_with("| SHOULD"));
    let missing: Vec<String> = demands.map(row).filter(|row| !document.contains(row)).collect();
    assert_eq!(missing, Vec::<String>::new(), "run scripts/conformance");
}

#[test]
fn every_row_of_the_machine_contract_has_a_test() {
    let output = Command::new(env!("CARGO_BIN_EXE_oci-tests")).arg("--list").output().unwrap();
    let list = text(&output);
    let rows = list.lines().filter_map(|line| line.rsplit_once(" [")?.1.strip_suffix(']'));
    let tested: std::collections::BTreeSet<&str> = rows.flat_map(str::split_whitespace).collect();
    let contract = (136..=164).map(|row| format!("F{row}"));
    let missing: Vec<String> = contract.filter(|row| !tested.contains(row.as_str())).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn tests_that_a_run_lacks_or_skips_without_a_reason_are_holes() {
    let path = scratch("holes");
    let line = r#"{"title":"config#root: root is required [F2]","result":"skip","reason":""}"#;
    std::fs::write(&path, format!("{{\"runtime\":\"other\",\"tests\":1}}\n{line}\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_oci-tests"))
        .args(["report", "--format", "text", "--results"])
        .arg(&path)
        .output()
        .unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("hole: other: skipped without a reason: config#root: root is required"),
        "{told}"
    );
    assert!(told.contains("hole: other: not run: config#root: a root without path"), "{told}");
}
