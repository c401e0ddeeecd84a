//! Races: a partner on the host's side of a shared folder exchanges a directory and a link without
//! pause, while containers are made that use the folder. The loops are bounded by rounds; none of
//! them proves the absence of a race, and each found one in some runtime.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Partner, create_and_delete, create_on_console, image_dev, outside, share_pids, unchanged,
};
use crate::check::{Res, Test, ensure, test};
use crate::lab::Lab;
use crate::lab::bundle::mount;

const SECTION: &str = "hostile#races";

/// At most so many containers, and for at most so long.
const ROUNDS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn tests() -> Vec<Test> {
    let mut tests = shared_volume();
    tests.extend(shared_root());
    tests
}

/// Calls `round` until the bounds; answers how often.
fn rounds(lab: &Lab, mut round: impl FnMut() -> Res) -> Res {
    let until = Instant::now() + PATIENCE;
    let mut count = 0;
    while count < ROUNDS && Instant::now() < until {
        round()?;
        count += 1;
    }
    if count < ROUNDS {
        lab.note(format!("{count} rounds"));
    }
    Ok(())
}

/// A volume with the directory `here`, and the link `there` to a directory of the host.
struct Volume {
    path: PathBuf,
    outside: PathBuf,
}

impl Volume {
    fn new(lab: &Lab) -> Res<Self> {
        let outside = outside(lab)?;
        let path = lab.dir.join("volume");
        fs::create_dir_all(path.join("here"))?;
        fs::write(path.join("here/of-the-host"), "of the volume")?;
        symlink(&outside, path.join("there"))?;
        Ok(Self { path, outside })
    }

    fn source(&self) -> String {
        self.path.display().to_string()
    }

    fn partner(&self, lab: &Lab) -> Res<Partner> {
        Partner::swapping(lab, &self.path.join("here"), &self.path.join("there"))
    }
}

fn shared_volume() -> Vec<Test> {
    /// Makes containers that use a volume while its partner swaps; nothing of the host may change
    /// or be seen.
    fn raced(lab: &Lab, edit: impl Fn(&mut Value, usize)) -> Res {
        let volume = Volume::new(lab)?;
        let _partner = volume.partner(lab)?;
        let mut turn = 0;
        rounds(lab, || {
            turn += 1;
            let bundle =
                lab.bundle(&["list /data/here", "read /data/here/of-the-host"], |spec| {
                    mount(spec, "/data", "bind", &volume.source(), &["bind"]);
                    edit(spec, turn);
                })?;
            let output = lab.run(&bundle)?;
            ensure(!output.out.contains("of the host"), format!("inside: {}", output.out))?;
            unchanged(&volume.outside)
        })
    }
    vec![
        test(SECTION, "S14", "mount targets that are swapped for links (CVE-2021-30465)", |lab| {
            raced(lab, |spec, _| {
                mount(spec, "/data/here", "tmpfs", "tmpfs", &[]);
                mount(spec, "/data/here/inner", "tmpfs", "tmpfs", &[]);
            })
        }),
        test(SECTION, "S14", "mount points that must be made (CVE-2024-45310)", |lab| {
            raced(lab, |spec, turn| {
                mount(spec, &format!("/data/here/new{turn}/a/b"), "tmpfs", "tmpfs", &[]);
            })
        }),
        test(SECTION, "S14", "files that must be made for bind mounts", |lab| {
            let source = lab.dir.join("file");
            fs::write(&source, "")?;
            raced(lab, move |spec, turn| {
                let target = format!("/data/here/file{turn}");
                mount(spec, &target, "bind", &source.display().to_string(), &["bind"]);
            })
        }),
        test(SECTION, "S14", "device nodes below a swapped directory", |lab| {
            raced(lab, |spec, turn| {
                spec["linux"]["devices"] = json!([{
                    "path": format!("/data/here/null{turn}"), "type": "c", "major": 1, "minor": 3,
                }]);
            })
        }),
        test(SECTION, "S14", "a masked and a read-only path below a swapped directory", |lab| {
            raced(lab, |spec, _| {
                spec["linux"]["maskedPaths"] = json!(["/data/here/other"]);
                spec["linux"]["readonlyPaths"] = json!(["/data/here"]);
            })
        }),
        test(SECTION, "S14", "a tmpfs that copies the swapped directory up", |lab| {
            raced(lab, |spec, _| {
                mount(spec, "/data/here", "tmpfs", "tmpfs", &["tmpcopyup"]);
            })
        }),
        test(SECTION, "F4", "a working directory that must be made, through /proc/1/root", |lab| {
            let outside = outside(lab)?;
            let volume = lab.dir.join("volume");
            fs::create_dir_all(volume.join("here"))?;
            symlink(format!("/proc/1/root{}", outside.display()), volume.join("there"))?;
            let _partner = Partner::swapping(lab, &volume.join("here"), &volume.join("there"))?;
            let mut turn = 0;
            rounds(lab, || {
                turn += 1;
                let bundle = lab.bundle(&["list ."], |spec| {
                    share_pids(spec);
                    mount(spec, "/data", "bind", &volume.display().to_string(), &["bind"]);
                    spec["process"]["cwd"] = json!(format!("/data/here/new{turn}"));
                })?;
                lab.run(&bundle)?;
                unchanged(&outside)
            })
        }),
        test(SECTION, "F4", "exec into a working directory that is swapped", |lab| {
            let volume = Volume::new(lab)?;
            let container = lab.running(|spec| {
                mount(spec, "/data", "bind", &volume.source(), &["bind"]);
            })?;
            let partner = volume.partner(lab)?;
            let result = rounds(lab, || {
                let output = container
                    .exec_output(&["--cwd", "/data/here"], &["list .", "read of-the-host"])?;
                ensure(!output.out.contains("of the host"), format!("inside: {}", output.out))
            });
            drop(partner);
            result?;
            container.end()
        }),
    ]
}

