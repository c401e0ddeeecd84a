//! Checkpoint and restore by CRIU: see docs/checkpoint.md.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, same, skip, test};
use crate::lab::agent::Agent;
use crate::lab::bundle::{self, Bundle};
use crate::lab::call::{DEADLINE, Output};
use crate::lab::container::Container;
use crate::lab::{Kind, Lab, cgroups};
use crate::sys;

const SECTION: &str = "contract#checkpoint";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    [successes(), edges(), failures()].into_iter().flatten().collect()
}

fn successes() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "F94 F95 F197",
            "a program goes on from its memory, confined as before",
            |lab| {
                need_criu(lab)?;
                let bundle = counting(lab, confined)?;
                let container = started(lab, &bundle)?;
                let before = Confinement::of(container.pid())?;
                let saved = saved_and_gone(lab, &container, &[])?;
                lab.nothing_left()?;
                let file = lab.dir.join("pid");
                let pid_file = file.display().to_string();
                let images = images(lab);
                let words = ["--image-path", images.as_str(), "--pid-file", pid_file.as_str()];
                let restored = Container::restore(lab, &bundle, &words)?;
                counts_from(lab, saved)?;
                restored.expect("running")?;
                eq("pid file", &fs::read_to_string(&file)?, &restored.pid().to_string())?;
                Confinement::of(restored.pid())?.same_as(&before)?;
                let limit = cgroups::v2(&restored.cgroup)?.join("pids.max");
                eq("pids.max", &fs::read_to_string(limit)?, &"77\n".to_owned())?;
                // `exec` finds the keyring that restored processes have, and makes none.
                let keys = fs::read_to_string("/proc/keys")?;
                let seen = restored.exec(&[], &["report", "write /volume/x 1"])?;
                ensure(seen["write /volume/x 1"]["errno"] == "EROFS", "the volume is writable")?;
                let id = seen["report"]["keyring_id"].as_i64().unwrap_or_default();
                let own = keys.contains(&format!("{id:08x} "));
                lab.quality(
                    own,
                    format!("no process had the session keyring {id:08x} before exec"),
                )?;
                restored.end()
            },
        ),
        test(SECTION, "F95", "a second checkpoint of a restored container", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            let container = started(lab, &bundle)?;
            let images = images(lab);
            let saved = saved_and_gone(lab, &container, &[])?;
            let restored = Container::restore(lab, &bundle, &["--image-path", &images])?;
            counts_from(lab, saved)?;
            let saved = saved_and_gone(lab, &restored, &["--manage-cgroups-mode", "ignore"])?;
            let words = ["--image-path", images.as_str(), "--manage-cgroups-mode", "ignore"];
            let again = Container::restore(lab, &bundle, &words)?;
            counts_from(lab, saved)?;
            again.exec(&[], &["report"])?;
            again.end()
        }),
        test(
            SECTION,
            "F129",
            "--leave-running, and a restore under another id and bundle",
            |lab| {
                need_criu(lab)?;
                let bundle = counting(lab, |_| {})?;
                let container = started(lab, &bundle)?;
                let images = images(lab);
                done(&container.call(&[
                    "checkpoint",
                    "--leave-running",
                    "--image-path",
                    &images,
                ])?)?;
                let saved = number(lab)?;
                container.expect("running")?;
                counts_from(lab, saved)?;
                container.end()?;
                let other = counting(lab, |_| {})?;
                let restored = Container::restore(lab, &other, &["--image-path", &images])?;
                wait_for_number(lab)?;
                let cgroup = cgroups::v2(&restored.cgroup)?;
                let inside = fs::read_to_string(cgroup.join("cgroup.procs"))?;
                has("its cgroup's processes", &inside, &restored.pid().to_string())?;
                restored.end()
            },
        ),
        test(SECTION, "F130", "a chain of pre-dumps", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            let container = started(lab, &bundle)?;
            let at = |name: &str| lab.dir.join(name).display().to_string();
            let (first, second, last) = (at("first"), at("second"), at("images"));
            done(&container.call(&["checkpoint", "--pre-dump", "--image-path", &first])?)?;
            container.expect("running")?;
            let words =
                ["checkpoint", "--pre-dump", "--image-path", &second, "--parent-path", "../first"];
            done(&container.call(&words)?)?;
            let saved = saved_and_gone(lab, &container, &["--parent-path", "../second"])?;
            let restored = Container::restore(lab, &bundle, &["--image-path", &last])?;
            counts_from(lab, saved)?;
            restored.end()
        }),
        test(SECTION, "F94", "a paused container stays paused with --leave-running", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            let container = started(lab, &bundle)?;
            done(&container.call(&["pause"])?)?;
            let images = images(lab);
            done(&container.call(&["checkpoint", "--leave-running", "--image-path", &images])?)?;
            container.expect("paused")?;
            done(&container.call(&["resume"])?)?;
            counts_from(lab, number(lab)?)?;
            container.end()
        }),
        test(SECTION, "F95", "restore in the foreground has the program's exit code", |lab| {
            need_criu(lab)?;
            let bundle =
                bundle_of(lab, &["write /data/n 1", "wait-for /data/go", "exit 7"], |_| {})?;
            let container = started(lab, &bundle)?;
            saved_and_gone(lab, &container, &[])?;
            let images = images(lab);
            let words = ["restore", "--bundle", bundle.path(), "--image-path", &images, &bundle.id];
            let (running, mut lines) = lab.call(&words).spawn_piped()?;
            let other = lab.call(&["state", &bundle.id]);
            wait(|| Ok(lab.state.join(&bundle.id).join("state.json").exists().then_some(())))?;
            drop(other);
            fs::write(lab.dir.join("volume/go"), "")?;
            let output = running.wait()?;
            eq("exit code", &output.code, &Some(7))?;
            eq("standard error", &output.err, &String::new())?;
            has("the program's words", &lines.next()?, "wait-for")?;
            lab.nothing_left()
        }),
    ]
}

