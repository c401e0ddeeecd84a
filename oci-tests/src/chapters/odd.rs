//! Configurations that are legal and that nobody writes by hand.

use std::fs;

use serde_json::{Value, json};

use crate::check::{Test, ensure, eq, has, mount_at, same, test};
use crate::lab::bundle::{mount, push};

const SECTION: &str = "config#odd-but-legal";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    vec![
        test(SECTION, "F68", "2,000 mounts", |lab| {
            let seen = lab.probe(&["read /data/d1999/file", "list /data"], |spec| {
                mount(spec, "/data", "tmpfs", "tmpfs", &["size=8m"]);
                for n in 0..2000 {
                    mount(
                        spec,
                        &format!("/data/d{n}"),
                        "bind",
                        "/sys/kernel/notes",
                        &["bind", "ro"],
                    );
                }
            })?;
            eq("mount points", &seen["list /data"].as_array().map_or(0, Vec::len), &2000)
        }),
        test(SECTION, "F5", "an environment of 1 MiB", |lab| {
            let seen = lab.report(|spec| {
                for n in 0..256 {
                    push(&mut spec["process"]["env"], json!(format!("V{n}={}", "x".repeat(4090))));
                }
            })?;
            let count = seen["env"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|v| v.as_str().is_some_and(|v| v.len() > 4090))
                .count();
            eq("long entries", &count, &256)
        }),
        test(SECTION, "F5", "an argument of 100 KiB", |lab| {
            let long = "y".repeat(100_000);
            let wanted = long.len();
            let seen = lab.report(move |spec| {
                push(&mut spec["process"]["args"], json!(format!("stat /{long}")))
            })?;
            let last = seen["args"]
                .as_array()
                .and_then(|args| args.last())
                .and_then(Value::as_str)
                .map_or(0, str::len);
            eq("length", &last, &(wanted + 6))
        }),
        test(SECTION, "F18", "annotations with 10,000 keys", |lab| {
            let bundle = lab.bundle(&["exit 0"], |spec| {
                let map = (0..10_000).map(|n| (format!("key.{n}"), json!("v")));
                spec["annotations"] = Value::Object(map.collect());
            })?;
            eq("run", &lab.run(&bundle)?.code, &Some(0))
        }),
        test(
            SECTION,
            "F19",
            "unicode in the bundle's path, cwd, arguments and environment",
            |lab| {
                let mut bundle = lab.bundle(&["report"], |spec| {
                    spec["process"]["cwd"] = json!("/data/каталог 目录");
                    push(&mut spec["process"]["env"], json!("ÜMLÄUT=ß 😀"));
                })?;
                fs::create_dir(bundle.inside("/data/каталог 目录"))?;
                let moved = lab.dir.join("bündel 😀");
                fs::rename(&bundle.dir, &moved)?;
                bundle.dir = moved;
                let seen = lab.seen(&bundle)?["report"].take();
                same("cwd", &seen["cwd"], json!("/data/каталог 目录"))?;
                has("environment", &seen["env"].to_string(), "ÜMLÄUT=ß 😀")
            },
        ),
        test(SECTION, "F2", "a bundle path of 3,000 bytes", |lab| {
            let mut bundle = lab.bundle(&["exit 4"], |_| {})?;
            let deep = lab.dir.join(vec!["e".repeat(99); 29].join("/"));
            fs::create_dir_all(&deep)?;
            fs::rename(&bundle.dir, deep.join("bundle"))?;
            bundle.dir = deep.join("bundle");
            eq("run", &lab.run(&bundle)?.code, &Some(4))
        }),
        test(SECTION, "F6", "300 additional groups", |lab| {
            let gids: Vec<u32> = (1000..1300).collect();
            let wanted = gids.clone();
            let seen =
                lab.report(move |spec| spec["process"]["user"]["additionalGids"] = json!(gids))?;
            let mut groups: Vec<u64> =
                seen["groups"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            groups.retain(|gid| *gid != 0);
            eq("groups", &groups, &wanted.into_iter().map(u64::from).collect())
        }),
        test(SECTION, "F24", "340 id mappings, the kernel's most", |lab| {
            // The text of a map is at most one page as well, so the numbers are short ones.
            let seen = lab.report(|spec| {
                push(&mut spec["linux"]["namespaces"], json!({ "type": "user" }));
                let maps: Vec<Value> = (0..340)
                    .map(|n| json!({ "containerID": n, "hostID": 1000 + n * 2, "size": 1 }))
                    .collect();
                spec["linux"]["uidMappings"] = json!(maps);
                spec["linux"]["gidMappings"] = json!(maps);
            })?;
            eq(
                "lines of uid_map",
                &seen["uid_map"].as_str().unwrap_or_default().lines().count(),
                &340,
            )
        }),
        test(SECTION, "F60", "500 masked and 500 read-only paths", |lab| {
            let bundle = lab.bundle(&["read /data/m499", "open-w /data/r499"], |spec| {
                let paths = |letter: &str| {
                    (0..500).map(|n| json!(format!("/data/{letter}{n}"))).collect::<Vec<_>>()
                };
                spec["linux"]["maskedPaths"] = json!(paths("m"));
                spec["linux"]["readonlyPaths"] = json!(paths("r"));
            })?;
            for n in 0..500 {
                fs::write(bundle.inside(&format!("/data/m{n}")), "secret")?;
                fs::write(bundle.inside(&format!("/data/r{n}")), "fixed")?;
            }
            let seen = lab.seen(&bundle)?;
            same("masked", &seen["read /data/m499"], json!(""))?;
            same("read-only", &seen["open-w /data/r499"]["errno"], json!("EROFS"))
        }),
        test(
            SECTION,
            "F68",
            "a huge configuration keeps all its namespaces (CVE-2021-43784)",
            |lab| {
                let seen = lab.report(|spec| {
                    mount(spec, "/data", "tmpfs", "tmpfs", &[]);
                    for n in 0..40 {
                        let source = format!("/{}", "./".repeat(1700 + n));
                        mount(
                            spec,
                            &format!("/data/{n}"),
                            "bind",
                            &format!("{source}sys/kernel"),
                            &["bind", "ro"],
                        );
                    }
                })?;
                mount_at(&seen, "/data/39")?;
                for name in ["mnt", "pid", "ipc", "uts"] {
                    let own = fs::read_link(format!("/proc/self/ns/{name}"))?.display().to_string();
                    ensure(seen["ns"][name] != json!(own), format!("{name} is the runtime's"))?;
                }
                Ok(())
            },
        ),
        test(
            SECTION,
            "F19",
            "numbers as 1e3 and escapes in strings are the same configuration",
            |lab| {
                let bundle = lab.bundle(&["report"], |_| {})?;
                let text =
                    bundle.spec.to_string().replace("\"cwd\":\"/\"", "\"cwd\":\"\\u002fdata\"");
                bundle.write_config(&format!("\n\n\t{text}\r\n"))?;
                same("cwd", &lab.seen(&bundle)?["report"]["cwd"], json!("/data"))
            },
        ),
    ]
}
