//! Checkpoint and restore: what containerd asks for, and what a worker does about it.
//!
//! As under runc's shim, `Create` from a checkpoint mounts the root file system and looks at the images, and
//! `Start` restores: there is no process, and no container, until then.
//!
//! What a checkpoint needed an allowance for (open connections, file locks) cannot be restored without it
//! either, and nobody is there to give one: the messages of `Create` have none. It was given once, so it holds.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream, Message, rt};
use containerd_shim_protos::shim::oci;
use runtime::{
    Call, CgroupMode, CheckpointOptions, Container, Context, CreateOptions, CriuOptions, Error,
    ErrorKind, Parent, Process, RestoreOptions, Result, Start, quote,
};
use serde::{Deserialize, Serialize};

use crate::delete::PID_FILE;
use crate::rootfs::{self, Mount};
use crate::work::{self, Name};

/// CRIU's directory in the bundle, for logs. It stays after a failure.
const WORK: &str = "criu";
/// What every directory of images has.
const INVENTORY: &str = "inventory.img";
/// CRIU's link in a directory of images to those of an earlier pre-dump.
const PARENT: &str = "parent";

/// How to save a container.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// It ends.
    pub exit: bool,
    /// Open TCP connections are kept.
    pub open_tcp: bool,
    /// Unix sockets may lead out of it.
    pub external_unix_sockets: bool,
    /// It may belong to a terminal outside.
    pub terminal: bool,
    /// File locks are kept.
    pub file_locks: bool,
    /// Namespaces to leave empty.
    pub empty_namespaces: Vec<String>,
    /// What CRIU does about sub-cgroups.
    pub cgroups_mode: String,
    /// Where the images go, if the request itself does not say it.
    pub image_path: String,
    /// Where logs go.
    pub work_path: String,
}

impl Wanted {
    /// Decodes the options of a `Checkpoint`.
    ///
    /// # Errors
    /// `Invalid`, naming what is not understood.
    pub fn decode(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any else { return Ok(Self::default()) };
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let wanted = match name {
            "" if any.value.is_empty() => Ok(Self::default()),
            "containerd.runc.v1.CheckpointOptions" => Self::from_runc(&any.value),
            "containerd.linux.runc.CheckpointOptions" => Self::from_legacy(&any.value),
            _ => return Err(invalid(quote(&any.type_url), "options of this type are not known")),
        };
        let wanted = wanted.map_err(|error| invalid(name, error.to_string()))?;
        wanted.cgroups()?;
        wanted.empties_network()?;
        Ok(wanted)
    }

    fn from_runc(value: &[u8]) -> protobuf::Result<Self> {
        let message = oci::CheckpointOptions::parse_from_bytes(value)?;
        Ok(Self {
            exit: message.exit,
            open_tcp: message.open_tcp,
            external_unix_sockets: message.external_unix_sockets,
            terminal: message.terminal,
            file_locks: message.file_locks,
            empty_namespaces: message.empty_namespaces,
            cgroups_mode: message.cgroups_mode,
            image_path: message.image_path,
            work_path: message.work_path,
        })
    }