fn edges() -> Vec<Test> {
    vec![
        test(SECTION, "F129", "a live TCP connection with a process outside goes on", |lab| {
            need_criu(lab)?;
            let port = echo()?;
            let talk = format!("talk {port} /data/n");
            let bundle = bundle_of(lab, &[&talk], |_| {})?;
            let container = started(lab, &bundle)?;
            let saved = saved_and_gone(lab, &container, &["--tcp-established"])?;
            let images = images(lab);
            let words = ["--image-path", images.as_str(), "--tcp-established"];
            let restored = Container::restore(lab, &bundle, &words)?;
            counts_from(lab, saved)?;
            wait(|| Ok((number(lab)? > saved + 10).then_some(())))?;
            restored.end()
        }),
        test(SECTION, "F133", "--tcp-close restores without the connection", |lab| {
            need_criu(lab)?;
            let port = echo()?;
            let talk = format!("talk {port} /data/n");
            let bundle = bundle_of(lab, &[&talk], |_| {})?;
            let container = started(lab, &bundle)?;
            saved_and_gone(lab, &container, &["--tcp-established"])?;
            let images = images(lab);
            let words = ["--image-path", images.as_str(), "--tcp-close"];
            let restored = Container::restore(lab, &bundle, &words)?;
            wait(|| Ok(shown(lab).starts_with("broken").then_some(())))?;
            restored.end()
        }),
        test(SECTION, "F195", "org.criu.config names a file with options for CRIU", |lab| {
            need_criu(lab)?;
            let port = echo()?;
            let talk = format!("talk {port} /data/n");
            let configuration = criu_directory(lab)?.join("other.conf");
            fs::write(&configuration, "tcp-established\n")?;
            let bundle = bundle_of(lab, &[&talk], |spec| {
                spec["annotations"]["org.criu.config"] = json!(configuration);
            })?;
            let container = started(lab, &bundle)?;
            let saved = saved_and_gone(lab, &container, &[])?;
            let images = images(lab);
            let restored = Container::restore(lab, &bundle, &["--image-path", &images])?;
            counts_from(lab, saved)?;
            restored.end()
        }),
        test(SECTION, "F134", "a terminal comes over the console socket again", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |spec| spec["process"]["terminal"] = json!(true))?;
            let agent = Agent::listen(&lab.dir.join("console"))?;
            let container = Container::create(lab, &bundle, &["--console-socket", agent.path()])?;
            let first = agent.receive()?.fds;
            container.start()?;
            wait_for_number(lab)?;
            let saved = saved_and_gone(lab, &container, &[])?;
            drop(first);
            let images = images(lab);
            let words = ["--image-path", images.as_str(), "--console-socket", agent.path()];
            let restored = Container::restore(lab, &bundle, &words)?;
            let Some(terminal) = agent.receive()?.fds.into_iter().next() else {
                return fail("no descriptor");
            };
            counts_from(lab, saved)?;
            let mut line = String::new();
            BufReader::new(fs::File::from(terminal)).read_line(&mut line)?;
            ensure(line.trim().parse::<u64>().is_ok(), format!("the terminal shows {line:?}"))?;
            restored.end()
        }),
        test(SECTION, "F95", "standard output is that of whoever restores", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            let container = started(lab, &bundle)?;
            let saved = saved_and_gone(lab, &container, &[])?;
            let mut restored = Container::restore(lab, &bundle, &["--image-path", &images(lab)])?;
            let line = restored.lines.next()?;
            ensure(line.parse::<u64>().is_ok_and(|n| n >= saved), format!("it says {line:?}"))?;
            restored.end()
        }),
        test(SECTION, "F194", "a network namespace that was joined is joined again", |lab| {
            need_criu(lab)?;
            let mut holder = Command::new("unshare").args(["--net", "sleep", "300"]).spawn()?;
            let path = format!("/proc/{}/ns/net", holder.id());
            let own = fs::read_link("/proc/self/ns/net")?;
            wait(|| Ok((fs::read_link(&path)? != own).then_some(())))?;
            let result = (|| {
                let bundle = counting(lab, |spec| {
                    bundle::push(
                        &mut spec["linux"]["namespaces"],
                        json!({ "type": "network", "path": path }),
                    );
                })?;
                let container = started(lab, &bundle)?;
                let saved = saved_and_gone(lab, &container, &[])?;
                let restored = Container::restore(lab, &bundle, &["--image-path", &images(lab)])?;
                counts_from(lab, saved)?;
                let joined = fs::read_link(format!("/proc/{}/ns/net", restored.pid()))?;
                eq("network namespace", &joined, &fs::read_link(&path)?)?;
                restored.end()
            })();
            holder.kill()?;
            holder.wait()?;
            result
        }),
        test(SECTION, "F95", "the runtime's hooks run on restore", |lab| {
            need_criu(lab)?;
            let log = lab.dir.join("hooks");
            let probe = lab.probe.display().to_string();
            let step = format!("append-stdin {}", log.display());
            let hook = json!([{ "path": probe, "args": ["probe", step] }]);
            let bundle = counting(lab, |spec| {
                spec["hooks"] = json!({ "createRuntime": hook, "poststop": hook });
            })?;
            let container = started(lab, &bundle)?;
            saved_and_gone(lab, &container, &[])?;
            let restored = Container::restore(lab, &bundle, &["--image-path", &images(lab)])?;
            restored.end()?;
            let text = fs::read_to_string(&log)?;
            let states: Vec<Value> =
                text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let words: Vec<&str> =
                states.iter().filter_map(|state| state["status"].as_str()).collect();
            eq("hooks", &words, &vec!["creating", "stopped", "creating", "stopped"])?;
            same("pid for createRuntime", &states[2]["pid"], json!(restored.pid()))
        }),
    ]
}

