//! The first words with the host, and what it tells that the guest cannot know by itself.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use runtime::{Call, Context, Error, Result};
use wire::{Hello, Welcome};

use crate::connection::Connection;
use crate::sys;

/// How long the host may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Greets the host.
///
/// # Errors
/// It does not answer, or not in these words.
pub fn greet(host: &mut Connection) -> Result<Welcome> {
    let kernel = nix::sys::utsname::uname().call("uname").context("name", "the kernel")?;
    host.send(&Hello {
        version: wire::VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel.release().to_string_lossy().into_owned(),
    })?;
    host.expect(DEADLINE)
}

/// Does what the host's welcome asks for.
///
/// # Errors
/// What failed.
pub fn settle(welcome: &Welcome) -> Result<()> {
    let seconds = i64::try_from(welcome.seconds)
        .map_err(|_| Error::invalid("welcome.seconds", "is no time that a clock could show"))?;
    let time = TimeSpec::new(seconds, i64::from(welcome.nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, time)
        .call("clock_settime")
        .context("set", "the clock")?;
    let random = File::options().write(true).open("/dev/random");
    let random = random.call("open").context("open", "\"/dev/random\"")?;
    sys::add_entropy(random.as_fd(), &welcome.entropy).context("add", "entropy")?;
    if welcome.shares { mount_share(Path::new(wire::SHARES)) } else { Ok(()) }
}

fn mount_share(at: &Path) -> Result<()> {
    const SHARE: &str = "the shared file system";
    fs::create_dir_all(at).call("mkdir").context("mount", SHARE)?;
    let (tag, none) = (Some(wire::SHARE_TAG), None::<&str>);
    mount(tag, at, Some("virtiofs"), MsFlags::empty(), none).call("mount").context("mount", SHARE)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Connection, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = |socket| Connection::new(OwnedFd::from(socket)).unwrap();
        (connection(ours), connection(theirs))
    }

    #[test]
    fn words_are_exchanged() {
        let (mut agent, mut host) = pair();
        let welcome = Welcome { seconds: 1, nanoseconds: 2, entropy: vec![3], shares: false };
        host.send(&welcome).unwrap();
        assert_eq!(greet(&mut agent).unwrap(), welcome);
        let hello: Hello = host.expect(DEADLINE).unwrap();
        assert_eq!(hello.version, wire::VERSION);
        assert!(!hello.kernel.is_empty());
    }

    #[test]
    fn a_host_that_is_gone_or_speaks_otherwise_is_told_of() {
        let (mut agent, host) = pair();
        drop(host);
        assert!(greet(&mut agent).is_err());
        let (mut agent, host) = pair();
        host.send(&"welcome").unwrap();
        assert!(greet(&mut agent).unwrap_err().to_string().contains("no message"));
    }
}
