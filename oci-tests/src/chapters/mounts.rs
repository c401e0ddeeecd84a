//! config.md, mounts: what is mounted where, in which order.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::check::{Test, ensure, eq, has, has_option, mount_at, ok, same, test};
use crate::lab::bundle::{mount, push};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = order();
    tests.extend(destinations());
    tests.extend(filesystems());
    tests
}

fn order() -> Vec<Test> {
    let section = "config#mounts";
    vec![
        test(
            section,
            "F68",
            "mounts are made in the listed order: the later one covers the earlier",
            |lab| {
                let seen = lab.probe(&["list /data", "list /data/inner"], |spec| {
                    mount(spec, "/data/inner", "tmpfs", "tmpfs", &[]);
                    mount(spec, "/data", "tmpfs", "tmpfs", &[]);
                })?;
                same("/data", &seen["list /data"], json!([]))
            },
        ),
        test(section, "F68", "a mount inside an earlier mount is made there", |lab| {
            let seen = lab.probe(&["report", "list /data"], |spec| {
                mount(spec, "/data", "tmpfs", "tmpfs", &[]);
                mount(spec, "/data/inner/deep", "tmpfs", "tmpfs", &[]);
            })?;
            same("/data", &seen["list /data"], json!(["inner"]))?;
            mount_at(&seen["report"], "/data/inner/deep").map(drop)
        }),
        test(section, "F68", "two mounts on one destination are both made", |lab| {
            let seen = lab.report(|spec| {
                mount(spec, "/data", "tmpfs", "first", &[]);
                mount(spec, "/data", "tmpfs", "second", &[]);
            })?;
            same("source on top", &mount_at(&seen, "/data")?["source"], json!("second"))?;
            let count = seen["mounts"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|m| m["point"] == "/data")
                .count();
            eq("mounts at /data", &count, &2)
        }),
        test(section, "F68", "a mount table without any mounts of ours is legal", |lab| {
            let seen = lab.probe(&["list /"], |spec| {
                spec.as_object_mut().map(|spec| spec.remove("mounts"));
            })?;
            has("root", &seen["list /"].to_string(), "bin")
        }),
        test(section, "F68", "a mount without source and options works", |lab| {
            let seen = lab.report(|spec| {
                push(&mut spec["mounts"], json!({ "destination": "/data", "type": "tmpfs" }))
            })?;
            same("type", &mount_at(&seen, "/data")?["type"], json!("tmpfs"))
        }),
        test(section, "F68", "an unknown file system type is an error", |lab| {
            lab.refused(|spec| mount(spec, "/data", "nosuchfs", "none", &[])).map(drop)
        }),
        test(section, "F68", "an option that the file system refuses is an error", |lab| {
            lab.refused(|spec| mount(spec, "/data", "tmpfs", "tmpfs", &["size=lots"])).map(drop)
        }),
        test(
            section,
            "F68",
            "options of the file system reach it (size, mode, nr_inodes)",
            |lab| {
                let seen = lab.probe(&["report", "stat /data"], |spec| {
                    mount(
                        spec,
                        "/data",
                        "tmpfs",
                        "tmpfs",
                        &["size=64k", "mode=1711", "nr_inodes=77", "uid=5", "gid=6"],
                    );
                })?;
                let options = &mount_at(&seen["report"], "/data")?["super"];
                ensure(
                    has_option(options, "size=64k") && has_option(options, "nr_inodes=77"),
                    format!("options are {options}"),
                )?;
                let stat = &seen["stat /data"];
                same("mode", &stat["mode"], json!(0o1711))?;
                same("owner", &json!([stat["uid"], stat["gid"]]), json!([5, 6]))
            },
        ),
        test(section, "F68", "mounts of the container are not seen outside", |lab| {
            let container = lab.running(|spec| mount(spec, "/data", "tmpfs", "tmpfs", &[]))?;
            let table = fs::read_to_string("/proc/self/mountinfo")?;
            ensure(
                !table.contains("rootfs/data"),
                "the container's mount is in the runtime's namespace",
            )?;
            container.end()
        }),
    ]
}