    /// What clients of containerd 1.x send to every runtime whose name does not begin with
    /// `io.containerd.runc`.
    fn from_legacy(value: &[u8]) -> protobuf::Result<Self> {
        let mut wanted = Self::default();
        let mut input = CodedInputStream::from_bytes(value);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag >> 3 {
                1 => wanted.exit = input.read_bool()?,
                2 => wanted.open_tcp = input.read_bool()?,
                3 => wanted.external_unix_sockets = input.read_bool()?,
                4 => wanted.terminal = input.read_bool()?,
                5 => wanted.file_locks = input.read_bool()?,
                6 => wanted.empty_namespaces.push(input.read_string()?),
                7 => wanted.cgroups_mode = input.read_string()?,
                // The two are the other way round in runc's message.
                8 => wanted.work_path = input.read_string()?,
                9 => wanted.image_path = input.read_string()?,
                _ => rt::skip_field_for_tag(tag, &mut input)?,
            }
        }
        Ok(wanted)
    }

    /// Where the images go: containerd names the place in the request, and archives what is there.
    ///
    /// # Errors
    /// `Invalid` when that is no absolute path, or missing.
    pub fn images(&self, path: &str) -> Result<PathBuf> {
        let (field, path) =
            if path.is_empty() { ("image_path", self.image_path.as_str()) } else { ("path", path) };
        absolute(field, path)
    }

    fn cgroups(&self) -> Result<CgroupMode> {
        match self.cgroups_mode.as_str() {
            "" | "soft" => Ok(CgroupMode::Soft),
            "full" => Ok(CgroupMode::Full),
            "strict" => Ok(CgroupMode::Strict),
            "ignore" => Ok(CgroupMode::Ignore),
            other => {
                let reason = format!("is not soft, full, strict or ignore: {other:?}");
                Err(invalid("cgroups_mode", reason))
            }
        }
    }

    fn empties_network(&self) -> Result<bool> {
        match self.empty_namespaces.iter().find(|namespace| *namespace != "network") {
            Some(other) => {
                let reason = format!("only the network namespace can be left empty: {other:?}");
                Err(invalid("empty_namespaces", reason))
            }
            None => Ok(!self.empty_namespaces.is_empty()),
        }
    }
}

/// A container that is to be saved.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The container.
    pub name: Name,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// Directory of the images.
    pub images: PathBuf,
    /// How.
    pub wanted: Wanted,
}

impl Checkpoint {
    /// Saves the container. Logs are left after a failure, and where the caller wanted them.
    pub fn run(&self) -> Result<()> {
        let wanted = &self.wanted;
        let own = self.bundle.join(WORK);
        let work = match wanted.work_path.as_str() {
            "" => own.clone(),
            path => absolute("work_path", path)?,
        };
        let criu = CriuOptions {
            tcp_established: wanted.open_tcp,
            ext_unix_sk: wanted.external_unix_sockets,
            shell_job: wanted.terminal,
            file_locks: wanted.file_locks,
            cgroups: wanted.cgroups()?,
            empty_network: wanted.empties_network()?,
            ..criu_options(&self.images, &work)?
        };
        let options = CheckpointOptions {
            criu,
            leave_running: !wanted.exit,
            pre_dump: false,
            parent_images: None,
            tcp_skip_in_flight: false,
            status: None,
            page_server: None,
        };
        let mut container = Container::load(&self.name.root, &self.name.id)?;
        container.checkpoint(&options, Parent::Callers)?;
        remove_logs(&own);
        Ok(())
    }
}

/// A checkpoint that a container is to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Directory of the images.
    pub images: PathBuf,
    /// Images of an earlier pre-dump, which these leave out.
    pub parent: Option<PathBuf>,
    /// Where logs go, instead of the bundle.
    pub work: Option<PathBuf>,
}

impl Saved {
    /// The checkpoint that a `Create` names, by its own fields or the options.
    ///
    /// # Errors
    /// `Invalid` for a path that is not absolute, and for a parent of nothing.
    pub fn of(checkpoint: &str, parent: &str, option: &str, work: &str) -> Result<Option<Self>> {
        let images = match (checkpoint, option) {
            ("", "") if parent.is_empty() => return Ok(None),
            ("", "") => return Err(invalid("parent_checkpoint", "is given without a checkpoint")),
            ("", option) => absolute("criu_image_path", option)?,
            (checkpoint, _) => absolute("checkpoint", checkpoint)?,
        };
        let given = |field, path: &str| (!path.is_empty()).then(|| absolute(field, path));
        Ok(Some(Self {
            images,
            parent: given("parent_checkpoint", parent).transpose()?,
            work: given("criu_work_path", work).transpose()?,
        }))
    }

