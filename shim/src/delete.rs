//! The `delete` action: cleans up after a shim that died, for one container.
//!
//! containerd calls it when the connection to a shim broke, with the bundle as the working directory
//! and five seconds of patience, and removes the bundle after it. So what fails here must be said by
//! the exit code: the bundle then stays, and containerd calls again when it is restarted. What is
//! absent already is fine, and so is being called twice.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField};
use nix::errno::Errno;
use runtime::{Container, Error, ErrorKind, Result};

use crate::args::Arguments;
use crate::options::Options;
use crate::start::ADDRESS_FILE;
use crate::{bootstrap, rootfs, socket};

/// What containerd counts for a process that was killed: 128 and the number of SIGKILL.
pub const KILLED: u32 = 137;

/// Where `Create` writes the pid of the container's process, as under runc's shim.
pub const PID_FILE: &str = "init.pid";

/// What there is to print.
#[derive(Debug, PartialEq, Eq)]
pub struct Deleted {
    /// For standard output: a protobuf `DeleteResponse`.
    pub response: Vec<u8>,
    /// For standard error: containerd logs them.
    pub warnings: Vec<String>,
}

/// Kills and deletes the container, unmounts its root file system, and removes the socket of its shim
/// if nobody answers there. Everything is tried, whatever of it fails.
///
/// # Errors
/// The first failure. What could be deleted is, and a second call goes on with the rest.
pub fn delete(arguments: &Arguments) -> Result<Deleted> {
    let bundle = match bootstrap::bundle(arguments) {
        // Nothing says where the container is recorded. It was deleted, or this is the wrong place.
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(deleted(0, Vec::new())),
        found => found?,
    };
    let mut warnings = Vec::new();
    let root = Options::load(&bundle)?.state_root(&arguments.namespace);
    let noted = pid_file(&bundle);
    let container = remove_container(&root, &arguments.id, &mut warnings);
    let rootfs = rootfs::unmount(&bundle);
    let socket = remove_socket(&bundle);
    let pid = container?;
    rootfs?;
    if let Err(error) = socket {
        // The next `start` of the group takes its place.
        warnings.push(error.to_string());
    }
    Ok(deleted(if pid == 0 { noted } else { pid }, warnings))
}

fn deleted(pid: u32, warnings: Vec<String>) -> Deleted {
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::from(SystemTime::now())),
        ..DeleteResponse::default()
    };
    let response = response.write_to_bytes().expect("a message in memory has no missing field");
    Deleted { response, warnings }
}

/// Kills and deletes the container; the pid of its process, 0 when that had ended.
fn remove_container(root: &Path, id: &str, warnings: &mut Vec<String>) -> Result<u32> {
    let absent = |error: Error| match error.kind() {
        ErrorKind::NotFound => Ok(0),
        _ => Err(error),
    };
    match Container::load(root, id) {
        Ok(container) => {
            // A container that cannot be looked at can still be killed by its cgroup.
            let pid = container.report().map_or(0, |report| report.pid.unsigned_abs());
            container.delete(true, warnings).map(|()| pid).or_else(absent)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        // A record that cannot be read: of a shim that died while it created the container.
        Err(_) => Container::delete_remains(root, id).map(|()| 0).or_else(absent),
    }
}

/// The pid that was written when the container was created; 0 when it was not.
fn pid_file(bundle: &Path) -> u32 {
    let mut text = String::new();
    let read = File::open(bundle.join(PID_FILE))
        .and_then(|file| file.take(32).read_to_string(&mut text))
        .is_ok();
    if read { text.trim().parse().unwrap_or(0) } else { 0 }
}

/// Removes the socket of the container's shim unless somebody answers there: the shim of the other
/// containers of the pod.
fn remove_socket(bundle: &Path) -> Result<()> {
    let mut text = String::new();
    let read = File::open(bundle.join(ADDRESS_FILE))
        .and_then(|file| file.take(4096).read_to_string(&mut text));
    match (read, socket::path_of(text.trim())) {
        (Ok(_), Some(path)) => socket::remove_stale(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_fine() {
        let bundle = crate::testing::directory("delete");
        let state = crate::testing::directory("delete-state");
        Options { root: Some(state.clone()), ..Options::default() }.store(&bundle).unwrap();
        std::fs::write(bundle.join(PID_FILE), "4711").unwrap();
        std::fs::write(bundle.join(ADDRESS_FILE), "unix:///nonexistent/s").unwrap();
        let arguments = Arguments {
            namespace: "ns".into(),
            id: "c1".into(),
            bundle: Some(bundle.clone()),
            ..Arguments::default()
        };
        for _ in 0..2 {
            let deleted = delete(&arguments).unwrap();
            let response = DeleteResponse::parse_from_bytes(&deleted.response).unwrap();
            assert_eq!((response.pid, response.exit_status), (4711, 137));
            assert!(response.exited_at.seconds > 0 && deleted.warnings.is_empty());
        }
        std::fs::write(bundle.join("options.json"), "").unwrap();
        assert!(delete(&arguments).is_err());
        std::fs::remove_dir_all(bundle).unwrap();
        assert!(delete(&arguments).is_ok());
        std::fs::remove_dir_all(state).unwrap();
    }
}
