//! The runtime's options: what an administrator may set for every container of a runtime.
//!
//! They come as a protobuf `Any`: to `start` on standard input, and to `Create`. runc's message
//! (`containerd.runc.v1.Options`) is understood, so that a configuration written for runc's shim needs
//! only another runtime name, and `runtimeoptions.v1.Options`, in which CRI hands every runtime but
//! runc its section of the configuration as text ([`crate::config`]). Keys may be spelled as in the
//! message (`systemd_cgroup`) or as in CRI's configuration (`SystemdCgroup`). Nothing is ignored: an
//! option that has no meaning here is an error that names it.
//!
//! `delete` runs in a new process and is told no options, yet must find the state root. So they are
//! kept in the bundle, in `options.json`, where runc's shim keeps its own.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, Message, rt};
use containerd_shim_protos::shim::oci;
use runtime::{Call, Context, Error, ErrorKind, Result, quote};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config;

/// Where containers are recorded, below it by namespace, unless `root` says otherwise.
const STATE_ROOT: &str = "/run/containerd/bulkhead";

/// The file in the bundle.
const FILE: &str = "options.json";

/// More than any configuration: what is longer was not written for us.
const MAX_TEXT: u64 = 64 << 10;

/// What an administrator may set for a runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Enter root file systems by `MS_MOVE` and `chroot`.
    pub no_pivot_root: bool,
    /// Keep the session keyring of the shim.
    pub no_new_keyring: bool,
    /// The cgroup that the shim joins.
    pub shim_cgroup: String,
    /// The owner of the standard streams' pipes.
    pub io_uid: u32,
    /// The group of the standard streams' pipes.
    pub io_gid: u32,
    /// The runtime's program: accepted and not used.
    pub binary_name: String,
    /// The parent of the directories, one a namespace, in which containers are recorded.
    pub root: Option<PathBuf>,
    /// Put cgroups below systemd's control.
    pub systemd_cgroup: bool,
    /// Where a checkpoint to restore from is.
    pub criu_image_path: String,
    /// Where the logs of restoring go.
    pub criu_work_path: String,
    /// The task service that a sandbox offers (containerd 2.x).
    pub task_api_address: String,
    /// Its version.
    pub task_api_version: u32,
}

impl Options {
    /// Decodes the options that a caller sent.
    ///
    /// # Errors
    /// `Invalid`: a type that is not known, a message that cannot be decoded, an option that is not
    /// known or of the wrong type; each is named.
    pub fn decode(any: &Any) -> Result<Self> {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let options = match name {
            "" if any.value.is_empty() => Self::default(),
            "containerd.runc.v1.Options" => Self::from_runc(&any.value)?,
            "containerd.linux.runc.CreateOptions" => Self::from_legacy(&any.value)?,
            "runtimeoptions.v1.Options" | "cri.runtimeoptions.v1.Options" => {
                Self::from_generic(&any.value)?
            }
            _ => {
                return Err(invalid(quote(&any.type_url), "options of this type are not known"));
            }
        };
        options.check()?;
        Ok(options)
    }

    fn from_runc(value: &[u8]) -> Result<Self> {
        if let Some(object) = json_object(value) {
            return Self::from_map(object);
        }
        let message = oci::Options::parse_from_bytes(value)
            .map_err(|error| invalid("containerd.runc.v1.Options", error.to_string()))?;
        Ok(Self {
            no_pivot_root: message.no_pivot_root,
            no_new_keyring: message.no_new_keyring,
            shim_cgroup: message.shim_cgroup,
            io_uid: message.io_uid,
            io_gid: message.io_gid,
            binary_name: message.binary_name,
            root: (!message.root.is_empty()).then(|| PathBuf::from(message.root)),
            systemd_cgroup: message.systemd_cgroup,
            criu_image_path: message.criu_image_path,
            criu_work_path: message.criu_work_path,
            task_api_address: message.task_api_address,
            task_api_version: message.task_api_version,
        })
    }