    /// Whether there are images.
    fn check(&self) -> Result<()> {
        let inventory = self.images.join(INVENTORY);
        if !inventory.symlink_metadata().is_ok_and(|found| found.is_file()) {
            let reason = format!("{} has no {INVENTORY}: it is no checkpoint", quote(&self.images));
            return Err(invalid("checkpoint", reason));
        }
        // CRIU follows its own link, wherever that leads.
        if let Some(parent) = &self.parent {
            let link = self.images.join(PARENT);
            let same = fs::canonicalize(&link).and_then(|to| Ok(to == fs::canonicalize(parent)?));
            if !same.call("realpath").context("follow", quote(&link))? {
                let reason = format!("{} leads to other images", quote(&link));
                return Err(invalid("parent_checkpoint", reason));
            }
        }
        Ok(())
    }
}

/// A container that is to be restored later: what can be done and known of it before.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prepare {
    /// Bundle directory.
    pub bundle: PathBuf,
    /// What to mount at the bundle's `rootfs`, in order.
    pub rootfs: Vec<Mount>,
    /// The checkpoint.
    pub saved: Saved,
}

impl Prepare {
    /// Mounts the root file system, when configuration and images are there.
    pub fn run(&self) -> Result<()> {
        self.saved.check()?;
        // Its warnings are told when it is restored.
        runtime::load_config(&self.bundle, &mut Vec::new())?;
        work::enter(&self.bundle)?;
        rootfs::mount_all(&self.rootfs, &self.bundle)
    }
}

/// A container that is restored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restore {
    /// The container.
    pub name: Name,
    /// Bundle directory.
    pub bundle: PathBuf,
    /// The checkpoint.
    pub saved: Saved,
    /// Whether somebody relays the terminal that the configuration asks for.
    pub terminal: bool,
    /// As in [`CreateOptions`].
    pub no_new_keyring: bool,
    /// Leave cgroups to the host's systemd.
    pub systemd_cgroup: bool,
}

impl Restore {
    /// Restores the container, which runs then.
    pub fn run(&self, warnings: &mut Vec<String>) -> Result<Process> {
        work::enter(&self.bundle)?;
        let config = runtime::load_config(&self.bundle, warnings)?;
        let mut create = CreateOptions::new(config, self.bundle.clone(), Start::Here);
        create.console = work::console(self.terminal);
        create.no_new_keyring = self.no_new_keyring;
        create.systemd_cgroup = self.systemd_cgroup.then(runtime::ServiceManager::system);
        create.pid_file = Some(self.bundle.join(PID_FILE));
        create.parent = Parent::Callers;
        let own = self.bundle.join(WORK);
        let work = self.saved.work.as_ref().unwrap_or(&own);
        let criu = CriuOptions {
            tcp_established: true,
            ext_unix_sk: true,
            file_locks: true,
            ..criu_options(&self.saved.images, work)?
        };
        let options = RestoreOptions { criu, create, lsm_profile: None, lsm_mount_context: None };
        let (_, process) = Container::restore(&self.name.root, &self.name.id, options, warnings)?;
        remove_logs(&own);
        Ok(process)
    }
}

/// The worker has the shim's environment, which is containerd's.
fn criu_options(images: &Path, work: &Path) -> Result<CriuOptions> {
    let program = runtime::criu_program(std::env::var_os("PATH").as_deref())?;
    Ok(CriuOptions {
        work: Some(work.to_owned()),
        configuration: runtime::criu_configuration(),
        ..CriuOptions::new(program, images.to_owned())
    })
}

/// They are of no more use, and the bundle is in memory. What cannot be removed goes with it.
fn remove_logs(directory: &Path) {
    let _ = fs::remove_dir_all(directory);
}

