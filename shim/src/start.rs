//! The `start` action: makes or finds the shim of a container, and gives the answer to print.
//!
//! What is left in the bundle: `address`, from which a daemon that was restarted finds the shim (1.6
//! reads nothing else; later ones write their own `bootstrap.json` and read this where that is
//! missing), and `options.json`, for `delete`. Both also when another container's shim was found: the
//! bundle is this container's.
//!
//! Nothing may be printed but the answer, not even to standard error: containerd reads both as one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use runtime::Result;

use crate::args::Arguments;
use crate::bootstrap::Launch;
use crate::daemon::{self, Side};
use crate::log::Log;
use crate::options::replace;
use crate::{group, input, serve, socket};

/// The file in the bundle that has the shim's address.
pub const ADDRESS_FILE: &str = "address";

/// Starts a shim for the container, or finds the one of its group; the answer for standard output.
/// The daemon does not return from here.
///
/// # Errors
/// No shim was started and no socket is left.
pub fn start(arguments: &Arguments) -> Result<Vec<u8>> {
    let input = input::read_all(io::stdin().as_fd(), input::PATIENCE)?;
    let launch = Launch::read(arguments, &input)?;
    let path = place(arguments, &launch)?;
    let address = socket::address(&path);
    launch.options.store(&launch.bundle)?;
    let answer = launch.answer.text(&address);
    match socket::listen(&path)? {
        None => remember(&launch.bundle, &address)?,
        Some(listener) => {
            let started =
                remember(&launch.bundle, &address).and_then(|()| daemon::fork(&launch, listener));
            match started {
                Ok(Side::Caller) => {}
                Ok(Side::Daemon(listener)) => run(listener, path, launch),
                Err(error) => {
                    // The error that counts is the first one.
                    let _ = socket::remove_stale(&path);
                    return Err(error);
                }
            }
        }
    }
    Ok(answer)
}

fn place(arguments: &Arguments, launch: &Launch) -> Result<PathBuf> {
    if let Some(path) = &arguments.socket {
        socket::check(path)?;
        return Ok(path.clone());
    }
    let group = group::group(&launch.bundle, &launch.id)?;
    socket::path(launch.socket_dir.as_deref(), &launch.grpc_address, &launch.namespace, &group)
}

fn remember(bundle: &Path, address: &str) -> Result<()> {
    replace(bundle, ADDRESS_FILE, address.as_bytes())
}

/// The daemon's life.
fn run(listener: OwnedFd, path: PathBuf, launch: Launch) -> ! {
    let log = Log::new(&launch.bundle, &launch.namespace, &launch.id, launch.debug);
    launch.warnings.iter().for_each(|warning| log.warn(warning));
    runtime::leave(serve::serve(listener, path, launch))
}
