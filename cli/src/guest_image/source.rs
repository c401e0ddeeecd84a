//! Files that become part of an image.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use runtime::{Call, Context, Error, Result, quote};

/// A regular file's content, of at most `longest` bytes. The last part of the path is no link: what the file is
/// called is what is recorded, and nobody else decides what it leads to.
pub fn read(operation: &str, path: &Path, longest: u64) -> Result<Vec<u8>> {
    let refused = |reason: String| Err(Error::unsupported(operation, quote(path), reason));
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = match opened.call("open") {
        Err(failure) if failure.errno == Errno::ELOOP => {
            return refused("is a symbolic link: name the file that it leads to".to_owned());
        }
        opened => opened.context(operation, quote(path))?,
    };
    let metadata = file.metadata().call("fstat").context(operation, quote(path))?;
    if !metadata.is_file() {
        return refused("is not a regular file".to_owned());
    }
    if metadata.len() > longest {
        return refused(format!("has {} bytes, more than {longest}", metadata.len()));
    }
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // It may grow meanwhile.
    file.take(longest).read_to_end(&mut content).call("read").context(operation, quote(path))?;
    Ok(content)
}
