//! config.md, mounts: bind mounts and what becomes of the mounts below them.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::check::{Test, allowed, ensure, eq, has_option, mount_at, ok, refused_with, same, test};
use crate::lab::bundle::{capabilities, mount, push, user_namespace};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = binds();
    tests.extend(recursion());
    tests
}

fn binds() -> Vec<Test> {
    let section = "config#mounts";
    let bind = |name: &'static str, kind: &'static str, option: &'static str| {
        test(
            section,
            "F83",
            format!("a {name} is a bind mount because of its option, whatever its type"),
            move |lab| {
                let source = lab.dir.join("source");
                fs::create_dir(&source)?;
                fs::write(source.join("file"), "content")?;
                let seen = lab.probe(&["read /data/file"], |spec| {
                    mount(spec, "/data", kind, &source.display().to_string(), &[option]);
                })?;
                same("file", &seen["read /data/file"], json!("content"))
            },
        )
    };
    vec![
        bind("mount of type none with bind", "none", "bind"),
        bind("mount of type bind with rbind", "bind", "rbind"),
        bind("mount of a nonsense type with bind", "dummy", "bind"),
        bind("mount of type tmpfs with rbind", "tmpfs", "rbind"),
        bind("mount of an empty type with bind", "", "bind"),
        test(section, "F83", "a file is bound onto a file that is made", |lab| {
            let source = lab.dir.join("source");
            fs::write(&source, "content")?;
            let seen = lab.probe(&["read /data/new/file", "append /data/new/file +"], |spec| {
                mount(spec, "/data/new/file", "bind", &source.display().to_string(), &["bind"]);
            })?;
            same("file", &seen["read /data/new/file"], json!("content"))?;
            eq("source afterwards", &fs::read_to_string(&source)?, &"content+".to_owned())
        }),
        test(section, "F83", "a relative source of a bind is relative to the bundle", |lab| {
            let bundle = lab.bundle(&["read /data/file"], |spec| {
                mount(spec, "/data", "bind", "volume", &["bind"])
            })?;
            fs::create_dir(bundle.dir.join("volume"))?;
            fs::write(bundle.dir.join("volume/file"), "relative")?;
            same("file", &lab.seen(&bundle)?["read /data/file"], json!("relative"))
        }),
        test(section, "F83", "a source that is a symbolic link is followed on the host", |lab| {
            fs::create_dir(lab.dir.join("target"))?;
            fs::write(lab.dir.join("target/file"), "linked")?;
            symlink("target", lab.dir.join("link"))?;
            let source = lab.dir.join("link").display().to_string();
            let seen = lab.probe(&["read /data/file"], |spec| {
                mount(spec, "/data", "bind", &source, &["bind"])
            })?;
            same("file", &seen["read /data/file"], json!("linked"))
        }),
        test(section, "F83", "a bind of a missing source is an error", |lab| {
            lab.refused(|spec| mount(spec, "/data", "bind", "/no/such/source", &["bind"])).map(drop)
        }),
        test(section, "F83", "a bind without a source is an error", |lab| {
            lab.refused(|spec| {
                push(
                    &mut spec["mounts"],
                    json!({ "destination": "/data", "type": "bind", "options": ["bind"] }),
                )
            })
            .map(drop)
        }),
        test(section, "F83", "a directory bound onto a file is an error", |lab| {
            let source = lab.dir.join("source");
            fs::create_dir(&source)?;
            lab.refused(|spec| {
                mount(spec, "/etc/passwd", "bind", &source.display().to_string(), &["bind"])
            })
            .map(drop)
        }),
        test(section, "F83", "bind without rbind does not bring the mounts below", |lab| {
            let seen = submounts(lab, &["bind"])?;
            refused_with("inner file", &seen["read /data/inner/file"], &["ENOENT"])
        }),
        test(section, "F83", "rbind brings the mounts below", |lab| {
            let seen = submounts(lab, &["rbind"])?;
            same("inner file", &seen["read /data/inner/file"], json!("inner"))
        }),
        test(section, "F81", "a bind with ro is read-only, its source is not", |lab| {
            let source = lab.dir.join("source");
            fs::create_dir(&source)?;
            let seen = lab.probe(&["write /data/x 1"], |spec| {
                mount(spec, "/data", "bind", &source.display().to_string(), &["bind", "ro"]);
            })?;
            refused_with("write", &seen["write /data/x 1"], &["EROFS"])?;
            Ok(fs::write(source.join("y"), "1")?)
        }),
        test(
            section,
            "F81",
            "a bind keeps the flags of its source that the options do not name",
            |lab| {
                let source = flagged_source(lab)?;
                let seen = lab.report(|spec| mount(spec, "/data", "bind", &source, &["bind"]))?;
                let options = &mount_at(&seen, "/data")?["options"];
                ensure(
                    has_option(options, "nosuid") && has_option(options, "nodev"),
                    format!("options are {options}"),
                )
            },
        ),
        test(section, "F81", "a bind with options that clear flags has them cleared", |lab| {
            let source = flagged_source(lab)?;
            let seen = lab.report(|spec| {
                mount(spec, "/data", "bind", &source, &["bind", "suid", "dev", "exec"])
            })?;
            let options = &mount_at(&seen, "/data")?["options"];
            ensure(
                !has_option(options, "nosuid") && !has_option(options, "nodev"),
                format!("options are {options}"),
            )
        }),
        test(
            section,
            "F81",
            "flags that a user namespace locks are kept although the options do not name them",
            |lab| {
                // The kernel refuses to clear what a less privileged namespace inherits (mount(2), locked
                // flags): an ordinary `ro` bind of a nosuid volume is legal and has to work.
                let source = flagged_source(lab)?;
                let seen = lab.report(|spec| {
                    user_namespace(spec);
                    mount(spec, "/data", "bind", &source, &["bind", "ro"]);
                })?;
                let options = &mount_at(&seen, "/data")?["options"];
                for flag in ["ro", "nosuid", "nodev"] {
                    ensure(has_option(options, flag), format!("{flag} is missing in {options}"))?;
                }
                Ok(())
            },
        ),
        test(
            section,
            "F82",
            "data of a file system on a bind mount is not silently accepted",
            |lab| {
                let source = lab.dir.join("source");
                fs::create_dir(&source)?;
                let refused = lab.refused(|spec| {
                    mount(
                        spec,
                        "/data",
                        "bind",
                        &source.display().to_string(),
                        &["bind", "size=5k"],
                    )
                });
                lab.quality(refused.is_ok(), "size=5k on a bind mount is accepted and ignored")
            },
        ),
    ]
}

