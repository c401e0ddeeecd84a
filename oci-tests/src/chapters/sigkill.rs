//! SIGKILL of the runtime or of the container's process at varied moments: `delete --force` cleans up
//! and the id works again.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::check::{Res, Stop, Test, eq, fail, test};
use crate::lab::Lab;
use crate::lab::bundle::{Bundle, joined_pids, mount};
use crate::lab::call::{DEADLINE, ends_within};
use crate::lab::cgroups;

const SECTION: &str = "robustness#sigkill";
/// Moments of one command at which it is killed, per test.
const MOMENTS: u32 = 12;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    vec![
        test(SECTION, "F160", "the runtime killed during create", |lab| {
            rounds(lab, |lab, part| create_killed(lab, part, |_| {}))
        }),
        test(
            SECTION,
            "F160",
            "the runtime killed during create in a joined pid namespace",
            |lab| rounds(lab, |lab, part| create_killed(lab, part, joined_pids)),
        ),
        test(SECTION, "F160", "the runtime killed during create, with hooks and mounts", |lab| {
            let heavy = |lab: &Lab, part: f64| {
                let bundle = lab.bundle(&["pause"], |spec| {
                    for n in 0..10 {
                        mount(spec, &format!("/data/{n}"), "tmpfs", "tmpfs", &[]);
                    }
                    spec["hooks"] =
                        serde_json::json!({ "createRuntime": [{ "path": "/bin/true" }] });
                })?;
                killed(lab, &bundle, &["create", "--bundle", bundle.path(), &bundle.id], part)?;
                clean(lab, &bundle)
            };
            rounds(lab, heavy)
        }),
        test(SECTION, "F160", "the runtime killed during start", |lab| {
            rounds(lab, |lab, part| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let container = lab.create_from(&bundle)?;
                killed(lab, &bundle, &["start", &container.id], part)?;
                drop(container);
                clean(lab, &bundle)
            })
        }),
        test(SECTION, "F160", "the runtime killed during delete", |lab| {
            rounds(lab, |lab, part| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let container = lab.create_from(&bundle)?;
                container.kill("KILL")?;
                container.wait()?;
                killed(lab, &bundle, &["delete", &container.id], part)?;
                clean(lab, &bundle)
            })
        }),
        test(
            SECTION,
            "F160",
            "the runtime killed during exec does not disturb the container",
            |lab| {
                let container = lab.running(|_| {})?;
                for moment in 0..MOMENTS {
                    let started =
                        lab.call(&["exec", &container.id, "/bin/probe", "exit 0"]).spawn()?;
                    pause(30.0 * f64::from(moment) / f64::from(MOMENTS));
                    started.kill()?;
                }
                container.expect("running")?;
                container.end()
            },
        ),
        test(
            SECTION,
            "F160",
            "the container's process killed during create: create ends with an error",
            |lab| rounds(lab, |lab, part| process_killed(lab, part, |_| {})),
        ),
        test(
            SECTION,
            "F160",
            "the container's process killed during create in a joined pid namespace",
            |lab| rounds(lab, |lab, part| process_killed(lab, part, joined_pids)),
        ),
        test(SECTION, "F160", "the container's process killed while it waits for start", |lab| {
            let bundle = lab.bundle(&["pause"], |_| {})?;
            let container = lab.create_from(&bundle)?;
            kill(Pid::from_raw(container.pid()), Signal::SIGKILL)?;
            container.wait()?;
            container.expect("stopped")?;
            clean(lab, &bundle)
        }),
        test(
            SECTION,
            "F160",
            "the runtime killed by the death of its parent (PDEATHSIG) during create",
            |lab| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                // The parent goes once its child is the runtime, so that it has the wish to die.
                let output = lab
                    .call(&["create", "--bundle", bundle.path(), &bundle.id])
                    .shell(
                        "setpriv --pdeathsig KILL -- \"$@\" & echo $!; \
                         while read -r name < /proc/$!/comm; do \
                         case $name in sh | setpriv) ;; *) break ;; esac; done; sleep 0.02",
                    )
                    .output()?;
                let pid = output.out.lines().next().and_then(|line| line.parse().ok());
                let Some(pid) = pid else {
                    return fail(format!("the shell printed no pid: {}", output.out));
                };
                if !ends_within(pid, DEADLINE)? {
                    return fail("create outlived its parent and hangs");
                }
                clean(lab, &bundle)
            },
        ),
    ]
}

/// Runs a round for each moment; fails with the count of rounds that left something.
pub(super) fn rounds(lab: &Lab, round: impl Fn(&Lab, f64) -> Res) -> Res {
    let mut failures = Vec::new();
    for moment in 0..MOMENTS {
        match round(lab, f64::from(moment) / f64::from(MOMENTS)) {
            Ok(()) => {}
            Err(Stop::Fail(reason)) => failures.push(reason),
            Err(stop) => return Err(stop),
        }
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => {
            fail(format!("{} of {MOMENTS} rounds failed, the first: {first}", failures.len()))
        }
    }
}

fn create_killed(lab: &Lab, part: f64, edit: fn(&mut Value)) -> Res {
    let bundle = lab.bundle(&["pause"], edit)?;
    killed(lab, &bundle, &["create", "--bundle", bundle.path(), &bundle.id], part)?;
    clean(lab, &bundle)
}

fn process_killed(lab: &Lab, part: f64, edit: fn(&mut Value)) -> Res {
    let bundle = lab.bundle(&["pause"], edit)?;
    let started = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).spawn()?;
    pause(50.0 * part);
    // Whatever is a child of the runtime at this moment.
    for pid in children(started.child.id() as i32) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    started.wait()?;
    clean(lab, &bundle)
}

/// Starts a command and kills it after a part of the time that such commands take (30 to 60 ms).
fn killed(lab: &Lab, _bundle: &Bundle, words: &[&str], part: f64) -> Res {
    let started = lab.call(words).spawn()?;
    pause(50.0 * part);
    started.kill()
}

/// Moments, not conditions, are what this chapter varies: the one place where the suite sleeps.
fn pause(milliseconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(milliseconds / 1000.0));
}

fn children(pid: i32) -> Vec<i32> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// `delete --force` must leave nothing of this id, and the id must work again.
fn clean(lab: &Lab, bundle: &Bundle) -> Res {
    let output = lab.call(&["delete", "--force", &bundle.id]).output()?;
    if output.code.is_none() {
        return fail(format!("delete --force died: {}", output.brief()));
    }
    let until = Instant::now() + Duration::from_millis(700);
    let mut result = remains(lab, bundle);
    while result.is_err() && Instant::now() < until {
        pause(5.0);
        result = remains(lab, bundle);
    }
    // What a failed round left must not fail the next one, nor the test a second time.
    if result.is_err() {
        cgroups::remove(&bundle.id);
        let _ = std::fs::remove_dir_all(lab.state.join(&bundle.id));
    }
    result?;
    let mut again = lab.create_from(bundle)?;
    again.start()?;
    again.ready()?;
    again.end()?;
    eq("delete --force", &output.code, &Some(0))
}

fn remains(lab: &Lab, bundle: &Bundle) -> Res {
    crate::lab::reap_orphans();
    let cgroups = cgroups::named(&bundle.id);
    if let Some(path) = cgroups.first() {
        return fail(format!(
            "left behind: cgroup {} and {} more",
            path.display(),
            cgroups.len() - 1
        ));
    }
    if lab.state.join(&bundle.id).exists() {
        return fail("left behind: the state");
    }
    match crate::lab::processes_left().first() {
        Some(process) => fail(format!("left behind: {process}")),
        None => Ok(()),
    }
}
