//! config.md apart from process, mounts and hooks.

use serde_json::json;

use crate::check::{
    Test, allowed, ensure, eq, has, has_option, mount_at, refused_with, same, skip, test,
};
use crate::lab::bundle::{mount, without_namespace};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = versions();
    tests.extend(root());
    tests.extend(names());
    tests.extend(extensibility());
    tests.extend(malformed());
    tests.extend(virtual_machine());
    tests
}

fn virtual_machine() -> Vec<Test> {
    let section = "config-vm#vm";
    let machine = || {
        json!({
            "hypervisor": { "path": "/no/such/hypervisor", "parameters": ["a=b"] },
            "kernel": { "path": "/no/such/kernel", "initrd": "/no/such/initrd" },
            "image": { "path": "/no/such/image", "format": "qcow2" },
            "hwConfig": { "vcpus": 2, "memory": 1u64 << 30, "irqs": [11],
                "iomems": [{ "firstGFN": 1, "firstMFN": 2, "nrMFNs": 3 }] },
        })
    };
    let bad = move |field: &'static str, value: serde_json::Value| {
        test(section, "F66 F67", format!("{field} = {value} is an error"), move |lab| {
            let refused = lab.refused(|spec| {
                spec["ociVersion"] = json!("1.3.0");
                spec["vm"] = machine();
                let pointer = format!("/vm/{}", field.replace('.', "/"));
                if let Some(place) = spec.pointer_mut(&pointer) {
                    *place = value.clone();
                }
            });
            let named = refused.is_ok_and(|output| output.err.contains(&format!("vm.{field}")));
            lab.quality(named, "it is accepted, or not named")
        })
    };
    vec![
        test(
            section,
            "F66 F67",
            "a configuration for virtual machines too runs here, when it asks for namespaces",
            move |lab| {
                lab.report(|spec| {
                    spec["ociVersion"] = json!("1.3.0");
                    spec["annotations"] = json!({ "io.bulkhead.isolation": "namespaces" });
                    spec["vm"] = machine();
                })
                .map(drop)
            },
        ),
        bad("hypervisor.path", json!("relative")),
        bad("kernel.path", json!("")),
        bad("kernel.initrd", json!("relative")),
        bad("image.format", json!("iso")),
        bad("hwConfig.vcpus", json!(0)),
        bad("hwConfig.memory", json!(-1)),
        bad("hwConfig.irqs", json!(["11"])),
    ]
}

fn versions() -> Vec<Test> {
    let one = |version: &'static str| {
        test(
            "config#specification-version",
            "F1",
            format!("ociVersion {version} is accepted"),
            move |lab| lab.report(|spec| spec["ociVersion"] = json!(version)).map(drop),
        )
    };
    let mut tests: Vec<Test> =
        ["1.0.0", "1.0.1", "1.0.2", "1.0.2-dev", "1.1.0", "1.1.0-rc.1", "1.2.0", "1.2.1", "1.3.0"]
            .into_iter()
            .map(one)
            .collect();
    for version in ["", "banana", "1", "1.0"] {
        tests.push(test(
            "config#specification-version",
            "F1",
            format!("ociVersion {version:?}, which is not SemVer, is refused"),
            move |lab| {
                let refused = lab.refused(|spec| spec["ociVersion"] = json!(version));
                lab.quality(refused.is_ok(), "a version that is not SemVer is accepted")
            },
        ));
    }
    tests.push(test(
        "config#specification-version",
        "F1",
        "a missing ociVersion is refused",
        |lab| {
            let refused = lab.refused(|spec| {
                spec.as_object_mut().map(|spec| spec.remove("ociVersion"));
            });
            lab.quality(refused.is_ok(), "a configuration without ociVersion is accepted")
        },
    ));
    tests
}