fn failures() -> Vec<Test> {
    vec![
        test(SECTION, "F193", "without CRIU, or with another program, the error says so", |lab| {
            own(lab)?;
            let container = lab.running(|_| {})?;
            for (program, words) in [("/no/such/criu", "ENOENT"), ("/bin/true", "CRIU")] {
                let output = lab
                    .call(&["checkpoint", "--image-path", &images(lab), &container.id])
                    .global(&["--criu", program])
                    .output()?;
                refused(&output, &[words])?;
                container.expect("running")?;
            }
            container.end()
        }),
        test(SECTION, "F95", "restore without a cgroup is refused", |lab| {
            if lab.kind != Kind::Bulkhead {
                return skip("the option is Bulkhead's");
            }
            let bundle = lab.bundle(&["pause"], |_| {})?;
            let images = images(lab);
            let output = lab
                .call(&["restore", "--image-path", &images, "--bundle", bundle.path(), &bundle.id])
                .global(&["--criu", "/bin/true", "--cgroup-manager", "disabled"])
                .output()?;
            refused(&output, &["--cgroup-manager disabled", "CRIU"])?;
            lab.nothing_left()
        }),
        test(SECTION, "F94", "only what runs can be saved", |lab| {
            need_criu(lab)?;
            let container = lab.create(&["pause"], |_| {})?;
            let output = container.call(&["checkpoint", "--image-path", &images(lab)])?;
            refused(&output, &["Container cannot be checkpointed in created state"])?;
            container.kill("KILL")?;
            container.wait()?;
            let output = container.call(&["checkpoint", "--image-path", &images(lab)])?;
            refused(&output, &["in stopped state"])?;
            container.delete()
        }),
        test(
            SECTION,
            "F193",
            "no_new_privs is saved by a CRIU that restores it, or not at all",
            |lab| {
                need_criu(lab)?;
                let bundle =
                    counting(lab, |spec| spec["process"]["noNewPrivileges"] = json!(true))?;
                let container = started(lab, &bundle)?;
                let images = images(lab);
                let output = container.call(&["checkpoint", "--image-path", &images])?;
                if output.code != Some(0) {
                    refused(&output, &["process.noNewPrivileges needs CRIU 3.19"])?;
                    counts_from(lab, number(lab)?)?;
                    return container.end();
                }
                let restored = Container::restore(lab, &bundle, &["--image-path", &images])?;
                let status = fs::read_to_string(format!("/proc/{}/status", restored.pid()))?;
                has("status", &status, "NoNewPrivs:\t1")?;
                restored.end()
            },
        ),
        test(SECTION, "F195", "org.criu.config cannot name what is not root's", |lab| {
            need_criu(lab)?;
            if lab.kind != Kind::Bulkhead {
                return skip("runc takes any file");
            }
            let directory = criu_directory(lab)?;
            let (elsewhere, open) = (lab.dir.join("criu.conf"), directory.join("open.conf"));
            for (path, words) in [(&elsewhere, "beneath"), (&open, "written by others")] {
                fs::write(path, "")?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
                let bundle = counting(lab, |spec| {
                    spec["annotations"]["org.criu.config"] = json!(path);
                })?;
                let container = started(lab, &bundle)?;
                let output = container.call(&["checkpoint", "--image-path", &images(lab)])?;
                refused(&output, &["org.criu.config", words])?;
                counts_from(lab, number(lab)?)?;
                container.end()?;
            }
            Ok(())
        }),
        test(SECTION, "F129", "a directory for images that cannot be used is named", |lab| {
            need_criu(lab)?;
            let container = lab.running(|_| {})?;
            let full = lab.dir.join("read-only");
            fs::create_dir(&full)?;
            mount(Some("tmpfs"), &full, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
            lab.own_mounts();
            fs::write(lab.dir.join("file"), "")?;
            for (name, errno) in
                [("read-only", "EROFS"), ("file", "ENOTDIR"), ("none/below", "ENOENT")]
            {
                let path = lab.dir.join(name).display().to_string();
                for option in ["--image-path", "--work-path"] {
                    let images = images(lab);
                    let mut words = vec!["checkpoint", option, &path];
                    if option == "--work-path" {
                        words.extend_from_slice(&["--image-path", &images]);
                    }
                    refused(&container.call(&words)?, &[&path, errno])?;
                }
            }
            let words = ["checkpoint", "--image-path", &images(lab), "--parent-path", "/x"];
            refused(&container.call(&words)?, &["--parent-path"])?;
            container.expect("running")?;
            container.end()
        }),
        test(
            SECTION,
            "F196",
            "a failure of CRIU quotes its log, and the container goes on",
            |lab| {
                need_criu(lab)?;
                let port = echo()?;
                let talk = format!("talk {port} /data/n");
                let bundle = bundle_of(lab, &[&talk], |_| {})?;
                let container = started(lab, &bundle)?;
                let images = images(lab);
                let output = container.call(&["checkpoint", "--image-path", &images])?;
                let log = format!("{images}/dump.log");
                refused(&output, &["criu failed: type DUMP", "--tcp-established", &log])?;
                container.expect("running")?;
                counts_from(lab, number(lab)?)?;
                container.end()
            },
        ),
        test(SECTION, "F95 F196", "restore from what is no image leaves nothing", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            fs::create_dir(lab.dir.join("images"))?;
            let images = images(lab);
            for (path, words) in [
                (images.as_str(), ["criu failed: type RESTORE", "restore.log"]),
                ("/no/such/images", ["/no/such/images", "ENOENT"]),
            ] {
                let words_of_call =
                    ["restore", "--bundle", bundle.path(), "--image-path", path, &bundle.id];
                refused(&lab.call(&words_of_call).output()?, &words)?;
                lab.nothing_left()?;
            }
            Ok(())
        }),
        test(SECTION, "F95", "restore of an id in use leaves that container alone", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            let container = started(lab, &bundle)?;
            let images = images(lab);
            done(&container.call(&["checkpoint", "--leave-running", "--image-path", &images])?)?;
            let words = ["restore", "--bundle", bundle.path(), "--image-path", &images, &bundle.id];
            refused(&lab.call(&words).output()?, &["container with given ID already exists"])?;
            container.expect("running")?;
            container.end()
        }),
        test(SECTION, "F95", "restore with a volume that is gone leaves nothing", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            let container = started(lab, &bundle)?;
            saved_and_gone(lab, &container, &[])?;
            fs::rename(lab.dir.join("volume"), lab.dir.join("elsewhere"))?;
            let images = images(lab);
            let words = ["restore", "--bundle", bundle.path(), "--image-path", &images, &bundle.id];
            refused(&lab.call(&words).output()?, &["volume"])?;
            lab.nothing_left()
        }),
        test(SECTION, "F95", "a hook that fails on restore leaves nothing", |lab| {
            need_criu(lab)?;
            let bundle = counting(lab, |_| {})?;
            let container = started(lab, &bundle)?;
            saved_and_gone(lab, &container, &[])?;
            let mut failing = Bundle { spec: bundle.spec.clone(), ..bundle };
            failing.spec["hooks"]["createRuntime"] = json!([{ "path": "/bin/false" }]);
            failing.save()?;
            let images = images(lab);
            let words =
                ["restore", "--bundle", failing.path(), "--image-path", &images, &failing.id];
            refused(&lab.call(&words).output()?, &["createRuntime"])?;
            lab.nothing_left()
        }),
    ]
}

