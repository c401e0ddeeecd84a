//! Links that lead out: in the image, in procfs, and through what the caller left open.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::{
    CAPABILITIES, create_on_console, give, image_dev, names, outside, run_with_link, share_pids,
    unchanged,
};
use crate::check::{Res, Test, brief, ensure, eq, fail, test};
use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::bundle::{Bundle, mount};

const SECTION: &str = "hostile#paths";

pub(super) fn tests() -> Vec<Test> {
    let mut tests = working_directories();
    tests.extend(over_proc());
    tests.extend(image());
    tests.extend(terminals());
    tests
}

fn working_directories() -> Vec<Test> {
    /// Descriptors that the caller left open on the host's root, for whoever forgets to close.
    const LEFT_OPEN: &str = "exec 3</ 4</ 5</ 6</ 7</ 8</ 9</; exec \"$@\"";
    let host_listed = |output: &str, lab: &Lab| -> Res {
        let seen: Value =
            serde_json::from_str(output.lines().next().unwrap_or_default()).unwrap_or_default();
        let names = brief(&seen["list ."]);
        let base =
            lab.dir.components().nth(1).map(|c| c.as_os_str().to_string_lossy().into_owned());
        // "usr" is in every host's root and in no root of this suite.
        ensure(
            !names.contains("\"usr\"") && !names.contains("cgroup.procs"),
            format!("{names} {base:?}"),
        )
    };
    vec![
        test(
            SECTION,
            "F4",
            "process.cwd of a descriptor does not reach the host (CVE-2024-21626)",
            move |lab| {
                for fd in 3..12 {
                    let bundle = lab.bundle(&["list ."], |spec| {
                        spec["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
                    })?;
                    let words = ["run", "--bundle", bundle.path(), &bundle.id];
                    host_listed(&lab.call(&words).shell(LEFT_OPEN).output()?.out, lab)?;
                }
                Ok(())
            },
        ),
        test(
            SECTION,
            "F4",
            "exec --cwd of a descriptor that the caller left open does not reach the host",
            move |lab| {
                let container = lab.running(|_| {})?;
                for fd in 3..12 {
                    let cwd = format!("/proc/self/fd/{fd}");
                    let words = ["exec", "--cwd", &cwd, &container.id, "/bin/probe", "list ."];
                    host_listed(&lab.call(&words).shell(LEFT_OPEN).output()?.out, lab)?;
                }
                container.end()
            },
        ),
        test(
            SECTION,
            "F4",
            "an image's link to a descriptor as working directory does not reach the host",
            move |lab| {
                for fd in 3..12 {
                    let bundle = lab
                        .bundle(&["list ."], |spec| spec["process"]["cwd"] = json!("/data/link"))?;
                    symlink(format!("/proc/self/fd/{fd}"), bundle.inside("/data/link"))?;
                    let words = ["run", "--bundle", bundle.path(), &bundle.id];
                    host_listed(&lab.call(&words).shell(LEFT_OPEN).output()?.out, lab)?;
                }
                let container = lab.running(|_| {})?;
                let link = format!("{}/rootfs/data/link", container.dir);
                for fd in 3..12 {
                    let _ = fs::remove_file(&link);
                    symlink(format!("/proc/self/fd/{fd}"), &link)?;
                    let words =
                        ["exec", "--cwd", "/data/link", &container.id, "/bin/probe", "list ."];
                    host_listed(&lab.call(&words).shell(LEFT_OPEN).output()?.out, lab)?;
                }
                container.end()
            },
        ),
        test(
            SECTION,
            "F4",
            "a descriptor of --preserve-fds as working directory is refused outside the root",
            move |lab| {
                let bundle = lab.bundle(&["list ."], |spec| {
                    spec["process"]["cwd"] = json!("/proc/self/fd/3")
                })?;
                let words = ["run", "--preserve-fds", "1", "--bundle", bundle.path(), &bundle.id];
                host_listed(&lab.call(&words).shell("exec 3</; exec \"$@\"").output()?.out, lab)
            },
        ),
        // What runtimes fail: the directory is made with the runtime's power, before the check that
        // it lies inside. /proc/1/root is the host's root for a container that shares its pids.
        test(
            SECTION,
            "F4",
            "a missing process.cwd is not made on the host by a link through /proc/1/root",
            |lab| {
                run_with_link(lab, "/data/link", "/proc/1/root", |spec| {
                    share_pids(spec);
                    spec["process"]["cwd"] = json!("/data/link/new/deep");
                })
                .map(drop)
            },
        ),
        test(
            SECTION,
            "F4",
            "exec --cwd through /proc/1/root neither enters nor makes a directory of the host",
            |lab| {
                let outside = outside(lab)?;
                let container = lab.running(share_pids)?;
                let link = format!("{}/rootfs/data/link", container.dir);
                symlink(format!("/proc/1/root{}", outside.display()), link)?;
                for cwd in ["/data/link", "/data/link/new"] {
                    let output = container.exec_output(&["--cwd", cwd], &["list ."])?;
                    ensure(!output.out.contains("of-the-host"), output.out)?;
                }
                unchanged(&outside)?;
                container.end()
            },
        ),
    ]
}

fn over_proc() -> Vec<Test> {
    let refused = |text: &'static str, edit: fn(&mut Value, &str)| {
        test(SECTION, "S18", text, move |lab| {
            let fake = lab.dir.join("fake");
            fs::create_dir_all(fake.join("self/attr"))?;
            fs::write(fake.join("self/attr/exec"), "")?;
            let source = fake.display().to_string();
            let bundle = lab.bundle(&["report"], |spec| edit(spec, &source))?;
            symlink("/proc/self", bundle.inside("/data/self"))?;
            symlink("/proc", bundle.inside("/data/proc"))?;
            symlink("/proc/sys/kernel", bundle.inside("/data/kernel"))?;
            lab.refused_from(&bundle).map(drop)
        })
    };
    vec![
        refused("a tmpfs over /proc is refused (CVE-2019-16884)", |spec, _| {
            mount(spec, "/proc", "tmpfs", "tmpfs", &[]);
        }),
        refused("a directory that looks like procfs over /proc is refused", |spec, fake| {
            mount(spec, "/proc", "bind", fake, &["bind"]);
        }),
        refused("a mount inside /proc is refused", |spec, fake| {
            mount(spec, "/proc/self/attr", "bind", &format!("{fake}/self/attr"), &["bind"]);
        }),
        refused("a mount inside /proc by a path with .. is refused", |spec, fake| {
            mount(spec, "/data/../proc/sys", "bind", fake, &["bind"]);
        }),
        refused(
            "a mount inside /proc by a link of the image to a directory is refused",
            |spec, fake| {
                mount(spec, "/data/kernel", "bind", fake, &["bind"]);
            },
        ),
        refused("a mount over /proc itself by a link of the image is refused", |spec, fake| {
            mount(spec, "/data/proc", "bind", fake, &["bind"]);
        }),
        refused("a part of the host's procfs over /proc is refused", |spec, _| {
            mount(spec, "/proc", "bind", "/proc/sys", &["bind"]);
        }),
        test(
            SECTION,
            "S18",
            "a sysctl is not written to what somebody mounted over it (CVE-2025-52881)",
            |lab| {
                use nix::mount::{MsFlags, mount as sys_mount};
                let file = lab.dir.join("file");
                fs::write(&file, "untouched")?;
                let none = None::<&str>;
                // The mount namespace is this test's own, and it is what the runtime sees.
                sys_mount(Some(&file), "/proc/sys/kernel/msgmax", none, MsFlags::MS_BIND, none)?;
                lab.own_mounts();
                let step = "read /proc/sys/kernel/msgmax";
                let bundle = lab.bundle(&[step], |spec| {
                    spec["linux"]["sysctl"] = json!({ "kernel.msgmax": "8191" });
                })?;
                let output = lab.run(&bundle)?;
                nix::mount::umount("/proc/sys/kernel/msgmax")?;
                eq("the file", &fs::read_to_string(&file)?.as_str(), &"untouched")?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                // To refuse is as good as to find the real one.
                ensure(
                    output.code != Some(0) || seen[step] == "8191\n",
                    format!("the value is {}", seen[step]),
                )
            },
        ),
        test(
            SECTION,
            "S18",
            "sysfs is not mounted through a link at /sys (CVE-2025-54867)",
            |lab| {
                let bundle = lab.bundle(&["report"], |spec| {
                    mount(spec, "/sys", "sysfs", "sysfs", &["ro"]);
                    spec["linux"]["maskedPaths"] = json!(["/sys/firmware"]);
                })?;
                fs::remove_dir(bundle.inside("/sys"))?;
                symlink("/data", bundle.inside("/sys"))?;
                lab.refused_from(&bundle).map(drop)
            },
        ),
    ]
}

