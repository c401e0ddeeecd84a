//! Which modules the guest needs, and in which order they are loaded.
//!
//! depmod(8) and the kernel's build leave what has to be known in the directory of the modules: `modules.builtin`
//! has a path for each module that is in the kernel, `modules.dep` one for each that is not, with those that it
//! needs, `modules.softdep` those that it asks for at run time by name or alias, which `modules.alias` explains.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use runtime::{Call, Context, Error, GuestDrivers, Result, quote};

/// The list of what is in the kernel.
pub const BUILT_IN: &str = "modules.builtin";
const DEPENDENCIES: &str = "modules.dep";
const SOFT: &str = "modules.softdep";
const ALIASES: &str = "modules.alias";
const OPERATION: &str = "read modules";

/// A driver that the guest needs.
#[derive(Debug)]
pub struct Driver {
    /// Its module.
    pub name: &'static str,
    /// Whether no guest runs without it.
    required: bool,
    /// What does not work without it.
    pub purpose: &'static str,
}

const fn driver(name: &'static str, required: bool, purpose: &'static str) -> Driver {
    Driver { name, required, purpose }
}

/// Every driver, in the order in which they are loaded.
pub const DRIVERS: [Driver; 10] = [
    driver("virtio_mmio", true, "no device of the monitor is found"),
    driver("vmw_vsock_virtio_transport", true, "nobody can speak to the agent"),
    driver("fuse", true, "no file of the host is reached"),
    driver("virtiofs", true, "no file of the host is reached"),
    driver("overlay", false, "read-only root file systems cannot be made writable in the guest"),
    driver("virtio_blk", false, "images of file systems and block devices are refused"),
    driver("ext4", false, "root file systems in ext4 images are refused"),
    driver("erofs", false, "root file systems in erofs images are refused"),
    driver("virtio_rng", false, "random numbers come from the processor alone"),
    driver("virtio_balloon", false, "memory that the guest frees stays with it"),
];

/// Where they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drivers {
    /// Files of the modules to load, relative to their directory, in order.
    pub files: Vec<String>,
    /// Those in the kernel.
    pub built_in: Vec<&'static str>,
    /// Those that are nowhere.
    pub absent: Vec<&'static str>,
}

impl Drivers {
    /// Looks for them in the directory of the modules of the kernel with this release.
    ///
    /// # Errors
    /// The directory cannot be read; a driver is missing without which no guest runs.
    pub fn find(directory: &Path, release: &str) -> Result<Self> {
        let text = |name: &str| match fs::read(directory.join(name)).call("open") {
            Err(failure) if failure.errno == Errno::ENOENT => Ok(None),
            read => read
                .map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned()))
                .context(OPERATION, quote(directory.join(name))),
        };
        let (built_in, dependencies) = (text(BUILT_IN)?, text(DEPENDENCIES)?);
        let (soft, aliases) = (text(SOFT)?, text(ALIASES)?);
        if built_in.is_none() && dependencies.is_none() {
            let reason = format!(
                "neither {BUILT_IN} nor {DEPENDENCIES} is there: install the modules of kernel \
                 {release}, or name their directory with --modules"
            );
            return Err(Error::unsupported(OPERATION, quote(directory), reason));
        }
        let [built_in, dependencies, soft, aliases] =
            [built_in, dependencies, soft, aliases].map(Option::unwrap_or_default);
        let found = List::parse(&built_in, &dependencies, &soft, &aliases).resolve();
        for driver in DRIVERS.iter().filter(|driver| driver.required) {
            if found.absent.contains(&driver.name) {
                let reason = format!(
                    "kernel {release} has no {}, neither built in nor as a module: {}",
                    driver.name, driver.purpose
                );
                return Err(Error::unsupported(OPERATION, quote(directory), reason));
            }
        }
        Ok(found)
    }

    /// For the manifest; `modules` are the names that the files have in the initramfs.
    pub fn manifest(&self, modules: Vec<String>) -> GuestDrivers {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        GuestDrivers { modules, built_in: owned(&self.built_in), absent: owned(&self.absent) }
    }
}

/// What a kernel has. Modules by their names, with `_` for `-`.
#[derive(Debug, Default)]
struct List<'t> {
    built_in: Vec<String>,
    modules: BTreeMap<String, Entry<'t>>,
    /// What stands for several names, and for which.
    aliases: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
struct Entry<'t> {
    file: &'t str,
    /// Modules that are loaded before, by file.
    needs: Vec<&'t str>,
    /// Names or aliases of modules that should be.
    wants: Vec<String>,
}

