//! Bundles: a directory, a root file system with the probe in it, and a minimal valid config.json.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Lab;
use crate::check::{Res, Stop};

/// Capabilities that engines give by default; enough for the probe, not enough to be the host.
pub const CAPABILITIES: [&str; 10] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_KILL",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_SYS_CHROOT",
    "CAP_AUDIT_WRITE",
    "CAP_NET_BIND_SERVICE",
];

/// Directories that every root file system has.
const DIRECTORIES: [&str; 9] = ["bin", "dev", "etc", "home", "proc", "sys", "tmp", "data", "root"];

/// A bundle on disk.
pub struct Bundle {
    /// The id its container will have.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The configuration as written.
    pub spec: Value,
}

impl Bundle {
    /// Writes a bundle whose program does the probe's `steps`.
    pub fn new(lab: &Lab, steps: &[&str], edit: impl FnOnce(&mut Value)) -> Res<Self> {
        let id = lab.id();
        let dir = lab.dir.join(format!("bundle-{}", lab.next()));
        let rootfs = dir.join("rootfs");
        fs::create_dir_all(&rootfs)?;
        for directory in DIRECTORIES {
            fs::create_dir(rootfs.join(directory))?;
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::hard_link(&lab.probe, rootfs.join("bin/probe"))?;
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/probe\n")?;
        let mut spec = minimal(&format!("{}/{id}", lab.cgroup_parent), steps);
        edit(&mut spec);
        let bundle = Self { id, dir, spec };
        bundle.save()?;
        Ok(bundle)
    }

    /// Writes `spec` to config.json once more.
    pub fn save(&self) -> Res {
        self.write_config(
            &serde_json::to_string_pretty(&self.spec).map_err(|e| Stop::Fail(e.to_string()))?,
        )
    }

    /// Writes any text to config.json.
    pub fn write_config(&self, text: &str) -> Res {
        Ok(fs::write(self.dir.join("config.json"), text)?)
    }

    /// The bundle's directory as text.
    pub fn path(&self) -> &str {
        self.dir.to_str().unwrap_or_default()
    }

    /// A path below the root file system, seen from outside.
    pub fn inside(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// The container's cgroup as its configuration names it.
    pub fn cgroup(&self) -> &str {
        self.spec["linux"]["cgroupsPath"].as_str().unwrap_or_default()
    }

    /// Gives the bundle to another user.
    pub fn chown(&self, uid: u32, gid: u32) -> Res {
        fn walk(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
            // The probe is one inode for all tests.
            if path.ends_with("bin/probe") {
                return Ok(());
            }
            std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
            if path.is_dir() && !path.is_symlink() {
                for entry in fs::read_dir(path)?.flatten() {
                    walk(&entry.path(), uid, gid)?;
                }
            }
            Ok(())
        }
        Ok(walk(&self.dir, uid, gid)?)
    }
}

/// The smallest configuration that the suite's probe can report from.
fn minimal(cgroups_path: &str, steps: &[&str]) -> Value {
    let mut args = vec!["/bin/probe"];
    args.extend_from_slice(steps);
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": {
            "cwd": "/",
            "args": args,
            "env": ["PATH=/usr/bin:/bin"],
            "user": { "uid": 0, "gid": 0 },
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": {
            "cgroupsPath": cgroups_path,
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
            ],
        },
    })
}

/// Appends to an array of the configuration, which is made when absent.
pub fn push(array: &mut Value, item: Value) {
    match array.as_array_mut() {
        Some(items) => items.push(item),
        None => *array = json!([item]),
    }
}

/// Adds a mount to the configuration.
pub fn mount(spec: &mut Value, destination: &str, kind: &str, source: &str, options: &[&str]) {
    push(
        &mut spec["mounts"],
        json!({ "destination": destination, "type": kind, "source": source, "options": options }),
    );
}

/// Adds a namespace to the configuration.
pub fn namespace(spec: &mut Value, kind: &str) {
    push(&mut spec["linux"]["namespaces"], json!({ "type": kind }));
}

/// Removes a namespace from the configuration.
pub fn without_namespace(spec: &mut Value, kind: &str) {
    if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
        list.retain(|namespace| namespace["type"] != kind);
    }
}

/// A pid namespace joined by path: that of the runtime itself, which outlives every container.
pub fn joined_pids(spec: &mut Value) {
    without_namespace(spec, "pid");
    push(&mut spec["linux"]["namespaces"], json!({ "type": "pid", "path": "/proc/self/ns/pid" }));
}

/// Sets all five capability sets that are named; the others become empty.
pub fn capabilities(spec: &mut Value, sets: &[&str], caps: &[&str]) {
    let mut object = json!({});
    for set in sets {
        object[*set] = json!(caps);
    }
    spec["process"]["capabilities"] = object;
}

/// A new user namespace with 65,536 ids from 100000.
pub fn user_namespace(spec: &mut Value) {
    namespace(spec, "user");
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
}