    /// What clients of containerd 1.x send for the owner of a container's streams (`ctr run --uidmap`)
    /// to every runtime whose name does not begin with `io.containerd.runc`. Its other fields, about what
    /// a checkpoint may hold, have no meaning for a restore.
    fn from_legacy(value: &[u8]) -> Result<Self> {
        let decode = || {
            let mut options = Self::default();
            let mut input = CodedInputStream::from_bytes(value);
            while let Some(tag) = input.read_raw_tag_or_eof()? {
                match tag >> 3 {
                    1 => options.no_pivot_root = input.read_bool()?,
                    8 => options.no_new_keyring = input.read_bool()?,
                    9 => options.shim_cgroup = input.read_string()?,
                    10 => options.io_uid = input.read_uint32()?,
                    11 => options.io_gid = input.read_uint32()?,
                    12 => options.criu_work_path = input.read_string()?,
                    13 => options.criu_image_path = input.read_string()?,
                    _ => rt::skip_field_for_tag(tag, &mut input)?,
                }
            }
            Ok(options)
        };
        decode().map_err(|error: containerd_shim_protos::protobuf::Error| {
            invalid("containerd.linux.runc.CreateOptions", error.to_string())
        })
    }

    fn from_generic(value: &[u8]) -> Result<Self> {
        let Generic { path, body } = Generic::decode(value)?;
        let (text, origin) = match (body.is_empty(), path.is_empty()) {
            (false, _) => (body, "config_body".to_owned()),
            (true, false) => (read_config(Path::new(&path))?, quote(&path)),
            (true, true) => return Ok(Self::default()),
        };
        let text = String::from_utf8(text).map_err(|_| invalid(&origin, "is not UTF-8"))?;
        Self::from_map(config::parse(&text, &origin)?)
    }

    fn from_map(map: Map<String, Value>) -> Result<Self> {
        let mut options = Self::default();
        for (key, value) in map {
            options.set(&key, &value).map_err(|reason| invalid(&key, reason))?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), &'static str> {
        let text = || value.as_str().map(str::to_owned).ok_or("is not a string");
        let flag = || value.as_bool().ok_or("is not a boolean");
        let number = || {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            number.ok_or("is not a number of 32 bits")
        };
        match key.replace('_', "").to_ascii_lowercase().as_str() {
            "nopivotroot" => self.no_pivot_root = flag()?,
            "nonewkeyring" => self.no_new_keyring = flag()?,
            "shimcgroup" => self.shim_cgroup = text()?,
            "iouid" => self.io_uid = number()?,
            "iogid" => self.io_gid = number()?,
            "binaryname" => self.binary_name = text()?,
            "root" => self.root = Some(text()?).filter(|root| !root.is_empty()).map(PathBuf::from),
            "systemdcgroup" => self.systemd_cgroup = flag()?,
            "criuimagepath" => self.criu_image_path = text()?,
            "criuworkpath" => self.criu_work_path = text()?,
            "taskapiaddress" => self.task_api_address = text()?,
            "taskapiversion" => self.task_api_version = number()?,
            // Of CRI's section itself, which it hands on whole.
            "typeurl" | "configpath" | "configbody" => {}
            _ => return Err("option is not known"),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        match &self.root {
            Some(root) if !root.is_absolute() => {
                Err(invalid("root", format!("is not an absolute path: {}", quote(root))))
            }
            _ => Ok(()),
        }
    }

    /// The directory in which the containers of a namespace are recorded.
    pub fn state_root(&self, namespace: &str) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new(STATE_ROOT)).join(namespace)
    }

    /// What was accepted and has no effect.
    pub fn warnings(&self) -> Vec<String> {
        let unused = |name: &str, value: &str| {
            (!value.is_empty()).then(|| format!("option {name} {value:?} is not used"))
        };
        unused("binary_name", &self.binary_name).into_iter().collect()
    }

    /// Keeps the options in the bundle, for [`Options::load`] in another process.
    pub fn store(&self, bundle: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).expect("options are strings, numbers and booleans");
        replace(bundle, FILE, &text)
    }

    /// The options of a bundle; the default when none were stored.
    ///
    /// # Errors
    /// A file that is there and cannot be understood: where the container is recorded is not known.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(FILE);
        let text = match read_bounded(&path) {
            Err(error) if error.errno() == Some(nix::errno::Errno::ENOENT) => {
                return Ok(Self::default());
            }
            other => other?,
        };
        let options: Self = serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Invalid, "read options", quote(&path), error.to_string())
        })?;
        options.check()?;
        Ok(options)
    }
}