fn destinations() -> Vec<Test> {
    let section = "config#mounts";
    vec![
        test(section, "F68", "missing directories of a destination are made", |lab| {
            let seen = lab.report(|spec| mount(spec, "/a/b/c/d/e", "tmpfs", "tmpfs", &[]))?;
            mount_at(&seen, "/a/b/c/d/e").map(drop)
        }),
        test(
            section,
            "F84",
            "a relative destination is relative to the container's root (since 1.2)",
            |lab| {
                let seen = lab.report(|spec| {
                    spec["ociVersion"] = json!("1.2.0");
                    mount(spec, "data", "tmpfs", "tmpfs", &[]);
                })?;
                mount_at(&seen, "/data").map(drop)
            },
        ),
        test(section, "F84", "a destination with .. stays inside the root", |lab| {
            let seen =
                lab.report(|spec| mount(spec, "/../../../data/../data", "tmpfs", "tmpfs", &[]))?;
            mount_at(&seen, "/data").map(drop)
        }),
        test(
            section,
            "F88",
            "a destination through an absolute symbolic link of the image is resolved in the root",
            |lab| {
                let bundle = lab.bundle(&["report"], |spec| {
                    mount(spec, "/link/inner", "tmpfs", "tmpfs", &[])
                })?;
                let outside = lab.dir.join("target");
                fs::create_dir(&outside)?;
                symlink(&outside, bundle.inside("/link"))?;
                let seen = lab.seen(&bundle)?;
                let wanted = format!("{}/inner", outside.display());
                mount_at(&seen["report"], &wanted)?;
                ensure(!outside.join("inner").exists(), "a directory was made outside the root")
            },
        ),
        test(
            section,
            "F88",
            "a destination that is a symbolic link to .. stays inside the root",
            |lab| {
                let bundle = lab.bundle(&["report"], |spec| {
                    mount(spec, "/data/link/inner", "tmpfs", "tmpfs", &[])
                })?;
                symlink("../../../../../../tmp", bundle.inside("/data/link"))?;
                let seen = lab.seen(&bundle)?;
                mount_at(&seen["report"], "/tmp/inner").map(drop)
            },
        ),
        test(section, "F88", "proc is not mounted through a symbolic link at /proc", |lab| {
            let bundle = lab.bundle(&["report"], |_| {})?;
            fs::remove_dir(bundle.inside("/proc"))?;
            symlink("/data", bundle.inside("/proc"))?;
            let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            // A refusal is the safe answer (CVE-2019-19921); mounting at /data would leave the masks of
            // /proc without effect.
            ensure(
                output.code.is_some_and(|code| code != 0),
                "create with /proc as a symbolic link succeeded",
            )
        }),
        test(
            section,
            "F88",
            "/dev as a symbolic link to a host directory leaves that directory alone",
            |lab| {
                let host = lab.dir.join("host-dev");
                fs::create_dir(&host)?;
                let bundle = lab.bundle(&["report"], |spec| {
                    if let Some(mounts) = spec["mounts"].as_array_mut() {
                        mounts.retain(|mount| mount["destination"] == "/proc");
                    }
                })?;
                fs::remove_dir(bundle.inside("/dev"))?;
                symlink(&host, bundle.inside("/dev"))?;
                // CVE-2026-41579 and CVE-2026-47766: the default symlinks and nodes were made by path, on the
                // host. The specification gives a runtime no reason to touch anything outside the root.
                lab.run(&bundle)?;
                let made: Vec<_> = fs::read_dir(&host)?.flatten().map(|e| e.file_name()).collect();
                ensure(made.is_empty(), format!("made in a host directory: {made:?}"))
            },
        ),
        test(
            section,
            "F84",
            "a destination with spaces, quotes and letters beyond ASCII works",
            |lab| {
                let seen =
                    lab.report(|spec| mount(spec, "/data/ä ö\t\"x\"/日本", "tmpfs", "tmpfs", &[]))?;
                // mountinfo writes blanks as octal escapes.
                mount_at(&seen, "/data/ä\\040ö\\011\"x\"/日本").map(drop)
            },
        ),
        test(section, "F84", "a destination of 40 components and 3,000 bytes works", |lab| {
            let deep = format!("/data/{}", vec!["d".repeat(72); 40].join("/"));
            let wanted = deep.clone();
            let seen = lab.report(move |spec| mount(spec, &deep, "tmpfs", "tmpfs", &[]))?;
            mount_at(&seen, &wanted).map(drop)
        }),
    ]
}

