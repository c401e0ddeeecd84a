//! Every rule of the configuration that needs no kernel.
//!
//! What passes here can still fail on this host (a label without an LSM, a path that is not there),
//! but it does not contradict itself and no number in it wraps. A value is never "fixed": what cannot
//! be meant is refused with its JSON path, and only what the specification says to tolerate is a
//! warning.

mod idmap;
mod linux;
mod process;
mod resources;
mod vm;

use std::path::Path;

use oci_spec::runtime::{Hook, Hooks, LinuxNamespaceType as Kind, Mount, Spec};

use crate::error::{Error, Result};
use crate::faults::Faults;

pub(crate) use linux::intel_rdt;
pub(crate) use process::process;
pub(crate) use resources::resources;
pub(crate) use vm::vm_hardware;

/// The longest container id: it is a file name.
const LONGEST_ID: usize = 255;

/// `__NEW_UTS_LEN` of the kernel.
const LONGEST_HOSTNAME: usize = 64;

/// Checks a container id: letters, digits and `_+-.`, but not `.` and `..` (it becomes a file name
/// in the state directory and part of a cgroup's).
pub fn validate_id(id: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    let reason = if id.is_empty() {
        "is empty"
    } else if id.len() > LONGEST_ID {
        "is longer than 255 bytes"
    } else if id == "." || id == ".." || !id.bytes().all(allowed) {
        "has other characters than letters, digits and _+-."
    } else {
        return Ok(());
    };
    Err(Error::new(crate::error::ErrorKind::Invalid, "check", "container id", {
        let shown: String = id.chars().take(LONGEST_ID).collect();
        format!("invalid container ID format: {shown:?} {reason}")
    }))
}

/// Checks a configuration before `create`.
pub(crate) fn validate(spec: &Spec, faults: &mut Faults, warnings: &mut Vec<String>) -> Result<()> {
    let root = spec.root().as_ref().ok_or_else(|| Error::invalid("root", "is required"));
    if let Some(root) = faults.keep(root)? {
        faults.note(no_nul("root.path", root.path()))?;
    }
    let namespaces = Namespaces::of(spec, faults)?;
    let init = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "is required"));
    let init = faults.keep(init)?;
    if let Some(init) = init {
        process(init, "process.", faults)?;
    }
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        faults.note(uts_name(field, name.as_deref(), &namespaces))?;
    }
    for (index, mount) in list(spec.mounts()).iter().enumerate() {
        let field = format!("mounts[{index}]");
        faults.note(check_mount(&field, mount, &namespaces, warnings))?;
    }
    if let Some(hooks) = spec.hooks() {
        check_hooks(hooks, faults)?;
    }
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        faults.note(Err(Error::invalid("annotations[\"\"]", "a key is empty")))?;
    }
    if let Some(part) = spec.vm() {
        vm::vm(part)?;
    }
    if let Some(part) = spec.linux() {
        linux::linux(part, &namespaces, faults, warnings)?;
        idmap::user_namespace(part, &namespaces, faults)?;
        if let Some(init) = init {
            idmap::process_ids(init, part, &namespaces, faults)?;
        }
    }
    Ok(())
}

/// How the container gets one kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The creator's.
    Shared,
    New,
    /// By path.
    Joined,
}

/// The kinds of namespaces that the configuration names.
struct Namespaces(Vec<(Kind, Origin)>);

impl Namespaces {
    fn of(spec: &Spec, faults: &mut Faults) -> Result<Self> {
        let named = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
        let mut kinds: Vec<(Kind, Origin)> = Vec::new();
        for (index, namespace) in named.unwrap_or_default().iter().enumerate() {
            let kind = namespace.typ();
            if kinds.iter().any(|(known, _)| *known == kind) {
                faults.note(Err(Error::invalid(
                    format!("linux.namespaces[{index}].type"),
                    format!("\"{}\" is given twice", word(kind)),
                )))?;
                continue;
            }
            let origin = match namespace.path() {
                None => Origin::New,
                Some(path) => {
                    faults.note(absolute(&format!("linux.namespaces[{index}].path"), path))?;
                    Origin::Joined
                }
            };
            kinds.push((kind, origin));
        }
        Ok(Self(kinds))
    }

    fn get(&self, kind: Kind) -> Origin {
        let found = self.0.iter().find(|(known, _)| *known == kind);
        found.map_or(Origin::Shared, |(_, origin)| *origin)
    }

