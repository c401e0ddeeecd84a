//! Every target over its seeds in fuzz/seeds: what a fuzzer has found once stays found.

use std::path::Path;

use super::*;

fn replay(target: &str, run: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&seeds).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 3, "{target} has {count} seeds");
}

#[test]
fn configurations() {
    replay("config", config);
}

#[test]
fn processes() {
    replay("process", process);
}

#[test]
fn records() {
    replay("state", state);
}

#[test]
fn profiles() {
    replay("seccomp", seccomp);
}

#[test]
fn mount_options() {
    replay("options", options);
}

#[test]
fn cgroup_paths() {
    replay("cgroup", cgroup);
}

/// The maps of `oci-spec` are iterated in another order each time.
#[test]
fn the_first_of_two_errors_is_always_the_same() {
    let cases = [
        (r#""timeOffsets":{"a b":{},"b":{},"c":{},"d":{}}"#, "linux.timeOffsets[\"a b\"]"),
        (
            r#""resources":{"unified":{"a":"1","b":"1","c":"1","d":"1"}}"#,
            "linux.resources.unified[\"a\"]",
        ),
        (r#""sysctl":{"a":"1","b":"1","c":"1","d":"1"}"#, "linux.sysctl[\"a\"]"),
    ];
    for (linux, subject) in cases {
        let json = format!(
            r#"{{"ociVersion":"1.3.0","root":{{"path":"r"}},"linux":{{{linux}}},
                "process":{{"user":{{"uid":0,"gid":0}},"args":["x"],"cwd":"/"}}}}"#
        );
        for _ in 0..20 {
            let spec = crate::spec::parse_config(json.as_bytes(), &mut Vec::new()).unwrap().spec;
            let error = crate::validate::validate(
                &spec,
                &mut crate::faults::Faults::First,
                &mut Vec::new(),
            )
            .unwrap_err();
            assert_eq!(error.subject(), subject);
        }
    }
}

/// As what a later command would take for another container's.
#[test]
fn records_of_no_container_are_refused() {
    let record = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/state/v2"),
    )
    .unwrap();
    let error = |from: &str, to: &str| {
        assert!(record.contains(from), "{from}");
        let json = record.replace(from, to);
        crate::state::Record::parse(json.as_bytes(), "c1", "\"/s\"").unwrap_err().to_string()
    };
    let cases = [
        ("\"c1\"", "\"../c1\"", "read \"/s\": is the record of container \"../c1\""),
        ("\"pid\":4711", "\"pid\":-1", "read \"/s\": pid -1 is below 0"),
        ("\"version\":1", "\"version\":0", "read \"/s\": version 0 does not exist"),
        ("\"version\":1", "\"version\":2", "read \"/s\": version 2 is newer than 1"),
        ("\"/b\"", "\"b\"", "read \"/s\": bundle and rootfs are not absolute paths"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(error(from, to), expected);
    }
}
