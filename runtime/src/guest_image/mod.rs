//! The guest image: what a virtual machine boots. A directory of three files:
//!
//! ```text
//! kernel       an ELF file with a PVH entry, or a bzImage, for the monitor as it is
//! initramfs    a newc cpio archive that is not compressed; its layout is in [`layout`]
//! image.json   the manifest: what they are, where they come from, their checksums
//! ```
//!
//! `bulkhead vm setup` makes it, with rename(2) as its last step, so that a directory with this name is whole. Here
//! it is opened. What it says is executed with the power of the guest's kernel, so nobody but root and the caller
//! may have been able to write it.

pub mod layout;
mod manifest;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

pub use self::manifest::{
    GuestAgent, GuestDrivers, GuestFile, GuestKernel, GuestManifest, KernelFormat,
};
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};

const OPEN: &str = "open guest image";
/// The longest manifest that is read.
const LONGEST_MANIFEST: u64 = 1 << 20;

/// An image whose files are open, and were not to be written by others when they were opened.
#[derive(Debug)]
pub struct GuestImage {
    directory: PathBuf,
    /// The kernel, at its beginning.
    pub kernel: File,
    /// The initramfs, at its beginning.
    pub initramfs: File,
    /// What they are.
    pub manifest: GuestManifest,
}

impl GuestImage {
    /// Where `bulkhead vm setup` puts the image unless it is told otherwise.
    pub const DIRECTORY: &str = "/var/lib/bulkhead/vm";
    /// Name of the kernel in the directory.
    pub const KERNEL: &str = "kernel";
    /// Name of the initramfs in the directory.
    pub const INITRAMFS: &str = "initramfs";
    /// Name of the manifest in the directory.
    pub const MANIFEST: &str = "image.json";

    /// Opens the image in `directory`. Sizes are compared with the manifest, checksums are not: see
    /// [`Self::verify`].
    ///
    /// # Errors
    /// A file that is missing or no regular file; a directory or file that somebody else than root and the caller
    /// owns or can write; a manifest of another version of the format; an agent that speaks another version of the
    /// messages (`Unsupported`).
    pub fn open(directory: &Path) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(directory, flags, Mode::empty())
            .call("open")
            .context(OPEN, quote(directory))?;
        let stat = fstat(&opened).call("fstat").context(OPEN, quote(directory))?;
        trust(&stat, directory)?;
        let manifest = read_manifest(&opened, directory)?;
        let kernel = open_file(&opened, directory, Self::KERNEL, Some(&manifest.kernel.file))?;
        let initramfs = open_file(&opened, directory, Self::INITRAMFS, Some(&manifest.initramfs))?;
        Ok(Self { directory: directory.to_owned(), kernel, initramfs, manifest })
    }

    /// Compares the checksums with the manifest's, which takes a second for each 400 MB. The files are at their
    /// beginning again afterwards.
    ///
    /// # Errors
    /// They differ, or cannot be read.
    pub fn verify(&mut self) -> Result<()> {
        let files = [
            (Self::KERNEL, &mut self.kernel, &self.manifest.kernel.file),
            (Self::INITRAMFS, &mut self.initramfs, &self.manifest.initramfs),
        ];
        for (name, file, entry) in files {
            let context = || quote(self.directory.join(name));
            let found = checksum(file).call("read").context("check", context())?;
            if found != entry.sha256 {
                let reason =
                    format!("its SHA-256 is {found}, the manifest says {}: damaged", entry.sha256);
                return Err(Error::new(ErrorKind::System, "check", context(), reason));
            }
        }
        Ok(())
    }
}

/// SHA-256 of a whole file in hexadecimal digits.
fn checksum(file: &mut File) -> io::Result<String> {
    let mut digest = Sha256::new();
    file.rewind()?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => digest.update(&buffer[..length]),
        }
    }
    file.rewind()?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whoever can write the image decides what the guest's kernel does.
fn trust(stat: &FileStat, path: &Path) -> Result<()> {
    let refused = |reason: String| Err(Error::unsupported(OPEN, quote(path), reason));
    if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
        return refused(format!(
            "user {} owns it, who is neither root nor the caller",
            stat.st_uid
        ));
    }
    if stat.st_mode & 0o022 != 0 {
        return refused(format!("others can write it (mode {:o})", stat.st_mode & 0o7777));
    }
    Ok(())
}

/// Opens a file of the image: a regular one, not through a link, of the size that the manifest says.
fn open_file(
    at: &OwnedFd,
    directory: &Path,
    name: &str,
    entry: Option<&GuestFile>,
) -> Result<File> {
    let path = directory.join(name);
    let irregular = || Error::unsupported(OPEN, quote(&path), "is not a regular file");
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(at.as_fd(), name, flags, Mode::empty()) {
        // A symbolic link, a socket.
        Err(Errno::ELOOP | Errno::ENXIO) => return Err(irregular()),
        opened => opened.call("openat").context(OPEN, quote(&path))?,
    };
    let stat = fstat(&file).call("fstat").context(OPEN, quote(&path))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(irregular());
    }
    trust(&stat, &path)?;
    match entry {
        Some(entry) if u64::try_from(stat.st_size) != Ok(entry.size) => {
            let reason = format!("has {} bytes, the manifest says {}", stat.st_size, entry.size);
            Err(Error::unsupported(OPEN, quote(&path), reason))
        }
        _ => Ok(file.into()),
    }
}

