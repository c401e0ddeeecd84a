//! features.md: the document, and that it tells the truth.

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, same, skip, test};
use crate::lab::Lab;
use crate::lab::bundle::{capabilities, mount, namespace, user_namespace};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    features().into_iter().chain(shape()).chain(truth()).collect()
}

fn document(lab: &Lab) -> Res<Value> {
    let output = lab.call(&["features"]).output()?;
    if output.code != Some(0) {
        return skip("the features document is a MAY, and this runtime has none");
    }
    serde_json::from_str(&output.out)
        .or_else(|error| fail(format!("features printed no JSON: {error}")))
}

/// The words of a list in the document; none when it is absent.
fn words(document: &Value, pointer: &str) -> Vec<String> {
    let list = document.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

/// What the document may look like.
fn shape() -> Vec<Test> {
    let section = "features#document";
    vec![
        test(section, "F144", "ociVersionMax is not less than ociVersionMin", |lab| {
            let document = document(lab)?;
            let numbers = |key: &str| -> Vec<u64> {
                let version = document[key].as_str().unwrap_or_default();
                let release = version.split(['-', '+']).next().unwrap_or_default();
                release.split('.').filter_map(|number| number.parse().ok()).collect()
            };
            let (least, most) = (numbers("ociVersionMin"), numbers("ociVersionMax"));
            eq("numbers of a version", &(least.len(), most.len()), &(3, 3))?;
            ensure(least <= most, format!("{most:?} is less than {least:?}"))
        }),
        test(
            section,
            "F144",
            "it has no properties that the specification does not define",
            |lab| {
                let document = document(lab)?;
                let mut unknown = Vec::new();
                for (pointer, known) in DEFINED {
                    let object = document.pointer(pointer).and_then(Value::as_object);
                    for key in object.into_iter().flatten().map(|(key, _)| key) {
                        if !known.contains(&key.as_str()) {
                            unknown.push(format!("{pointer}/{key}"));
                        }
                    }
                }
                eq("unknown properties", &unknown, &Vec::new())
            },
        ),
        test(section, "F145", "mountOptions has no options of file systems", |lab| {
            let options = words(&document(lab)?, "/mountOptions");
            let own =
                ["size", "mode", "uid", "gid", "nr_inodes", "newinstance", "lowerdir", "hidepid"];
            let wrong: Vec<&String> =
                options.iter().filter(|o| o.contains('=') || own.contains(&o.as_str())).collect();
            eq("options of file systems", &wrong, &Vec::new())
        }),
        test(section, "F144", "annotations are strings with keys that are not empty", |lab| {
            let document = document(lab)?;
            let annotations = document["annotations"].as_object();
            let wrong =
                annotations.into_iter().flatten().find(|(k, v)| k.is_empty() || !v.is_string());
            eq("annotation that is not so", &wrong, &None)
        }),
        test(
            section,
            "F144",
            "it does not depend on the machine: a bare environment has the same",
            |lab| {
                let plain = document(lab)?;
                // Without cgroups and procfs of its own a runtime could not look at the machine.
                let line = "mount -t tmpfs none /sys && mount -t tmpfs none /proc && exec \"$@\"";
                let output = lab.call(&["features"]).shell(line).output()?;
                eq("code", &output.code, &Some(0))?;
                let bare: Value = serde_json::from_str(&output.out).unwrap_or_default();
                for key in ["ociVersionMax", "hooks", "mountOptions"] {
                    same(key, &bare[key], plain[key].clone())?;
                }
                for key in
                    ["namespaces", "capabilities", "cgroup", "apparmor", "selinux", "intelRdt"]
                {
                    same(key, &bare["linux"][key], plain["linux"][key].clone())?;
                }
                Ok(())
            },
        ),
    ]
}

/// The objects of the document and their properties since 1.3.
const DEFINED: [(&str, &[&str]); 11] = [
    (
        "",
        &[
            "ociVersionMin",
            "ociVersionMax",
            "hooks",
            "mountOptions",
            "linux",
            "annotations",
            "potentiallyUnsafeConfigAnnotations",
        ],
    ),
    (
        "/linux",
        &[
            "namespaces",
            "capabilities",
            "cgroup",
            "seccomp",
            "apparmor",
            "selinux",
            "intelRdt",
            "memoryPolicy",
            "mountExtensions",
            "netDevices",
        ],
    ),
    ("/linux/cgroup", &["v1", "v2", "systemd", "systemdUser", "rdma"]),
    (
        "/linux/seccomp",
        &["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"],
    ),
    ("/linux/apparmor", &["enabled"]),
    ("/linux/selinux", &["enabled"]),
    ("/linux/intelRdt", &["enabled", "schemata", "monitoring"]),
    ("/linux/memoryPolicy", &["modes", "flags"]),
    ("/linux/mountExtensions", &["idmap"]),
    ("/linux/mountExtensions/idmap", &["enabled"]),
    ("/linux/netDevices", &["enabled"]),
];

/// What the document lists can be asked for.
fn truth() -> Vec<Test> {
    let section = "features-linux#document";
    vec![
        test(section, "F144", "every namespace of the document is recognized", |lab| {
            each(lab, "/linux/namespaces", |spec, word| {
                let unknown = spec["linux"]["namespaces"]
                    .as_array()
                    .is_some_and(|list| list.iter().all(|namespace| namespace["type"] != word));
                match word {
                    "user" => user_namespace(spec),
                    word if unknown => namespace(spec, word),
                    _ => {}
                }
            })
        }),
        test(section, "F144", "every capability of the document is recognized", |lab| {
            let document = document(lab)?;
            let all = words(&document, "/linux/capabilities");
            let bundle = lab.bundle(&["report"], |spec| {
                let sets = ["bounding", "effective", "permitted"];
                capabilities(spec, &sets, &all.iter().map(String::as_str).collect::<Vec<_>>());
            })?;
            let output = lab.run(&bundle)?;
            if output.code != Some(0) {
                return skip(format!(
                    "ask with fewer: not all can be granted here: {}",
                    output.brief()
                ));
            }
            // One that this root lacks may be a warning, as one that is not known is.
            let lacked = |cap: &&String| output.err.contains(cap.as_str());
            let named = all.iter().filter(lacked).count();
            ensure(named < all.len(), format!("all are warned of: {}", output.err))
        }),
        test(section, "F144", "every seccomp action of the document is recognized", |lab| {
            each(lab, "/linux/seccomp/actions", |spec, word| {
                if word == "SCMP_ACT_NOTIFY" {
                    return;
                }
                spec["linux"]["seccomp"] = rule(json!({ "names": ["swapon"], "action": word }));
            })
        }),
        test(section, "F144", "every seccomp operator of the document is recognized", |lab| {
            each(lab, "/linux/seccomp/operators", |spec, word| {
                let argument = json!([{ "index": 0, "value": 1, "valueTwo": 1, "op": word }]);
                spec["linux"]["seccomp"] = rule(
                    json!({ "names": ["swapon"], "action": "SCMP_ACT_ERRNO", "args": argument }),
                );
            })
        }),
        test(section, "F144", "every seccomp architecture of the document is recognized", |lab| {
            each(lab, "/linux/seccomp/archs", |spec, word| {
                let mut profile = rule(json!({ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }));
                profile["architectures"] = json!([word]);
                spec["linux"]["seccomp"] = profile;
            })
        }),
        test(section, "F144", "every known seccomp flag of the document is recognized", |lab| {
            flags(lab, "/linux/seccomp/knownFlags")
        }),
        test(section, "F144", "every supported seccomp flag of the document is supported", |lab| {
            flags(lab, "/linux/seccomp/supportedFlags")
        }),
        test(section, "F145", "mountExtensions.idmap is true for who recognizes mappings", |lab| {
            let document = document(lab)?;
            let told = document["linux"]["mountExtensions"]["idmap"]["enabled"] == json!(true);
            // Mappings that overlap are an error of whoever reads them.
            let map = json!([{ "containerID": 0, "hostID": 1, "size": 9 },
                { "containerID": 5, "hostID": 100, "size": 9 }]);
            let output = lab.run(&lab.bundle(&["report"], |spec| {
                mount(spec, "/data", "bind", "/usr", &["bind", "idmap"]);
                let last = spec["mounts"].as_array().map_or(0, Vec::len) - 1;
                spec["mounts"][last]["uidMappings"] = map.clone();
                spec["mounts"][last]["gidMappings"] = map;
            })?)?;
            ensure(told || output.code == Some(0), "mappings are read, and idmap is not enabled")
        }),
    ]
}

fn rule(rule: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] })
}

