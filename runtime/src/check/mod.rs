//! A dry run: what of a bundle would fail on this host, and why, without making anything.
//!
//! The rules and the plan are those of `create`, told to go on after a fault ([`Faults::All`]). What
//! `create` would find out by doing it is looked at here in the same order: cgroups, namespaces, id
//! maps, network devices, the root file system with its mounts, hooks, limits, and the program with its interpreter.
//! Nothing is written, made or executed, so what only the kernel can tell by doing it is not told:
//! the values of sysctls and file systems' options beyond their form, what a hook does, whether systemd
//! makes a scope, classes of Intel RDT.
//!
//! A failure listed here is one that `create` or `start` would have; the first is the one they tell.
//! What is not certain is a warning.

mod files;
mod host;
mod identity;
mod image;
mod power;
mod tree;
mod vm;

pub use host::{Facility, Standing, check_host};
pub use vm::check_vm;

use std::ffi::OsStr;
use std::path::Path;

use crate::error::{Call, Context, Error, Result, quote};
use crate::faults::Faults;
use crate::host::Host;
use crate::options::CreateOptions;
use crate::plan::{self, Parts};
use crate::validate;

/// Something that would fail.
#[derive(Clone, Debug)]
pub struct Failing {
    /// JSON path of the field that it comes from; empty when it comes from none.
    pub field: String,
    /// The error, as `create` or `start` would tell it or with more of the reason.
    pub error: Error,
}

impl Failing {
    /// An error with the field that its subject names.
    pub fn of(error: Error) -> Self {
        Self { field: field_in(error.subject()).to_owned(), error }
    }
}

/// What a dry run found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What would fail, in the order in which it would.
    pub failures: Vec<Failing>,
    /// What `create` would warn of, and what could not be looked at.
    pub warnings: Vec<String>,
}

impl Findings {
    /// Adds the result of looking at `field`.
    fn note(&mut self, field: impl Into<String>, result: Result<()>) {
        let Err(error) = result else { return };
        if !self.failures.iter().any(|known| known.error == error) {
            self.failures.push(Failing { field: field.into(), error });
        }
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

/// What the parts of a dry run look at.
struct Subject<'a> {
    options: &'a CreateOptions,
    parts: &'a Parts,
    host: &'a Host,
    /// Where `newuidmap` and `newgidmap` are looked for, as `PATH` has it.
    search: &'a OsStr,
}

impl Subject<'_> {
    /// Whether the creator has this capability over the host.
    fn has(&self, capability: u64) -> bool {
        self.host.initial_user_namespace && self.host.permitted & capability != 0
    }
}

/// Looks at everything that `create` and `start` of the container `id` would need. `search` is the
/// caller's `PATH`.
///
/// # Errors
/// Only what keeps it from looking at all: no procfs, a bad id. What is wrong with the configuration
/// or the host is in the findings.
pub fn check_bundle(
    root: &Path,
    id: &str,
    options: &CreateOptions,
    search: &OsStr,
) -> Result<Findings> {
    validate::validate_id(id)?;
    let host = Host::read()?;
    let mut found = Findings::default();
    let mut faults = Faults::All(Vec::new());
    let parts = plan::parts(id, options, None, &host, &mut faults, &mut found.warnings)?;
    if let Faults::All(list) = faults {
        for error in list {
            found.note(field_in(error.subject()).to_owned(), Err(error));
        }
    }
    found.note("", state_root(root));
    let subject = Subject { options, parts: &parts, host: &host, search };
    if let Some(cgroup) = &parts.cgroup {
        found.note("linux.cgroupsPath", cgroup.refuse_occupied());
        let mut faults = Vec::new();
        cgroup.check(&mut faults, &mut found.warnings);
        for error in faults {
            let field = field_in(error.subject());
            let field = if field.is_empty() { "linux.cgroupsPath" } else { field };
            found.note(field.to_owned(), Err(error));
        }
    }
    power::namespaces(&subject, &mut found);
    identity::maps(&subject, &mut found);
    power::devices(&subject, &mut found);
    let tree = files::mounts(&subject, &mut found);
    power::sysctls(&subject, &mut found);
    if let Some(tree) = &tree {
        files::hooks(&subject, &mut found);
        files::directory(&subject, tree, &mut found);
    }
    power::limits(&subject, &mut found);
    identity::labels(&subject, &mut found);
    identity::groups(&subject, &mut found);
    if let Some(tree) = &tree {
        files::program(&subject, tree, &mut found);
    }
    power::scheduling(&subject, &mut found);
    if let Some(tree) = &tree {
        files::late_hooks(&subject, tree, &mut found);
        files::landlock(&subject, tree, &mut found);
    }
    Ok(found)
}

/// The state root must be a directory that the caller may write, or one that it could make.
fn state_root(root: &Path) -> Result<()> {
    use nix::unistd::AccessFlags;
    let nearest = root.ancestors().find(|path| path.symlink_metadata().is_ok());
    let nearest = nearest.unwrap_or(Path::new("/"));
    let call = if nearest == root { "mkdir" } else { "mkdir of a parent" };
    let context = || format!("state directory {}", quote(root));
    let directory = nix::sys::stat::stat(nearest).call("stat").context("create", context())?;
    if !crate::mount::attach::is(&directory, nix::sys::stat::SFlag::S_IFDIR) {
        let failure = crate::error::Failure { call, errno: nix::errno::Errno::ENOTDIR };
        return Err(Error::system("create", context(), failure));
    }
    let flags = nix::fcntl::AtFlags::AT_EACCESS;
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    nix::unistd::faccessat(nix::fcntl::AT_FDCWD, nearest, wanted, flags)
        .call(call)
        .context("create", context())
}

/// What JSON paths of a configuration begin with.
const FIELDS: [&str; 8] =
    ["annotations", "domainname", "hooks.", "hostname", "linux.", "mounts", "process", "root"];

/// The JSON path in an error's subject: `"/data" (mounts[3])`, `linux.namespaces[2] "/x"`.
fn field_in(subject: &str) -> &str {
    let mut words = subject.split([' ', '(', ')', ',', ':']);
    let word = words.find(|word| FIELDS.iter().any(|field| word.starts_with(field)));
    // A key in brackets may hold what words are parted by.
    match word.and_then(|word| subject.find(word)) {
        Some(at) if subject[at..].contains("[\"") && !subject[at..].contains(' ') => &subject[at..],
        _ => word.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_subjects() {
        for (subject, field) in [
            ("process.args", "process.args"),
            ("\"/data\" (mounts[3])", "mounts[3]"),
            ("\"/data\" (mounts[3].options[1])", "mounts[3].options[1]"),
            ("linux.namespaces[2] \"/run/netns/x\"", "linux.namespaces[2]"),
            ("process.apparmorProfile \"x\"", "process.apparmorProfile"),
            ("linux.sysctl[\"net.ipv4.ip_forward\"]", "linux.sysctl[\"net.ipv4.ip_forward\"]"),
            ("linux.resources.pids.limit (pids.max \"5\")", "linux.resources.pids.limit"),
            ("linux.uidMappings: /proc/5/uid_map", "linux.uidMappings"),
            ("cgroup \"/sys/fs/cgroup/x\"", ""),
        ] {
            assert_eq!(field_in(subject), field, "{subject}");
        }
    }
}