/// What must not change by a restore.
#[derive(Debug, PartialEq)]
struct Confinement {
    mounts: Vec<String>,
    status: Vec<String>,
}

impl Confinement {
    fn of(pid: i32) -> Res<Self> {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        // Without ids and the device of a tmpfs.
        let mut mounts: Vec<String> = table
            .lines()
            .map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" "))
            .collect();
        mounts.sort();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let names = ["Uid:", "Gid:", "Cap", "NoNewPrivs:", "Seccomp"];
        let status = status
            .lines()
            .filter(|line| names.iter().any(|name| line.starts_with(name)))
            .map(str::to_owned)
            .collect();
        Ok(Self { mounts, status })
    }

    fn same_as(&self, before: &Self) -> Res {
        eq("status", &self.status, &before.status)?;
        for mount in &before.mounts {
            ensure(self.mounts.contains(mount), format!("after the restore no mount {mount:?}"))?;
        }
        eq("number of mounts", &self.mounts.len(), &before.mounts.len())
    }
}

/// Everything that confines, more than once from one place.
fn confined(spec: &mut Value) {
    let volume = spec["mounts"][3]["source"].as_str().unwrap_or_default().to_owned();
    bundle::mount(spec, "/volume", "bind", &volume, &["rbind", "ro", "nosuid"]);
    bundle::mount(spec, "/other", "bind", &volume, &["bind", "ro", "noexec", "nodev"]);
    bundle::mount(spec, "/sys", "sysfs", "sysfs", &["ro", "nosuid", "noexec", "nodev"]);
    bundle::mount(spec, "/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid"]);
    bundle::namespace(spec, "cgroup");
    bundle::namespace(spec, "network");
    spec["root"]["readonly"] = json!(true);
    spec["linux"]["maskedPaths"] =
        json!(["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/etc/passwd"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
    spec["linux"]["resources"] = json!({ "pids": { "limit": 77 } });
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }],
    });
}