/// A bind source with another mount in it; answers what the container reads of the inner one.
fn submounts(lab: &crate::lab::Lab, options: &[&str]) -> crate::check::Res<serde_json::Value> {
    use nix::mount::{MntFlags, MsFlags, mount as sys_mount, umount2};
    let source = lab.dir.join("source");
    fs::create_dir_all(source.join("inner"))?;
    let inner = source.join("inner");
    sys_mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    fs::write(inner.join("file"), "inner")?;
    let seen = lab.probe(
        &["report", "read /data/inner/file", "write /data/x 1", "write /data/inner/x 1"],
        |spec| {
            mount(spec, "/data", "bind", &source.display().to_string(), options);
        },
    );
    umount2(&inner, MntFlags::MNT_DETACH)?;
    seen
}

/// A tmpfs mounted nosuid,nodev on the host side; it is unmounted with the test's namespace, so it
/// must be made before the container.
fn flagged_source(lab: &crate::lab::Lab) -> crate::check::Res<String> {
    use nix::mount::{MsFlags, mount as sys_mount};
    let source = lab.dir.join("flagged");
    fs::create_dir(&source)?;
    sys_mount(Some(&source), &source, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    sys_mount(None::<&str>, &source, None::<&str>, flags, None::<&str>)?;
    lab.own_mounts();
    Ok(source.display().to_string())
}

fn recursion() -> Vec<Test> {
    let section = "config#linux-mount-options";
    vec![
        test(section, "F74", "rro makes the mounts below read-only as well", |lab| {
            let seen = submounts(lab, &["rbind", "rro"])?;
            refused_with("outer", &seen["write /data/x 1"], &["EROFS"])?;
            refused_with("inner", &seen["write /data/inner/x 1"], &["EROFS"])
        }),
        test(section, "F74", "ro does not make the mounts below read-only", |lab| {
            let seen = submounts(lab, &["rbind", "ro"])?;
            refused_with("outer", &seen["write /data/x 1"], &["EROFS"])?;
            allowed("inner", &seen["write /data/inner/x 1"])
        }),
        test(section, "F74", "rnosuid, rnodev and rnoexec reach the mounts below", |lab| {
            let seen = submounts(lab, &["rbind", "rnosuid", "rnodev", "rnoexec"])?;
            let options = &mount_at(&seen["report"], "/data/inner")?["options"];
            for flag in ["nosuid", "nodev", "noexec"] {
                ensure(has_option(options, flag), format!("{flag} is missing in {options}"))?;
            }
            Ok(())
        }),
        test(section, "F75", "rnoatime reaches the mounts below", |lab| {
            let seen = submounts(lab, &["rbind", "rnoatime"])?;
            let options = &mount_at(&seen["report"], "/data/inner")?["options"];
            ensure(has_option(options, "noatime"), format!("options are {options}"))
        }),
        test(section, "F76", "rnosymfollow reaches the mounts below", |lab| {
            let seen = submounts(lab, &["rbind", "rnosymfollow"])?;
            let options = &mount_at(&seen["report"], "/data/inner")?["options"];
            ensure(has_option(options, "nosymfollow"), format!("options are {options}"))
        }),
        test(
            section,
            "F74",
            "rrw makes mounts below writable that are read-only in the source",
            |lab| {
                use nix::mount::{MsFlags, mount as sys_mount};
                let source = lab.dir.join("source");
                let inner = source.join("inner");
                fs::create_dir_all(&inner)?;
                let none = None::<&str>;
                sys_mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), none)?;
                sys_mount(
                    none,
                    &inner,
                    none,
                    MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
                    none,
                )?;
                lab.own_mounts();
                let seen = lab.probe(&["write /data/inner/x 1"], |spec| {
                    mount(spec, "/data", "bind", &source.display().to_string(), &["rbind", "rrw"]);
                })?;
                allowed("write below", &seen["write /data/inner/x 1"])
            },
        ),
        test(
            "config#mounts",
            "F68",
            "with CAP_SYS_ADMIN a read-only bind can be changed only by its owner: the flag is the container's own",
            |lab| {
                let source = lab.dir.join("source");
                fs::create_dir(&source)?;
                let seen = lab.probe(&["remount-rw /data", "write /data/x 1"], |spec| {
                    user_namespace(spec);
                    capabilities(
                        spec,
                        &["bounding", "permitted", "effective"],
                        &["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"],
                    );
                    mount(spec, "/data", "bind", &source.display().to_string(), &["bind", "ro"]);
                })?;
                // Made by the runtime for a container in a user namespace, the flag must not be one that the
                // container's root can take away from the host's directory.
                lab.quality(
                    seen["write /data/x 1"] != ok(),
                    "the container's root made a read-only bind writable",
                )
            },
        ),
    ]
}