fn flags(lab: &Lab, pointer: &str) -> Res {
    each(lab, pointer, |spec, word| {
        if word == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
            // For listeners only, which a test of the chapter seccomp_notify has.
            return;
        }
        let mut profile = rule(json!({ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }));
        profile["flags"] = json!([word]);
        spec["linux"]["seccomp"] = profile;
    })
}

/// A container for each word of a list: none may be refused.
fn each(lab: &Lab, pointer: &str, edit: impl Fn(&mut Value, &str)) -> Res {
    let words = words(&document(lab)?, pointer);
    if words.is_empty() {
        return skip(format!("the document has no {pointer}"));
    }
    let mut refused = Vec::new();
    for word in &words {
        let output = lab.run(&lab.bundle(&["quiet-exit"], |spec| edit(spec, word))?)?;
        output.excuse()?;
        // libseccomp's answer to an architecture of the other byte order, whose name it knows.
        let other_order = output.err.contains("numerical argument out of domain");
        if output.code != Some(0) && !other_order {
            refused.push(format!("{word}: {}", output.brief()));
        }
    }
    eq("words that are refused", &refused, &Vec::new())
}

fn features() -> Vec<Test> {
    let section = "features#document";
    vec![
        test(
            section,
            "F144",
            "ociVersionMin and ociVersionMax are there and are accepted",
            |lab| {
                let document = document(lab)?;
                for key in ["ociVersionMin", "ociVersionMax"] {
                    let version = document[key].clone();
                    ensure(version.is_string(), format!("no {key}"))?;
                    lab.report(move |spec| spec["ociVersion"] = version)?;
                }
                Ok(())
            },
        ),
        test(
            section,
            "F144",
            "the hooks of the document are the six of the specification",
            |lab| {
                let document = document(lab)?;
                same(
                    "hooks",
                    &document["hooks"],
                    json!([
                        "prestart",
                        "createRuntime",
                        "createContainer",
                        "startContainer",
                        "poststart",
                        "poststop"
                    ]),
                )
            },
        ),
        test(section, "F145", "every mount option of the document is recognized", |lab| {
            let document = document(lab)?;
            let mut wrong = Vec::new();
            for option in
                document["mountOptions"].as_array().into_iter().flatten().filter_map(|o| o.as_str())
            {
                if ["remount", "idmap", "ridmap", "bind", "rbind", "tmpcopyup", "mand"]
                    .contains(&option)
                {
                    continue;
                }
                if lab.report(|spec| mount(spec, "/data", "tmpfs", "tmpfs", &[option])).is_err() {
                    wrong.push(option.to_owned());
                }
            }
            eq("options that are not recognized", &wrong, &Vec::new())
        }),
        test(
            section,
            "F144",
            "namespaces, capabilities, cgroup and seccomp are described",
            |lab| {
                let document = document(lab)?;
                let linux = &document["linux"];
                has("namespaces", &linux["namespaces"].to_string(), "mount")?;
                has("capabilities", &linux["capabilities"].to_string(), "CAP_SYS_ADMIN")?;
                ensure(linux["cgroup"].is_object(), "no cgroup")?;
                lab.quality(
                    linux["seccomp"]["enabled"] == json!(true),
                    format!("seccomp is {}", linux["seccomp"]),
                )
            },
        ),
    ]
}
