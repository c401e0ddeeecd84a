//! The manifest of a guest image, `image.json`.

use serde::{Deserialize, Serialize};

/// What an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestManifest {
    /// [`Self::FORMAT`].
    pub format_version: u32,
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// The file `kernel`.
    pub kernel: GuestKernel,
    /// The file `initramfs`.
    pub initramfs: GuestFile,
    /// What is `/init` there.
    pub agent: GuestAgent,
    /// The drivers that the guest needs.
    pub drivers: GuestDrivers,
}

/// The kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestKernel {
    /// The path that it was copied from, for people.
    pub origin: String,
    /// How it is booted.
    pub format: KernelFormat,
    /// Size and checksum.
    #[serde(flatten)]
    pub file: GuestFile,
}

/// How a kernel is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelFormat {
    /// An ELF file with a PVH entry.
    #[serde(rename = "elf")]
    Elf,
    /// A file of the 64-bit boot protocol, which unpacks itself.
    #[serde(rename = "bzImage")]
    BzImage,
}

/// Size and checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// In bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// The agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAgent {
    /// The path that it was copied from, for people.
    pub origin: String,
    /// Its version, for people.
    pub version: String,
    /// The version of the messages that it speaks.
    pub messages: u32,
}

/// Where each driver is that the guest needs, by the name of its module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestDrivers {
    /// Files in the initramfs, in the order in which they are loaded.
    pub modules: Vec<String>,
    /// In the kernel.
    pub built_in: Vec<String>,
    /// Nowhere. What they are for does not work.
    pub absent: Vec<String>,
}

impl GuestManifest {
    /// The version of the format that this program writes, and the only one that it reads.
    pub const FORMAT: u32 = 1;

    /// Reads a manifest.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        /// What every version has.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            format_version: u32,
        }
        let no_manifest = |error: serde_json::Error| format!("is not a manifest: {error}");
        let Version { format_version } = serde_json::from_slice(json).map_err(no_manifest)?;
        if format_version != Self::FORMAT {
            return Err(format!(
                "is of version {format_version} of the format, this program knows {}: make it anew",
                Self::FORMAT
            ));
        }
        serde_json::from_slice(json).map_err(no_manifest)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// A manifest of these files.
    pub(in super::super) fn example(kernel: &[u8], initramfs: &[u8]) -> GuestManifest {
        let file = |content: &[u8]| GuestFile {
            size: content.len() as u64,
            sha256: Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        GuestManifest {
            format_version: GuestManifest::FORMAT,
            release: "6.1.0-test".to_owned(),
            kernel: GuestKernel {
                origin: "/boot/vmlinuz-6.1.0-test".to_owned(),
                format: KernelFormat::BzImage,
                file: file(kernel),
            },
            initramfs: file(initramfs),
            agent: GuestAgent {
                origin: "/usr/libexec/bulkhead/bulkhead-agent".to_owned(),
                version: "0.1.0".to_owned(),
                messages: wire::VERSION,
            },
            drivers: GuestDrivers {
                modules: vec!["virtio.ko".to_owned()],
                built_in: vec!["fuse".to_owned()],
                absent: Vec::new(),
            },
        }
    }

    /// Images are kept for long, and read by other versions of this program.
    #[test]
    fn the_form_is_fixed() {
        let manifest = example(b"", b"");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let json = serde_json::json!({
            "formatVersion": 1,
            "release": "6.1.0-test",
            "kernel": {
                "origin": "/boot/vmlinuz-6.1.0-test", "format": "bzImage", "size": 0, "sha256": empty,
            },
            "initramfs": { "size": 0, "sha256": empty },
            "agent": { "origin": "/usr/libexec/bulkhead/bulkhead-agent", "version": "0.1.0", "messages": 1 },
            "drivers": { "modules": ["virtio.ko"], "builtIn": ["fuse"], "absent": [] },
        });
        assert_eq!(serde_json::to_value(&manifest).unwrap(), json);
        assert_eq!(GuestManifest::parse(json.to_string().as_bytes()), Ok(manifest));
    }

    #[test]
    fn other_versions_are_refused_by_their_number() {
        let error = GuestManifest::parse(br#"{"formatVersion": 2, "kernel": 5}"#).unwrap_err();
        let expected = "is of version 2 of the format, this program knows 1: make it anew";
        assert_eq!(error, expected);
        let error = GuestManifest::parse(br#"{"formatVersion": 1}"#).unwrap_err();
        assert!(error.starts_with("is not a manifest: missing field `release`"), "{error}");
    }
}
