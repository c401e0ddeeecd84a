//! Kernel modules, for kernels that do not have built in what the guest needs.
//!
//! The initramfs has them in `/modules`, with their names in the order in which they are loaded in
//! `/modules/order`, one a line. A kernel of our own needs none, and there is no such directory.

use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use runtime::Failure;
use runtime::{Call, Context, Result, quote};

/// Has the kernel unpack the module. `MODULE_INIT_COMPRESSED_FILE`, Linux 5.17.
const COMPRESSED: u32 = 4;

/// Loads the modules of a directory. Returns what went wrong: perhaps nobody needs it, and who does, says so.
pub fn load_all(directory: &Path) -> Vec<String> {
    let Ok(order) = fs::read_to_string(directory.join("order")) else { return Vec::new() };
    let names = order.lines().map(str::trim).filter(|name| !name.is_empty());
    names.filter_map(|name| load(directory, name).err()).map(|error| error.to_string()).collect()
}

fn load(directory: &Path, name: &str) -> Result<()> {
    let loaded = || -> Result<(), Failure> {
        let file = File::open(directory.join(name)).call("open")?;
        match finit_module(&file, c"", ModuleInitFlags::from_bits_retain(flags(name))) {
            // It is built in, or was loaded already.
            Err(Errno::EEXIST) => Ok(()),
            loaded => loaded.call("finit_module"),
        }
    };
    loaded().context("load module", quote(name))
}

fn flags(name: &str) -> u32 {
    if name.ends_with(".ko") { 0 } else { COMPRESSED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_loaded_is_named() {
        let directory = std::env::temp_dir().join(format!("agent-modules-{}", std::process::id()));
        assert!(load_all(&directory).is_empty());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("order"), "absent.ko.xz\n\nnone.ko\n").unwrap();
        fs::write(directory.join("none.ko"), "no module").unwrap();
        let faults = load_all(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(faults.len(), 2);
        assert!(faults[0].starts_with("load module \"absent.ko.xz\": open: ENOENT"), "{faults:?}");
        assert!(faults[1].starts_with("load module \"none.ko\": finit_module: E"), "{faults:?}");
        assert_eq!(["a.ko", "a.ko.zst", "a.ko.gz"].map(flags), [0, 4, 4]);
    }
}
