//! config.md, mounts: uidMappings, gidMappings, idmap and ridmap (since 1.2).

use std::fs;

use serde_json::{Value, json};

use crate::check::{Res, Test, eq, same, skip, test};
use crate::lab::Lab;
use crate::lab::bundle::{push, user_namespace};

const SECTION: &str = "config#posix-platform-mounts";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let case =
        |text: &'static str, options: &'static [&'static str], users: bool, wanted: (u32, u32)| {
            test(SECTION, "F78", text, move |lab| {
                let seen = owners(lab, options, users, true)?;
                same("owners of outer and inner file", &seen, json!([wanted.0, wanted.1]))
            })
        };
    vec![
        case(
            "idmap with mappings maps the owner of a bind mount",
            &["bind", "idmap"],
            false,
            (70_000, 1000),
        ),
        case("mappings alone are an idmap as well", &["bind"], false, (70_000, 1000)),
        case("ridmap maps the mounts below too", &["rbind", "ridmap"], false, (70_000, 70_000)),
        case(
            "idmap with rbind leaves the mounts below as they are",
            &["rbind", "idmap"],
            false,
            (70_000, 1000),
        ),
        test(
            SECTION,
            "F78",
            "idmap without mappings uses those of the container's user namespace",
            |lab| {
                // Owner 1000 on disk is 1000 inside, whatever the namespace's host ids are.
                let seen = owners(lab, &["bind", "idmap"], true, false)?;
                same("owner of the file", &seen[0], json!(1000))
            },
        ),
        test(SECTION, "F78", "the owners on disk do not change", |lab| {
            owners(lab, &["bind", "idmap"], false, true)?;
            let owner =
                std::os::unix::fs::MetadataExt::uid(&fs::metadata(lab.dir.join("source/file"))?);
            eq("owner on disk", &owner, &1000)
        }),
        test(
            SECTION,
            "F78",
            "idmap on a mount that is no bind mount works or is an error, never ignored",
            |lab| {
                let bundle = lab.bundle(&["stat /data"], |spec| {
                    spec["ociVersion"] = json!("1.2.0");
                    push(
                        &mut spec["mounts"],
                        mapped("/data", "tmpfs", "tmpfs", &["idmap", "uid=1000"], true),
                    );
                })?;
                let output = lab.run(&bundle)?;
                if output.code != Some(0) {
                    return Ok(());
                }
                let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                same("owner", &seen["stat /data"]["uid"], json!(70_000))
            },
        ),
        half("uidMappings without gidMappings", "gidMappings"),
        half("gidMappings without uidMappings", "uidMappings"),
        nowhere("idmap", &["bind", "idmap"]),
        nowhere("ridmap", &["rbind", "ridmap"]),
    ]
}

fn half(text: &str, missing: &'static str) -> Test {
    test(SECTION, "F78", format!("{text} on a mount are an error"), move |lab| {
        let refused = lab.refused(|spec| {
            spec["ociVersion"] = json!("1.2.0");
            let mut mount = mapped("/data", "bind", "/usr", &["bind", "idmap"], true);
            mount.as_object_mut().map(|mount| mount.remove(missing));
            push(&mut spec["mounts"], mount);
        });
        lab.quality(refused.is_ok(), format!("a mount without {missing} is accepted"))
    })
}

fn nowhere(option: &str, options: &'static [&'static str]) -> Test {
    let text = format!("{option} without mappings is an error without a user namespace");
    test(SECTION, "F78", text, move |lab| {
        lab.refused(|spec| {
            spec["ociVersion"] = json!("1.2.0");
            push(&mut spec["mounts"], mapped("/data", "bind", "/usr", options, false));
        })
        .map(drop)
    })
}

fn mapped(destination: &str, kind: &str, source: &str, options: &[&str], mappings: bool) -> Value {
    let mut mount =
        json!({ "destination": destination, "type": kind, "source": source, "options": options });
    if mappings {
        // On disk 1000, seen as 70000.
        let map = json!([{ "containerID": 1000, "hostID": 70_000, "size": 1 }, { "containerID": 0, "hostID": 0, "size": 1 }]);
        mount["uidMappings"] = map.clone();
        mount["gidMappings"] = map;
    }
    mount
}

/// Skips on a kernel whose tmpfs, which the suite's directory is, has no idmapped mounts.
fn need_idmapped_tmpfs() -> Res {
    const SINCE: (u32, u32) = (6, 3);
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|word| word.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < SINCE {
        return skip(format!("tmpfs of Linux {release} cannot be idmapped"));
    }
    Ok(())
}

/// The owners that a container sees of a file of uid 1000, and of one on a mount below it.
fn owners(lab: &Lab, options: &[&str], users: bool, mappings: bool) -> Res<Value> {
    use nix::mount::{MsFlags, mount as sys_mount};
    need_idmapped_tmpfs()?;
    let source = lab.dir.join("source");
    let inner = source.join("inner");
    fs::create_dir_all(&inner)?;
    sys_mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    lab.own_mounts();
    for file in [source.join("file"), inner.join("file")] {
        fs::write(&file, "")?;
        std::os::unix::fs::chown(&file, Some(1000), Some(1000))?;
    }
    // Without rbind the mount below is not there, and the directory that it covers has the file.
    let recursive = options.contains(&"rbind");
    let seen = lab.probe(&["stat /data/file", "stat /data/inner/file"], |spec| {
        spec["ociVersion"] = json!("1.2.0");
        if users {
            user_namespace(spec);
        }
        push(
            &mut spec["mounts"],
            mapped("/data", "bind", &source.display().to_string(), options, mappings),
        );
    })?;
    let below = if recursive { seen["stat /data/inner/file"]["uid"].clone() } else { json!(1000) };
    Ok(json!([seen["stat /data/file"]["uid"], below]))
}
