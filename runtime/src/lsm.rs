//! Labels of Linux security modules: AppArmor and SELinux.
//!
//! See [LSM attributes](https://docs.kernel.org/userspace-api/lsm.html). A label is written to
//! `/proc/thread-self/attr` and takes effect at `execve`. A label that cannot be applied is an error,
//! never a warning: the container would run unconfined. Writes go through the verified handle
//! ([`Procfs`]), because a label written to an ordinary file that looks like procfs succeeds and
//! confines nothing (CVE-2019-16884, CVE-2019-19921, CVE-2023-28642, CVE-2025-62596).

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{Linux, Process};

use crate::error::{Context, Error, Failure, Result};
use crate::procfs::Procfs;

/// Which security modules this host enforces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modules {
    pub(crate) apparmor: bool,
    pub(crate) selinux: bool,
}

impl Modules {
    /// Asks the kernel, by files of the host that exist only while a module is active.
    pub(crate) fn probe() -> Self {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
        Self {
            // The parameter exists wherever the module is built in; securityfs may not be mounted.
            apparmor: enabled.is_ok_and(|text| text.first() == Some(&b'Y')),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// The labels of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// JSON path of the process, for errors: `process.` or empty.
    prefix: String,
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl Labels {
    /// The labels of a process of a container whose own process is `init`. `unconfined` without
    /// AppArmor is what the process is anyway.
    ///
    /// A process that names no label has the container's: it would otherwise run in the container
    /// without the confinement of everything else there. Who wants that says `unconfined`.
    ///
    /// # Errors
    /// `Unsupported` for a label of a module that this host does not enforce.
    pub(crate) fn plan(
        process: &Process,
        init: Option<&Process>,
        prefix: &str,
        modules: Modules,
    ) -> Result<Self> {
        type Field = fn(&Process) -> &Option<String>;
        let given = |field: Field| {
            let named = |process| field(process).clone().filter(|label| !label.is_empty());
            named(process).or_else(|| init.and_then(named))
        };
        let mut apparmor = given(Process::apparmor_profile);
        if !modules.apparmor {
            apparmor = apparmor.filter(|profile| profile != "unconfined");
            refuse(apparmor.as_deref(), &format!("{prefix}apparmorProfile"), "AppArmor")?;
        }
        let selinux = given(Process::selinux_label);
        if !modules.selinux {
            refuse(selinux.as_deref(), &format!("{prefix}selinuxLabel"), "SELinux")?;
        }
        Ok(Self { prefix: prefix.to_owned(), apparmor, selinux })
    }

    /// The AppArmor profile.
    pub(crate) fn apparmor(&self) -> Option<&str> {
        self.apparmor.as_deref()
    }

    /// The SELinux label.
    pub(crate) fn selinux(&self) -> Option<&str> {
        self.selinux.as_deref()
    }

    /// Labels keys made from here on, so that the session keyring is the container's.
    pub(crate) fn apply_key_label(&self, procfs: &Procfs) -> Result<()> {
        match &self.selinux {
            Some(label) => self.write_selinux(procfs, "keycreate", label.as_bytes()),
            None => Ok(()),
        }
    }

    /// Back to the default for keys that the container makes. One NUL byte clears the attribute: an
    /// empty write would not reach the kernel.
    pub(crate) fn clear_key_label(&self, procfs: &Procfs) -> Result<()> {
        match &self.selinux {
            Some(_) => self.write_selinux(procfs, "keycreate", b"\0"),
            None => Ok(()),
        }
    }

    /// Takes the labels at the next `execve`. After this, only calls that the old and the new label
    /// both allow are safe.
    pub(crate) fn apply_on_exec(&self, procfs: &Procfs) -> Result<()> {
        if let Some(label) = &self.selinux {
            self.write_selinux(procfs, "exec", label.as_bytes())?;
        }
        let Some(profile) = &self.apparmor else {
            return Ok(());
        };
        let command = format!("exec {profile}");
        // Its own directory since 5.8; the shared file belongs to the first module that has it, which
        // with several modules may be another one.
        let mut written = procfs.try_write("thread-self/attr/apparmor/exec", command.as_bytes());
        if let Err(Failure { errno: Errno::ENOENT, call: "openat2" }) = written {
            written = procfs.try_write("thread-self/attr/exec", command.as_bytes());
        }
        let field = format!("{}apparmorProfile", self.prefix);
        if let Err(Failure { errno: Errno::ENOENT, call: "write" }) = written {
            return Err(Error::invalid(field, format!("profile {profile:?} is not loaded")));
        }
        written.context("apply", format_args!("{field} {profile:?}"))
    }

    fn write_selinux(&self, procfs: &Procfs, file: &str, label: &[u8]) -> Result<()> {
        let subject = format!("{}selinuxLabel ({file})", self.prefix);
        procfs.write(&format!("thread-self/attr/{file}"), label, "apply", subject)
    }
}

/// The mount option that labels a new file system (`linux.mountLabel`), if one is asked for: the
/// parameter `context` of `fsconfig(2)` with this value.
///
/// # Errors
/// `Unsupported` on a host without SELinux: the kernel there would refuse the option as unknown.
pub(crate) fn mount_label(linux: &Linux, modules: Modules) -> Result<Option<String>> {
    let label = linux.mount_label().clone().filter(|label| !label.is_empty());
    if !modules.selinux {
        refuse(label.as_deref(), "linux.mountLabel", "SELinux")?;
    }
    Ok(label)
}

fn refuse(label: Option<&str>, field: &str, module: &str) -> Result<()> {
    match label {
        None => Ok(()),
        Some(label) => Err(Error::unsupported(
            "apply",
            format!("{field} {label:?}"),
            format!("{module} is not enabled on this host"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(json: &str, modules: Modules) -> Result<Labels> {
        Labels::plan(&serde_json::from_str(json).unwrap(), None, "process.", modules)
    }

    #[test]
    fn a_label_without_its_module_is_an_error() {
        let none = Modules::default();
        let both = Modules { apparmor: true, selinux: true };
        let process = |more: &str| format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/"{more}}}"#);
        let cases = [
            ("", None),
            (r#","apparmorProfile":"""#, None),
            (r#","apparmorProfile":"unconfined""#, None),
            (
                r#","apparmorProfile":"docker-default""#,
                Some(
                    "apply process.apparmorProfile \"docker-default\": \
                     AppArmor is not enabled on this host",
                ),
            ),
            (
                r#","selinuxLabel":"a:b:c:s0""#,
                Some(
                    "apply process.selinuxLabel \"a:b:c:s0\": SELinux is not enabled on this host",
                ),
            ),
        ];
        for (more, expected) in cases {
            let error = labels(&process(more), none).err().map(|e| e.to_string());
            assert_eq!(error.as_deref(), expected, "{more}");
            assert!(labels(&process(more), both).is_ok(), "{more}");
        }
        let unconfined = labels(&process(r#","apparmorProfile":"unconfined""#), both).unwrap();
        assert_eq!(unconfined.apparmor.as_deref(), Some("unconfined"));
    }

    #[test]
    fn a_process_without_a_label_has_that_of_the_container() {
        let process = |more: &str| -> Process {
            let json = format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/"{more}}}"#);
            serde_json::from_str(&json).unwrap()
        };
        let init = process(r#","apparmorProfile":"own","selinuxLabel":"a:b:c:s0""#);
        let cases = [
            ("", "own", "a:b:c:s0"),
            (r#","apparmorProfile":"","selinuxLabel":"""#, "own", "a:b:c:s0"),
            (r#","apparmorProfile":"other""#, "other", "a:b:c:s0"),
            (r#","apparmorProfile":"unconfined""#, "unconfined", "a:b:c:s0"),
            (r#","selinuxLabel":"d:e:f:s0""#, "own", "d:e:f:s0"),
        ];
        let modules = Modules { apparmor: true, selinux: true };
        for (more, apparmor, selinux) in cases {
            let labels = Labels::plan(&process(more), Some(&init), "process.", modules).unwrap();
            assert_eq!(labels.apparmor.as_deref(), Some(apparmor), "{more}");
            assert_eq!(labels.selinux.as_deref(), Some(selinux), "{more}");
        }
    }

    #[test]
    fn a_mount_label_needs_selinux() {
        let linux: Linux = serde_json::from_str(r#"{"mountLabel":"u:r:t:s0:c1,c2"}"#).unwrap();
        assert!(mount_label(&linux, Modules::default()).is_err());
        let label = mount_label(&linux, Modules { apparmor: false, selinux: true }).unwrap();
        assert_eq!(label.as_deref(), Some("u:r:t:s0:c1,c2"));
        assert_eq!(mount_label(&Linux::default(), Modules::default()), Ok(None));
    }

    #[test]
    fn no_label_writes_nothing() {
        let procfs = Procfs::open().unwrap();
        let labels = Labels::default();
        labels.apply_key_label(&procfs).unwrap();
        labels.apply_on_exec(&procfs).unwrap();
        labels.clear_key_label(&procfs).unwrap();
    }

    #[test]
    fn a_write_that_no_module_takes_is_an_error() {
        if Modules::probe() != Modules::default() {
            return; // a real module would take or refuse the label in its own words
        }
        let procfs = Procfs::open().unwrap();
        let labels = Labels {
            prefix: String::new(),
            apparmor: Some("x".to_owned()),
            selinux: Some("y".to_owned()),
        };
        assert!(labels.apply_key_label(&procfs).is_err());
        let error = labels.apply_on_exec(&procfs).unwrap_err().to_string();
        assert!(error.starts_with("apply selinuxLabel (exec): "), "{error}");
    }
}
