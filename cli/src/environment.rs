//! The environment variables that a runtime answers to. The library reads none.

use std::ffi::OsString;
use std::path::PathBuf;

/// Variables and facts about the caller, read once.
#[derive(Debug)]
pub struct Environment {
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
    /// Whether the caller is root of the host, or of a user namespace that poses as a host.
    pub privileged: bool,
    /// `NOTIFY_SOCKET`.
    pub notify_socket: Option<OsString>,
    /// `PATH`.
    pub path: Option<OsString>,
    /// Number of descriptors of socket activation, from 3.
    pub listen_fds: u32,
    /// `LISTEN_FDNAMES`.
    pub listen_names: Option<String>,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            xdg_runtime_dir: None,
            privileged: true,
            notify_socket: None,
            path: None,
            listen_fds: 0,
            listen_names: None,
        }
    }
}

impl Environment {
    /// Reads the process' environment.
    pub fn read() -> Self {
        let text = |name| std::env::var(name).ok();
        let listen_fds = listen_fds(text("LISTEN_PID").as_deref(), text("LISTEN_FDS").as_deref());
        let xdg_runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|v| !v.is_empty());
        // Whose root it is matters only where there is a choice of directories.
        let posing = || text("USER").is_none_or(|user| user != "root") && in_user_namespace();
        let privileged =
            nix::unistd::geteuid().is_root() && !(xdg_runtime_dir.is_some() && posing());
        Self {
            xdg_runtime_dir,
            privileged,
            notify_socket: std::env::var_os("NOTIFY_SOCKET").filter(|v| !v.is_empty()),
            path: std::env::var_os("PATH"),
            listen_fds,
            listen_names: text("LISTEN_FDNAMES").filter(|_| listen_fds > 0),
        }
    }

    /// Where an ordinary user keeps state. The root of a user namespace counts as one: `/run` there
    /// is still the host's. It does not when it calls itself root, as inside a container.
    pub fn runtime_directory(&self) -> Option<PathBuf> {
        self.xdg_runtime_dir.as_ref().filter(|_| !self.privileged).map(PathBuf::from)
    }
}

/// The variables are for the process that `LISTEN_PID` names, see sd_listen_fds(3): a child that
/// merely inherited them must not take descriptors for sockets.
fn listen_fds(pid: Option<&str>, fds: Option<&str>) -> u32 {
    match (pid.map(str::parse::<u32>), fds.map(str::parse::<u32>)) {
        (Some(Ok(pid)), Some(Ok(fds))) if pid == std::process::id() => fds,
        _ => 0,
    }
}

/// The initial user namespace maps every id to itself.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| !map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_for_the_named_process() {
        let own = std::process::id().to_string();
        assert_eq!(listen_fds(Some(&own), Some("2")), 2);
        assert_eq!(listen_fds(Some("1"), Some("2")), 0);
        assert_eq!(listen_fds(None, Some("2")), 0);
        assert_eq!(listen_fds(Some(&own), Some("-2")), 0);
    }

    #[test]
    fn the_users_directory_is_for_users() {
        let mut environment =
            Environment { xdg_runtime_dir: Some("/run/user/7".into()), ..Environment::default() };
        assert_eq!(environment.runtime_directory(), None);
        environment.privileged = false;
        assert_eq!(environment.runtime_directory(), Some(PathBuf::from("/run/user/7")));
    }
}
