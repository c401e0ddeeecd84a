use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process};
use runtime::{Container, ExecOptions, Parent, Then, load_process};

use crate::argv::Order;
use crate::commands::container::console;
use crate::foreground::{Foreground, check_terminal};
use crate::program::Failure;
use crate::session::{Session, absolute};
use crate::user;

/// Run a further process in a container
#[derive(Debug, Default, Args)]
pub struct Exec {
    /// Unix socket that receives the master end of the process' terminal
    #[arg(long, value_name = "path")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the process
    #[arg(long, value_name = "path")]
    pidfd_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "dir")]
    cwd: Option<PathBuf>,
    /// Add NAME=value to the environment
    #[arg(long, short, value_name = "variable")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(long, short)]
    tty: bool,
    /// Numeric user and group
    #[arg(long, short, value_name = "uid[:gid]", value_parser = user::parse)]
    user: Option<(u32, Option<u32>)>,
    /// Add a supplementary group
    #[arg(long, short = 'g', value_name = "gid", value_parser = user::parse_id)]
    additional_gids: Vec<u32>,
    /// JSON file that describes the process
    #[arg(long, short, value_name = "path")]
    process: Option<PathBuf>,
    /// Return when the process runs
    #[arg(long, short)]
    detach: bool,
    /// Write the pid of the process to this file
    #[arg(long, value_name = "path")]
    pid_file: Option<PathBuf>,
    /// SELinux label of the process
    #[arg(long, value_name = "label")]
    process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "profile")]
    apparmor: Option<String>,
    /// Keep the process from gaining privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability to the bounding, effective and permitted sets
    #[arg(long, short, value_name = "capability")]
    cap: Vec<String>,
    /// Pass this many descriptors on, beside standard streams and those of $LISTEN_FDS
    #[arg(long, value_name = "n", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,
    /// Run in an existing sub-cgroup: `[controller[,controller]:]path`
    #[arg(long, value_name = "cgroup")]
    cgroup: Vec<String>,
    /// Run although the container is paused
    #[arg(long)]
    ignore_paused: bool,
    /// Leave orphans of the process to the init of the host
    #[arg(long)]
    no_subreaper: bool,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl super::Command for Exec {
    const NAME: &'static str = "exec";
    const ARITY: super::Arity = super::Arity::AtLeast(1);
    const ORDER: Order = Order::FlagsFirst;
    /// Callers tell a failed exec from a program's own exit code by this.
    const FAILURE: u8 = 255;
    const GUARDED: bool = true;

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let container = session.container(&self.id)?;
        let process = self.described(session, &container)?;
        check_terminal(
            self.detach,
            process.terminal().unwrap_or(false),
            self.console_socket.is_some(),
        )?;
        runtime::keep_child_statuses()?;
        let foreground =
            (!self.detach).then(|| Foreground::prepare(!self.no_subreaper)).transpose()?;
        let path = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        let options = ExecOptions {
            process,
            console: console(path(&self.console_socket)?, self.detach),
            pid_file: path(&self.pid_file)?,
            pidfd_socket: path(&self.pidfd_socket)?,
            preserve_fds: self.preserve_fds,
            ignore_paused: self.ignore_paused,
            cgroups: cgroups(&self.cgroup)?,
            parent: Parent::Caller,
        };
        let process = session.warned(|warnings| container.exec(options, warnings))?;
        match foreground {
            Some(foreground) => {
                foreground.relay(process, None, || session.confine(&container, Then::Leave))
            }
            None => Ok(0),
        }
    }
}

impl Exec {
    fn described(&self, session: &Session, container: &Container) -> Result<Process, Failure> {
        match &self.process {
            Some(path) => session.warned(|warnings| load_process(path, warnings)),
            None => self.merge(container.process()?),
        }
    }

