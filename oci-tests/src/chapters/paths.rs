//! config-linux.md: masked and read-only paths, sysctl, propagation of the root, personality.

use std::fs;

use serde_json::json;

use crate::check::{
    Test, allowed, ensure, eq, has, has_option, mount_at, refused_with, same, test,
};
use crate::lab::bundle::{capabilities, mount, namespace, without_namespace};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = masks();
    tests.extend(sysctls());
    tests.extend(propagation());
    tests.extend(domains());
    tests
}

fn masks() -> Vec<Test> {
    let (masked, readonly) = ("config-linux#masked-paths", "config-linux#readonly-paths");
    vec![
        test(masked, "F60", "a masked file reads as empty and cannot be written", |lab| {
            let seen = lab.probe(&["read /proc/version", "stat /proc/version"], |spec| {
                spec["linux"]["maskedPaths"] = json!(["/proc/version"])
            })?;
            same("content", &seen["read /proc/version"], json!(""))
        }),
        test(masked, "F60", "a masked directory is empty and read-only", |lab| {
            let seen = lab.probe(&["list /data", "write /data/x 1", "list /proc/irq"], |spec| {
                spec["linux"]["maskedPaths"] = json!(["/data", "/proc/irq"]);
            })?;
            same("/data", &seen["list /data"], json!([]))?;
            same("/proc/irq", &seen["list /proc/irq"], json!([]))?;
            refused_with("write", &seen["write /data/x 1"], &["EROFS"])
        }),
        test(
            masked,
            "F60",
            "a masked path that does not exist is no failure and is not made",
            |lab| {
                let seen = lab.probe(&["stat /no/such/path"], |spec| {
                    spec["linux"]["maskedPaths"] = json!(["/no/such/path"])
                })?;
                refused_with("stat", &seen["stat /no/such/path"], &["ENOENT"])
            },
        ),
        test(masked, "F60", "the container's root cannot take a mask away", |lab| {
            let seen = lab.probe(
                &["unlink /data/secret", "read /data/secret", "remount-rw /data/secret"],
                |spec| {
                    spec["linux"]["maskedPaths"] = json!(["/data/secret"]);
                },
            );
            // The file does not exist in this root: only the next one matters.
            drop(seen);
            let bundle = lab.bundle(&["unlink /data/secret", "read /data/secret"], |spec| {
                spec["linux"]["maskedPaths"] = json!(["/data/secret"]);
            })?;
            fs::write(bundle.inside("/data/secret"), "secret")?;
            let seen = lab.seen(&bundle)?;
            // EPERM of older kernels, EBUSY of newer ones: the mount is in the way.
            refused_with("unlink", &seen["unlink /data/secret"], &["EBUSY", "EPERM", "EROFS"])?;
            same("content", &seen["read /data/secret"], json!(""))
        }),
        test(
            masked,
            "F60",
            "the mask is made from the runtime's /dev/null, not from the image's (CVE-2025-31133)",
            |lab| {
                let bundle = lab.bundle(&["read /data/secret", "read /proc/version"], |spec| {
                    if let Some(mounts) = spec["mounts"].as_array_mut() {
                        mounts.retain(|mount| mount["destination"] == "/proc");
                    }
                    spec["linux"]["maskedPaths"] = json!(["/data/secret", "/proc/version"]);
                })?;
                fs::write(bundle.inside("/data/secret"), "secret")?;
                fs::write(bundle.inside("/data/evil"), "evil")?;
                std::os::unix::fs::symlink("/data/evil", bundle.inside("/dev/null"))?;
                let output = lab.run(&bundle)?;
                // Refusing such an image is as good as masking in spite of it.
                let seen: serde_json::Value = serde_json::from_str(&output.out).unwrap_or_default();
                for step in ["read /data/secret", "read /proc/version"] {
                    let text = seen[step].as_str().unwrap_or_default();
                    ensure(text.is_empty(), format!("{step} gave {text:?}"))?;
                }
                Ok(())
            },
        ),
        test(readonly, "F60", "a read-only path cannot be written, its siblings can", |lab| {
            let seen = lab.probe(
                &["write /data/x 1", "write /tmp/x 1", "read /proc/sys/kernel/ostype"],
                |spec| {
                    spec["linux"]["readonlyPaths"] = json!(["/data", "/proc/sys"]);
                },
            )?;
            refused_with("write", &seen["write /data/x 1"], &["EROFS"])?;
            allowed("write beside", &seen["write /tmp/x 1"])?;
            same("read", &seen["read /proc/sys/kernel/ostype"], json!("Linux\n"))
        }),
        test(
            readonly,
            "F60",
            "a read-only path keeps nosuid, nodev, noexec of the mount it is in",
            |lab| {
                let seen = lab.report(|spec| {
                    mount(spec, "/data", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec"]);
                    mount(spec, "/data/inner", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec"]);
                    spec["linux"]["readonlyPaths"] = json!(["/data/inner"]);
                })?;
                let options = &mount_at(&seen, "/data/inner")?["options"];
                for flag in ["ro", "nosuid", "nodev", "noexec"] {
                    ensure(has_option(options, flag), format!("{flag} is missing in {options}"))?;
                }
                Ok(())
            },
        ),
        test(readonly, "F60", "a read-only path that does not exist is no failure", |lab| {
            lab.probe(&["list /"], |spec| spec["linux"]["readonlyPaths"] = json!(["/no/such/path"]))
                .map(drop)
        }),
        test(readonly, "F60", "a file can be a read-only path", |lab| {
            let seen = lab.probe(&["write /etc/passwd x"], |spec| {
                spec["linux"]["readonlyPaths"] = json!(["/etc/passwd"])
            })?;
            refused_with("write", &seen["write /etc/passwd x"], &["EROFS"])
        }),
        test(masked, "F60", "masked and read-only paths hold for exec", |lab| {
            let container = lab.running(|spec| {
                spec["linux"]["maskedPaths"] = json!(["/proc/version"]);
                spec["linux"]["readonlyPaths"] = json!(["/data"]);
            })?;
            let seen = container.exec(&[], &["read /proc/version", "write /data/x 1"])?;
            same("content", &seen["read /proc/version"], json!(""))?;
            refused_with("write", &seen["write /data/x 1"], &["EROFS"])?;
            container.end()
        }),
    ]
}

fn sysctls() -> Vec<Test> {
    let section = "config-linux#sysctl";
    let set = |key: &'static str, value: &'static str, needs: &'static str, path: &'static str| {
        test(
            section,
            "F51",
            format!("{key} is set in the container's {needs} namespace"),
            move |lab| {
                let step = format!("read {path}");
                let seen = lab.probe(&[&step], |spec| {
                    without_namespace(spec, needs);
                    namespace(spec, needs);
                    spec["linux"]["sysctl"] = json!({ key: value });
                })?;
                same(key, &seen[&step], json!(format!("{value}\n")))?;
                ensure(
                    fs::read_to_string(path)?.trim() != value,
                    format!("{key} is {value} outside as well"),
                )
            },
        )
    };
    let refused = |key: &'static str, without: &'static str| {
        test(section, "F51", format!("{key} without an own namespace is an error"), move |lab| {
            lab.refused(|spec| {
                without_namespace(spec, without);
                spec["linux"]["sysctl"] = json!({ key: "5" });
            })
            .map(drop)
        })
    };
    vec![
        set("net.ipv4.ip_forward", "1", "network", "/proc/sys/net/ipv4/ip_forward"),
        set("net.core.somaxconn", "257", "network", "/proc/sys/net/core/somaxconn"),
        set("kernel.msgmax", "8191", "ipc", "/proc/sys/kernel/msgmax"),
        set("kernel.shmmni", "4001", "ipc", "/proc/sys/kernel/shmmni"),
        set("fs.mqueue.msg_max", "11", "ipc", "/proc/sys/fs/mqueue/msg_max"),
        set("kernel.domainname", "sysctl.example", "uts", "/proc/sys/kernel/domainname"),
        refused("net.core.somaxconn", "network"),
        refused("kernel.msgmax", "ipc"),
        refused("kernel.domainname", "uts"),
        test(
            section,
            "F51",
            "a sysctl that no namespace has is an error, the host's value stays",
            |lab| {
                let before = fs::read_to_string("/proc/sys/vm/swappiness")?;
                lab.refused(|spec| spec["linux"]["sysctl"] = json!({ "vm.swappiness": "7" }))?;
                eq("vm.swappiness", &fs::read_to_string("/proc/sys/vm/swappiness")?, &before)
            },
        ),
        test(
            section,
            "F51",
            "kernel.hostname would fight with hostname: refused or in force, never the host's",
            |lab| {
                let before = nix::unistd::gethostname()?;
                let bundle = lab.bundle(&["report"], |spec| {
                    spec["linux"]["sysctl"] = json!({ "kernel.hostname": "by-sysctl" })
                })?;
                lab.run(&bundle)?;
                eq("hostname outside", &nix::unistd::gethostname()?, &before)
            },
        ),
        test(section, "F51", "a key with .. does not leave /proc/sys", |lab| {
            lab.refused(|spec| {
                namespace(spec, "network");
                spec["linux"]["sysctl"] = json!({ "net/../../sysrq-trigger": "h" });
            })
            .map(drop)
        }),
        test(section, "F51", "a key that does not exist is an error", |lab| {
            lab.refused(|spec| {
                namespace(spec, "network");
                spec["linux"]["sysctl"] = json!({ "net.core.no_such_key": "1" });
            })
            .map(drop)
        }),
        test(section, "F51", "a value that the kernel refuses is an error", |lab| {
            lab.refused(|spec| {
                namespace(spec, "network");
                spec["linux"]["sysctl"] = json!({ "net.core.somaxconn": "many" });
            })
            .map(drop)
        }),
    ]
}

fn propagation() -> Vec<Test> {
    let section = "config-linux#rootfs-mount-propagation";
    let is = |word: &'static str, wanted: &'static str, unwanted: &'static str| {
        test(section, "F59", format!("{word}: the root mount is {word}"), move |lab| {
            let seen = lab.report(|spec| spec["linux"]["rootfsPropagation"] = json!(word))?;
            let peers = mount_at(&seen, "/")?["peers"].to_string();
            ensure(
                peers.contains(wanted) && (unwanted.is_empty() || !peers.contains(unwanted)),
                format!("the root mount has {peers}"),
            )
        })
    };
    vec![
        is("private", "", ":"),
        is("slave", "", "shared:"),
        is("shared", "shared:", "master:"),
        is("unbindable", "unbindable", "shared:"),
        test(
            section,
            "F59",
            "shared: a mount made in the container is in the same peer group, and not outside",
            |lab| {
                let seen = lab.probe(&["mount-tmpfs /data", "report"], |spec| {
                    capabilities(spec, &["bounding", "permitted", "effective"], &["CAP_SYS_ADMIN"]);
                    spec["linux"]["rootfsPropagation"] = json!("shared");
                })?;
                allowed("mount", &seen["mount-tmpfs /data"])?;
                has(
                    "peers of the new mount",
                    &mount_at(&seen["report"], "/data")?["peers"].to_string(),
                    "shared:",
                )
            },
        ),
        test(section, "F59", "slave: a mount made outside after create is seen inside", |lab| {
            use nix::mount::{MsFlags, mount as sys_mount};
            // The host's side must be shared for anything to propagate from it.
            let none = None::<&str>;
            let source = lab.dir.join("shared");
            fs::create_dir_all(source.join("inner"))?;
            sys_mount(Some("tmpfs"), &source, Some("tmpfs"), MsFlags::empty(), none)?;
            fs::create_dir(source.join("inner"))?;
            sys_mount(none, &source, none, MsFlags::MS_SHARED, none)?;
            lab.own_mounts();
            let container = lab.running(|spec| {
                spec["linux"]["rootfsPropagation"] = json!("slave");
                mount(spec, "/data", "bind", &source.display().to_string(), &["rbind", "rslave"]);
            })?;
            let inner = source.join("inner");
            sys_mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), none)?;
            fs::write(inner.join("file"), "later")?;
            let seen = container.exec(&[], &["read /data/inner/file"])?;
            nix::mount::umount(&inner)?;
            same("file", &seen["read /data/inner/file"], json!("later"))?;
            container.end()
        }),
    ]
}