/// A bundle with a volume at /data.
fn bundle_of(lab: &Lab, steps: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Bundle> {
    let volume = lab.dir.join("volume");
    fs::create_dir_all(&volume)?;
    let source = volume.display().to_string();
    lab.bundle(steps, |spec| {
        bundle::mount(spec, "/data", "bind", &source, &["bind"]);
        edit(spec);
    })
}

fn counting(lab: &Lab, edit: impl FnOnce(&mut Value)) -> Res<Bundle> {
    bundle_of(lab, &["count /data/n"], edit)
}

/// A container whose program has shown its first number.
fn started<'l>(lab: &'l Lab, bundle: &Bundle) -> Res<Container<'l>> {
    let container = lab.create_from(bundle)?;
    container.start()?;
    wait_for_number(lab)?;
    Ok(container)
}

fn images(lab: &Lab) -> String {
    lab.dir.join("images").display().to_string()
}

/// Saves a container, which is gone then; the last number that it showed.
fn saved_and_gone(lab: &Lab, container: &Container<'_>, options: &[&str]) -> Res<u64> {
    let images = images(lab);
    let mut words = vec!["checkpoint", "--image-path", &images];
    words.extend_from_slice(options);
    let output = container.call(&words)?;
    done(&output)?;
    eq("what checkpoint says", &format!("{}{}", output.out, output.err), &String::new())?;
    let state = container.call(&["state"])?;
    refused(&state, &["does not exist"])?;
    number(lab)
}