fn root() -> Vec<Test> {
    let section = "config#root";
    vec![
        test(section, "F2", "root.path is relative to the bundle", |lab| {
            let bundle =
                lab.bundle(&["list /"], |spec| spec["root"]["path"] = json!("other/place"))?;
            std::fs::create_dir(bundle.dir.join("other"))?;
            std::fs::rename(bundle.dir.join("rootfs"), bundle.dir.join("other/place"))?;
            lab.seen(&bundle).map(drop)
        }),
        test(section, "F2", "root.path may be absolute", |lab| {
            let mut bundle = lab.bundle(&["list /"], |_| {})?;
            bundle.spec["root"]["path"] = json!(bundle.dir.join("rootfs"));
            bundle.save()?;
            lab.seen(&bundle).map(drop)
        }),
        test(section, "F2", "root.path may be a symbolic link to a directory", |lab| {
            let bundle = lab.bundle(&["list /"], |spec| spec["root"]["path"] = json!("link"))?;
            std::os::unix::fs::symlink("rootfs", bundle.dir.join("link"))?;
            lab.seen(&bundle).map(drop)
        }),
        test(section, "F2", "a root.path that does not exist is an error", |lab| {
            lab.refused(|spec| spec["root"]["path"] = json!("missing")).map(drop)
        }),
        test(section, "F2", "a root.path that is a file is an error", |lab| {
            let bundle = lab.bundle(&["report"], |spec| spec["root"]["path"] = json!("file"))?;
            std::fs::write(bundle.dir.join("file"), "")?;
            lab.refused_from(&bundle).map(drop)
        }),
        test(section, "F2", "root is required", |lab| {
            lab.refused(|spec| {
                spec.as_object_mut().map(|spec| spec.remove("root"));
            })
            .map(drop)
        }),
        test(section, "F2", "readonly true makes the root read-only", |lab| {
            let seen = lab.probe(&["report", "write /data/x 1", "mkdir /new"], |spec| {
                spec["root"]["readonly"] = json!(true)
            })?;
            refused_with("write", &seen["write /data/x 1"], &["EROFS"])?;
            refused_with("mkdir", &seen["mkdir /new"], &["EROFS"])?;
            ensure(
                has_option(&mount_at(&seen["report"], "/")?["options"], "ro"),
                "the root mount has no ro",
            )
        }),
        test(section, "F2", "a read-only root leaves its mounts writable", |lab| {
            let seen = lab.probe(&["write /data/x 1"], |spec| {
                spec["root"]["readonly"] = json!(true);
                mount(spec, "/data", "tmpfs", "tmpfs", &[]);
            })?;
            allowed("write", &seen["write /data/x 1"])
        }),
        test(section, "F2", "the root is writable by default", |lab| {
            let seen = lab.probe(&["write /data/x 1"], |_| {})?;
            allowed("write", &seen["write /data/x 1"])
        }),
        test(section, "F2", "what the container writes is in the bundle's root", |lab| {
            let bundle = lab.bundle(&["write /data/x hello"], |_| {})?;
            lab.seen(&bundle)?;
            eq("file", &std::fs::read_to_string(bundle.inside("/data/x"))?, &"hello".to_owned())
        }),
        test(
            section,
            "F2",
            "nothing of the host's file system is reachable above the root",
            |lab| {
                let outside = lab.dir.join("outside");
                std::fs::write(&outside, "secret")?;
                let steps = [
                    format!("read {}", outside.display()),
                    format!("read /../../../../../../..{}", outside.display()),
                    format!("read /proc/self/root{}", outside.display()),
                ];
                let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
                let seen = lab.probe(&steps, |_| {})?;
                steps.iter().try_for_each(|step| refused_with(step, &seen[*step], &["ENOENT"]))
            },
        ),
    ]
}

fn names() -> Vec<Test> {
    vec![
        test(
            "config#hostname",
            "F14",
            "hostname is set in the container's uts namespace and not outside",
            |lab| {
                let before = nix::unistd::gethostname()?;
                let seen = lab.report(|spec| spec["hostname"] = json!("mrsdalloway"))?;
                same("hostname", &seen["hostname"], json!("mrsdalloway"))?;
                eq("hostname outside", &nix::unistd::gethostname()?, &before)
            },
        ),
        test(
            "config#hostname",
            "F14",
            "a hostname without an own uts namespace is an error",
            |lab| {
                lab.refused(|spec| {
                    spec["hostname"] = json!("mrsdalloway");
                    without_namespace(spec, "uts");
                })
                .map(drop)
            },
        ),
        test(
            "config#hostname",
            "F14",
            "a hostname of 64 bytes, the kernel's longest, is set",
            |lab| {
                let name = "h".repeat(64);
                let wanted = name.clone();
                let seen = lab.report(move |spec| spec["hostname"] = json!(name))?;
                same("hostname", &seen["hostname"], json!(wanted))
            },
        ),
        test("config#hostname", "F14", "a hostname of 65 bytes is an error, not cut", |lab| {
            lab.refused(|spec| spec["hostname"] = json!("h".repeat(65))).map(drop)
        }),
        test(
            "config#domainname",
            "F65",
            "domainname is set in the container's uts namespace (since 1.1)",
            |lab| {
                let seen = lab.report(|spec| {
                    spec["ociVersion"] = json!("1.1.0");
                    spec["domainname"] = json!("example.org");
                })?;
                same("domainname", &seen["domainname"], json!("example.org"))
            },
        ),
        test(
            "config#domainname",
            "F65",
            "a domainname without an own uts namespace is an error",
            |lab| {
                lab.refused(|spec| {
                    spec["domainname"] = json!("example.org");
                    without_namespace(spec, "uts");
                })
                .map(drop)
            },
        ),
        test("config#annotations", "F18", "annotations come back in the state", |lab| {
            let container = lab.create(&["pause"], |spec| {
                spec["annotations"] = json!({ "org.example.key": "value", "org.example.empty": "", "ünï": "cödé \"q\"" });
            })?;
            let state = container.state()?;
            same("annotation", &state["annotations"]["org.example.key"], json!("value"))?;
            same("annotation", &state["annotations"]["org.example.empty"], json!(""))?;
            same("annotation", &state["annotations"]["ünï"], json!("cödé \"q\""))
        }),
        test(
            "config#annotations",
            "F18",
            "an annotation whose value is no string is refused",
            |lab| lab.refused(|spec| spec["annotations"] = json!({ "key": 5 })).map(drop),
        ),
    ]
}

