//! Configurations whose security fields are malformed: refused, never guessed. A program that checks
//! a configuration and the runtime that obeys it must not read two things in it, so a key that is
//! there twice is an error as well.

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, test};
use crate::lab::Lab;
use crate::lab::bundle::user_namespace;

const SECTION: &str = "hostile#fields";

/// Stands where raw text is to be put.
const RAW: &str = "@raw@";

pub(super) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = VALUES.iter().map(|&(path, raw)| value(path, raw)).collect();
    tests.extend(TWICE.iter().map(|&(path, key, one, two)| twice(path, key, one, two)));
    tests.extend(MAPPINGS.iter().map(|&raw| mapping(raw)));
    tests.extend(PROCESS.iter().map(|&raw| process(raw)));
    tests
}

/// JSON pointers and the raw text that must be refused there. A runtime that takes one and applies it
/// must do no harm: no sysctl of the host, no cgroup path outside of the run's.
///
/// Some runtimes take most of them. What is guessed there is a wall: a device number that wraps is
/// another device, a relative masked path masks nothing, a score out of range is no score.
const VALUES: &[(&str, &str)] = &[
    ("/process/user/uid", "-1"),
    ("/process/user/uid", "4294967296"),
    ("/process/user/uid", "18446744073709551616"),
    ("/process/user/uid", "0.5"),
    ("/process/user/uid", "1e99"),
    ("/process/user/gid", "\"0\""),
    ("/process/user/additionalGids", "[0, -1]"),
    ("/process/user/additionalGids", "[4294967296]"),
    ("/process/user/umask", "4294967296"),
    ("/process/noNewPrivileges", "\"true\""),
    ("/process/noNewPrivileges", "0"),
    ("/process/oomScoreAdj", "2147483648"),
    ("/process/oomScoreAdj", "1001"),
    ("/process/oomScoreAdj", "-1001"),
    ("/process/rlimits", "[{\"type\": \"RLIMIT_NOFILE\", \"soft\": -1, \"hard\": 1}]"),
    (
        "/process/rlimits",
        "[{\"type\": \"RLIMIT_NOFILE\", \"soft\": 18446744073709551616, \"hard\": 1}]",
    ),
    ("/process/capabilities/bounding", "\"CAP_CHOWN\""),
    ("/process/capabilities/bounding", "[0]"),
    ("/linux/namespaces", "[{\"type\": \"mount\"}, {\"type\": \"pid\"}, {\"type\": \"pid\"}]"),
    ("/linux/namespaces", "[{\"type\": \"mount\"}, {\"type\": \"PID\"}]"),
    ("/linux/namespaces", "[{\"type\": \"mount\"}, {}]"),
    ("/linux/namespaces", "[{\"type\": \"mount\"}, null]"),
    ("/linux/seccomp", "{\"defaultAction\": \"SCMP_ACT_ALLOWED\"}"),
    ("/linux/seccomp", "{\"defaultAction\": null}"),
    ("/linux/seccomp", "{}"),
    (
        "/linux/seccomp",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"mkdir\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": -1}]}",
    ),
    (
        "/linux/seccomp",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"mkdir\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{\"index\": 6, \"value\": 1, \"op\": \"SCMP_CMP_EQ\"}]}]}",
    ),
    (
        "/linux/seccomp",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"mkdir\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{\"index\": -1, \"value\": 1, \"op\": \"SCMP_CMP_EQ\"}]}]}",
    ),
    (
        "/linux/seccomp",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"mkdir\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{\"index\": 0, \"value\": -1, \"op\": \"SCMP_CMP_EQ\"}]}]}",
    ),
    (
        "/linux/seccomp",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": \"mkdir\", \"action\": \"SCMP_ACT_ERRNO\"}]}",
    ),
    ("/linux/resources", "{\"devices\": [{\"allow\": \"no\", \"access\": \"rwm\"}]}"),
    (
        "/linux/resources",
        "{\"devices\": [{\"allow\": true, \"type\": \"c\", \"major\": -2, \"minor\": 3, \"access\": \"r\"}]}",
    ),
    (
        "/linux/resources",
        "{\"devices\": [{\"allow\": true, \"type\": \"c\", \"major\": 4294967297, \"minor\": 3, \"access\": \"r\"}]}",
    ),
    ("/linux/resources", "{\"pids\": {\"limit\": 9223372036854775808}}"),
    ("/linux/resources", "{\"pids\": {\"limit\": \"10\"}}"),
    ("/linux/resources", "{\"memory\": {\"limit\": 9223372036854775808}}"),
    (
        "/linux/devices",
        "[{\"path\": \"/dev/x\", \"type\": \"c\", \"major\": 4294967297, \"minor\": 3}]",
    ),
    ("/linux/devices", "[{\"path\": \"/dev/x\", \"type\": \"c\", \"major\": 1, \"minor\": -3}]"),
    (
        "/linux/devices",
        "[{\"path\": \"/dev/x\", \"type\": \"c\", \"major\": 1, \"minor\": 3, \"uid\": 4294967296}]",
    ),
    (
        "/linux/devices",
        "[{\"path\": \"/dev/x\", \"type\": \"c\", \"major\": 1, \"minor\": 3, \"fileMode\": -1}]",
    ),
    ("/linux/maskedPaths", "[\"proc/kcore\"]"),
    ("/linux/maskedPaths", "[5]"),
    ("/linux/maskedPaths", "[\"/proc/kcore\\u0000x\"]"),
    ("/linux/readonlyPaths", "{\"0\": \"/proc/sys\"}"),
    ("/linux/sysctl", "{\"net.core.somaxconn\": 5}"),
    ("/linux/rootfsPropagation", "\"Private\""),
    ("/linux/cgroupsPath", "{}"),
    ("/root/readonly", "\"true\""),
    ("/root/path", "\"rootfs\\u0000x\""),
    ("/process/cwd", "\"/\\u0000x\""),
    ("/process/args", "[\"/bin/probe\\u0000x\"]"),
    ("/process/args", "[]"),
    ("/mounts/0/destination", "\"/proc\\u0000x\""),
    ("/mounts/1/options", "[\"nosuid\", \"nodve\"]"),
    ("/mounts/1/options", "[\"mode=755\", 5]"),
];