fn domains() -> Vec<Test> {
    let section = "config-linux#personality";
    vec![
        test(section, "F61", "LINUX32 makes uname show a 32-bit machine", |lab| {
            let seen =
                lab.report(|spec| spec["linux"]["personality"] = json!({ "domain": "LINUX32" }))?;
            same("personality", &seen["personality"], json!(8))?;
            same("machine", &seen["machine"], json!("i686"))
        }),
        test(section, "F61", "LINUX is the ordinary domain", |lab| {
            let seen =
                lab.report(|spec| spec["linux"]["personality"] = json!({ "domain": "LINUX" }))?;
            same("personality", &seen["personality"], json!(0))
        }),
        test(section, "F61", "the domain is set before the seccomp filter", |lab| {
            let seen = lab.report(|spec| {
                spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
                spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{ "names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS" }] });
            });
            // The report itself asks, and is killed for it: uname tells instead.
            ensure(seen.is_err(), "the filter lets personality through")?;
            let seen = lab.probe(&["uname"], |spec| {
                spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
                spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{ "names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS" }] });
            })?;
            same("machine", &seen["uname"], json!("i686"))
        }),
        test(section, "F61", "an unknown domain is an error", |lab| {
            let refused =
                lab.refused(|spec| spec["linux"]["personality"] = json!({ "domain": "XENIX" }));
            lab.quality(refused.is_ok(), "an unknown domain is ignored")
        }),
    ]
}