    /// The container's own process with what the flags change: its environment, user, limits and
    /// confinement stay unless they say otherwise. A terminal is only for who asks for it.
    fn merge(&self, mut process: Process) -> Result<Process, Failure> {
        if self.command.is_empty() {
            return Err(Failure::message("process args cannot be empty"));
        }
        process.set_args(Some(self.command.clone())).set_terminal(Some(self.tty));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if !self.env.is_empty() {
            process.env_mut().get_or_insert_default().extend(self.env.iter().cloned());
        }
        if let Some((uid, gid)) = self.user {
            process.user_mut().set_uid(uid);
            if let Some(gid) = gid {
                process.user_mut().set_gid(gid);
            }
        }
        if !self.additional_gids.is_empty() {
            let gids = process.user().additional_gids().iter().flatten();
            let all: BTreeSet<u32> = gids.chain(&self.additional_gids).copied().collect();
            process.user_mut().set_additional_gids(Some(all.into_iter().collect()));
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        if !self.cap.is_empty() {
            let capabilities = with_capabilities(process.capabilities(), &self.cap)?;
            process.set_capabilities(Some(capabilities));
        }
        Ok(process)
    }
}

/// Inheritable and ambient sets stay as they are: a file with inheritable capabilities would
/// otherwise raise the privileges of an ordinary user (CVE-2022-29162).
fn with_capabilities(
    old: &Option<LinuxCapabilities>,
    names: &[String],
) -> Result<LinuxCapabilities, Failure> {
    let added = names
        .iter()
        .map(|name| {
            serde_json::from_value(name.as_str().into())
                .map_err(|_| Failure::message(format!("unknown capability {name:?}")))
        })
        .collect::<Result<Vec<Capability>, Failure>>()?;
    let more = |set: Option<&Capabilities>| -> Option<Capabilities> {
        Some(set.into_iter().flatten().chain(&added).copied().collect())
    };
    let old = old.as_ref();
    let mut new = LinuxCapabilities::default();
    new.set_bounding(more(old.and_then(|c| c.bounding().as_ref())))
        .set_effective(more(old.and_then(|c| c.effective().as_ref())))
        .set_permitted(more(old.and_then(|c| c.permitted().as_ref())))
        .set_inheritable(old.and_then(|c| c.inheritable().clone()))
        .set_ambient(old.and_then(|c| c.ambient().clone()));
    Ok(new)
}

/// `path` alone is for every controller and stands alone; `a,b:path` is for those named.
fn cgroups(words: &[String]) -> Result<Vec<(Vec<String>, PathBuf)>, Failure> {
    let refuse = |word: &str, why: &str| {
        Failure::message(format!("invalid value {word:?} for --cgroup: {why}"))
    };
    let mut seen = BTreeSet::new();
    let mut list = Vec::new();
    for word in words {
        let Some((controllers, path)) = word.split_once(':') else {
            if words.len() != 1 {
                return Err(refuse(word, "has no controller"));
            }
            return Ok(vec![(Vec::new(), PathBuf::from(word))]);
        };
        if path.contains(':') {
            return Err(refuse(word, "has more than one colon"));
        }
        let controllers: Vec<String> = controllers.split(',').map(str::to_owned).collect();
        for controller in &controllers {
            if controller.is_empty() {
                return Err(refuse(word, "has an empty controller"));
            }
            if !seen.insert(controller.clone()) {
                return Err(refuse(word, &format!("{controller} has a path already")));
            }
        }
        list.push((controllers, PathBuf::from(path)));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    fn stored() -> Process {
        serde_json::from_str(
            r#"{"terminal": true, "user": {"uid": 5, "gid": 6, "additionalGids": [9]}, "cwd": "/w",
                "args": ["init"], "env": ["A=1"], "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_KILL"], "inheritable": [], "effective": ["CAP_KILL"]}}"#,
        )
        .unwrap()
    }

    #[test]
    fn nothing_given_keeps_all_but_arguments_and_terminal() {
        let exec = Exec { command: words(&["ls", "-l"]), ..Exec::default() };
        let mut expected = stored();
        expected.set_args(Some(words(&["ls", "-l"]))).set_terminal(Some(false));
        assert_eq!(exec.merge(stored()).unwrap(), expected);
    }

    #[test]
    fn what_is_given_counts() {
        let exec = Exec {
            command: words(&["x"]),
            env: words(&["B=2"]),
            user: Some((7, None)),
            additional_gids: vec![8, 9],
            cap: words(&["CAP_NET_ADMIN"]),
            ..Exec::default()
        };
        let process = exec.merge(stored()).unwrap();
        assert_eq!(process.env().as_deref(), Some(&words(&["A=1", "B=2"])[..]));
        assert_eq!((process.user().uid(), process.user().gid()), (7, 6));
        assert_eq!(process.user().additional_gids().as_deref(), Some(&[8, 9][..]));
        let capabilities = process.capabilities().as_ref().unwrap();
        for set in [capabilities.bounding(), capabilities.effective()] {
            let set = set.as_ref().unwrap();
            assert!(set.len() == 2 && set.contains(&Capability::NetAdmin));
        }
        assert!(capabilities.inheritable().as_ref().unwrap().is_empty());
        assert_eq!(capabilities.ambient(), &None);
    }

    #[test]
    fn an_unknown_capability_is_refused() {
        let exec =
            Exec { command: words(&["x"]), cap: words(&["CAP_EVERYTHING"]), ..Exec::default() };
        assert!(exec.merge(stored()).unwrap_err().text().contains("CAP_EVERYTHING"));
    }

    #[test]
    fn sub_cgroups() {
        let list = cgroups(&words(&["cpu,memory:a", "pids:b"])).unwrap();
        assert_eq!(
            list,
            [(words(&["cpu", "memory"]), PathBuf::from("a")), (words(&["pids"]), "b".into())]
        );
        assert_eq!(cgroups(&words(&["a"])).unwrap(), [(Vec::new(), PathBuf::from("a"))]);
        for wrong in [&["a", "b"][..], &[":a"], &["cpu,:a"], &["a:b:c"], &["cpu:a", "cpu:b"]] {
            assert!(cgroups(&words(wrong)).is_err(), "{wrong:?}");
        }
    }
}
