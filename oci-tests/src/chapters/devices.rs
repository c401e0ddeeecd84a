//! config-linux.md, devices: nodes that are made, defaults, and the allow list.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use crate::check::{Res, Test, allowed, ensure, eq, ok, refused_with, same, test};
use crate::lab::Lab;
use crate::lab::bundle::{mount, user_namespace};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = defaults();
    tests.extend(nodes());
    tests.extend(rules("config-linux#allowed-device-list"));
    tests
        .extend(rules("config-linux#allowed-device-list (cgroup v2)").into_iter().map(Test::on_v2));
    tests
}

fn defaults() -> Vec<Test> {
    let section = "config-linux#default-devices";
    let node = |name: &'static str, major: u32, minor: u32| {
        test(section, "F27", format!("{name} is there, for everybody, and works"), move |lab| {
            let stat = format!("stat {name}");
            let open = format!("open-r {name}");
            let seen = lab.probe(&[&stat, &open], |spec| {
                spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            })?;
            let stat = &seen[&stat];
            same("type", &stat["type"], json!("c"))?;
            same("numbers", &json!([stat["major"], stat["minor"]]), json!([major, minor]))?;
            same("mode", &stat["mode"], json!(0o666))?;
            // Without a terminal there is no /dev/tty to open.
            if name == "/dev/tty" { Ok(()) } else { same("open", &seen[&open], ok()) }
        })
    };
    let link = |name: &'static str, target: &'static str| {
        test(
            "runtime-linux#dev-symbolic-links",
            "F27",
            format!("{name} links to {target}"),
            move |lab| {
                let step = format!("readlink {name}");
                let seen = lab.probe(&[&step], |_| {})?;
                same("link", &seen[&step], json!(target))
            },
        )
    };
    vec![
        node("/dev/null", 1, 3),
        node("/dev/zero", 1, 5),
        node("/dev/full", 1, 7),
        node("/dev/random", 1, 8),
        node("/dev/urandom", 1, 9),
        node("/dev/tty", 5, 0),
        link("/dev/fd", "/proc/self/fd"),
        link("/dev/stdin", "/proc/self/fd/0"),
        link("/dev/stdout", "/proc/self/fd/1"),
        link("/dev/stderr", "/proc/self/fd/2"),
        test(section, "F27", "/dev/ptmx is the container's own multiplexer", |lab| {
            let seen =
                lab.probe(&["stat /dev/ptmx", "stat /dev/pts/ptmx", "open-rw /dev/ptmx"], |_| {})?;
            same(
                "node",
                &seen["stat /dev/ptmx"]["ino"],
                seen["stat /dev/pts/ptmx"]["ino"].clone(),
            )?;
            same("open", &seen["open-rw /dev/ptmx"], ok())
        }),
        test(section, "F27", "/dev/console is not made without a terminal", |lab| {
            let seen = lab.probe(&["stat /dev/console"], |_| {})?;
            lab.quality(
                seen["stat /dev/console"]["errno"] == "ENOENT",
                "there is a /dev/console without a terminal",
            )
        }),
        test(section, "F27", "the devices are there in a user namespace as well", |lab| {
            let seen = lab.probe(
                &["stat /dev/null", "write /dev/null x", "open-r /dev/urandom"],
                user_namespace,
            )?;
            same(
                "numbers",
                &json!([seen["stat /dev/null"]["major"], seen["stat /dev/null"]["minor"]]),
                json!([1, 3]),
            )?;
            same("write", &seen["write /dev/null x"], ok())?;
            same("open", &seen["open-r /dev/urandom"], ok())
        }),
        test(
            "runtime-linux#dev-symbolic-links",
            "F27",
            "a link that cannot be made because the image has a file there is no failure",
            |lab| {
                let bundle = lab.bundle(&["read /dev/stdin"], |spec| {
                    if let Some(mounts) = spec["mounts"].as_array_mut() {
                        mounts.retain(|mount| mount["destination"] == "/proc");
                    }
                })?;
                fs::write(bundle.inside("/dev/stdin"), "of the image")?;
                lab.seen(&bundle).map(drop)
            },
        ),
        test(
            "runtime-linux#file-descriptors",
            "F258",
            "only descriptors 0, 1 and 2 are open",
            |lab| {
                let seen = lab.probe(&["links /proc/self/fd"], |_| {})?;
                let open = descriptors(&seen);
                eq("descriptors", &open, &vec!["0", "1", "2"])
            },
        ),
        test(
            "runtime-linux#file-descriptors",
            "F258",
            "descriptors that the caller left open do not reach the program",
            |lab| {
                let bundle = lab.bundle(&["links /proc/self/fd"], |_| {})?;
                let output = lab
                    .call(&["run", "--bundle", bundle.path(), &bundle.id])
                    .shell("exec 5</ 6</etc/passwd 9</sys; exec \"$@\"")
                    .output()?;
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                let open = descriptors(&seen);
                eq("descriptors", &open, &vec!["0", "1", "2"])
            },
        ),
    ]
}

