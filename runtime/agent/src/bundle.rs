//! A container's bundle in the guest, and its root file system when that is on a disk.
//!
//! A read-only file system for a container that may write is the lower layer of an overlay, whose upper one is
//! in the guest's memory and ends with the container.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind as Io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use runtime::{Call, Config, Context, Error, ErrorKind, Result, quote};
use serde_json::Value;
use wire::{First, Root};

use crate::{BUNDLES, disks};

/// A bundle. What was made for it is taken back when it is dropped.
#[derive(Debug)]
pub struct Bundle {
    /// Its directory.
    pub path: PathBuf,
    /// Whether disks were mounted or given to the container: what was written is to reach them.
    pub has_disks: bool,
    root: PathBuf,
    /// In the order in which they were made.
    mounts: Vec<PathBuf>,
}

impl Bundle {
    /// Makes the bundle of a container, and returns it with the configuration as it applies here.
    ///
    /// # Errors
    /// `Exists` when there is one of that id; otherwise what failed.
    pub fn make(first: First, warnings: &mut Vec<String>) -> Result<(Self, Config)> {
        let id = &first.container;
        runtime::validate_id(id)?;
        let path = Path::new(BUNDLES).join(id);
        make_directory(&path).map_err(|error| match error.errno() {
            Some(nix::errno::Errno::EEXIST) => {
                let reason = "container with given ID already exists";
                Error::new(ErrorKind::Exists, "create container", quote(id), reason)
            }
            _ => error,
        })?;
        let root = Path::new(wire::ROOTS).join(id);
        let mut bundle = Self { path, has_disks: false, root, mounts: Vec::new() };
        let mut config = first.config;
        if !first.disks.is_empty() {
            bundle.has_disks = true;
            disks::renumber(&mut config, &first.disks)?;
        }
        if let Root::Disk { disk, filesystem } = &first.root {
            bundle.has_disks = true;
            bundle.mount_root(*disk, filesystem, &mut config)?;
        }
        let text = serde_json::to_vec(&config).expect("a JSON value is JSON");
        let file = bundle.path.join("config.json");
        fs::write(&file, &text).call("write").context("write", quote(&file))?;
        Ok((bundle, runtime::parse_config(&text, warnings)?))
    }

    fn mount_root(&mut self, disk: u32, filesystem: &str, config: &mut Value) -> Result<()> {
        let read_only = config.pointer("/root/readonly").and_then(Value::as_bool) == Some(true);
        let Some(root) = config.get_mut("root").and_then(Value::as_object_mut) else {
            return Err(Error::invalid("root", "is required"));
        };
        root.insert("path".to_owned(), self.root.to_string_lossy().into());
        make_directory(&self.root)?;
        let mut flags = MsFlags::empty();
        flags.set(MsFlags::MS_RDONLY, disks::is_read_only(disk)?);
        let source = disks::file(disk);
        let root = self.root.clone();
        if read_only {
            return self.mount(&source, &root, filesystem, flags, "");
        }
        // Only the mounted file system says whether it can be written to.
        let lower = self.path.join("lower");
        make_directory(&lower)?;
        self.mount(&source, &lower, filesystem, flags, "")?;
        let is = statvfs(&lower).call("statvfs").context("look at", quote(&lower))?.flags();
        if !is.contains(FsFlags::ST_RDONLY) {
            mount(Some(&lower), &root, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
                .call("mount")
                .context("mount root.path", quote(&root))?;
            self.mounts = vec![root];
            return Ok(());
        }
        let layers = self.path.join("layers");
        make_directory(&layers)?;
        self.mount(Path::new("tmpfs"), &layers, "tmpfs", MsFlags::empty(), "mode=0700")?;
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        make_directory(&work)?;
        fs::create_dir(&upper).call("mkdir").context("make", quote(&upper))?;
        copy_owner(&lower, &upper)?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        self.mount(Path::new("overlay"), &root, "overlay", MsFlags::empty(), &options)
    }

    fn mount(
        &mut self,
        source: &Path,
        target: &Path,
        filesystem: &str,
        flags: MsFlags,
        options: &str,
    ) -> Result<()> {
        mount(Some(source), target, Some(filesystem), flags, Some(options))
            .call("mount")
            .context("mount root.path", format!("{} as {filesystem}", quote(source)))?;
        self.mounts.push(target.to_owned());
        Ok(())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for target in self.mounts.drain(..).rev() {
            // Something of the container may still have it open; it goes with that.
            let _ = umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
        // Where a mount resists, its place stays with it.
        for name in ["lower", "layers"] {
            let _ = fs::remove_dir(self.path.join(name));
        }
        let _ = fs::remove_file(self.path.join("config.json"));
        let _ = fs::remove_dir(&self.path);
        let _ = fs::remove_dir(&self.root);
        if self.has_disks {
            nix::unistd::sync();
        }
    }
}

/// Makes a directory for root alone, and those above it.
fn make_directory(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let made = match builder.create(path) {
        Err(error) if error.kind() == Io::NotFound => {
            let parent = path.parent().unwrap_or(path);
            builder
                .recursive(true)
                .create(parent)
                .and_then(|()| builder.recursive(false).create(path))
        }
        made => made,
    };
    made.call("mkdir").context("make", quote(path))
}

/// The root of an overlay has the owner and the mode of its upper layer.
fn copy_owner(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let copy = || {
        let metadata = fs::metadata(from)?;
        std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::set_permissions(to, metadata.permissions())
    };
    copy().call("chown").context("make", quote(to))
}