/// Mappings, which need a user namespace around them.
const MAPPINGS: &[&str] = &[
    "[{\"containerID\": 0, \"hostID\": 4294967296, \"size\": 1}]",
    "[{\"containerID\": 0, \"hostID\": 100000, \"size\": 4294967296}]",
    "[{\"containerID\": 0, \"hostID\": 4294967290, \"size\": 65536}]",
    "[{\"containerID\": \"0\", \"hostID\": 100000, \"size\": 1}]",
];

/// Objects, keys in them, and two values of that key.
const TWICE: &[(&str, &str, &str, &str)] = &[
    ("/process", "noNewPrivileges", "true", "false"),
    ("/process/user", "uid", "1000", "0"),
    ("/process", "capabilities", "{}", "{\"bounding\": [\"CAP_SYS_ADMIN\"]}"),
    ("/process", "args", "[\"/bin/probe\"]", "[\"/bin/other\"]"),
    ("/linux", "maskedPaths", "[\"/proc/kcore\"]", "[]"),
    (
        "/linux",
        "namespaces",
        "[{\"type\": \"mount\"}, {\"type\": \"pid\"}]",
        "[{\"type\": \"mount\"}]",
    ),
    (
        "/linux",
        "seccomp",
        "{\"defaultAction\": \"SCMP_ACT_KILL\"}",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\"}",
    ),
    ("/linux", "resources", "{}", "{\"devices\": [{\"allow\": true, \"access\": \"rwm\"}]}"),
    ("/root", "readonly", "true", "false"),
    ("", "linux", "{\"namespaces\": [{\"type\": \"mount\"}]}", "{}"),
];