fn extensibility() -> Vec<Test> {
    let section = "config#extensibility";
    vec![
        test(section, "F19", "unknown properties anywhere are ignored", |lab| {
            lab.report(|spec| {
                spec["unknown"] = json!({ "x": 1 });
                spec["process"]["unknown"] = json!([1]);
                spec["linux"]["unknown"] = json!("x");
                spec["root"]["unknown"] = json!(null);
                spec["mounts"][0]["unknown"] = json!(5);
            })
            .map(drop)
        }),
        test(section, "F19", "sections of other platforms are ignored", |lab| {
            lab.report(|spec| {
                spec["windows"] = json!({ "layerFolders": ["C:\\x"] });
                spec["solaris"] = json!({ "milestone": "x" });
                spec["zos"] = json!({});
            })
            .map(drop)
        }),
        test(section, "F19", "optional properties with null are as if absent", |lab| {
            lab.report(|spec| {
                spec["hooks"] = json!(null);
                spec["annotations"] = json!(null);
                spec["linux"]["seccomp"] = json!(null);
                spec["linux"]["resources"] = json!(null);
                spec["process"]["rlimits"] = json!(null);
                spec["process"]["oomScoreAdj"] = json!(null);
            })
            .map(drop)
        }),
        test("config#valid-values", "F19", "an unknown value of a property is an error", |lab| {
            lab.refused(|spec| spec["linux"]["rootfsPropagation"] = json!("sideways")).map(drop)
        }),
        test("config#valid-values", "F19", "an unknown namespace type is an error", |lab| {
            lab.refused(|spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "soul" }])
            })
            .map(drop)
        }),
        test(
            "runtime#lifecycle",
            "F20",
            "changes of config.json after create have no effect",
            |lab| {
                let mut bundle = lab.bundle(&["report"], |_| {})?;
                let mut container = lab.create_from(&bundle)?;
                bundle.spec["process"]["args"] = json!(["/bin/probe", "exit 9"]);
                bundle.spec["process"]["env"] = json!(["CHANGED=1"]);
                bundle.save()?;
                container.start()?;
                let seen = container.seen()?;
                ensure(
                    !seen["report"]["env"].to_string().contains("CHANGED"),
                    "the changed environment is there",
                )
            },
        ),
        test(
            "runtime#lifecycle",
            "F20",
            "a config.json removed after create has no effect",
            |lab| {
                let bundle = lab.bundle(&["report"], |_| {})?;
                let mut container = lab.create_from(&bundle)?;
                std::fs::remove_file(bundle.dir.join("config.json"))?;
                container.start()?;
                container.seen()?;
                container.wait()?;
                container.delete()
            },
        ),
    ]
}

