//! config-linux.md, Intel RDT. Few machines have it; what needs it is skipped by name elsewhere.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, has, skip, test};
use crate::lab::Lab;

const SECTION: &str = "config-linux#intel-rdt";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        test(SECTION, "F48", "without a resctrl file system it is an error", |lab| {
            if mounted().is_some() {
                return skip("this machine has resctrl mounted");
            }
            for asked in
                [json!({}), json!({ "closID": "gold" }), json!({ "enableMonitoring": true })]
            {
                refused(lab, asked, &["linux.intelRdt", "resctrl"])?;
            }
            Ok(())
        }),
        test(SECTION, "F48", "a container gets its own class, which goes with it", |lab| {
            let Some(root) = mounted() else { return skip("no resctrl is mounted here") };
            let mut container = lab.create(&["pause"], |spec| ask(spec, json!({})))?;
            let class = root.join(&container.id);
            has("tasks", &fs::read_to_string(class.join("tasks"))?, &container.pid().to_string())?;
            container.start()?;
            container.ready()?;
            container.end()?;
            ensure(!class.exists(), "the class is still there")
        }),
        test(SECTION, "F49", "the root class, with a group that counts", |lab| {
            let Some(root) = mounted() else { return skip("no resctrl is mounted here") };
            if !root.join("mon_groups").exists() {
                return skip("this machine has no monitoring");
            }
            let asked = json!({ "closID": "/", "enableMonitoring": true });
            let container = lab.create(&["pause"], |spec| ask(spec, asked))?;
            let group = root.join("mon_groups").join(&container.id);
            has("tasks", &fs::read_to_string(group.join("tasks"))?, &container.pid().to_string())?;
            container.end()?;
            ensure(!group.exists(), "the monitoring group is still there")
        }),
        test("contract#update", "F48", "update of a container without it is an error", |lab| {
            let container = lab.running(|_| {})?;
            for words in [["--l3-cache-schema", "L3:0=f"], ["--mem-bw-schema", "MB:0=20"]] {
                let output = lab.call(&["update", words[0], words[1], &container.id]).output()?;
                ensure(output.code != Some(0), "update succeeded")?;
                lab.quality(output.err.contains("intelRdt"), output.brief())?;
            }
            container.end()
        }),
    ];
    for (field, asked) in [
        ("closID", json!({ "closID": "a/b" })),
        ("closID", json!({ "closID": ".." })),
        ("closID", json!({ "closID": "mon_groups" })),
        ("l3CacheSchema", json!({ "l3CacheSchema": "L3:0=f\nMB:0=10" })),
        ("memBwSchema", json!({ "memBwSchema": "L3:0=f" })),
        ("memBwSchema", json!({ "memBwSchema": "MB:0=20\n" })),
        ("schemata[1]", json!({ "schemata": ["L3:0=f", "L2:0=f\n"] })),
        ("schemata[0]", json!({ "schemata": [""] })),
    ] {
        let text = format!("{asked} is an error that names the field");
        tests.push(test(SECTION, "F48 F49", text, move |lab| {
            refused(lab, asked.clone(), &[&format!("linux.intelRdt.{field}")])
        }));
    }
    tests
}

fn ask(spec: &mut Value, rdt: Value) {
    spec["ociVersion"] = json!("1.3.0");
    spec["linux"]["intelRdt"] = rdt;
}

/// Where resctrl is mounted.
fn mounted() -> Option<PathBuf> {
    let root = PathBuf::from("/sys/fs/resctrl");
    root.join("schemata").exists().then_some(root)
}

fn refused(lab: &Lab, rdt: Value, words: &[&str]) -> Res {
    let output = lab.refused(|spec| ask(spec, rdt))?;
    let missing: Vec<_> = words.iter().filter(|word| !output.err.contains(**word)).collect();
    lab.quality(missing.is_empty(), format!("no {missing:?} in: {}", output.brief()))?;
    eq("out", &output.out.as_str(), &"")
}
