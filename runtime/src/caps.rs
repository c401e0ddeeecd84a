//! Capabilities: the five sets of a process.
//!
//! See [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html). We promise that
//! the container gets exactly the sets that were asked for, and none when none were asked for: an
//! inheritable or ambient set that nobody asked for raises the privileges of files that carry
//! inheritable bits (CVE-2022-24769, CVE-2022-29162, CVE-2025-27612).
//!
//! The kernel dictates the order:
//!
//! 1. [`Capabilities::drop_bounding`], which needs `CAP_SETPCAP` in effect;
//! 2. [`keep`], then the change of user, which would otherwise empty the permitted set;
//! 3. [`Capabilities::set`], one call for three sets, so that no moment has a mixture;
//! 4. [`Capabilities::raise_ambient`], which needs permitted and inheritable bits.
//!
//! Without `no_new_privs` installing a seccomp filter needs `CAP_SYS_ADMIN`: `set` then holds that bit
//! ([`SYS_ADMIN`]) until `execve`, see [`crate::process::program`].
//!
//! Names and numbers are the `caps` crate's; reading and setting are one call each, of ours.

use ::caps::Capability;
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities as Names, Capability as NamedCapability, LinuxCapabilities};

use crate::error::{Call, Context, Error, Result};
use crate::sys;

/// The capability that overrides the permissions of files, as a mask.
pub(crate) const DAC_OVERRIDE: u64 = 1 << 1;

/// The capability that signals processes of other users, as a mask.
pub(crate) const KILL: u64 = 1 << 5;

/// The capability that installs a filter without `no_new_privs`, as a mask.
pub(crate) const SYS_ADMIN: u64 = 1 << 21;

/// The capability that makes processes less nice, as a mask.
pub(crate) const SYS_NICE: u64 = 1 << 23;

/// The capability that lifts resource limits, as a mask.
pub(crate) const SYS_RESOURCE: u64 = 1 << 24;

/// Reads the kernel log where the host restricts that.
pub(crate) const SYSLOG: u64 = 1 << 34;

/// The capability that looks into processes that are not dumpable, as a mask.
pub(crate) const SYS_PTRACE: u64 = 1 << 19;

/// Every capability of a namespace's root, whether or not it has a name here.
pub(crate) const ALL: u64 = u64::MAX;

/// Whether `name` is a capability's full name, such as `CAP_KILL`.
pub(crate) fn is_name(name: &str) -> bool {
    name.parse::<Capability>().is_ok()
}

/// All names in the order of their numbers.
pub(crate) fn names() -> Vec<String> {
    ordered().map(|capability| capability.to_string()).collect()
}

/// The names in a mask, for messages.
pub(crate) fn describe(mask: u64) -> String {
    let named = ordered().filter(|capability| mask & capability.bitmask() != 0);
    named.map(|capability| capability.to_string()).collect::<Vec<_>>().join(", ")
}

fn ordered() -> impl Iterator<Item = Capability> {
    let mut all: Vec<_> = ::caps::all().into_iter().collect();
    all.sort_by_key(Capability::index);
    all.into_iter()
}

/// The five sets, as masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) ambient: u64,
}

/// The sets of a configuration; a missing object or set is empty.
pub(crate) fn plan(capabilities: Option<&LinuxCapabilities>) -> Capabilities {
    let Some(sets) = capabilities else {
        return Capabilities::default();
    };
    Capabilities {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        inheritable: mask(sets.inheritable()),
        permitted: mask(sets.permitted()),
        ambient: mask(sets.ambient()),
    }
}

fn mask(names: &Option<Names>) -> u64 {
    names.iter().flatten().fold(0, |mask, &name| mask | number_of(name).bitmask())
}

/// The same capability as the kernel's interface numbers it.
fn number_of(name: NamedCapability) -> Capability {
    format!("CAP_{name}").parse().expect("both crates know all capabilities of Linux 5.9")
}

impl Capabilities {
    /// The sets without what cannot be had, each loss with a warning: permitted bits beyond
    /// `grantable` (the creator's permitted set, or [`ALL`] in a new user namespace), and ambient
    /// bits that are not both permitted and inheritable, which the kernel refuses. Nothing is said
    /// of ambient bits beside an empty inheritable set: engines leave that set empty on purpose since
    /// CVE-2022-24769, Buildah still fills the ambient one, and would show a warning on every RUN.
    pub(crate) fn restrict(self, grantable: u64, warnings: &mut Vec<String>) -> Self {
        let mut limit = |set: &str, asked: u64, limit: u64, why: &str| {
            let lost = asked & !limit;
            if lost != 0 {
                let names = describe(lost);
                warnings.push(format!("process.capabilities.{set}: {names} dropped: {why}"));
            }
            asked & limit
        };
        let missing = "not held by the creator";
        let permitted = limit("permitted", self.permitted, grantable, missing);
        let effective = limit("effective", self.effective, grantable, missing);
        let inheritable = limit("inheritable", self.inheritable, grantable, missing);
        let ambient = limit(
            "ambient",
            if self.inheritable == 0 { 0 } else { self.ambient },
            permitted & inheritable,
            "not both permitted and inheritable",
        );
        Self { bounding: self.bounding, effective, inheritable, permitted, ambient }
    }