    /// Refuses `field` unless the container has its own (new or joined) namespace of this kind.
    fn need(&self, kind: Kind, field: &str) -> Result<()> {
        match self.get(kind) {
            Origin::Shared => Err(Error::invalid(
                field,
                format!("needs linux.namespaces to have the type \"{}\"", word(kind)),
            )),
            Origin::New | Origin::Joined => Ok(()),
        }
    }
}

/// The specification's word for a kind.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Mount => "mount",
        Kind::Cgroup => "cgroup",
        Kind::Uts => "uts",
        Kind::Ipc => "ipc",
        Kind::User => "user",
        Kind::Pid => "pid",
        Kind::Network => "network",
        Kind::Time => "time",
    }
}

fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn absolute(field: &str, path: &Path) -> Result<()> {
    no_nul(field, path)?;
    if path.is_absolute() {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{path:?} is not an absolute path")))
}

/// The reader refuses NUL bytes; a process merged with command line flags, or a configuration built
/// by a program, did not come through it.
fn no_nul(field: &str, text: impl AsRef<std::ffi::OsStr>) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let text = text.as_ref();
    if text.as_bytes().contains(&0) {
        return Err(Error::invalid(field, format!("{text:?} contains a NUL byte")));
    }
    Ok(())
}

/// Refuses a number outside of a range.
fn within<T>(field: impl Into<String>, number: T, range: std::ops::RangeInclusive<T>) -> Result<()>
where
    T: PartialOrd + std::fmt::Display,
{
    if range.contains(&number) {
        return Ok(());
    }
    let (low, high) = (range.start(), range.end());
    Err(Error::invalid(field, format!("{number} is not between {low} and {high}")))
}

fn uts_name(field: &str, name: Option<&str>, namespaces: &Namespaces) -> Result<()> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    no_nul(field, name)?;
    namespaces.need(Kind::Uts, field)?;
    if name.len() > LONGEST_HOSTNAME {
        let length = name.len();
        let start: String = name.chars().take(LONGEST_HOSTNAME).collect();
        return Err(Error::invalid(
            field,
            format!("{start:?}... has {length} bytes, the kernel takes {LONGEST_HOSTNAME}"),
        ));
    }
    Ok(())
}

/// Options are the business of the mount table; here is what can be said without it.
fn check_mount(
    field: &str,
    mount: &Mount,
    namespaces: &Namespaces,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let destination = mount.destination();
    no_nul(&format!("{field}.destination"), destination)?;
    if destination.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{field}.destination"), "\"\" is empty"));
    }
    if destination.is_relative() {
        warnings.push(format!("{field}.destination: {destination:?} is taken as relative to /"));
    }
    for (index, option) in list(mount.options()).iter().enumerate() {
        no_nul(&format!("{field}.options[{index}]"), option)?;
    }
    let option = |words: [&str; 2]| list(mount.options()).iter().any(|o| words.contains(&&**o));
    // Bind is decided by the option: engines leave the type empty or write "bind" or "none".
    let bind = option(["bind", "rbind"]);
    match mount.source() {
        Some(source) => no_nul(&format!("{field}.source"), source)?,
        None if bind => {
            return Err(Error::invalid(format!("{field}.source"), "is required for a bind mount"));
        }
        None => {}
    }
    idmap::mount(field, mount, bind, option(["idmap", "ridmap"]), namespaces)
}

fn check_hooks(hooks: &Hooks, faults: &mut Faults) -> Result<()> {
    #[allow(deprecated)] // engines still use prestart hooks
    let kinds = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, hooks) in kinds {
        for (index, hook) in list(hooks).iter().enumerate() {
            faults.note(check_hook(&format!("hooks.{kind}[{index}]"), hook))?;
        }
    }
    Ok(())
}

fn check_hook(field: &str, hook: &Hook) -> Result<()> {
    absolute(&format!("{field}.path"), hook.path())?;
    for (name, texts) in [("args", hook.args()), ("env", hook.env())] {
        for (index, text) in list(texts).iter().enumerate() {
            no_nul(&format!("{field}.{name}[{index}]"), text)?;
        }
    }
    match hook.timeout() {
        Some(timeout) => within(format!("{field}.timeout"), timeout, 1..=i64::from(i32::MAX)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