/// Writes a file of the bundle so that it is there as a whole or not at all, readable by the owner.
pub(crate) fn replace(bundle: &Path, name: &str, text: &[u8]) -> Result<()> {
    let temporary = bundle.join(format!(".{name}.{}", std::process::id()));
    let path = bundle.join(name);
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        fs::rename(&temporary, &path)
    };
    write().call("write").context("write", quote(&path)).inspect_err(|_| {
        // What is left of it is of no use; the error that counts is the first one.
        let _ = fs::remove_file(&temporary);
    })
}

/// `runtimeoptions.v1.Options`, which the message crate lacks.
struct Generic {
    path: String,
    body: Vec<u8>,
}

impl Generic {
    fn decode(value: &[u8]) -> Result<Self> {
        if let Some(object) = json_object(value) {
            let field = |names: [&str; 2]| {
                let text = names.iter().find_map(|name| object.get(*name)?.as_str());
                text.unwrap_or_default().to_owned()
            };
            // A body would be base64 in JSON, which no caller sends.
            return Ok(Self { path: field(["config_path", "configPath"]), body: Vec::new() });
        }
        let decode = || {
            let (mut path, mut body) = (String::new(), Vec::new());
            let mut input = CodedInputStream::from_bytes(value);
            while let Some(tag) = input.read_raw_tag_or_eof()? {
                match tag >> 3 {
                    2 => path = input.read_string()?,
                    3 => body = input.read_bytes()?,
                    _ => rt::skip_field_for_tag(tag, &mut input)?,
                }
            }
            Ok(Self { path, body })
        };
        decode().map_err(|error: containerd_shim_protos::protobuf::Error| {
            invalid("runtimeoptions.v1.Options", error.to_string())
        })
    }
}

/// The value as JSON, as Go's `typeurl` encodes what is no protobuf message. No message here begins
/// with a brace: it would be the start of a group.
fn json_object(value: &[u8]) -> Option<Map<String, Value>> {
    if value.first() == Some(&b'{') { serde_json::from_slice(value).ok() } else { None }
}

fn read_config(path: &Path) -> Result<Vec<u8>> {
    if !path.is_absolute() {
        return Err(invalid("config_path", format!("is not an absolute path: {}", quote(path))));
    }
    read_bounded(path)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TEXT + 1).read_to_end(&mut text))
        .call("read")
        .context("read", quote(path))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(Error::new(ErrorKind::Invalid, "read", quote(path), "is too long"));
    }
    Ok(text)
}

fn invalid(subject: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, "read options:", subject, reason)
}

/// The options in a request of the task service, if it has any.
impl TryFrom<&api::CreateTaskRequest> for Options {
    type Error = Error;

