//! Where a systemd is found that starts scopes: the host's, or a user's own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A systemd and the sockets on which it is asked, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceManager {
    /// Whether it is a user's own: default slice and place of its scopes are others then.
    pub user: bool,
    /// Its sockets; one that is missing is passed over.
    pub sockets: Vec<Socket>,
}

/// A Unix socket. A path that begins with `@` is an abstract name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Socket {
    /// systemd itself listens.
    Direct(PathBuf),
    /// A message bus listens, with systemd on it.
    Bus(PathBuf),
}

impl Socket {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Direct(path) | Self::Bus(path) => path,
        }
    }
}

impl ServiceManager {
    /// The host's.
    pub fn system() -> Self {
        Self {
            user: false,
            sockets: vec![
                Socket::Direct("/run/systemd/private".into()),
                Socket::Bus("/run/dbus/system_bus_socket".into()),
            ],
        }
    }

    /// A user's, whose runtime directory is `directory` (`XDG_RUNTIME_DIR`). `address` is that of the
    /// session bus (`DBUS_SESSION_BUS_ADDRESS`); what is no Unix socket in it is passed over.
    pub fn user(directory: &Path, address: Option<&str>) -> Self {
        let mut sockets = vec![Socket::Direct(directory.join("systemd/private"))];
        sockets.extend(address.into_iter().flat_map(|list| list.split(';')).filter_map(unix));
        let usual = Socket::Bus(directory.join("bus"));
        if !sockets.contains(&usual) {
            sockets.push(usual);
        }
        Self { user: true, sockets }
    }
}

/// `unix:path=/run/user/7/bus,guid=...`, see the D-Bus specification, "Server Addresses".
fn unix(address: &str) -> Option<Socket> {
    let mut pairs = address.strip_prefix("unix:")?.split(',').filter_map(|p| p.split_once('='));
    pairs.find_map(|(key, value)| match key {
        "path" => Some(Socket::Bus(unescape(value)?.into())),
        "abstract" => Some(Socket::Bus(format!("@{}", unescape(value)?).into())),
        _ => None,
    })
}

/// Undoes `%20`.
fn unescape(value: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_sockets() {
        let sockets = |address| ServiceManager::user(Path::new("/run/user/7"), address).sockets;
        let private = Socket::Direct("/run/user/7/systemd/private".into());
        let usual = Socket::Bus("/run/user/7/bus".into());
        let plain = vec![private.clone(), usual.clone()];
        assert_eq!(sockets(None), plain);
        assert_eq!(sockets(Some("unix:path=/run/user/7/bus,guid=1f")), plain);
        for useless in ["", "tcp:host=h,port=1", "unix:path=/a%2", "unix:guid=1"] {
            assert_eq!(sockets(Some(useless)), plain, "{useless}");
        }
        let other = |path: &str| vec![private.clone(), Socket::Bus(path.into()), usual.clone()];
        assert_eq!(sockets(Some("tcp:a=b;unix:guid=1,path=/a%20b")), other("/a b"));
        assert_eq!(sockets(Some("unix:abstract=/tmp/x")), other("@/tmp/x"));
    }
}