/// The numbers of the descriptors that a probe saw.
fn descriptors(seen: &Value) -> Vec<&str> {
    let fds = seen["links /proc/self/fd"].as_object();
    fds.into_iter().flat_map(|fds| fds.keys().map(String::as_str)).collect()
}

fn device(spec: &mut Value, device: Value) {
    spec["linux"]["devices"] = json!([device]);
}

fn nodes() -> Vec<Test> {
    let section = "config-linux#devices";
    vec![
        test(section, "F26", "a character device is made with mode, owner and numbers", |lab| {
            let seen = lab.probe(&["stat /dev/mine"], |spec| {
                device(spec, json!({ "path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6 }));
            })?;
            let stat = &seen["stat /dev/mine"];
            same("type", &stat["type"], json!("c"))?;
            same("numbers", &json!([stat["major"], stat["minor"]]), json!([10, 229]))?;
            same("mode", &stat["mode"], json!(0o640))?;
            same("owner", &json!([stat["uid"], stat["gid"]]), json!([5, 6]))
        }),
        test(section, "F26", "a mode is not cut by the caller's umask", |lab| {
            let bundle = lab.bundle(&["stat /dev/mine", "stat /dev/null"], |spec| {
                device(spec, json!({ "path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666 }));
            })?;
            let output = lab
                .call(&["run", "--bundle", bundle.path(), &bundle.id])
                .shell("umask 077; exec \"$@\"")
                .output()?;
            let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
            same("mode", &seen["stat /dev/mine"]["mode"], json!(0o666))?;
            same("mode of /dev/null", &seen["stat /dev/null"]["mode"], json!(0o666))
        }),
        test(section, "F26", "a block device is made", |lab| {
            let seen = lab.probe(&["stat /dev/disk"], |spec| {
                device(spec, json!({ "path": "/dev/disk", "type": "b", "major": 7, "minor": 100, "fileMode": 0o600 }));
            })?;
            same("type", &seen["stat /dev/disk"]["type"], json!("b"))
        }),
        test(section, "F26", "type u is a character device", |lab| {
            let seen = lab.probe(&["stat /dev/raw"], |spec| {
                device(spec, json!({ "path": "/dev/raw", "type": "u", "major": 10, "minor": 229, "fileMode": 0o600 }));
            })?;
            same("type", &seen["stat /dev/raw"]["type"], json!("c"))
        }),
        test(section, "F26", "a fifo is made without numbers", |lab| {
            let seen = lab.probe(&["stat /dev/pipe"], |spec| {
                device(spec, json!({ "path": "/dev/pipe", "type": "p", "fileMode": 0o600 }));
            })?;
            same("type", &seen["stat /dev/pipe"]["type"], json!("p"))
        }),
        test(section, "F26", "a device may be outside /dev, in directories that are made", |lab| {
            let bundle = lab.bundle(&["stat /data/deep/er/null"], |spec| {
                device(spec, json!({ "path": "/data/deep/er/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }));
            })?;
            let seen = lab.seen(&bundle)?;
            same("type", &seen["stat /data/deep/er/null"]["type"], json!("c"))
        }),
        test(section, "F26", "a device file that exists and matches is kept", |lab| {
            let bundle = lab.bundle(&["stat /data/null"], |spec| {
                device(spec, json!({ "path": "/data/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }));
            })?;
            use nix::sys::stat::{Mode, SFlag, makedev, mknod};
            mknod(
                &bundle.inside("/data/null"),
                SFlag::S_IFCHR,
                Mode::from_bits_truncate(0o666),
                makedev(1, 3),
            )?;
            let seen = lab.seen(&bundle)?;
            same("minor", &seen["stat /data/null"]["minor"], json!(3))
        }),
        test(section, "F26", "a file that exists and does not match is an error (MUST)", |lab| {
            let bundle = lab.bundle(&["stat /data/null"], |spec| {
                device(spec, json!({ "path": "/data/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }));
            })?;
            // "If a file already exists at path that does not match the requested device, the runtime MUST
            // generate an error": removing or keeping the file are both not that.
            fs::write(bundle.inside("/data/null"), "")?;
            let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            ensure(
                output.code.is_some_and(|code| code != 0),
                "create with a file in the device's place succeeded",
            )
        }),
        test(section, "F26", "an unknown device type is an error", |lab| {
            lab.refused(|spec| {
                device(spec, json!({ "path": "/dev/x", "type": "q", "major": 1, "minor": 3 }))
            })
            .map(drop)
        }),
        test(
            section,
            "F26",
            "in a user namespace a device is given by a bind mount from the host",
            |lab| {
                let seen = lab.probe(&["stat /dev/fuse"], |spec| {
                user_namespace(spec);
                device(spec, json!({ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666 }));
            })?;
                let stat = &seen["stat /dev/fuse"];
                same("numbers", &json!([stat["major"], stat["minor"]]), json!([10, 229]))
            },
        ),
        test(
            section,
            "F26",
            "a device of the image is not reachable without a rule for it",
            |lab| {
                let bundle =
                    lab.bundle(&["open-r /data/fuse"], |spec| deny_all(spec, json!([])))?;
                use nix::sys::stat::{Mode, SFlag, makedev, mknod};
                mknod(
                    &bundle.inside("/data/fuse"),
                    SFlag::S_IFCHR,
                    Mode::from_bits_truncate(0o666),
                    makedev(10, 229),
                )?;
                let seen = lab.seen(&bundle)?;
                refused_with("open", &seen["open-r /data/fuse"], &["EPERM"])
            },
        ),
        test(
            section,
            "F26",
            "a device path with a symbolic link of the image stays inside the root",
            |lab| {
                let bundle = lab.bundle(&["list /data"], |spec| {
                device(spec, json!({ "path": "/data/link/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }));
            })?;
                let outside = lab.dir.join("outside");
                fs::create_dir(&outside)?;
                std::os::unix::fs::symlink(&outside, bundle.inside("/data/link"))?;
                lab.run(&bundle)?;
                let made: Vec<_> =
                    fs::read_dir(&outside)?.flatten().map(|entry| entry.file_name()).collect();
                ensure(made.is_empty(), format!("made outside the root: {made:?}"))
            },
        ),
        test("config-linux#devices", "F26", "the host's nodes keep owner and mode", |lab| {
            let before = fs::metadata("/dev/fuse")?;
            lab.probe(&["chmod /dev/mine 0"], |spec| {
                device(spec, json!({ "path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 9 }));
            })?;
            let after = fs::metadata("/dev/fuse")?;
            ensure(after.file_type().is_char_device(), "/dev/fuse is gone")?;
            eq(
                "mode and owner",
                &(after.permissions().mode(), after.uid()),
                &(before.permissions().mode(), before.uid()),
            )
        }),
    ]
}

/// Denies all devices, then adds rules.
fn deny_all(spec: &mut Value, rules: Value) {
    let mut list = vec![json!({ "allow": false, "access": "rwm" })];
    list.extend(rules.as_array().into_iter().flatten().cloned());
    spec["linux"]["resources"]["devices"] = Value::Array(list);
}

/// What the probe may do with /data/zero-like nodes that it makes itself.
fn tries(lab: &Lab, rules: Value, steps: &[&str]) -> Res<Value> {
    lab.probe(steps, |spec| deny_all(spec, rules))
}

fn rules(section: &'static str) -> Vec<Test> {
    const MAKE: &str = "mknod /tmp/fuse c 10 229";
    vec![
        test(
            section,
            "F32",
            "without a rule a device is denied although the list is empty",
            move |lab| {
                let seen = lab.probe(&["mknod /tmp/fuse c 10 229", "open-r /tmp/fuse"], |_| {})?;
                let opened = seen["open-r /tmp/fuse"] == ok();
                lab.quality(!opened, "a container without device rules may open any device")
            },
        ),
        test(section, "F32", "the default devices work when everything is denied", move |lab| {
            let seen = tries(
                lab,
                json!([]),
                &[
                    "open-rw /dev/null",
                    "open-r /dev/zero",
                    "open-r /dev/urandom",
                    "open-rw /dev/ptmx",
                ],
            )?;
            ["open-rw /dev/null", "open-r /dev/zero", "open-r /dev/urandom", "open-rw /dev/ptmx"]
                .iter()
                .try_for_each(|step| same(step, &seen[*step], ok()))
        }),
        test(
            section,
            "F32",
            "a device that is allowed by numbers can be made and opened",
            move |lab| {
                let rule = json!([{ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" }]);
                let seen = tries(lab, rule, &[MAKE, "open-rw /tmp/fuse"])?;
                same("mknod", &seen[MAKE], ok())?;
                allowed("open", &seen["open-rw /tmp/fuse"])
            },
        ),
        test(section, "F32", "access r allows reading and nothing else", move |lab| {
            let rule = json!([{ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" },
                { "allow": true, "type": "c", "access": "m" }]);
            let seen = tries(
                lab,
                rule,
                &["mknod /tmp/fuse c 10 229", "open-r /tmp/fuse", "open-w /tmp/fuse"],
            )?;
            allowed("read", &seen["open-r /tmp/fuse"])?;
            refused_with("write", &seen["open-w /tmp/fuse"], &["EPERM"])
        }),
        test(section, "F32", "access m allows making the node and nothing else", move |lab| {
            let rule =
                json!([{ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "m" }]);
            let seen = tries(lab, rule, &[MAKE, "open-r /tmp/fuse"])?;
            same("mknod", &seen[MAKE], ok())?;
            refused_with("open", &seen["open-r /tmp/fuse"], &["EPERM"])
        }),
        test(section, "F32", "an unset minor means all minors", move |lab| {
            let rule = json!([{ "allow": true, "type": "c", "major": 10, "access": "rwm" }]);
            let seen = tries(lab, rule, &["mknod /tmp/fuse c 10 229", "open-r /tmp/fuse"])?;
            allowed("open", &seen["open-r /tmp/fuse"])
        }),
        test(
            section,
            "F32",
            "entries apply in order: a later denial takes away what was allowed",
            move |lab| {
                let rule = json!([{ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" },
                { "allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw" }]);
                let seen = tries(lab, rule, &[MAKE, "open-r /tmp/fuse"])?;
                same("mknod", &seen[MAKE], ok())?;
                refused_with("open", &seen["open-r /tmp/fuse"], &["EPERM"])
            },
        ),
        test(section, "F32", "allow for all types allows everything", move |lab| {
            let rule = json!([{ "allow": true, "type": "a", "access": "rwm" }]);
            let seen = tries(lab, rule, &["mknod /tmp/fuse c 10 229", "open-r /tmp/fuse"])?;
            allowed("open", &seen["open-r /tmp/fuse"])
        }),
        test(section, "F32", "a rule with an unknown type is an error", move |lab| {
            lab.refused(|spec| {
                deny_all(spec, json!([{ "allow": true, "type": "z", "access": "r" }]))
            })
            .map(drop)
        }),
        test(section, "F32", "a rule with an unknown access letter is an error", move |lab| {
            let refused = lab.refused(|spec| {
                deny_all(
                    spec,
                    json!([{ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rx" }]),
                )
            });
            lab.quality(refused.is_ok(), "an unknown access letter is ignored")
        }),
        test(section, "F32", "a process started by exec is under the same rules", move |lab| {
            let container = lab.running(|spec| deny_all(spec, json!([])))?;
            let seen = container
                .exec(&[], &["open-r /dev/null", "mknod /tmp/fuse c 10 229", "open-r /tmp/fuse"])?;
            same("/dev/null", &seen["open-r /dev/null"], ok())?;
            refused_with("open", &seen["open-r /tmp/fuse"], &["EPERM", "ENOENT"])?;
            container.end()
        }),
        test(section, "F32", "a bind mount of a host device is under the rules too", move |lab| {
            let seen = lab.probe(&["open-r /dev/host-fuse"], |spec| {
                deny_all(spec, json!([]));
                mount(spec, "/dev/host-fuse", "bind", "/dev/fuse", &["bind"]);
            })?;
            refused_with("open", &seen["open-r /dev/host-fuse"], &["EPERM"])
        }),
    ]
}
