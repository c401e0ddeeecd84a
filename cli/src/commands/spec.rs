use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::{getegid, geteuid};

use crate::program::{Failure, SPEC};
use crate::session::Session;

/// What runc prints, to the byte; lines that begin with a mark are for some hosts or modes only.
const TEMPLATE: &str = include_str!("spec/config.json");

/// Write an example configuration
#[derive(Debug, Args)]
pub struct Spec {
    /// The bundle directory
    #[arg(long, short, value_name = "dir")]
    bundle: Option<PathBuf>,
    /// Make it a configuration for an ordinary user
    #[arg(long)]
    rootless: bool,
}

impl super::Command for Spec {
    const NAME: &'static str = "spec";
    const ARITY: super::Arity = super::Arity::Exactly(0);

    fn run(self, _: &Session) -> Result<u8, Failure> {
        let text = render(&Variant {
            rootless: self.rootless,
            unified: is_unified(),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        });
        let path = self.bundle.unwrap_or_default().join("config.json");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path);
        let mut file = match file {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let text = "File config.json exists. Remove it first";
                return Err(Failure::message(text));
            }
            result => result.map_err(|error| Failure::from_io("create", &path, &error))?,
        };
        file.write_all(text.as_bytes())
            .map_err(|error| Failure::from_io("write", &path, &error))?;
        Ok(0)
    }
}

/// What the example depends on.
struct Variant {
    rootless: bool,
    /// Only cgroup v2 is mounted, and containers get a cgroup namespace.
    unified: bool,
    uid: u32,
    gid: u32,
}

/// Lines marked `R` are for `--rootless`, `P` for a privileged creator, `U` for unified cgroups.
fn render(variant: &Variant) -> String {
    let lines = TEMPLATE.lines().filter_map(|line| match line.split_at_checked(1) {
        Some(("R", rest)) => variant.rootless.then_some(rest),
        Some(("P", rest)) => (!variant.rootless).then_some(rest),
        Some(("U", rest)) => variant.unified.then_some(rest),
        _ => Some(line),
    });
    lines
        .collect::<Vec<_>>()
        .join("\n")
        .replace("SPEC", SPEC)
        .replace("EUID", &variant.uid.to_string())
        .replace("EGID", &variant.gid.to_string())
}

fn is_unified() -> bool {
    let magic = nix::sys::statfs::statfs("/sys/fs/cgroup").map(|fs| fs.filesystem_type());
    magic == Ok(nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_a_configuration() {
        for (rootless, unified) in [(false, false), (false, true), (true, false), (true, true)] {
            let text = render(&Variant { rootless, unified, uid: 1000, gid: 100 });
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            let linux = spec.linux().as_ref().unwrap();
            let namespaces = linux.namespaces().as_ref().unwrap().len();
            assert_eq!(namespaces, 5 + usize::from(unified), "{text}");
            assert_eq!(linux.resources().is_some(), !rootless);
            let maps = linux.uid_mappings().as_ref().map(|maps| maps[0].host_id());
            assert_eq!(maps, rootless.then_some(1000));
            assert!(text.ends_with("\n\t}\n}"));
        }
    }
}
