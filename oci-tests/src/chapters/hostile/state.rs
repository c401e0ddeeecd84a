//! Broken state: the record of a container is damaged, and every command says so and dies of
//! nothing. (Whole files that are rubbish are in the chapter `failure`.)

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, skip, test};
use crate::lab::call::Output;
use crate::lab::cgroups;
use crate::lab::container::Container;
use crate::lab::{Kind, Lab};

const SECTION: &str = "hostile#state";

/// Commands that read the record. Not `kill`: a runtime that takes a broken pid for 0 would signal
/// the suite's process group.
const COMMANDS: &[&[&str]] = &[&["state"], &["ps"], &["start"], &["exec", "/bin/probe", "report"]];

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(SECTION, "F162", "a record cut at any length is an error of every command", |lab| {
            broken(lab, |bytes| {
                [0, 1, bytes.len() / 4, bytes.len() / 2, bytes.len() - 2]
                    .map(|length| bytes[..length].to_vec())
                    .to_vec()
            })
        }),
        test(
            SECTION,
            "F162",
            "a record with any one field null, absent or of another type crashes no command",
            damaged,
        ),
        test(
            SECTION,
            "F162",
            "something else in the record's place is an error of every command, and can be deleted",
            |lab| {
                // A FIFO without a writer would hold a careless reader for good.
                replaced(lab, "a FIFO", |path| Ok(nix::unistd::mkfifo(path, Mode::S_IRWXU)?))?;
                replaced(lab, "a link", |path| {
                    Ok(std::os::unix::fs::symlink("/etc/hostname", path)?)
                })?;
                replaced(lab, "a directory", |path| Ok(fs::create_dir_all(path.join("x"))?))?;
                replaced(lab, "nonsense", |path| Ok(fs::write(path, "null")?))
            },
        ),
        test(
            SECTION,
            "F162",
            "a state directory that is a link or a file is no container",
            |lab| {
                let container = lab.running(|_| {})?;
                let real = lab.state.join(&container.id);
                std::os::unix::fs::symlink(&real, lab.state.join("link"))?;
                fs::write(lab.state.join("file"), "{}")?;
                for id in ["link", "file"] {
                    let output = lab.call(&["delete", "--force", id]).output()?;
                    no_crash(id, &output)?;
                }
                container.expect("running")?;
                let _ = fs::remove_file(lab.state.join("link"));
                let _ = fs::remove_file(lab.state.join("file"));
                container.end()
            },
        ),
        test(SECTION, "F162", "a state directory without room is an error that says so", |lab| {
            // Enough for a directory or two, whichever call of create is the first to find none.
            let refused = std::cell::Cell::new(0);
            for options in ["nr_inodes=2", "nr_inodes=3", "nr_inodes=4", "size=4k", "size=8k"] {
                on_state(lab, options, MsFlags::empty(), |output| {
                    refused.set(refused.get() + i32::from(output.code != Some(0)));
                    ensure(output.code == Some(0) || output.err.contains("ENOSPC"), output.brief())
                })?;
            }
            ensure(refused.get() > 0, "no state directory was too small")?;
            Ok(())
        }),
        test(
            SECTION,
            "F160",
            "a caller's limit of file sizes is an error, and not a death",
            |lab| {
                let bundle = lab.bundle(&["pause"], |_| {})?;
                let words = ["create", "--bundle", bundle.path(), &bundle.id];
                // What it prints goes to a pipe, which has no size.
                let output = lab.call(&words).shell("ulimit -f 0; exec \"$@\"").piped()?.0;
                ensure(output.code != Some(0), "the record was not written, and create succeeded")?;
                lab.quality(output.signal.is_none(), output.brief())?;
                let left = fs::read_dir(&lab.state)?.count();
                lab.quality(left == 0, format!("{left} entries are left"))?;
                lab.call(&["delete", "--force", &bundle.id]).output()?;
                lab.nothing_left()
            },
        ),
        test(
            SECTION,
            "F162",
            "a state directory that is read-only is an error that says so",
            |lab| {
                on_state(lab, "", MsFlags::MS_RDONLY, |output| {
                    ensure(output.code != Some(0), "create succeeded")?;
                    lab.quality(output.err.contains("EROFS"), output.brief())
                })
            },
        ),
        test(SECTION, "F162", "a state directory that has vanished is made anew", |lab| {
            let container = lab.running(|_| {})?;
            let away = lab.dir.join("away");
            fs::rename(&lab.state, &away)?;
            for words in [&["state", &container.id][..], &["delete", &container.id]] {
                no_crash(words[0], &lab.call(words).output()?)?;
            }
            eq("list", &lab.call(&["list", "--quiet"]).output()?.out, &String::new())?;
            lab.running(|_| {})?.end()?;
            fs::remove_dir_all(&lab.state)?;
            fs::rename(&away, &lab.state)?;
            container.expect("running")?;
            container.end()
        }),
        test(SECTION, "F162", "one broken record does not hide the others from list", |lab| {
            let (good, bad) = (lab.running(|_| {})?, lab.running(|_| {})?);
            let records = records(lab, &bad.id)?;
            records.iter().try_for_each(|(path, _)| fs::write(path, "{"))?;
            let output = lab.call(&["list", "--quiet"]).output()?;
            restore(&records)?;
            no_crash("list", &output)?;
            lab.quality(output.out.contains(&good.id), "the sound container is not listed")?;
            good.end()?;
            bad.end()
        }),
        test(SECTION, "F162", "delete --force of ids that are paths touches nothing", |lab| {
            let victim = lab.dir.join("victim");
            fs::create_dir_all(victim.join("inner"))?;
            fs::create_dir_all(&lab.state)?;
            let container = lab.running(|_| {})?;
            let absolute = victim.display().to_string();
            let mut ids = vec!["./../victim", absolute.as_str(), "x/../../victim"];
            // A runtime that opens an id as a path removes what it finds there, as root: another one
            // emptied the root of a machine. These are for our own, and not without a second wall.
            if lab.kind == Kind::Bulkhead {
                kernel_files(true)?;
                ids.extend(["/", "..", ".", "", "../..", "//", "./"]);
            }
            let result = ids
                .iter()
                .try_for_each(|id| no_crash(id, &lab.call(&["delete", "--force", id]).output()?));
            if lab.kind == Kind::Bulkhead {
                kernel_files(false)?;
            }
            result?;
            ensure(victim.join("inner").exists(), "the victim is gone")?;
            ensure(Path::new(&container.dir).exists(), "the bundle is gone")?;
            container.expect("running")?;
            container.end()
        }),
    ]
}

