//! Kernel parameters (`linux.sysctl`).
//!
//! See [sysctl(8)](https://man7.org/linux/man-pages/man8/sysctl.8.html) and
//! [Documentation/admin-guide/sysctl](https://docs.kernel.org/admin-guide/sysctl/index.html). Most of
//! `/proc/sys` belongs to the whole machine, so a parameter is set only when it belongs to a namespace
//! that the container does not share with the creator; the rest is refused by name.
//!
//! Two spellings exist. `net.ipv4.conf.eth0/1.rp_filter` separates by dots and writes a dot of a name
//! as a slash; `net/ipv4/conf/eth0.1/rp_filter` is the path itself. The first separator decides.
//!
//! Values are written through the verified handle ([`Procfs`]) and never by a path of the container:
//! a fake procfs, or one with another file mounted over a parameter, would redirect the write, to
//! `kernel.core_pattern` for one (CVE-2025-52881).

use std::collections::HashMap;

use oci_spec::runtime::LinuxNamespaceType as Kind;

use crate::error::{Error, Result};
use crate::procfs::Procfs;

/// One parameter to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// As the configuration spells it.
    pub(crate) name: String,
    /// Below `/proc`.
    pub(crate) path: String,
    pub(crate) value: String,
}

/// Parameters of the IPC namespace; `fs.mqueue.` is the rest of them.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shm_rmid_forced",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
];

/// The JSON path of a parameter.
pub(crate) fn field(name: &str) -> String {
    format!("linux.sysctl[{name:?}]")
}

/// The parameters of a validated configuration, sorted by name.
pub(crate) fn plan(sysctl: Option<&HashMap<String, String>>) -> Result<Vec<Sysctl>> {
    let mut list = Vec::new();
    for (name, value) in sysctl.into_iter().flatten() {
        let path = path_of(name).map_err(|reason| Error::invalid(field(name), reason))?;
        list.push(Sysctl { name: name.clone(), path: format!("sys/{path}"), value: value.clone() });
    }
    list.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(list)
}

/// Writes the parameters, from inside the namespaces they belong to.
pub(crate) fn apply(procfs: &Procfs, list: &[Sysctl]) -> Result<()> {
    for Sysctl { name, path, value } in list {
        procfs.write(path, value.as_bytes(), "set", field(name))?;
    }
    Ok(())
}

/// The path of a parameter below `/proc/sys`.
pub(crate) fn path_of(name: &str) -> Result<String, String> {
    let path = match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'.' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
    if path.split('/').any(odd) || !path.contains('/') {
        return Err("is not the name of a kernel parameter".to_owned());
    }
    Ok(path)
}

/// The namespace that a parameter belongs to.
pub(crate) fn owner(name: &str) -> Result<Kind, String> {
    let path = path_of(name)?;
    if IPC.binary_search(&path.as_str()).is_ok() || path.starts_with("fs/mqueue/") {
        return Ok(Kind::Ipc);
    }
    if path.starts_with("net/") {
        return Ok(Kind::Network);
    }
    if path.starts_with("user/") {
        return Ok(Kind::User);
    }
    match path.as_str() {
        "kernel/domainname" => Ok(Kind::Uts),
        "kernel/hostname" => Err("is set by the property hostname".to_owned()),
        _ => Err("does not belong to a namespace: it would change the host".to_owned()),
    }
}

/// The JSON path of the first parameter, by name, that belongs to the namespace.
pub(crate) fn first_of(sysctl: Option<&HashMap<String, String>>, kind: Kind) -> Option<String> {
    let names = sysctl.into_iter().flatten().map(|(name, _)| name.as_str());
    names.filter(|name| owner(name) == Ok(kind)).min().map(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_decides_the_spelling() {
        let cases = [
            ("net.ipv4.ip_forward", Ok("net/ipv4/ip_forward")),
            ("net/ipv4/ip_forward", Ok("net/ipv4/ip_forward")),
            ("net.ipv4.conf.eno2/100.rp_filter", Ok("net/ipv4/conf/eno2.100/rp_filter")),
            ("net/ipv4/conf/eno2.100/rp_filter", Ok("net/ipv4/conf/eno2.100/rp_filter")),
            ("net/../kernel/core_pattern", Err(())),
            ("net.//.kernel.core_pattern", Err(())),
            ("net./.x", Err(())),
            ("net..x", Err(())),
            ("/net/x", Err(())),
            (".net.x", Err(())),
            ("net", Err(())),
            ("", Err(())),
            ("net.", Err(())),
        ];
        for (name, expected) in cases {
            assert_eq!(path_of(name).as_deref().map_err(|_| ()), expected, "{name}");
        }
    }

    #[test]
    fn a_parameter_belongs_to_one_namespace_or_is_refused() {
        let cases = [
            ("kernel.shmmax", Some(Kind::Ipc)),
            ("kernel/sem", Some(Kind::Ipc)),
            ("fs.mqueue.msg_max", Some(Kind::Ipc)),
            ("net.core.somaxconn", Some(Kind::Network)),
            ("user.max_user_namespaces", Some(Kind::User)),
            ("kernel.domainname", Some(Kind::Uts)),
            ("kernel.hostname", None),
            ("kernel.core_pattern", None),
            ("kernel.shmmax.x", None),
            ("vm.swappiness", None),
            ("fs.file-max", None),
            ("network.x", None),
        ];
        for (name, expected) in cases {
            assert_eq!(owner(name).ok(), expected, "{name}");
        }
        assert!(IPC.is_sorted());
    }

    #[test]
    fn the_plan_is_sorted_and_knows_its_network_parameters() {
        let map: HashMap<String, String> = [("net.b", "2"), ("kernel.sem", "1"), ("net/a", "3")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let paths: Vec<_> = plan(Some(&map)).unwrap().into_iter().map(|s| s.path).collect();
        assert_eq!(paths, ["sys/kernel/sem", "sys/net/b", "sys/net/a"]);
        assert_eq!(first_of(Some(&map), Kind::Network), Some(field("net.b")));
        assert_eq!(first_of(None, Kind::Network), None);
    }
}
