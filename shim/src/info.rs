//! The `-info` and `-v` flags: what this runtime is and can do.
//!
//! containerd 2.x asks before it creates a container, and acts on the features: mounts with mapped ids
//! and recursive read-only mounts are used only when they are there. It finds them by the name that
//! Go's `typeurl` has for the type, with the document as JSON.

use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use runtime::{Error, ErrorKind, Result};

use crate::log::RUNTIME;
use crate::options::Options;

const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The answer to `-info`, a protobuf `RuntimeInfo`. `input` is what came on standard input: nothing, or
/// the runtime's options.
///
/// # Errors
/// Options that cannot be accepted: containerd then says so before it creates anything.
pub fn info(input: &[u8]) -> Result<Vec<u8>> {
    let invalid = |reason: String| Error::new(ErrorKind::Invalid, "read", "standard input", reason);
    let mut info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: VERSION.to_owned(),
            ..RuntimeVersion::default()
        }),
        ..RuntimeInfo::default()
    };
    if !input.is_empty() {
        let any = Any::parse_from_bytes(input).map_err(|error| invalid(error.to_string()))?;
        Options::decode(&any)?;
        info.options = MessageField::some(any);
    }
    let features = serde_json::to_vec(&runtime::features())
        .map_err(|error| Error::new(ErrorKind::System, "write", "features", error.to_string()))?;
    info.features = MessageField::some(Any {
        type_url: FEATURES.to_owned(),
        value: features,
        ..Any::default()
    });
    Ok(info.write_to_bytes().expect("a message in memory has no missing field"))
}

/// The answer to `-v`, in the form of containerd's own shims.
pub fn version(program: &Path) -> String {
    let name = program.file_name().unwrap_or(program.as_os_str()).display();
    format!("{name}:\n  Version:  {VERSION}\n  Revision: \n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_looks_for() {
        let options = Any { type_url: "containerd.runc.v1.Options".into(), ..Any::default() };
        for input in [Vec::new(), options.write_to_bytes().unwrap()] {
            let info = RuntimeInfo::parse_from_bytes(&info(&input).unwrap()).unwrap();
            assert_eq!(info.name, "io.containerd.bulkhead.v2");
            assert_eq!(info.options.is_some(), !input.is_empty());
            let json: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
            assert_eq!(info.features.type_url, FEATURES);
            assert_eq!(json["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        }
        let unknown = Any { type_url: "x.Options".into(), ..Any::default() };
        assert!(info(&unknown.write_to_bytes().unwrap()).is_err());
        assert!(info(b"\xff").is_err());
    }

    #[test]
    fn versions() {
        let text = version(Path::new("/bin/containerd-shim-bulkhead-v2"));
        assert!(text.starts_with("containerd-shim-bulkhead-v2:\n  Version:  "), "{text}");
    }
}
