//! The environment variables that a runtime answers to. The library reads none.

use std::ffi::OsString;
use std::path::PathBuf;

use runtime::ServiceManager;

/// Variables and facts about the caller, read once.
#[derive(Debug)]
pub struct Environment {
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
    /// Whether the caller is root of the host, or of a user namespace that poses as a host.
    pub privileged: bool,
    /// `PATH`.
    pub path: OsString,
    /// `DBUS_SESSION_BUS_ADDRESS`.
    pub session_bus: Option<String>,
    /// `NOTIFY_SOCKET`.
    pub notify_socket: Option<OsString>,
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
            path: OsString::new(),
            session_bus: None,
            notify_socket: None,
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
            path: std::env::var_os("PATH").unwrap_or_default(),
            session_bus: text("DBUS_SESSION_BUS_ADDRESS"),
            notify_socket: std::env::var_os("NOTIFY_SOCKET").filter(|v| !v.is_empty()),
            listen_fds,
            listen_names: text("LISTEN_FDNAMES").filter(|_| listen_fds > 0),
        }
    }

    /// Where an ordinary user keeps state. The root of a user namespace counts as one: `/run` there
    /// is still the host's. It does not when it calls itself root, as inside a container.
    pub fn runtime_directory(&self) -> Option<PathBuf> {
        self.xdg_runtime_dir.as_ref().filter(|_| !self.privileged).map(PathBuf::from)
    }

    /// The systemd that is in charge of the caller's cgroups.
    pub fn service_manager(&self) -> ServiceManager {
        if self.privileged {
            return ServiceManager::system();
        }
        let directory = self.xdg_runtime_dir.as_ref().map(PathBuf::from);
        let directory = directory.unwrap_or_else(|| format!("/run/user/{}", host_uid()).into());
        ServiceManager::user(&directory, self.session_bus.as_deref())
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

/// The caller's uid outside of all user namespaces but the last: that of root, where it is mapped.
fn host_uid() -> u32 {
    let own = nix::unistd::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    let outside = |(inside, outside, size): (u32, u32, u32)| {
        let offset = own.checked_sub(inside).filter(|offset| *offset < size)?;
        outside.checked_add(offset)
    };
    ranges.filter_map(outside).next().unwrap_or(own)
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