/// Text that is not a configuration: an error that names something, no crash, nothing left.
fn malformed() -> Vec<Test> {
    let section = "bundle#config.json";
    let text = |name: &'static str, json: &'static str| {
        test(section, "F19", format!("{name} is refused"), move |lab| {
            let bundle = lab.bundle(&[], |_| {})?;
            bundle.write_config(json)?;
            let output = lab.refused_from(&bundle)?;
            ensure(
                !output.err.contains("panic"),
                format!("the runtime panicked: {}", output.brief()),
            )
        })
    };
    let pointer = |path: &'static str, value: &'static str| {
        test(
            "config#valid-values",
            "F19",
            format!("{path} = {value} (wrong type or range) is refused"),
            move |lab| {
                let mut bundle = lab.bundle(&["report"], |_| {})?;
                let wrong: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
                let mut place = &mut bundle.spec;
                for word in path.split('.') {
                    place = match word.parse::<usize>() {
                        Ok(index) => &mut place[index],
                        Err(_) => &mut place[word],
                    };
                }
                *place = wrong;
                bundle.save()?;
                let output = lab.refused_from(&bundle)?;
                let field =
                    path.split('.').rfind(|word| word.parse::<usize>().is_err()).unwrap_or(path);
                lab.quality(
                    output.err.contains(field),
                    format!("the error does not name {field}: {}", output.brief()),
                )
            },
        )
    };
    let mut tests = vec![
        text("an empty config.json", ""),
        text("half a config.json", "{\"ociVersion\": \"1.0.2\", \"root\": {"),
        text("a config.json that is a list", "[]"),
        text("a config.json that is null", "null"),
        test(section, "F19", "a missing config.json is refused", |lab| {
            let bundle = lab.bundle(&[], |_| {})?;
            std::fs::remove_file(bundle.dir.join("config.json"))?;
            let output = lab.refused_from(&bundle)?;
            has("error", &output.err, "config.json")
        }),
        test("glossary#json", "F19", "a config.json that is not UTF-8 is refused", |lab| {
            let bundle = lab.bundle(&[], |spec| spec["annotations"] = json!({ "key": "@" }))?;
            let file = bundle.dir.join("config.json");
            let mut text = std::fs::read(&file)?;
            for byte in text.iter_mut().filter(|byte| **byte == b'@') {
                *byte = 0xff;
            }
            std::fs::write(&file, text)?;
            lab.refused_from(&bundle).map(drop)
        }),
        test(section, "F19", "a config.json that is a directory is refused", |lab| {
            let bundle = lab.bundle(&[], |_| {})?;
            std::fs::remove_file(bundle.dir.join("config.json"))?;
            std::fs::create_dir(bundle.dir.join("config.json"))?;
            lab.refused_from(&bundle).map(drop)
        }),
        test(section, "F19", "a bundle path that does not exist is refused", |lab| {
            let output =
                lab.call(&["create", "--bundle", "/no/such/bundle", &lab.id()]).output()?;
            ensure(output.code.is_some_and(|code| code != 0), output.brief())
        }),
        test(section, "F19", "the current directory is the bundle when none is named", |lab| {
            let bundle = lab.bundle(&["exit 5"], |_| {})?;
            let output = lab.call(&["run", &bundle.id]).directory(bundle.path()).output()?;
            eq("exit code", &output.code, &Some(5))
        }),
        test(
            section,
            "F19",
            "a byte order mark or other rubbish after the JSON is not silently accepted",
            |lab| {
                let bundle = lab.bundle(&["report"], |_| {})?;
                bundle.write_config(&format!("{} rubbish", bundle.spec))?;
                let refused = lab.refused_from(&bundle);
                if refused.is_err() && lab.kind != crate::lab::Kind::Bulkhead {
                    return skip("this runtime stops reading at the end of the object");
                }
                refused.map(drop)
            },
        ),
    ];
    for (path, value) in [
        ("root.path", "5"),
        ("root.readonly", "\"yes\""),
        ("process.args", "\"sh\""),
        ("process.args.0", "7"),
        ("process.env", "{\"A\": \"1\"}"),
        ("process.cwd", "[\"/\"]"),
        ("process.user.uid", "\"0\""),
        ("process.user.umask", "-1"),
        ("process.terminal", "\"false\""),
        ("process.noNewPrivileges", "1"),
        ("process.rlimits", "{}"),
        ("process.oomScoreAdj", "\"5\""),
        ("process.capabilities", "[\"CAP_CHOWN\"]"),
        ("mounts", "{}"),
        ("mounts.0.destination", "5"),
        ("mounts.0.options", "\"ro\""),
        ("linux.namespaces", "{}"),
        ("linux.maskedPaths", "\"/proc/kcore\""),
        ("linux.sysctl", "[]"),
        ("linux.seccomp", "{\"defaultAction\": 5}"),
        ("linux.resources", "{\"memory\": {\"limit\": \"1G\"}}"),
        ("linux.uidMappings", "[{\"containerID\": 0, \"hostID\": -1, \"size\": 1}]"),
    ] {
        tests.push(pointer(path, value));
    }
    tests
}