    /// Drops everything else from the bounding set. Capabilities that only the kernel knows are
    /// dropped too: the loop goes by the kernel's numbers, not by our names.
    pub(crate) fn drop_bounding(&self) -> Result<()> {
        for capability in 0..64 {
            if self.bounding & (1 << capability) != 0 {
                continue;
            }
            match sys::prctl::bounding_drop(capability) {
                Ok(()) => {}
                // Beyond the last one that this kernel has.
                Err(failure) if failure.errno == Errno::EINVAL => break,
                // Without CAP_SETPCAP the kernel refuses even what is dropped already, or unknown.
                Err(failure) if failure.errno == Errno::EPERM => {
                    match sys::prctl::bounding_read(capability) {
                        Ok(false) => {}
                        Ok(true) => {
                            let name = describe(1 << capability);
                            return Err(failure).context("drop from the bounding set", name);
                        }
                        Err(_) => break,
                    }
                }
                other => other.context("drop from the bounding set", capability)?,
            }
        }
        Ok(())
    }

    /// Takes effective, permitted and inheritable in one call. Bits of `hold` stay permitted and
    /// effective beside what was asked for.
    pub(crate) fn set(&self, hold: u64) -> Result<()> {
        let (effective, permitted) = (self.effective | hold, self.permitted | hold);
        sys::prctl::capset(effective, permitted, self.inheritable)
            .context("set", "process.capabilities")
    }

    /// Makes the ambient set exactly what was asked for.
    pub(crate) fn raise_ambient(&self) -> Result<()> {
        sys::prctl::ambient_clear().context("clear", "process.capabilities.ambient")?;
        for capability in (0..64).filter(|bit| self.ambient & (1 << bit) != 0) {
            let subject =
                || format!("{} (process.capabilities.ambient)", describe(1 << capability));
            sys::prctl::ambient_raise(capability)
                .map_err(|e| Error::system("raise", subject(), e))?;
        }
        Ok(())
    }
}

/// Keeps the permitted set over the change of user that follows. The kernel clears the flag in
/// `execve`.
pub(crate) fn keep() -> Result<()> {
    nix::sys::prctl::set_keepcaps(true).call("prctl").context("keep", "capabilities")
}

/// The permitted set of this process: what it can grant.
pub(crate) fn permitted() -> Result<u64> {
    // Not by the crate, whose error has no errno.
    let (_, permitted, _) = sys::prctl::capget().context("read", "own capabilities")?;
    Ok(permitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::prctl::{bounding_read, capget};
    use crate::testing::in_child;

    fn parsed(json: &str) -> Capabilities {
        plan(Some(&serde_json::from_str(json).unwrap()))
    }

    /// A line of `/proc/self/status` such as `CapAmb`.
    fn status(name: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn every_name_has_its_number() {
        let names = names();
        assert_eq!((names.len(), names[5].as_str()), (41, "CAP_KILL"));
        for (bit, name) in names.iter().enumerate() {
            let list = format!(r#"{{"bounding":["{name}"]}}"#);
            assert_eq!(parsed(&list).bounding, 1 << bit, "{name}");
            assert!(is_name(name));
        }
        assert!(!is_name("KILL"));
        assert_eq!(describe(SYS_ADMIN | 1), "CAP_CHOWN, CAP_SYS_ADMIN");
    }

    #[test]
    fn what_is_missing_is_empty() {
        assert_eq!(plan(None), Capabilities::default());
        let sets = parsed(r#"{"bounding":["CAP_KILL"],"permitted":null}"#);
        assert_eq!(sets, Capabilities { bounding: 1 << 5, ..Default::default() });
    }

    #[test]
    fn what_cannot_be_had_is_dropped_with_a_warning() {
        let sets = Capabilities {
            bounding: ALL,
            effective: 0b11,
            permitted: 0b11,
            inheritable: 0b01,
            ambient: 0b11,
        };
        let mut warnings = Vec::new();
        assert_eq!(sets.restrict(ALL, &mut warnings).ambient, 0b01);
        assert_eq!(
            warnings,
            ["process.capabilities.ambient: CAP_DAC_OVERRIDE dropped: \
              not both permitted and inheritable"]
        );
        warnings.clear();
        let buildah = Capabilities { inheritable: 0, ..sets };
        assert_eq!((buildah.restrict(ALL, &mut warnings).ambient, warnings.len()), (0, 0));
        let less = sets.restrict(0b10, &mut warnings);
        assert_eq!((less.effective, less.permitted, less.inheritable), (0b10, 0b10, 0));
        assert_eq!(less.bounding, ALL);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
    }

    #[test]
    fn a_process_gets_exactly_the_sets_asked_for() {
        in_child(|| {
            let sets = Capabilities {
                bounding: 1 << 5 | 1 << 10,
                effective: 1 << 5,
                permitted: 1 << 5 | 1 << 10,
                inheritable: 1 << 10,
                ambient: 1 << 10,
            };
            sets.drop_bounding().unwrap();
            keep().unwrap();
            nix::unistd::setresgid(65534.into(), 65534.into(), 65534.into()).unwrap();
            nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
            sets.set(SYS_ADMIN).unwrap();
            let held = capget().unwrap();
            assert_eq!(held.0, sets.effective | SYS_ADMIN);
            assert_eq!(held.1, sets.permitted | SYS_ADMIN);
            sets.raise_ambient().unwrap();
            sets.set(0).unwrap();
            assert_eq!(capget().unwrap(), (sets.effective, sets.permitted, sets.inheritable));
            assert_eq!(status("CapAmb"), sets.ambient);
            assert_eq!(status("CapBnd"), sets.bounding);
            // Dropped is dropped: neither comes back.
            assert!(sets.set(SYS_ADMIN).is_err());
            assert_eq!(bounding_read(21), Ok(false));
            // A second time, without CAP_SETPCAP, there is nothing left to drop.
            sets.drop_bounding().unwrap();
        });
    }

    #[test]
    fn nothing_asked_for_leaves_nothing() {
        in_child(|| {
            let none = plan(None);
            none.drop_bounding().unwrap();
            none.set(0).unwrap();
            none.raise_ambient().unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status(set), 0, "{set}");
            }
        });
    }
}