/// Makes the kernel's file systems, which `shield` leaves alone, read-only for this test or
/// writable again.
fn kernel_files(read_only: bool) -> Res {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    for point in table.lines().filter_map(|line| line.split(' ').nth(4)) {
        if ["/sys", "/proc", "/dev"].iter().any(|top| point.starts_with(top)) {
            // What another mount hides cannot be reached, by nobody.
            let _ = crate::sys::set_read_only(Path::new(point), read_only);
        }
    }
    for hierarchy in cgroups::hierarchies() {
        let writable = fs::File::options().write(true).open(hierarchy.point.join("cgroup.procs"));
        ensure(
            writable.is_err() == read_only,
            format!("{} is not protected", hierarchy.point.display()),
        )?;
    }
    Ok(())
}

fn no_crash(what: &str, output: &Output) -> Res {
    let sound = output.code.is_some()
        && !output.err.contains("goroutine")
        && !output.err.contains("panicked");
    ensure(sound, format!("{what}: {}", output.brief()))
}

/// The files of a container's record with what is in them.
fn records(lab: &Lab, id: &str) -> Res<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(lab.state.join(id))?.flatten() {
        let path = entry.path();
        if path.is_file() && serde_json::from_slice::<Value>(&fs::read(&path)?).is_ok() {
            found.push((path.clone(), fs::read(&path)?));
        }
    }
    Ok(found)
}

fn restore(records: &[(PathBuf, Vec<u8>)]) -> Res {
    Ok(records.iter().try_for_each(|(path, bytes)| fs::write(path, bytes))?)
}

