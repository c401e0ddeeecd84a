//! CRIU: where the program is, and the flags that `checkpoint` and `restore` share.

mod facility;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub use self::facility::facility;
use clap::Args;
use runtime::{CgroupMode, CriuOptions, NetworkLock};

use crate::environment::Environment;
use crate::program::Failure;
use crate::session::{Session, absolute};

/// Flags that `checkpoint` and `restore` share.
#[derive(Debug, Args)]
pub struct Criu {
    /// Directory of the images [default: checkpoint]
    #[arg(long, value_name = "dir")]
    image_path: Option<PathBuf>,
    /// Directory of logs and work files [default: that of the images]
    #[arg(long, value_name = "dir")]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections, and keep them
    #[arg(long)]
    tcp_established: bool,
    /// Close open TCP connections
    #[arg(long)]
    tcp_close: bool,
    /// Allow Unix sockets whose other end is outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow processes that belong to a terminal outside
    #[arg(long)]
    shell_job: bool,
    /// Allow file locks, and keep them
    #[arg(long)]
    file_locks: bool,
    /// Treatment of cgroups: soft, full, strict or ignore [default: soft]
    #[arg(long, value_name = "mode")]
    manage_cgroups_mode: Option<String>,
    /// Namespace to leave empty: network
    #[arg(long, value_name = "namespace")]
    empty_ns: Vec<String>,
    /// Leave memory out that an earlier image has
    #[arg(long)]
    auto_dedup: bool,
    /// Bring memory when it is used (userfaultfd)
    #[arg(long)]
    lazy_pages: bool,
    /// Keeps packets away meanwhile: iptables, nftables or skip [default: iptables]
    #[arg(long, value_name = "method")]
    network_lock: Option<String>,
}

impl Criu {
    /// What they say, relative to the caller's directory.
    pub fn options(self, session: &Session) -> Result<CriuOptions, Failure> {
        let program = program(session.criu.as_deref(), Some(&Environment::read().path))?;
        let images = absolute(self.image_path.as_deref().unwrap_or(Path::new("checkpoint")))?;
        let work = self.work_path.as_deref().map(absolute).transpose()?;
        for namespace in &self.empty_ns {
            if namespace != "network" {
                return Err(Failure::message(format!("namespace {namespace:?} is not supported")));
            }
        }
        Ok(CriuOptions {
            work,
            configuration: runtime::criu_configuration(),
            tcp_established: self.tcp_established,
            tcp_close: self.tcp_close,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroups: cgroup_mode(self.manage_cgroups_mode.as_deref())?,
            empty_network: !self.empty_ns.is_empty(),
            network_lock: network_lock(self.network_lock.as_deref())?,
            ..CriuOptions::new(program, images)
        })
    }
}

fn cgroup_mode(word: Option<&str>) -> Result<CgroupMode, Failure> {
    match word {
        None | Some("soft") => Ok(CgroupMode::Soft),
        Some("full") => Ok(CgroupMode::Full),
        Some("strict") => Ok(CgroupMode::Strict),
        Some("ignore") => Ok(CgroupMode::Ignore),
        Some(_) => Err(Failure::message("Invalid manage cgroups mode")),
    }
}

fn network_lock(word: Option<&str>) -> Result<Option<NetworkLock>, Failure> {
    match word {
        None => Ok(None),
        Some("iptables") => Ok(Some(NetworkLock::Iptables)),
        Some("nftables") => Ok(Some(NetworkLock::Nftables)),
        Some("skip") => Ok(Some(NetworkLock::Skip)),
        Some(other) => Err(Failure::message(format!(
            "invalid value {other:?} for --network-lock: is not iptables, nftables or skip"
        ))),
    }
}

/// The program that `--criu` names, or else the one that [`runtime::criu_program`] finds.
fn program(named: Option<&Path>, path: Option<&OsStr>) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return absolute(named);
    }
    runtime::criu_program(path)
        .map_err(|error| Failure::message(format!("{error}; --criu names it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_named_is_not_looked_for() {
        assert_eq!(program(Some(Path::new("/a/b")), None).unwrap(), Path::new("/a/b"));
        assert!(program(Some(Path::new("b")), None).unwrap().is_absolute());
    }

    #[test]
    fn words() {
        assert_eq!(cgroup_mode(Some("strict")).unwrap(), CgroupMode::Strict);
        assert_eq!(cgroup_mode(Some("x")).unwrap_err().text(), "Invalid manage cgroups mode");
        assert_eq!(network_lock(Some("skip")).unwrap(), Some(NetworkLock::Skip));
        assert!(network_lock(Some("")).is_err());
    }
}