    fn try_from(request: &api::CreateTaskRequest) -> Result<Self> {
        request.options.as_ref().map_or_else(|| Ok(Self::default()), Self::decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: impl Into<Vec<u8>>) -> Any {
        Any { type_url: type_url.into(), value: value.into(), ..Any::default() }
    }

    fn generic(path: &str, body: &str) -> Vec<u8> {
        let field = |number: u8, text: &str| {
            [&[number << 3 | 2, text.len() as u8], text.as_bytes()].concat()
        };
        [field(1, "some.type"), field(2, path), field(3, body)].concat()
    }

    fn full() -> Options {
        Options {
            systemd_cgroup: true,
            io_uid: 7,
            root: Some("/r".into()),
            binary_name: "runc".into(),
            ..Options::default()
        }
    }

    #[test]
    fn every_form_is_the_same() {
        let message = oci::Options {
            systemd_cgroup: true,
            io_uid: 7,
            root: "/r".into(),
            binary_name: "runc".into(),
            ..oci::Options::default()
        };
        let bytes = message.write_to_bytes().unwrap();
        let toml =
            "SystemdCgroup = true\nIoUid = 7\nRoot = \"/r\"\nBinaryName = 'runc'\nTypeUrl = ''";
        let json = r#"{"systemd_cgroup":true,"io_uid":7,"root":"/r","binary_name":"runc"}"#;
        for any in [
            any("containerd.runc.v1.Options", bytes.clone()),
            any("types.googleapis.com/containerd.runc.v1.Options", bytes.clone()),
            any("type.googleapis.com/containerd.runc.v1.Options", bytes),
            any("containerd.runc.v1.Options", json),
            any("runtimeoptions.v1.Options", generic("", toml)),
            any("runtimeoptions.v1.Options", generic("/not/read", json)),
        ] {
            assert_eq!(Options::decode(&any).unwrap(), full(), "{}", any.type_url);
        }
        assert_eq!(Options::decode(&any("", "")).unwrap(), Options::default());
        let empty = any("runtimeoptions.v1.Options", "");
        assert_eq!(Options::decode(&empty).unwrap(), Options::default());
        assert_eq!(full().warnings(), ["option binary_name \"runc\" is not used"]);
    }

    #[test]
    fn what_is_refused() {
        let runtime = "runtimeoptions.v1.Options";
        for (any, text) in [
            (
                any("runhcs.Options", ""),
                "read options: \"runhcs.Options\": options of this type are not known",
            ),
            (
                any("containerd.runc.v1.Options", r#"{"frob":1}"#),
                "read options: frob: option is not known",
            ),
            (
                any(runtime, generic("", "NoPivotRoot = 1")),
                "read options: NoPivotRoot: is not a boolean",
            ),
            (
                any(runtime, generic("", "IoUid = -1")),
                "read options: IoUid: is not a number of 32 bits",
            ),
            (
                any(runtime, generic("", "Root = 'a'")),
                "read options: root: is not an absolute path: \"a\"",
            ),
            (
                any(runtime, generic("c.toml", "")),
                "read options: config_path: is not an absolute path: \"c.toml\"",
            ),
        ] {
            assert_eq!(Options::decode(&any).unwrap_err().to_string(), text);
        }
        assert!(Options::decode(&any(runtime, [0x12, 0x7f, 0x00])).is_err());
        assert!(Options::decode(&any("containerd.runc.v1.Options", [0xff])).is_err());
        let missing = any(runtime, generic("/nonexistent/c", ""));
        assert!(Options::decode(&missing).unwrap_err().to_string().contains("ENOENT"));
    }

    #[test]
    fn what_old_clients_send_for_user_namespaces() {
        let bytes = *b"\x08\x01\x50\xa0\x8d\x06\x62\x02/w\x6a\x02/i";
        let sent = any("containerd.linux.runc.CreateOptions", bytes);
        let expected = Options {
            no_pivot_root: true,
            io_uid: 100_000,
            criu_work_path: "/w".into(),
            criu_image_path: "/i".into(),
            ..Options::default()
        };
        assert_eq!(Options::decode(&sent).unwrap(), expected);
    }

    #[test]
    fn the_manual_page_has_them() {
        let page = include_str!("../containerd-shim-bulkhead-v2.8").to_lowercase();
        let options = serde_json::to_value(Options::default()).unwrap();
        for name in options.as_object().unwrap().keys() {
            let key = name.replace('_', "");
            let named = |line: &str| line.starts_with(".br") && line.contains(&key);
            assert!(page.lines().any(named), "{name}");
        }
    }

    #[test]
    fn kept_in_the_bundle() {
        let bundle = crate::testing::directory("options");
        assert_eq!(Options::load(&bundle).unwrap(), Options::default());
        full().store(&bundle).unwrap();
        full().store(&bundle).unwrap();
        assert_eq!(Options::load(&bundle).unwrap(), full());
        assert_eq!(fs::read_dir(&bundle).unwrap().count(), 1);
        for wrong in ["", "null", "{\"root\":1}", "{\"frob\":true}", "{\"root\":\"x\"}"] {
            fs::write(bundle.join(FILE), wrong).unwrap();
            assert!(Options::load(&bundle).is_err(), "{wrong}");
        }
        fs::remove_dir_all(bundle).unwrap();
    }

    #[test]
    fn roots() {
        let state_root = |options: &Options| options.state_root("k8s.io");
        assert_eq!(state_root(&Options::default()), Path::new("/run/containerd/bulkhead/k8s.io"));
        assert_eq!(state_root(&full()), Path::new("/r/k8s.io"));
    }
}
