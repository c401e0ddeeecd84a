//! The machine's files, read-only for everything that a run starts.
//!
//! A runtime under test is root, and what it does with a hostile id or path is what the tests ask: an
//! old crun asked to `delete --force /` emptied the root of the machine. So in the run's own mount
//! namespace every mount becomes read-only but the run's directory and the kernel's own file systems.
//! The program under test keeps a writable mount of its own, or it would find its binary protected.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::sys;

/// File systems of the kernel, which tests write to.
const SPARED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Read-only mounts of this namespace, for as long as this lives.
pub struct Shield(Vec<PathBuf>);

impl Shield {
    /// Makes all mounts read-only but those at or below `base` and those of the kernel.
    pub fn raise(base: &Path, runtimes: &[PathBuf]) -> io::Result<Self> {
        let mut spared: Vec<PathBuf> = SPARED.iter().map(PathBuf::from).collect();
        spared.push(base.to_owned());
        for runtime in runtimes {
            let program = fs::canonicalize(runtime)?;
            let none = None::<&str>;
            mount(Some(&program), &program, none, MsFlags::MS_BIND, none)?;
            spared.push(program);
        }
        let mut shield = Self(Vec::new());
        for point in mount_points()? {
            if !spared.iter().any(|spared| point.starts_with(spared)) {
                sys::set_read_only(&point, true)?;
                shield.0.push(point);
            }
        }
        // A check of the check: without it, the tests are not to be run.
        let probe = std::env::temp_dir().join(format!("shield{}", std::process::id()));
        match fs::write(&probe, "") {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(shield),
            _ => Err(io::Error::other("the machine's files are not protected from the tests")),
        }
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        for point in &self.0 {
            let _ = sys::set_read_only(point, false);
        }
    }
}

/// Where something is mounted that is writable. proc(5): blanks and backslashes are octal.
fn mount_points() -> io::Result<BTreeSet<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let writable = options.split(',').any(|option| option == "rw");
        let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(point.to_owned(), |text, (code, plain)| text.replace(code, plain));
        writable.then(|| PathBuf::from(plain))
    });
    Ok(points.collect())
}
