//! Bulkhead's annotation for Landlock rules; see docs/landlock.md.

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, refused_with, same, skip, test};
use crate::lab::{Kind, Lab};
use crate::sys;

const SECTION: &str = "bulkhead#landlock";
const ANNOTATION: &str = "io.bulkhead.landlock";
/// The version that Bulkhead demands, since Linux 6.2.
const OLDEST: i64 = 3;
/// The probe needs itself, /proc for what it reports, and /data.
const RULES: &str = r#"{"/bin": "rx", "/proc": "r", "/data": "rw"}"#;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    vec![
        test(SECTION, "F264", "only what the annotation allows can be done, in init", |lab| {
            own(lab)?;
            let seen = lab.probe(&STEPS, |spec| annotate(spec, RULES))?;
            held(&seen)
        }),
        test(SECTION, "F264", "a process of exec has the same rules", |lab| {
            own(lab)?;
            let container = lab.running(|spec| annotate(spec, RULES))?;
            held(&container.exec(&[], &STEPS)?)?;
            container.end()
        }),
        test(SECTION, "F264", "without no_new_privs, and as an ordinary user, too", |lab| {
            own(lab)?;
            let seen = lab.probe(&STEPS[2..], |spec| {
                annotate(spec, RULES);
                spec["process"]["noNewPrivileges"] = json!(false);
                spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            })?;
            refused_with("read /etc", &seen["list /etc"], &["EACCES"])
        }),
        test(SECTION, "F264", "a program that no rule lets execute is an error of start", |lab| {
            own(lab)?;
            started(lab, r#"{"/data": "r"}"#, "EACCES")
        }),
        test(SECTION, "F264", "a rule for a path that is not there is an error of start", |lab| {
            own(lab)?;
            started(lab, r#"{"/bin": "rx", "/none": "r"}"#, "/none")
        }),
        test(SECTION, "F264", "rules that cannot be read are an error that names them", |lab| {
            own(lab)?;
            for rules in ["", "[]", r#"{"/data": "q"}"#, r#"{"data": "r"}"#] {
                let output = lab.refused(|spec| annotate(spec, rules))?;
                ensure(output.err.contains(ANNOTATION), output.brief())?;
            }
            Ok(())
        }),
    ]
}

const STEPS: [&str; 4] = ["write /data/x 1", "read /data/x", "list /etc", "create /etc/x"];

fn held(seen: &Value) -> Res {
    same("write /data", &seen[STEPS[0]], json!("ok"))?;
    eq("read /data", &seen[STEPS[1]], &json!("1"))?;
    refused_with("list /etc", &seen[STEPS[2]], &["EACCES"])?;
    refused_with("create /etc/x", &seen[STEPS[3]], &["EACCES"])
}

/// `run` fails, and says this.
fn started(lab: &Lab, rules: &str, reason: &str) -> Res {
    let output = lab.run(&lab.bundle(&["exit 0"], |spec| annotate(spec, rules))?)?;
    ensure(output.code == Some(1) && output.err.contains(reason), output.brief())
}

fn annotate(spec: &mut Value, rules: &str) {
    spec["annotations"][ANNOTATION] = json!(rules);
    spec["root"]["readonly"] = json!(false);
}

/// Others do not know the annotation.
fn own(lab: &Lab) -> Res {
    if lab.kind != Kind::Bulkhead {
        return skip("the annotation is Bulkhead's own");
    }
    // No attributes, and the flag LANDLOCK_CREATE_RULESET_VERSION: the kernel answers its version.
    match sys::raw(libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0, 0]).0 {
        OLDEST.. => Ok(()),
        1.. => skip("this kernel's Landlock knows no truncation, so the annotation is refused"),
        _ => skip("this kernel has no Landlock"),
    }
}