/// Members of a process document that `exec` must refuse: the same as in the configuration, or the
/// second way in is the weaker one.
const PROCESS: &[&str] = &[
    "\"noNewPrivileges\": \"true\"",
    "\"noNewPrivileges\": true, \"noNewPrivileges\": false",
    "\"oomScoreAdj\": 1001",
    "\"oomScoreAdj\": \"0\"",
    "\"capabilities\": [\"CAP_CHOWN\"]",
    "\"capabilities\": {\"bounding\": \"CAP_CHOWN\"}",
    "\"rlimits\": [{\"type\": \"RLIMIT_SOULS\", \"soft\": 1, \"hard\": 1}]",
    "\"rlimits\": [{\"type\": \"RLIMIT_NOFILE\", \"soft\": 2, \"hard\": 1}]",
    "\"apparmorProfile\": 5",
    "\"terminal\": 1",
    "\"args\": []",
    "\"args\": [\"/bin/probe\", \"report\", 5]",
    "\"cwd\": \"relative\"",
    "\"cwd\": null",
    "\"user\": {\"uid\": 0, \"uid\": 0, \"gid\": 0}",
];

fn no_crash(err: &str) -> Res {
    ensure(!err.contains("panicked") && !err.contains("goroutine"), format!("it crashed: {err}"))
}

/// Writes a configuration with `raw` at the marked place; `create` must refuse it.
fn refused_with(lab: &Lab, spec: &Value, mark: &str, raw: &str) -> Res {
    let bundle = lab.bundle(&["report"], |_| {})?;
    bundle.write_config(&spec.to_string().replacen(mark, raw, 1))?;
    no_crash(&lab.refused_from(&bundle)?.err)
}

fn value(path: &'static str, raw: &'static str) -> Test {
    test(SECTION, "F19", format!("{path} = {raw}"), move |lab| {
        let mut spec = lab.bundle(&["report"], |_| {})?.spec;
        let (parent, key) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(parent) = spec.pointer_mut(parent) {
            parent[key] = json!(RAW);
        }
        refused_with(lab, &spec, &format!("\"{RAW}\""), raw)
    })
}

fn twice(path: &'static str, key: &'static str, one: &'static str, two: &'static str) -> Test {
    test(SECTION, "F19", format!("{path}/{key} twice"), move |lab| {
        let mut spec = lab.bundle(&["report"], |_| {})?.spec;
        if let Some(parent) = spec.pointer_mut(path).and_then(Value::as_object_mut) {
            parent.remove(key);
            parent.insert(RAW.into(), json!(0));
        }
        let raw = format!("\"{key}\":{one},\"{key}\":{two}");
        refused_with(lab, &spec, &format!("\"{RAW}\":0"), &raw)
    })
}

fn process(members: &'static str) -> Test {
    test(SECTION, "F19", format!("exec --process with {members}"), move |lab| {
        let container = lab.running(|_| {})?;
        let mut text = String::from("{");
        for (key, value) in [
            ("cwd", "\"/\""),
            ("args", "[\"/bin/probe\", \"report\"]"),
            ("env", "[\"PATH=/bin\"]"),
            ("user", "{\"uid\": 0, \"gid\": 0}"),
        ] {
            if !members.starts_with(&format!("\"{key}\":")) {
                text.push_str(&format!("\"{key}\": {value}, "));
            }
        }
        text.push_str(members);
        text.push('}');
        let path = lab.dir.join("process.json");
        std::fs::write(&path, text)?;
        let words = ["exec", "--process", &path.display().to_string(), &container.id];
        let output = lab.call(&words).output()?;
        container.end()?;
        no_crash(&output.err)?;
        ensure(output.code.is_some_and(|code| code != 0), "exec accepted it")?;
        ensure(output.out.is_empty(), format!("the program ran: {}", output.out))
    })
}

fn mapping(raw: &'static str) -> Test {
    test(SECTION, "F19", format!("/linux/uidMappings = {raw}"), move |lab| {
        let mut spec = lab.bundle(&["report"], user_namespace)?.spec;
        spec["linux"]["uidMappings"] = json!(RAW);
        refused_with(lab, &spec, &format!("\"{RAW}\""), raw)
    })
}
