//! What containerd tells `start`, and how it wants to be answered.
//!
//! Two protocols. Up to 2.2 the command line and the environment say everything but the runtime's
//! options: those come on standard input as a protobuf `Any`, or it is empty. 2.3 says the same on the
//! command line and in addition writes `BootstrapParams`; the answer is then a `BootstrapResult`.
//! The two messages have the same field numbers, and each parses as the other. So, as in containerd's
//! own shims, the second one is recognised by its id and namespace, which must be the command line's.
//!
//! Every daemon takes the bare address for an answer, and speaks version 2 of the task service then.
//! 1.6 takes nothing else; JSON is for 1.7 and later, and 2.0 to 2.2 would speak version 3 after it.
//! But nothing that they pass tells these from 1.6: `MAX_SHIM_VERSION` is 2 in all of them. Version 2
//! has the same calls, so the bare address it is, unless that variable says more one day.

use std::env;
use std::path::{Path, PathBuf};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Enum, Message};
use runtime::{Call, Context, Error, ErrorKind, Result, quote};

use crate::args::Arguments;
use crate::options::Options;

/// The task service's version that containerd 2.x has of its own.
const TASK_V3: u32 = 3;

/// How the address is told to the caller of `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it is: task service version 2.
    Address,
    /// In a JSON object, with this version of the task service.
    Json(u32),
    /// In a protobuf `BootstrapResult`, with version 3.
    Protobuf,
}

impl Answer {
    /// What `start` prints.
    pub fn text(self, address: &str) -> Vec<u8> {
        match self {
            Self::Address => address.as_bytes().to_vec(),
            Self::Json(version) => {
                let object = serde_json::json!({
                    "version": version, "address": address, "protocol": "ttrpc",
                });
                object.to_string().into_bytes()
            }
            Self::Protobuf => {
                let result = BootstrapResult {
                    version: TASK_V3 as i32,
                    address: address.to_owned(),
                    protocol: "ttrpc".to_owned(),
                    ..BootstrapResult::default()
                };
                result.write_to_bytes().expect("a message in memory has no missing field")
            }
        }
    }
}

/// What a shim is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id; that of the pod's sandbox for the first of a pod.
    pub id: String,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The daemon's gRPC socket.
    pub grpc_address: String,
    /// The daemon's ttrpc socket, which takes events.
    pub ttrpc_address: Option<String>,
    /// Where sockets are to be, instead of containerd's usual place.
    pub socket_dir: Option<PathBuf>,
    /// Log debugging messages too.
    pub debug: bool,
    /// Whether the shim and its containers share processor cores with nobody else.
    pub sched_core: bool,
    /// The runtime's options.
    pub options: Options,
    /// How to answer.
    pub answer: Answer,
    /// What was accepted and has no effect, for the log.
    pub warnings: Vec<String>,
}

