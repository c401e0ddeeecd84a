//! config-linux.md, control groups that few machines have mounted: network classes and priorities of cgroup
//! v1, and RDMA. The tests bring what they need: a mount of their own, and an RDMA device of software.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::cgroups_v2::need;
use crate::check::{Res, Test, ensure, has, skip, test};
use crate::lab::Lab;
use crate::lab::cgroups::v2;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    vec![
        test(
            "config-linux#network",
            "F44",
            "classID is net_cls.classid, priorities net_prio.ifpriomap",
            |lab| {
                let hierarchy = Hierarchy::mount(lab)?;
                let container = lab.create(&["pause"], |spec| {
                    spec["linux"]["resources"] = json!({ "network": { "classID": 0x10_0001,
                    "priorities": [{ "name": "lo", "priority": 7 }] } });
                })?;
                let dir = hierarchy.point().join(container.cgroup.trim_start_matches('/'));
                let read = |file: &str| fs::read_to_string(dir.join(file));
                ensure(read("net_cls.classid")?.trim() == "1048577", read("net_cls.classid")?)?;
                has("priorities", &read("net_prio.ifpriomap")?, "lo 7\n")?;
                has("tasks", &read("cgroup.procs")?, &container.pid().to_string())?;
                container.end()?;
                ensure(!dir.exists(), "the cgroup is still there")
            },
        ),
        test(
            "config-linux#network",
            "F44",
            "an interface that is not there is an error by field, file and value",
            |lab| {
                let _hierarchy = Hierarchy::mount(lab)?;
                let output = lab.refused(|spec| {
                spec["linux"]["resources"] =
                    json!({ "network": { "priorities": [{ "name": "absent0", "priority": 7 }] } });
            })?;
                let told = output.err.replace("\\\"", "\"");
                let words = [
                    "linux.resources.network.priorities[0]",
                    "net_prio.ifpriomap",
                    "\"absent0 7\"",
                ];
                let missing: Vec<_> = words.iter().filter(|word| !told.contains(**word)).collect();
                lab.quality(missing.is_empty(), format!("no {missing:?} in: {}", output.brief()))
            },
        ),
        test(
            "config-linux#network",
            "F44",
            "without the controllers it is an error by its field",
            |lab| {
                let _lock = alone()?;
                if crate::lab::cgroups::v1("net_cls", "/").is_ok() {
                    return skip("this machine has net_cls mounted");
                }
                let output = lab.refused(|spec| {
                    spec["linux"]["resources"] = json!({ "network": { "classID": 5 } });
                })?;
                lab.quality(output.err.contains("linux.resources.network.classID"), output.brief())
            },
        ),
        test(
            "config-linux#rdma",
            "F46",
            "limits of an RDMA device are a line of rdma.max",
            |lab| {
                need("rdma")?;
                let device = Device::add(lab)?;
                let container = lab.create(&["pause"], |spec| {
                    spec["linux"]["resources"] =
                        json!({ "rdma": { &device.0: { "hcaHandles": 3, "hcaObjects": 9 } } });
                })?;
                let text = fs::read_to_string(v2(&container.cgroup)?.join("rdma.max"))?;
                has("rdma.max", &text, &format!("{} hca_handle=3 hca_object=9", device.0))?;
                container.end()
            },
        )
        .on_v2(),
        test("config-linux#rdma", "F46", "one limit alone leaves the other as it is", |lab| {
            need("rdma")?;
            let device = Device::add(lab)?;
            let container = lab.create(&["pause"], |spec| {
                spec["linux"]["resources"] = json!({ "rdma": { &device.0: { "hcaObjects": 9 } } });
            })?;
            let text = fs::read_to_string(v2(&container.cgroup)?.join("rdma.max"))?;
            has("rdma.max", &text, &format!("{} hca_handle=max hca_object=9", device.0))?;
            container.end()
        })
        .on_v2(),
    ]
}

/// The v1 hierarchy of net_cls and net_prio, mounted for one test at a time: it is the machine's.
struct Hierarchy(PathBuf, #[expect(dead_code, reason = "held until the end")] Flock<File>);

/// Waits for the other workers' tests of it.
fn alone() -> Res<Flock<File>> {
    let program = File::open("/proc/self/exe")?;
    Flock::lock(program, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

impl Hierarchy {
    fn mount(lab: &Lab) -> Res<Self> {
        let lock = alone()?;
        if let Ok(point) = crate::lab::cgroups::v1("net_cls", "/") {
            return skip(format!("this machine has net_cls mounted at {}", point.display()));
        }
        let point = lab.dir.join("net");
        fs::create_dir(&point)?;
        let options = Some("net_cls,net_prio");
        match mount(Some("cgroup"), &point, Some("cgroup"), MsFlags::empty(), options) {
            Ok(()) => lab.own_mounts(),
            Err(errno) => return skip(format!("this kernel mounts no net_cls: {errno}")),
        }
        Ok(Self(point, lock))
    }

    fn point(&self) -> &Path {
        &self.0
    }
}

/// A hierarchy that still has a cgroup stays active for the whole machine, mounted nowhere, and a daemon that looks
/// for its mount finds none. A cgroup that was removed counts until the kernel has forgotten it.
impl Drop for Hierarchy {
    fn drop(&mut self) {
        for _ in 0..10 {
            cgroups_below(&self.0).iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
            for _ in 0..100 {
                if !is_active("net_cls") {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let options = Some("net_cls,net_prio");
            let _ = mount(Some("cgroup"), &self.0, Some("cgroup"), MsFlags::empty(), options);
        }
        panic!("net_cls stays active in a hierarchy that is mounted nowhere");
    }
}

/// Whether the controller belongs to a hierarchy of v1.
fn is_active(controller: &str) -> bool {
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    line.into_iter().any(|words| words.first() == Some(&controller) && words.get(1) != Some(&"0"))
}

/// The directories below `dir`, each after the one that it is in.
fn cgroups_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.is_dir())
        .flat_map(|path| [vec![path.clone()], cgroups_below(&path)].concat())
        .collect()
}

/// An RDMA device of software, over the loopback device of the test.
struct Device(String);

impl Device {
    fn add(lab: &Lab) -> Res<Self> {
        let name = format!("{}r", lab.word);
        for words in [
            "modprobe rdma_rxe",
            "ip link set lo up",
            &format!("rdma link add {name} type rxe netdev lo"),
        ] {
            let mut split = words.split(' ');
            let done = Command::new(split.next().unwrap_or_default()).args(split).output();
            if !done.as_ref().is_ok_and(|output| output.status.success()) {
                return skip(format!("no RDMA device can be made here: {words}: {done:?}"));
            }
        }
        Ok(Self(name))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("rdma").args(["link", "delete", &self.0]).output();
    }
}
