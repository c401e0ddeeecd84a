//! Where CRIU is on this machine, and which file has options for it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Where packages put it, for callers without a useful PATH.
const DIRECTORIES: [&str; 5] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin"];
/// Files with options for CRIU, the first of which counts; the second is runc's.
const CONFIGURATIONS: [&str; 2] = ["/etc/criu/bulkhead.conf", "/etc/criu/runc.conf"];

/// The program `criu`: the first in `search`, which is written as PATH is, or else where packages put it. A
/// relative entry does not count: what the caller's directory holds is not run as root.
///
/// # Errors
/// `Unsupported` when there is none.
pub fn criu_program(search: Option<&OsStr>) -> Result<PathBuf> {
    let listed = search.map(std::env::split_paths).into_iter().flatten();
    listed
        .filter(|directory| directory.is_absolute())
        .chain(DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join("criu"))
        .find(|program| {
            program
                .metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| {
            let reason = "it is not installed, or not in a directory of PATH";
            Error::unsupported("find", "criu", reason)
        })
}

/// The file with options for CRIU that root has put on this machine.
pub fn criu_configuration() -> Option<PathBuf> {
    CONFIGURATIONS.map(PathBuf::from).into_iter().find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_program_is_looked_for_in_absolute_directories() {
        let base = std::env::temp_dir().join(format!("bulkhead-criu-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        let file = base.join("criu");
        std::fs::write(&file, "").unwrap();
        let path = std::env::join_paths([Path::new("relative"), &base]).unwrap();
        let found = |path: &OsStr| criu_program(Some(path)).ok();
        assert_ne!(found(&path).as_deref(), Some(&*file), "it is not executable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(&path), Some(file));
        std::fs::remove_dir_all(&base).unwrap();
    }
}