fn image() -> Vec<Test> {
    vec![
        // Programs read /dev/null as an empty file; the image's maker would choose what they read.
        test(
            SECTION,
            "F27",
            "an image's file in the place of /dev/null is not taken for the device",
            |lab| {
                let bundle = lab.bundle(&["lstat /dev/null", "read /dev/null"], image_dev)?;
                fs::write(bundle.inside("/dev/null"), "of the image")?;
                let output = lab.run(&bundle)?;
                // To refuse the image is as good as to put the device there.
                let seen: Value = serde_json::from_str(&output.out).unwrap_or(json!({}));
                ensure(
                    output.code != Some(0) || seen["lstat /dev/null"]["type"] == "c",
                    format!("/dev/null is {}", brief(&seen["lstat /dev/null"])),
                )
            },
        ),
        test(
            SECTION,
            "F27",
            "an image's link in the place of /dev/null changes nothing outside",
            |lab| {
                let outside = outside(lab)?;
                let bundle = lab.bundle(&["report"], image_dev)?;
                symlink(outside.join("null"), bundle.inside("/dev/null"))?;
                symlink(outside.join("ptmx"), bundle.inside("/dev/ptmx"))?;
                symlink(outside.join("console"), bundle.inside("/dev/console"))?;
                lab.run(&bundle)?;
                unchanged(&outside)
            },
        ),
        test(SECTION, "F88", "/dev/pts as a link of the image leads nowhere outside", |lab| {
            run_with_link(lab, "/dev/pts", "", |spec| {
                image_dev(spec);
                mount(spec, "/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
            })
            .map(drop)
        }),
        test(
            SECTION,
            "F88",
            "a mount point is not made through a link of the image (CVE-2024-45310)",
            |lab| {
                let source = lab.dir.join("source");
                fs::write(&source, "")?;
                let source = source.display().to_string();
                run_with_link(lab, "/data/dir", "", |spec| {
                    mount(spec, "/data/dir/new", "tmpfs", "tmpfs", &[]);
                    mount(spec, "/data/dir/a/b/file", "bind", &source, &["bind"]);
                })
                .map(drop)
            },
        ),
        test(SECTION, "F88", "a mount point is not reached through /proc/1/root", |lab| {
            run_with_link(lab, "/data/link", "/proc/1/root", |spec| {
                share_pids(spec);
                mount(spec, "/data/link/new", "tmpfs", "tmpfs", &[]);
            })
            .map(drop)
        }),
        test(
            SECTION,
            "F60",
            "a mask over an image's link covers what is inside the root, or nothing",
            |lab| {
                let outside = outside(lab)?;
                let bundle = lab.bundle(&["list /data"], |spec| {
                    share_pids(spec);
                    spec["linux"]["maskedPaths"] = json!(["/data/link/of-the-host", "/data/proc"]);
                    spec["linux"]["readonlyPaths"] = json!(["/data/link"]);
                })?;
                symlink(&outside, bundle.inside("/data/link"))?;
                symlink(format!("/proc/1/root{}", outside.display()), bundle.inside("/data/proc"))?;
                lab.run(&bundle)?;
                // Not read-only either.
                fs::write(outside.join("of-the-host"), "of the host")?;
                unchanged(&outside)
            },
        ),
        test(
            SECTION,
            "F70",
            "tmpcopyup of a link of the image copies nothing of the host",
            |lab| {
                let outside = outside(lab)?;
                let bundle = lab.bundle(&["list /data/up", "list /data/dir"], |spec| {
                    share_pids(spec);
                    mount(spec, "/data/up", "tmpfs", "tmpfs", &["tmpcopyup"]);
                    mount(spec, "/data/dir", "tmpfs", "tmpfs", &["tmpcopyup"]);
                })?;
                symlink(format!("/proc/1/root{}", outside.display()), bundle.inside("/data/up"))?;
                fs::create_dir(bundle.inside("/data/dir"))?;
                symlink(&outside, bundle.inside("/data/dir/link"))?;
                mkfifo(&bundle.inside("/data/dir/fifo"), Mode::S_IRWXU)?;
                let output = lab.run(&bundle)?;
                ensure(!output.out.contains("of-the-host"), output.out)
            },
        ),
        // A tenant can make this file at any time, and `exec` is what health checks call: one that hangs
        // is a process of the host that the tenant has pinned.
        test(
            SECTION,
            "F5",
            "an /etc/passwd that is a FIFO, a loop or large holds nobody up",
            |lab| {
                for kind in ["fifo", "loop", "large"] {
                    let container =
                        lab.running(|spec| spec["process"]["env"] = json!(["PATH=/bin"]))?;
                    let passwd = format!("{}/rootfs/etc/passwd", container.dir);
                    fs::remove_file(&passwd)?;
                    match kind {
                        "fifo" => mkfifo(passwd.as_str(), Mode::S_IRWXU)?,
                        "loop" => symlink("passwd", &passwd)?,
                        // One line without an end, and not more than any machine has memory for.
                        _ => fs::File::create(&passwd)?.set_len(1 << 26)?,
                    }
                    // exec and create read the same file; what they make of it is theirs to choose.
                    let _ = container.exec_output(&[], &["exit 0"])?;
                    container.end()?;
                }
                Ok(())
            },
        ),
        test(
            SECTION,
            "F15",
            "a startContainer hook is looked up inside, where links cannot lead out",
            |lab| {
                let outside = outside(lab)?;
                let script = lab.dir.join("script");
                fs::write(&script, format!("#!/bin/sh\ntouch {}/ran\n", outside.display()))?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs::set_permissions(&script, mode)?;
                let mut bundle = lab.bundle(&["exit 0"], |_| {})?;
                bundle.spec["hooks"] = json!({ "startContainer": [{ "path": "/data/hook" }] });
                bundle.save()?;
                symlink(&script, bundle.inside("/data/hook"))?;
                let output = lab.run(&bundle)?;
                ensure(output.code != Some(0), "a missing hook is no failure")?;
                unchanged(&outside)
            },
        ),
    ]
}

fn terminals() -> Vec<Test> {
    /// Creates with a terminal; answers whether that is one of the host's, unless it was refused.
    fn on_hosts_devpts(lab: &Lab, bundle: &Bundle) -> Res<Option<bool>> {
        let before = names(Path::new("/dev/pts"))?.len();
        let (output, agent) = create_on_console(lab, bundle, "console")?;
        if output.code != Some(0) {
            return Ok(None);
        }
        let delivered = agent.receive()?;
        let more = names(Path::new("/dev/pts"))?.len() > before;
        drop(delivered);
        let _ = lab.call(&["delete", "--force", &bundle.id]).output()?;
        Ok(Some(more))
    }
    vec![
        test(
            SECTION,
            "F3",
            "a terminal does not come from the host's devpts by a link of the image",
            |lab| {
                let bundle = lab.bundle(&["pause"], |spec| {
                    share_pids(spec);
                    image_dev(spec);
                    spec["process"]["terminal"] = json!(true);
                })?;
                symlink("/proc/1/root/dev/pts", bundle.inside("/dev/pts"))?;
                eq("on the host's devpts", &on_hosts_devpts(lab, &bundle)?.unwrap_or(false), &false)
            },
        ),
        // The terminal is the program's input and output: on the host's devpts others can open it, and
        // one of the host's few is used up.
        test(
            SECTION,
            "F3",
            "exec --tty does not take a terminal of the host by a link of the tenant",
            |lab| {
                let mut container = lab.create(&["pause"], |spec| {
                    share_pids(spec);
                    image_dev(spec);
                    give(spec, &CAPABILITIES);
                })?;
                container.start()?;
                container.ready()?;
                let link = format!("{}/rootfs/dev/pts", container.dir);
                let _ = fs::remove_dir(&link);
                symlink("/proc/1/root/dev/pts", link)?;
                let before = names(Path::new("/dev/pts"))?.len();
                let agent = Agent::listen(&lab.dir.join("console"))?;
                let words = [
                    "exec",
                    "--tty",
                    "--detach",
                    "--console-socket",
                    agent.path(),
                    &container.id,
                    "/bin/probe",
                    "pause",
                ];
                let output = lab.call(&words).output()?;
                let delivered = if output.code == Some(0) { Some(agent.receive()?) } else { None };
                let after = names(Path::new("/dev/pts"))?.len();
                drop(delivered);
                container.end()?;
                ensure(after == before, "the terminal is one of the host's")
            },
        ),
        test(
            SECTION,
            "F3",
            "a console that is a link of the image leaves the host's file alone (CVE-2025-52565)",
            |lab| {
                let outside = outside(lab)?;
                let bundle = lab.bundle(&["pause"], |spec| {
                    image_dev(spec);
                    mount(spec, "/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
                    spec["process"]["terminal"] = json!(true);
                })?;
                symlink(outside.join("console"), bundle.inside("/dev/console"))?;
                on_hosts_devpts(lab, &bundle)?;
                unchanged(&outside)
            },
        ),
        test(
            SECTION,
            "F3",
            "a ptmx of the image that is a FIFO or a file is an error, and nobody waits",
            |lab| {
                for kind in ["fifo", "file", "directory"] {
                    let bundle = lab.bundle(&["pause"], |spec| {
                        image_dev(spec);
                        spec["process"]["terminal"] = json!(true);
                    })?;
                    fs::create_dir(bundle.inside("/dev/pts"))?;
                    let ptmx = bundle.inside("/dev/pts/ptmx");
                    match kind {
                        "fifo" => mkfifo(&ptmx, Mode::S_IRWXU)?,
                        "file" => fs::write(&ptmx, "")?,
                        _ => fs::create_dir(&ptmx)?,
                    }
                    if create_on_console(lab, &bundle, kind)?.0.code == Some(0) {
                        return fail(format!("a {kind} was taken for a terminal multiplexer"));
                    }
                }
                lab.nothing_left()
            },
        ),
        test(SECTION, "F3", "a terminal comes from the container's own devpts", |lab| {
            let bundle =
                lab.bundle(&["pause"], |spec| spec["process"]["terminal"] = json!(true))?;
            eq("on the host's devpts", &on_hosts_devpts(lab, &bundle)?, &Some(false))
        }),
    ]
}
