//! config.md, process.apparmorProfile: the program and what `exec` adds are confined, or nothing runs.
//!
//! Each test loads profiles of its own, named after it, and removes them: the kernel has one list of
//! profiles for all. The profiles allow everything but a file that only the root file systems made
//! here have.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::check::{Res, Test, allowed, ensure, fail, has, refused_with, same, skip, test};
use crate::lab::Lab;
use crate::lab::bundle::Bundle;
use crate::lab::container::Container;

const SECTION: &str = "config#linux-process";

/// Where the profiles are listed and removed.
const LISTS: &str = "/sys/kernel/security/apparmor";

/// What a process finds out about its profile.
const STEPS: [&str; 2] = ["read /proc/self/attr/current", "open-r /etc/denied"];

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = created();
    tests.extend(executed());
    tests
}

/// Whether the kernel enforces profiles.
fn active() -> bool {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with('Y'))
}

/// A loaded profile, removed when dropped.
struct Profile(String);

impl Profile {
    /// Loads a profile that denies `/etc/denied`; skips where there is no AppArmor to load it.
    fn load(lab: &Lab) -> Res<Self> {
        if !active() {
            return skip("AppArmor is not active on this machine");
        }
        if !Path::new(LISTS).exists() {
            let place = "/sys/kernel/security";
            mount(Some("securityfs"), place, Some("securityfs"), MsFlags::empty(), None::<&str>)?;
        }
        let profile = Self(format!("{}-{}", lab.word, lab.next()));
        let started = Command::new("apparmor_parser")
            .args(["--replace", "--skip-cache"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut parser) = started else {
            return skip("this machine has no apparmor_parser");
        };
        let text = format!(
            "profile {} flags=(attach_disconnected,mediate_deleted) {{\n\
             file, mount, umount, network, capability, signal, ptrace, unix,\n\
             deny /etc/denied r,\n}}\n",
            profile.0
        );
        parser.stdin.take().map(|mut pipe| pipe.write_all(text.as_bytes())).transpose()?;
        let output = parser.wait_with_output()?;
        if output.status.success() {
            Ok(profile)
        } else {
            fail(format!("suite: apparmor_parser: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// What `attr/current` says in a process with this profile.
    fn label(&self) -> Value {
        json!(format!("{} (enforce)\n", self.0))
    }

    /// Fails unless a process that has done `STEPS` had this profile and was held by it.
    fn holds(&self, seen: &Value) -> Res {
        same("attr/current", &seen[STEPS[0]], self.label())?;
        refused_with("the denied file", &seen[STEPS[1]], &["EACCES"])
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // Not there when loading it has failed.
        let _ = fs::write(format!("{LISTS}/.remove"), &self.0);
    }
}

fn is_unconfined(seen: &Value) -> Res {
    same("attr/current", &seen[STEPS[0]], json!("unconfined\n"))?;
    allowed("the denied file", &seen[STEPS[1]])
}

/// A bundle that does `STEPS`, then `last`, with the file that the profiles deny.
fn bundle(lab: &Lab, last: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Bundle> {
    let steps: Vec<&str> = STEPS.iter().chain(last).copied().collect();
    let bundle = lab.bundle(&steps, edit)?;
    fs::write(bundle.inside("/etc/denied"), "x")?;
    Ok(bundle)
}

/// A running container under a profile.
fn running<'l>(lab: &'l Lab, profile: &Profile) -> Res<Container<'l>> {
    let name = json!(profile.0);
    let bundle = bundle(lab, &["pause"], |spec| spec["process"]["apparmorProfile"] = name)?;
    let mut container = lab.create_from(&bundle)?;
    container.start()?;
    profile.holds(&container.ready()?)?;
    Ok(container)
}

/// Fails unless stderr names the profile.
fn names(lab: &Lab, err: &str, profile: &str) -> Res {
    lab.quality(err.contains(profile), format!("the error does not name the profile: {err}"))
}

fn created() -> Vec<Test> {
    let held = |with: &'static str, edit: fn(&mut Value)| {
        let text = format!("the program runs under its apparmorProfile{with}");
        test(SECTION, "F11", text, move |lab| {
            let profile = Profile::load(lab)?;
            let bundle = bundle(lab, &[], |spec| {
                spec["process"]["apparmorProfile"] = json!(profile.0);
                edit(spec);
            })?;
            profile.holds(&lab.seen(&bundle)?)
        })
    };
    vec![
        held("", |_| {}),
        held(" with noNewPrivileges", |spec| spec["process"]["noNewPrivileges"] = json!(true)),
        held(" as an ordinary user without capabilities", |spec| {
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            spec["process"]["capabilities"] = json!({});
        }),
        held(" in a user namespace", crate::lab::bundle::user_namespace),
        test(SECTION, "F11", "the apparmorProfile unconfined is no confinement", |lab| {
            let profile = Profile::load(lab)?;
            let bundle =
                bundle(lab, &[], |spec| spec["process"]["apparmorProfile"] = json!("unconfined"))?;
            drop(profile);
            is_unconfined(&lab.seen(&bundle)?)
        }),
        test(
            SECTION,
            "F11",
            "an apparmorProfile that cannot be applied is an error, not ignored",
            |lab| {
                let unknown = format!("{}-unknown", lab.word);
                let wanted = json!(unknown);
                let output = lab.refused(|spec| spec["process"]["apparmorProfile"] = wanted);
                if !active() {
                    let text = "a profile on a machine without AppArmor is ignored";
                    return lab.quality(output.is_ok(), text);
                }
                names(lab, &output?.err, &unknown)
            },
        ),
    ]
}

fn executed() -> Vec<Test> {
    let exec = "contract#exec";
    vec![
        test(exec, "F11 F186", "exec has the container's AppArmor profile", |lab| {
            let profile = Profile::load(lab)?;
            let container = running(lab, &profile)?;
            profile.holds(&container.exec(&[], &STEPS)?)?;
            container.end()
        }),
        test(exec, "F11 F187", "--apparmor gives exec another profile", |lab| {
            let (profile, other) = (Profile::load(lab)?, Profile::load(lab)?);
            let container = running(lab, &profile)?;
            other.holds(&container.exec(&["--apparmor", &other.0], &STEPS)?)?;
            container.end()
        }),
        test(
            exec,
            "F11",
            "a process document without apparmorProfile has the container's",
            |lab| {
                let profile = Profile::load(lab)?;
                let container = running(lab, &profile)?;
                let args = ["/bin/probe", STEPS[0], STEPS[1]];
                let process = |more: &[(&str, &str)]| {
                    let mut process =
                        json!({ "cwd": "/", "args": args, "user": { "uid": 0, "gid": 0 } });
                    for (field, value) in more {
                        process[*field] = json!(value);
                    }
                    process
                };
                let seen = |process: Value| -> Res<Value> {
                    let output = container.exec_process(&process)?;
                    ensure(output.code == Some(0), format!("exec ended with {}", output.brief()))?;
                    Ok(serde_json::from_str(&output.out).unwrap_or_default())
                };
                // The document is all that the specification knows of: runc 1.1 runs it unconfined.
                let held = profile.holds(&seen(process(&[]))?).is_ok();
                lab.quality(
                    held,
                    "a document without apparmorProfile drops the container's profile",
                )?;
                is_unconfined(&seen(process(&[("apparmorProfile", "unconfined")]))?)?;
                container.end()
            },
        ),
        test(exec, "F11 F187", "exec with a profile that is not loaded is an error", |lab| {
            let profile = Profile::load(lab)?;
            let container = running(lab, &profile)?;
            let unknown = format!("{}-unknown", profile.0);
            let output = container.exec_output(&["--apparmor", &unknown], &STEPS)?;
            ensure(output.code != Some(0), "exec succeeded")?;
            ensure(output.out.is_empty(), "the program ran")?;
            names(lab, &output.err, &unknown)?;
            has("status", &container.status()?, "running")?;
            container.end()
        }),
    ]
}
