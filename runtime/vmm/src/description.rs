//! The machine's description as JSON, in which descriptors are numbers.
//!
//! Descriptors 0 to 2 are the monitor's own streams; each other number is handed over by who starts the monitor,
//! and used once.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::Deserialize;

use crate::config::{Config, Disk, Port, Share, Vsock};
use crate::error::{Error, Result};

/// The whole description.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Description {
    kvm: RawFd,
    processors: u8,
    /// In MiB.
    memory: u32,
    kernel: RawFd,
    initramfs: Option<RawFd>,
    #[serde(default)]
    command_line: String,
    console: Option<RawFd>,
    #[serde(default)]
    disks: Vec<DiskDescription>,
    #[serde(default)]
    shares: Vec<ShareDescription>,
    vsock: Option<VsockDescription>,
    #[serde(default)]
    balloon: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DiskDescription {
    file: RawFd,
    #[serde(default)]
    read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ShareDescription {
    tag: String,
    server: RawFd,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct VsockDescription {
    cid: u32,
    listener: RawFd,
    #[serde(default)]
    ports: Vec<PortDescription>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PortDescription {
    port: u32,
    stream: RawFd,
}

impl Config {
    /// Reads the description, and takes the descriptors that it names.
    ///
    /// # Errors
    ///
    /// The JSON is not valid, with the path of the field; or a number is no open descriptor, or is used twice.
    pub fn read(json: &str) -> Result<Self> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let description: Description = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| Error::new("read the machine's description", error))?;
        let mut taken = Taken::default();
        let mut disks = Vec::new();
        for (index, disk) in description.disks.into_iter().enumerate() {
            let file = taken.file(&format!("disks[{index}].file"), disk.file)?;
            disks.push(Disk { file, read_only: disk.read_only });
        }
        let mut shares = Vec::new();
        for (index, share) in description.shares.into_iter().enumerate() {
            let server = taken.take(&format!("shares[{index}].server"), share.server)?;
            shares.push(Share { tag: share.tag, server });
        }
        let vsock = match description.vsock {
            Some(vsock) => {
                let listener = taken.take("vsock.listener", vsock.listener)?.into();
                let mut ports = Vec::new();
                for (index, port) in vsock.ports.into_iter().enumerate() {
                    let stream =
                        taken.take(&format!("vsock.ports[{index}].stream"), port.stream)?.into();
                    ports.push(Port { port: port.port, stream });
                }
                Some(Vsock { cid: vsock.cid, listener, ports })
            }
            None => None,
        };
        Ok(Self {
            kvm: taken.file("kvm", description.kvm)?,
            processors: description.processors,
            memory: description.memory,
            kernel: taken.file("kernel", description.kernel)?,
            initramfs: taken.optional("initramfs", description.initramfs)?,
            command_line: description.command_line,
            console: taken.optional("console", description.console)?,
            disks,
            shares,
            vsock,
            balloon: description.balloon,
        })
    }
}

/// The numbers that are used up.
#[derive(Default)]
struct Taken(BTreeSet<RawFd>);

impl Taken {
    fn file(&mut self, field: &str, number: RawFd) -> Result<File> {
        self.take(field, number).map(File::from)
    }

    fn optional(&mut self, field: &str, number: Option<RawFd>) -> Result<Option<File>> {
        number.map(|number| self.file(field, number)).transpose()
    }

    #[allow(unsafe_code)]
    fn take(&mut self, field: &str, number: RawFd) -> Result<OwnedFd> {
        let error = |cause: &dyn std::fmt::Display| {
            Error::new(format!("take descriptor {number} of {field}"), cause)
        };
        if number <= 2 {
            return Err(error(&"it is a standard stream"));
        }
        if !self.0.insert(number) {
            return Err(error(&"it is used twice"));
        }
        // SAFETY: only for this call, which fails if it is not open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|errno| error(&format_args!("fcntl: {errno:?} ({})", errno.desc())))?;
        // SAFETY: it is open, the caller's to give, and taken once.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;
    use crate::testing::file;

    fn error(json: &str) -> String {
        Config::read(json).err().expect("it is refused").to_string()
    }

    #[test]
    fn mistakes_are_named_by_their_field() {
        let read = "read the machine's description: ";
        assert!(error("{").starts_with(read));
        let json = r#"{"kvm": 9000, "processors": 1, "memory": 64, "kernel": 9001, "disks": [{"file": "x"}]}"#;
        assert!(
            error(json).starts_with(&format!("{read}disks[0].file: invalid type")),
            "{}",
            error(json)
        );
        assert!(error(r#"{"kvm": 9000, "colour": 1}"#).contains("unknown field `colour`"));
        let json = |kvm: RawFd, kernel: RawFd| {
            format!(r#"{{"kvm": {kvm}, "processors": 1, "memory": 64, "kernel": {kernel}}}"#)
        };
        assert_eq!(error(&json(0, 9001)), "take descriptor 0 of kvm: it is a standard stream");
        assert_eq!(
            error(&json(9000, 9001)),
            "take descriptor 9000 of kvm: fcntl: EBADF (Bad file number)"
        );
        let number = file(b"").into_raw_fd();
        assert_eq!(
            error(&json(number, number)),
            format!("take descriptor {number} of kernel: it is used twice")
        );
        let (kvm, listener) = (file(b"").into_raw_fd(), file(b"").into_raw_fd());
        let json = format!(
            r#"{{"kvm": {kvm}, "processors": 1, "memory": 64, "kernel": 9001, "vsock":
            {{"cid": 3, "listener": {listener}, "ports": [{{"port": 1, "stream": {listener}}}]}}}}"#
        );
        assert_eq!(
            error(&json),
            format!("take descriptor {listener} of vsock.ports[0].stream: it is used twice")
        );
    }
}