fn absolute(field: &str, path: &str) -> Result<PathBuf> {
    if Path::new(path).is_absolute() {
        return Ok(PathBuf::from(path));
    }
    let reason = match path {
        "" => "is not given".to_owned(),
        path => format!("is not an absolute path: {}", quote(path)),
    };
    Err(invalid(field, reason))
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, "read checkpoint options:", field, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, value: impl Into<Vec<u8>>) -> Any {
        Any { type_url: name.into(), value: value.into(), ..Any::default() }
    }

    fn refusal(any: &Any) -> String {
        Wanted::decode(Some(any)).unwrap_err().to_string()
    }

    #[test]
    fn both_messages_say_the_same() {
        let message = oci::CheckpointOptions {
            exit: true,
            file_locks: true,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "full".into(),
            image_path: "/i".into(),
            work_path: "/w".into(),
            ..oci::CheckpointOptions::default()
        };
        let bytes = message.write_to_bytes().unwrap();
        let older = b"\x08\x01\x28\x01\x32\x07network\x3a\x04full\x42\x02/w\x4a\x02/i";
        let newer = any("types.googleapis.com/containerd.runc.v1.CheckpointOptions", bytes);
        let older = any("containerd.linux.runc.CheckpointOptions", *older);
        let wanted = Wanted::decode(Some(&newer)).unwrap();
        assert!(wanted.exit && wanted.file_locks && !wanted.open_tcp && !wanted.terminal);
        assert_eq!(wanted.cgroups().unwrap(), CgroupMode::Full);
        assert_eq!(wanted.images("").unwrap(), Path::new("/i"));
        assert_eq!(wanted.images("/x").unwrap(), Path::new("/x"));
        assert_eq!(Wanted::decode(Some(&older)).unwrap(), wanted);
        for nothing in [None, Some(&any("", ""))] {
            assert_eq!(Wanted::decode(nothing).unwrap(), Wanted::default());
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        const NAME: &str = "containerd.runc.v1.CheckpointOptions";
        for (any, text) in [
            (any("x.Options", ""), "\"x.Options\": options of this type are not known"),
            (any(NAME, *b"\x3a\x01x"), "cgroups_mode: is not soft, full, strict or ignore: \"x\""),
            (
                any(NAME, *b"\x32\x03pid"),
                "empty_namespaces: only the network namespace can be left empty: \"pid\"",
            ),
        ] {
            assert_eq!(refusal(&any), format!("read checkpoint options: {text}"));
        }
        assert!(refusal(&any(NAME, [0xff])).contains(NAME));
        let reason = |result: Result<PathBuf>| result.unwrap_err().to_string();
        assert!(reason(Wanted::default().images("")).ends_with("image_path: is not given"));
        let relative = reason(Wanted::default().images("a"));
        assert!(relative.ends_with("path: is not an absolute path: \"a\""), "{relative}");
    }

    #[test]
    fn the_checkpoint_of_a_create() {
        let images = |saved: Option<Saved>| saved.map(|saved| saved.images);
        assert_eq!(Saved::of("", "", "", "/w").unwrap(), None);
        assert_eq!(images(Saved::of("/c", "", "/o", "").unwrap()), Some("/c".into()));
        assert_eq!(images(Saved::of("", "", "/o", "").unwrap()), Some("/o".into()));
        for (checkpoint, parent, option, work, field) in [
            ("c", "", "", "", "checkpoint"),
            ("", "/p", "", "", "parent_checkpoint"),
            ("/c", "p", "", "", "parent_checkpoint"),
            ("", "", "o", "", "criu_image_path"),
            ("/c", "", "", "w", "criu_work_path"),
        ] {
            let error = Saved::of(checkpoint, parent, option, work).unwrap_err().to_string();
            assert!(error.starts_with(&format!("read checkpoint options: {field}: ")), "{error}");
        }
    }

    #[test]
    fn images_and_their_parent() {
        let top = crate::testing::directory("saved");
        let (images, parent) = (top.join("images"), top.join("parent"));
        for directory in [&images, &parent] {
            fs::create_dir(directory).unwrap();
        }
        let saved = Saved { images: images.clone(), parent: Some(parent), work: None };
        let refusal = || saved.check().unwrap_err().to_string();
        assert!(refusal().contains("has no inventory.img: it is no checkpoint"), "{}", refusal());
        fs::write(images.join(INVENTORY), "").unwrap();
        assert!(refusal().contains("ENOENT"), "{}", refusal());
        std::os::unix::fs::symlink("../images", images.join(PARENT)).unwrap();
        assert!(refusal().contains("leads to other images"), "{}", refusal());
        fs::remove_file(images.join(PARENT)).unwrap();
        std::os::unix::fs::symlink("../parent", images.join(PARENT)).unwrap();
        saved.check().unwrap();
        fs::remove_dir_all(top).unwrap();
    }
}