fn filesystems() -> Vec<Test> {
    let section = "config-linux#default-filesystems";
    let kind = |destination: &'static str, kind: &'static str| {
        test(section, "F68", format!("{kind} at {destination} is what it says"), move |lab| {
            let seen = lab.report(|spec| {
                if !["/proc", "/dev/pts"].contains(&destination) {
                    let options = ["nosuid", "noexec", "nodev"];
                    if kind == "sysfs" {
                        crate::lab::bundle::namespace(spec, "network");
                    }
                    mount(spec, destination, kind, kind, &options);
                }
            })?;
            same("type", &mount_at(&seen, destination)?["type"], json!(kind))
        })
    };
    vec![
        kind("/proc", "proc"),
        kind("/sys", "sysfs"),
        kind("/dev/pts", "devpts"),
        kind("/dev/shm", "tmpfs"),
        kind("/dev/mqueue", "mqueue"),
        test(section, "F68", "proc shows the container's own processes only", |lab| {
            let seen = lab.probe(&["list /proc"], |_| {})?;
            let pids: Vec<&str> = seen["list /proc"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str())
                .filter(|name| name.parse::<u32>().is_ok())
                .collect();
            eq("processes", &pids, &vec!["1"])
        }),
        test(
            "config#linux-mount-options",
            "F77",
            "tmpcopyup fills the tmpfs with what it covers",
            |lab| {
                let bundle = lab.bundle(
                    &["read /data/file", "stat /data/sub", "report", "write /data/new x"],
                    |spec| {
                        mount(spec, "/data", "tmpfs", "tmpfs", &["tmpcopyup"]);
                    },
                )?;
                fs::write(bundle.inside("/data/file"), "copied")?;
                fs::create_dir(bundle.inside("/data/sub"))?;
                fs::set_permissions(bundle.inside("/data/sub"), fs::Permissions::from_mode(0o750))?;
                let seen = lab.seen(&bundle)?;
                same("file", &seen["read /data/file"], json!("copied"))?;
                same("mode of a directory", &seen["stat /data/sub"]["mode"], json!(0o750))?;
                same("type", &mount_at(&seen["report"], "/data")?["type"], json!("tmpfs"))?;
                ensure(!bundle.inside("/data/new").exists(), "the write went to the image")
            },
        ),
        test(
            "config#mounts",
            "F68",
            "overlay with lower, upper and work directories works",
            |lab| {
                for name in ["lower", "upper", "work"] {
                    fs::create_dir(lab.dir.join(name))?;
                }
                fs::write(lab.dir.join("lower/file"), "lower")?;
                let at = |name: &str| lab.dir.join(name).display().to_string();
                let options = [
                    format!("lowerdir={}", at("lower")),
                    format!("upperdir={}", at("upper")),
                    format!("workdir={}", at("work")),
                ];
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                let seen = lab.probe(&["read /data/file", "write /data/new x"], |spec| {
                    mount(spec, "/data", "overlay", "overlay", &options)
                })?;
                same("file", &seen["read /data/file"], json!("lower"))?;
                same("write", &seen["write /data/new x"], ok())?;
                eq("upper", &fs::read_to_string(lab.dir.join("upper/new"))?, &"x".to_owned())
            },
        ),
    ]
}