fn ask(container: &Container<'_>, what: &str, must_fail: bool) -> Res {
    for words in COMMANDS {
        let output = container.call(words)?;
        no_crash(&format!("{what}: {}", words[0]), &output)?;
        ensure(!must_fail || output.code != Some(0), format!("{what}: {} succeeded", words[0]))?;
    }
    Ok(())
}

fn broken(lab: &Lab, variants: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Res {
    let container = lab.running(|_| {})?;
    let all = records(lab, &container.id)?;
    // The record proper: `state.json` of runc and Bulkhead, `status` of crun.
    let record = all.iter().find(|(path, _)| {
        path.file_name().is_some_and(|name| name == "state.json" || name == "status")
    });
    let result = record.map_or(Ok(()), |(path, bytes)| {
        variants(bytes).iter().try_for_each(|variant| {
            fs::write(path, variant)?;
            ask(&container, &format!("{} bytes", variant.len()), true)
        })
    });
    restore(&all)?;
    ensure(record.is_some(), "no record was found")?;
    result?;
    container.end()
}

/// Puts something in the place of a running container's record.
fn replaced(lab: &Lab, what: &str, put: impl FnOnce(&Path) -> Res) -> Res {
    let container = lab.running(|_| {})?;
    let all = records(lab, &container.id)?;
    let Some((path, bytes)) = all.iter().find(|(path, _)| path.ends_with("state.json")) else {
        return skip("this runtime has no state.json");
    };
    fs::remove_file(path)?;
    put(path)?;
    let asked = ask(&container, what, true);
    // For those that cannot delete it so, and for what follows.
    let deleted = lab.call(&["delete", "--force", &container.id]).output();
    if path.exists() || path.is_symlink() {
        let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
        fs::write(path, bytes)?;
    }
    asked?;
    no_crash(what, &deleted?)?;
    lab.quality(!container.alive()?, format!("{what}: the program runs on"))?;
    lab.call(&["delete", "--force", &container.id]).output()?;
    lab.nothing_left()
}

/// Creates a container with its state on a file system of these options, hands on how that ended, and
/// makes sure that nothing is left of one that failed.
fn on_state(lab: &Lab, options: &str, flags: MsFlags, judge: impl Fn(&Output) -> Res) -> Res {
    let bundle = lab.bundle(&["pause"], |_| {})?;
    fs::create_dir_all(&lab.state)?;
    mount(Some("tmpfs"), &lab.state, Some("tmpfs"), flags, Some(options))?;
    let (output, _) = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).piped()?;
    let judged = judge(&output);
    let left = fs::read_dir(&lab.state)?.count();
    let deleted = lab.call(&["delete", "--force", &bundle.id]).output()?;
    umount2(&lab.state, MntFlags::MNT_DETACH)?;
    judged?;
    if output.code != Some(0) {
        lab.quality(left == 0, format!("{options}: {left} entries are left of a failed create"))?;
    } else {
        eq("delete", &deleted.code, &Some(0))?;
    }
    lab.nothing_left()
}

fn damaged(lab: &Lab) -> Res {
    let container = lab.running(|_| {})?;
    let all = records(lab, &container.id)?;
    let result = all.iter().try_for_each(|(path, bytes)| damage(&container, path, bytes));
    restore(&all)?;
    result?;
    container.expect("running")?;
    eq("exec afterwards", &container.exec_output(&[], &["exit 0"])?.code, &Some(0))?;
    container.end()
}

/// The first level of a record, each field in turn.
fn damage(container: &Container<'_>, path: &Path, bytes: &[u8]) -> Res {
    let whole: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let Some(fields) = whole.as_object() else { return Ok(()) };
    for key in fields.keys() {
        for wrong in [json!(null), json!("x"), json!({}), json!([[]]), json!(1.5)] {
            let mut copy = whole.clone();
            copy[key] = wrong.clone();
            fs::write(path, copy.to_string())?;
            let output = container.call(&["state"])?;
            no_crash(&format!("{key} = {wrong}"), &output)?;
        }
        let mut copy = whole.clone();
        copy.as_object_mut().map(|fields| fields.remove(key));
        fs::write(path, copy.to_string())?;
        no_crash(&format!("without {key}"), &container.call(&["state"])?)?;
    }
    fs::write(path, bytes)?;
    Ok(())
}