fn read_manifest(at: &OwnedFd, directory: &Path) -> Result<GuestManifest> {
    let path = directory.join(GuestImage::MANIFEST);
    let file = open_file(at, directory, GuestImage::MANIFEST, None)?;
    let mut json = Vec::new();
    file.take(LONGEST_MANIFEST).read_to_end(&mut json).call("read").context(OPEN, quote(&path))?;
    let manifest = GuestManifest::parse(&json)
        .map_err(|reason| Error::unsupported(OPEN, quote(&path), reason))?;
    let messages = manifest.agent.messages;
    if messages != wire::VERSION {
        let reason = format!(
            "its agent speaks version {messages} of the messages, this program {}: make it anew",
            wire::VERSION
        );
        return Err(Error::unsupported(OPEN, quote(&path), reason));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sched::CloneFlags;

    use super::*;
    use crate::testing::in_namespaces;

    const KERNEL: &[u8] = b"a kernel";
    const INITRAMFS: &[u8] = b"an archive";

    /// An image in a directory of its own.
    struct Made(PathBuf);

    impl Made {
        fn new() -> Self {
            let template = std::env::temp_dir().join("guest-image.XXXXXX");
            let path = nix::unistd::mkdtemp(&template).unwrap();
            fs::write(path.join("kernel"), KERNEL).unwrap();
            fs::write(path.join("initramfs"), INITRAMFS).unwrap();
            let manifest =
                serde_json::to_vec(&manifest::tests::example(KERNEL, INITRAMFS)).unwrap();
            fs::write(path.join("image.json"), manifest).unwrap();
            for name in ["kernel", "initramfs", "image.json"] {
                fs::set_permissions(path.join(name), Permissions::from_mode(0o644)).unwrap();
            }
            Self(path)
        }

        fn error(&self) -> String {
            let error = GuestImage::open(&self.0).unwrap_err().to_string();
            error.replace(self.0.to_str().unwrap(), "D")
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.0.join(name), Permissions::from_mode(mode)).unwrap();
        }
    }

    impl Drop for Made {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn an_image_is_opened_and_read_from_the_beginning() {
        let made = Made::new();
        let mut image = GuestImage::open(&made.0).unwrap();
        image.verify().unwrap();
        for (file, content) in [(&mut image.kernel, KERNEL), (&mut image.initramfs, INITRAMFS)] {
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
        }
        assert_eq!(image.manifest.release, "6.1.0-test");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let made = Made::new();
        made.mode("kernel", 0o664);
        assert_eq!(made.error(), "open guest image \"D/kernel\": others can write it (mode 664)");
        made.mode("kernel", 0o644);
        made.mode(".", 0o777);
        assert_eq!(made.error(), "open guest image \"D\": others can write it (mode 777)");
        made.mode(".", 0o755);
        fs::write(made.0.join("initramfs"), "short").unwrap();
        let error = "open guest image \"D/initramfs\": has 5 bytes, the manifest says 10";
        assert_eq!(made.error(), error);
        fs::remove_file(made.0.join("initramfs")).unwrap();
        symlink("kernel", made.0.join("initramfs")).unwrap();
        let error = "open guest image \"D/initramfs\": is not a regular file";
        assert_eq!(made.error(), error);
        fs::remove_file(made.0.join("kernel")).unwrap();
        let error = "open guest image \"D/kernel\": openat: ENOENT (no such file or directory)";
        assert_eq!(made.error(), error);
        nix::unistd::mkfifo(&made.0.join("kernel"), Mode::S_IRUSR).unwrap();
        assert_eq!(made.error(), "open guest image \"D/kernel\": is not a regular file");
        fs::write(made.0.join("image.json"), "{").unwrap();
        assert!(made.error().starts_with("open guest image \"D/image.json\": is not a manifest: "));
    }

    #[test]
    fn damage_of_the_same_size_is_found() {
        let made = Made::new();
        fs::write(made.0.join("kernel"), "a kermel").unwrap();
        let mut image = GuestImage::open(&made.0).unwrap();
        let error = image.verify().unwrap_err().to_string();
        assert!(
            error.contains("kernel\": its SHA-256 is ") && error.ends_with(": damaged"),
            "{error}"
        );
    }

    #[test]
    fn an_agent_of_another_version_is_refused() {
        let made = Made::new();
        let mut manifest = manifest::tests::example(KERNEL, INITRAMFS);
        manifest.agent.messages = wire::VERSION + 1;
        fs::write(made.0.join("image.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        assert!(made.error().contains("its agent speaks version"), "{}", made.error());
    }

    #[test]
    fn somebody_elses_image_is_refused() {
        in_namespaces(CloneFlags::CLONE_NEWUSER, || {
            let made = Made::new();
            nix::unistd::chown(&made.0.join("kernel"), Some(7.into()), None).unwrap();
            let error =
                "open guest image \"D/kernel\": user 7 owns it, who is neither root nor the caller";
            assert_eq!(made.error(), error);
        });
    }
}
