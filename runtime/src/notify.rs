//! The container's end of readiness notifications: a directory of the state, mounted read-only, and
//! the variable that names the socket in it.
//!
//! The manager's own socket stays outside: what a container writes there would be taken as the
//! service's word. Whoever starts the container binds the socket and passes `READY=1` on. The stored
//! configuration does not have them: a further process is not the service. See sd_notify(3).

use std::path::Path;

use oci_spec::runtime::{MountBuilder, Spec};

use crate::error::{Error, Result};

/// Where the directory appears in the container, as under runc.
pub(crate) const INSIDE: &str = "/run/notify";
const VARIABLE: &str = "NOTIFY_SOCKET=";
const SOCKET: &str = "notify.sock";

/// The configuration with the directory's mount, the last one, and the variable.
pub(crate) fn with_socket(spec: &Spec, directory: &Path) -> Result<Spec> {
    let mut spec = spec.clone();
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default()
        .destination(INSIDE)
        .source(directory)
        .options(options)
        .build()
        .map_err(|error| Error::invalid("mounts", error.to_string()))?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        let env = process.env_mut().get_or_insert_default();
        // The configuration's own would name a socket of the host.
        env.retain(|entry| !entry.starts_with(VARIABLE));
        env.push(format!("{VARIABLE}{INSIDE}/{SOCKET}"));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_gains_a_mount_and_a_variable() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion": "1.0.0", "root": {"path": "r"}, "process": {"cwd": "/", "args": ["x"],
                "user": {"uid": 0, "gid": 0}, "env": ["NOTIFY_SOCKET=/run/systemd/notify", "A=1"]}}"#,
        )
        .unwrap();
        let with = with_socket(&spec, Path::new("/run/bulkhead/c/notify")).unwrap();
        let env = with.process().as_ref().and_then(|process| process.env().clone()).unwrap();
        assert_eq!(env, ["A=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
        let mount = &with.mounts().as_ref().unwrap()[0];
        assert_eq!(mount.destination(), Path::new("/run/notify"));
        assert_eq!(mount.source().as_deref(), Some(Path::new("/run/bulkhead/c/notify")));
        assert!(mount.options().as_ref().unwrap().contains(&"ro".to_owned()));
    }
}