fn done(output: &Output) -> Res {
    ensure(output.code == Some(0), output.brief())
}

fn refused(output: &Output, words: &[&str]) -> Res {
    ensure(output.code.is_some_and(|code| code != 0), "it succeeded")?;
    words.iter().try_for_each(|word| has("standard error", &output.err, word))
}

fn shown(lab: &Lab) -> String {
    fs::read_to_string(lab.dir.join("volume/n")).unwrap_or_default()
}

fn number(lab: &Lab) -> Res<u64> {
    shown(lab).parse().or_else(|_| fail(format!("the program shows {:?}", shown(lab))))
}

fn wait_for_number(lab: &Lab) -> Res {
    wait(|| Ok(number(lab).ok().map(drop)))
}

/// The program goes on, and not from its beginning.
fn counts_from(lab: &Lab, saved: u64) -> Res {
    let seen = wait(|| Ok(Some(number(lab)?).filter(|n| *n != saved)));
    let seen = match seen {
        Ok(seen) => seen,
        Err(_) => {
            return fail(format!("the program does not go on from {saved}: {:?}", shown(lab)));
        }
    };
    ensure(seen > saved, format!("the program went from {saved} to {seen}"))
}

fn wait<T>(mut done: impl FnMut() -> Res<Option<T>>) -> Res<T> {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if Instant::now() > until {
            return fail("it did not happen in time");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A peer that sends every line back; its port. The thread ends with the test.
fn echo() -> Res<u16> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure(up.success(), "the loopback interface does not come up")?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || -> std::io::Result<()> {
        let (stream, _) = listener.accept()?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            writeln!(&stream, "{}", line?)?;
        }
        Ok(())
    });
    Ok(port)
}

/// /etc/criu, which can be written: /etc becomes an overlay over itself that nobody else sees.
fn criu_directory(lab: &Lab) -> Res<PathBuf> {
    let [upper, work] = ["upper", "work"].map(|name| lab.dir.join(name));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    lab.own_mounts();
    let directory = PathBuf::from("/etc/criu");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Skips unless `criu check` passes.
fn need_criu(lab: &Lab) -> Res {
    own(lab)?;
    let Ok(output) = Command::new("criu").arg("check").stdin(Stdio::null()).output() else {
        return skip("criu is not installed");
    };
    if output.status.success() {
        // CRIU builds the new mounts below /tmp, which the suite has made read-only with the rest.
        let all = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/tmp"), "/tmp", None::<&str>, all, None::<&str>)?;
        sys::set_read_only(Path::new("/tmp"), false)?;
        lab.own_mounts();
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().find(|line| line.contains("Error")).unwrap_or("it says no reason");
    skip(format!("criu check fails: {reason}"))
}

/// Whoever else has the command has other words for its failures.
fn own(lab: &Lab) -> Res {
    let has_cgroup2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    match lab.kind {
        Kind::Bulkhead => Ok(()),
        _ if has_cgroup2 => Ok(()),
        _ => skip("only with cgroup2"),
    }
}