impl<'t> List<'t> {
    fn parse(built_in: &'t str, dependencies: &'t str, soft: &'t str, aliases: &'t str) -> Self {
        let built_in = built_in.lines().map(|line| name(line.trim())).collect();
        let mut list = Self { built_in, ..Self::default() };
        for line in dependencies.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_ascii_whitespace().collect();
            list.modules.insert(name(file), Entry { file, needs, wants: Vec::new() });
        }
        // softdep NAME pre: NAMES post: NAMES
        for line in soft.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1);
            let before = before.take_while(|word| *word != "post:").map(plain);
            if let Some(entry) = list.modules.get_mut(&plain(module)) {
                entry.wants.extend(before);
            }
        }
        // alias PATTERN NAME
        for line in aliases.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(alias), Some(module)) =
                (words.next(), words.next(), words.next())
            {
                list.aliases.entry(plain(alias)).or_default().push(plain(module));
            }
        }
        list
    }

    fn resolve(&self) -> Drivers {
        let mut found = Drivers::default();
        let mut seen = Vec::new();
        for Driver { name, .. } in &DRIVERS {
            if self.built_in.iter().any(|known| known == name) {
                found.built_in.push(name);
            } else if self.modules.contains_key(*name) {
                self.add(name, &mut seen, &mut found.files);
            } else {
                found.absent.push(name);
            }
        }
        found
    }

    /// Adds a module behind those that it needs. `seen` ends a circle, which a damaged list may have.
    fn add(&self, name: &str, seen: &mut Vec<String>, files: &mut Vec<String>) {
        let Some(entry) = self.modules.get(name) else { return };
        if seen.iter().any(|known| known == name) {
            return;
        }
        seen.push(name.to_owned());
        for wanted in &entry.wants {
            for module in self.named(wanted) {
                self.add(&module, seen, files);
            }
        }
        // depmod lists what is needed last first.
        for needed in entry.needs.iter().rev() {
            self.add(&self::name(needed), seen, files);
        }
        files.push(entry.file.to_owned());
    }

    /// The modules of a name or an alias. Of several implementations the generic one works on every processor.
    fn named(&self, word: &str) -> Vec<String> {
        if self.modules.contains_key(word) || self.built_in.iter().any(|known| known == word) {
            return vec![word.to_owned()];
        }
        let all = self.aliases.get(word).cloned().unwrap_or_default();
        match all.iter().find(|module| module.ends_with("_generic")) {
            Some(generic) => vec![generic.clone()],
            None => all,
        }
    }
}

/// The name of the module in this file: `kernel/fs/ext4/ext4.ko.xz`.
fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or_default();
    plain(base.split(".ko").next().unwrap_or_default())
}

/// Both characters stand for one.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/vmw_vsock/vsock.ko:
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vmw_vsock/vsock.ko kernel/drivers/virtio/virtio.ko
kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz kernel/drivers/virtio/virtio.ko
kernel/fs/fuse/fuse.ko.xz:
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko
kernel/lib/crc16.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
";

    fn files(list: &List<'_>) -> Vec<String> {
        list.resolve().files.iter().map(|file| name(file)).collect()
    }

    #[test]
    fn each_comes_behind_what_it_needs() {
        let soft = "# a comment\nsoftdep ext4 pre: crc32c post: other\n";
        let aliases =
            "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias fs-ext4 ext4\n";
        let list = List::parse("kernel/fs/overlayfs/overlay.ko\n", DEBIAN, soft, aliases);
        assert_eq!(
            files(&list).join(" "),
            "virtio virtio_ring virtio_mmio vsock vmw_vsock_virtio_transport fuse virtiofs \
             crc32c_generic crc16 ext4 virtio_rng"
        );
        let found = list.resolve();
        assert_eq!(found.built_in, ["overlay"]);
        assert_eq!(found.absent, ["virtio_blk", "erofs", "virtio_balloon"]);
        assert!(found.files.contains(&"kernel/fs/fuse/fuse.ko.xz".to_owned()));
    }

    #[test]
    fn a_circle_ends() {
        let list = List::parse("", "a/fuse.ko: b/virtiofs.ko\nb/virtiofs.ko: a/fuse.ko\n", "", "");
        assert_eq!(files(&list), ["virtiofs", "fuse"]);
    }

    #[test]
    fn a_directory_without_lists_is_named() {
        let directory = Path::new("/no/such");
        let error = Drivers::find(directory, "6.1").unwrap_err().to_string();
        assert_eq!(
            error,
            "read modules \"/no/such\": neither modules.builtin nor modules.dep is there: install the \
             modules of kernel 6.1, or name their directory with --modules"
        );
    }

    #[test]
    fn what_no_guest_runs_without_must_be_there() {
        let directory = std::env::temp_dir().join(format!("drivers-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(BUILT_IN), "kernel/drivers/virtio/virtio_mmio.ko\n").unwrap();
        let found = Drivers::find(&directory, "6.1");
        fs::remove_dir_all(&directory).unwrap();
        let error = found.unwrap_err().to_string();
        assert!(
            error.ends_with(
                ": kernel 6.1 has no vmw_vsock_virtio_transport, neither built in nor as a module: \
                 nobody can speak to the agent"
            ),
            "{error}"
        );
    }
}