fn shared_root() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "S13",
            "/proc swapped for a link: its masks hold wherever it is (CVE-2023-27561)",
            |lab| {
                let steps = ["read /proc/version", "read /tmp/version"];
                let bundle = lab.bundle(&steps, |spec| {
                    spec["linux"]["maskedPaths"] = json!(["/proc/version"]);
                })?;
                symlink("/tmp", bundle.inside("/link"))?;
                let _partner =
                    Partner::swapping(lab, &bundle.inside("/proc"), &bundle.inside("/link"))?;
                rounds(lab, || {
                    let output = lab.run(&bundle)?;
                    ensure(
                        !output.out.contains("Linux version"),
                        format!("unmasked: {}", output.out),
                    )
                })
            },
        ),
        test(SECTION, "S13", "/sys swapped for a link: it is not mounted elsewhere", |lab| {
            let steps = ["list /sys/firmware", "list /tmp/kernel"];
            let bundle = lab.bundle(&steps, |spec| {
                mount(spec, "/sys", "sysfs", "sysfs", &["ro"]);
                spec["linux"]["maskedPaths"] = json!(["/sys/kernel"]);
            })?;
            symlink("/tmp", bundle.inside("/link"))?;
            let _partner = Partner::swapping(lab, &bundle.inside("/sys"), &bundle.inside("/link"))?;
            rounds(lab, || {
                let output = lab.run(&bundle)?;
                ensure(!output.out.contains("uevent_seqnum"), format!("unmasked: {}", output.out))
            })
        }),
        // Two containers of one root file system are enough for this race; nodes on the host follow.
        test(SECTION, "S13", "/dev swapped for a link to the host (CVE-2026-41579)", |lab| {
            let outside = outside(lab)?;
            let bundle = lab.bundle(&["exit 0"], image_dev)?;
            symlink(&outside, bundle.inside("/link"))?;
            let _partner = Partner::swapping(lab, &bundle.inside("/dev"), &bundle.inside("/link"))?;
            rounds(lab, || {
                create_and_delete(lab, &bundle)?;
                unchanged(&outside)
            })
        }),
        test(
            SECTION,
            "S13",
            "/dev/null swapped for a file while masks are made (CVE-2025-31133)",
            |lab| {
                let bundle = lab.bundle(&["read /proc/version", "read /data/secret"], |spec| {
                    image_dev(spec);
                    spec["linux"]["maskedPaths"] = json!(["/proc/version", "/data/secret"]);
                })?;
                fs::write(bundle.inside("/data/secret"), "masked")?;
                fs::write(bundle.inside("/dev/evil"), "unmasked")?;
                // The attack's link leads to a file of procfs, this one to nothing of the machine's.
                fs::write(bundle.inside("/data/cover"), "unmasked")?;
                symlink("/data/cover", bundle.inside("/dev/null"))?;
                let _partner = Partner::swapping(
                    lab,
                    &bundle.inside("/dev/null"),
                    &bundle.inside("/dev/evil"),
                )?;
                rounds(lab, || {
                    let output = lab.run(&bundle)?;
                    let seen: Value = serde_json::from_str(&output.out).unwrap_or_default();
                    for step in ["read /proc/version", "read /data/secret"] {
                        let text = seen[step].as_str().unwrap_or_default();
                        ensure(text.is_empty(), format!("{step} gave {text:?}"))?;
                    }
                    Ok(())
                })
            },
        ),
        test(
            SECTION,
            "S13",
            "/dev/console swapped for a link to the host (CVE-2025-52565)",
            |lab| {
                let outside = outside(lab)?;
                let bundle = lab.bundle(&["exit 0"], |spec| {
                    image_dev(spec);
                    mount(spec, "/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
                    spec["process"]["terminal"] = json!(true);
                })?;
                symlink(outside.join("console"), bundle.inside("/dev/console"))?;
                fs::write(bundle.inside("/dev/other"), "")?;
                let _partner = Partner::swapping(
                    lab,
                    &bundle.inside("/dev/console"),
                    &bundle.inside("/dev/other"),
                )?;
                let mut turn = 0;
                rounds(lab, || {
                    turn += 1;
                    create_on_console(lab, &bundle, &format!("console{turn}"))?;
                    let _ = lab.call(&["delete", "--force", &bundle.id]).output()?;
                    unchanged(&outside)
                })
            },
        ),
        // What covers a part of procfs is what labels and sysctls are written to.
        test(
            SECTION,
            "S13",
            "the directory above a mount point swapped for one of the container's /proc",
            |lab| {
                let bundle = lab.bundle(&["read /proc/sys/kernel/msgmax", "report"], |spec| {
                    mount(spec, "/data/here/kernel", "tmpfs", "evil", &[]);
                })?;
                fs::create_dir_all(bundle.inside("/data/here/kernel"))?;
                symlink("/proc/sys", bundle.inside("/data/there"))?;
                let _partner = Partner::swapping(
                    lab,
                    &bundle.inside("/data/here"),
                    &bundle.inside("/data/there"),
                )?;
                rounds(lab, || {
                    let output = lab.run(&bundle)?;
                    ensure(
                        !output.out.contains("\"point\":\"/proc/"),
                        "a file system is mounted inside /proc",
                    )
                })
            },
        ),
    ]
}