impl Launch {
    /// Puts together what the command line, the environment and standard input (`input`) say.
    ///
    /// # Errors
    /// `Invalid` for input that is none of the messages, and for options that cannot be accepted.
    pub fn read(arguments: &Arguments, input: &[u8]) -> Result<Self> {
        Self::resolve(arguments, input, &|name| {
            env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    fn resolve(
        arguments: &Arguments,
        input: &[u8],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        let grpc = Some(arguments.address.clone()).filter(|address| !address.is_empty());
        let mut launch = Self {
            namespace: arguments.namespace.clone(),
            id: arguments.id.clone(),
            bundle: bundle(arguments)?,
            grpc_address: grpc.or_else(|| variable("GRPC_ADDRESS")).unwrap_or_default(),
            ttrpc_address: variable("TTRPC_ADDRESS"),
            socket_dir: None,
            debug: arguments.debug,
            sched_core: variable("SCHED_CORE").is_some(),
            options: Options::default(),
            answer: answer(variable("MAX_SHIM_VERSION")),
            warnings: Vec::new(),
        };
        match params(arguments, input) {
            Some(params) => launch.take(params)?,
            None if input.is_empty() => {}
            None => {
                let any = Any::parse_from_bytes(input).map_err(|error| {
                    Error::new(ErrorKind::Invalid, "read", "standard input", error.to_string())
                })?;
                launch.options = Options::decode(&any)?;
            }
        }
        launch.warnings.extend(launch.options.warnings());
        Ok(launch)
    }

    fn take(&mut self, params: BootstrapParams) -> Result<()> {
        self.answer = Answer::Protobuf;
        // Unknown levels are those of a later daemon: the number still orders them.
        self.debug |= params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG.value();
        let given = |text: String| (!text.is_empty()).then_some(text);
        self.ttrpc_address = given(params.containerd_ttrpc_address).or(self.ttrpc_address.take());
        if let Some(address) = given(params.containerd_grpc_address) {
            self.grpc_address = address;
        }
        self.socket_dir = params.socket_dir.and_then(given).map(PathBuf::from);
        for extension in params.extensions {
            let Some(any) = extension.value.into_option() else { continue };
            // An extension may be anything; options that are not understood would be ignored.
            if any.type_url.is_empty() || any.type_url.ends_with("Options") {
                self.options = Options::decode(&any)?;
            } else {
                self.warnings.push(format!("extension {:?} is not known", any.type_url));
            }
        }
        Ok(())
    }
}

/// The bundle's absolute path: containerd makes it the working directory.
pub fn bundle(arguments: &Arguments) -> Result<PathBuf> {
    let path = arguments.bundle.as_deref().unwrap_or(Path::new("."));
    path.canonicalize().call("realpath").context("find bundle", quote(path))
}

/// The message of 2.3, if it is one.
fn params(arguments: &Arguments, input: &[u8]) -> Option<BootstrapParams> {
    let params = BootstrapParams::parse_from_bytes(input).ok()?;
    let ours = params.instance_id == arguments.id && params.namespace == arguments.namespace;
    (ours && !input.is_empty()).then_some(params)
}

fn answer(max_version: Option<String>) -> Answer {
    match max_version.and_then(|version| version.parse::<u32>().ok()) {
        Some(TASK_V3..) => Answer::Json(TASK_V3),
        _ => Answer::Address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Action;
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
    use containerd_shim_protos::shim::oci;

    fn arguments() -> Arguments {
        Arguments {
            action: Action::Start,
            namespace: "ns".into(),
            id: "c1".into(),
            address: "/run/grpc".into(),
            bundle: Some("/".into()),
            ..Arguments::default()
        }
    }

    fn environment(name: &str) -> Option<String> {
        match name {
            "TTRPC_ADDRESS" => Some("/run/ttrpc".into()),
            "MAX_SHIM_VERSION" => Some("2".into()),
            _ => None,
        }
    }

    fn options() -> Any {
        let value = oci::Options { systemd_cgroup: true, ..oci::Options::default() };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: value.write_to_bytes().unwrap(),
            ..Any::default()
        }
    }

    fn read(input: &[u8]) -> Result<Launch> {
        Launch::resolve(&arguments(), input, &environment)
    }

    #[test]
    fn old_daemons() {
        let launch = read(b"").unwrap();
        assert_eq!((launch.answer, launch.options.systemd_cgroup), (Answer::Address, false));
        assert_eq!(launch.grpc_address, "/run/grpc");
        assert_eq!(launch.ttrpc_address.as_deref(), Some("/run/ttrpc"));
        assert_eq!((launch.socket_dir, launch.sched_core, launch.debug), (None, false, false));
        let launch = read(&options().write_to_bytes().unwrap()).unwrap();
        assert_eq!((launch.answer, launch.options.systemd_cgroup), (Answer::Address, true));
        assert!(read(b"unix:///nothing").is_err());
        let unknown = Any { type_url: "x.Options".into(), ..Any::default() };
        let error = read(&unknown.write_to_bytes().unwrap()).unwrap_err().to_string();
        assert!(error.contains("\"x.Options\""), "{error}");
    }

    #[test]
    fn the_bootstrap_protocol() {
        let extension = |any| Extension { value: MessageField::some(any), ..Extension::default() };
        let other = Any { type_url: "some.Thing".into(), ..Any::default() };
        let mut params = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "ns".into(),
            log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_DEBUG),
            containerd_ttrpc_address: "/run/other".into(),
            socket_dir: Some("/run/s".into()),
            extensions: vec![extension(other), extension(options())],
            ..BootstrapParams::default()
        };
        let launch = read(&params.write_to_bytes().unwrap()).unwrap();
        assert_eq!((launch.answer, launch.debug), (Answer::Protobuf, true));
        assert_eq!(launch.ttrpc_address.as_deref(), Some("/run/other"));
        assert_eq!(launch.grpc_address, "/run/grpc");
        assert_eq!(launch.socket_dir.as_deref(), Some(Path::new("/run/s")));
        assert!(launch.options.systemd_cgroup);
        assert_eq!(launch.warnings, ["extension \"some.Thing\" is not known"]);
        // Somebody else's parameters parse as options of a type that is not known.
        params.instance_id = "c2".into();
        assert!(read(&params.write_to_bytes().unwrap()).is_err());
    }

    #[test]
    fn answers() {
        let versions = ["1", "2", "3", "x"].map(|version| answer(Some(version.into())));
        assert_eq!(versions, [Answer::Address, Answer::Address, Answer::Json(3), Answer::Address]);
        assert_eq!(Answer::Address.text("unix:///s"), b"unix:///s");
        let json = String::from_utf8(Answer::Json(3).text("unix:///s")).unwrap();
        assert_eq!(json, r#"{"address":"unix:///s","protocol":"ttrpc","version":3}"#);
        let bytes = Answer::Protobuf.text("unix:///s");
        // The daemon trims what Go counts as white space.
        assert_eq!((bytes[0], *bytes.last().unwrap()), (8, b'c'));
        let result = BootstrapResult::parse_from_bytes(&bytes).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
        // 2.3 tries protobuf first: an address must not parse as that.
        assert!(BootstrapResult::parse_from_bytes(b"unix:///run/containerd/s/00").is_err());
    }
}
