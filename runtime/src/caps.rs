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
//! Without `no_new_privs` installing a seccomp filter needs `CAP_SYS_ADMIN`. `set` then holds that bit
//! back ([`SYS_ADMIN`]) until a second `set` without it, after the filter.

use nix::errno::Errno;
use oci_spec::runtime::{Capabilities as Names, Capability, LinuxCapabilities};

use crate::error::{Call, Context, Result};
use crate::sys;

/// Names in the order of their numbers: the index is the bit.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capability that installs a filter without `no_new_privs`, as a mask.
pub(crate) const SYS_ADMIN: u64 = 1 << 21;

/// Every capability that has a name here, as a mask.
pub(crate) const ALL: u64 = (1 << NAMES.len()) - 1;

/// The number of a capability given by its full name.
pub(crate) fn bit_of(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

/// All names, for `features` and `--cap` flags.
pub(crate) fn names() -> &'static [&'static str] {
    &NAMES
}

/// The names in a mask, for messages.
pub(crate) fn describe(mask: u64) -> String {
    let named = NAMES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    named.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
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
    names.iter().flatten().fold(0, |mask, name| mask | 1 << bit(*name))
}

impl Capabilities {
    /// The sets without what cannot be had, each loss with a warning: permitted bits beyond
    /// `grantable` (the creator's permitted set, or [`ALL`] in a new user namespace), and ambient
    /// bits that are not both permitted and inheritable, which the kernel refuses.
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
            self.ambient,
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
                            let name = NAMES.get(capability as usize).unwrap_or(&"a capability");
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
    /// effective beside what was asked for; pass 0 in the last call before `execve`.
    pub(crate) fn set(&self, hold: u64) -> Result<()> {
        let (effective, permitted) = (self.effective | hold, self.permitted | hold);
        sys::prctl::capset(effective, permitted, self.inheritable)
            .context("set", "process.capabilities")
    }

    /// Makes the ambient set exactly what was asked for.
    pub(crate) fn raise_ambient(&self) -> Result<()> {
        sys::prctl::ambient_clear().context("clear", "process.capabilities.ambient")?;
        for (bit, name) in NAMES.iter().enumerate().filter(|(b, _)| self.ambient & (1 << b) != 0) {
            sys::prctl::ambient_raise(bit as u32)
                .context("raise", format_args!("{name} (process.capabilities.ambient)"))?;
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
    let (_, permitted, _) = sys::prctl::capget().context("read", "own capabilities")?;
    Ok(permitted)
}

const fn bit(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
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
        for (bit, name) in NAMES.iter().enumerate() {
            let list = format!(r#"{{"bounding":["{name}"]}}"#);
            assert_eq!(parsed(&list).bounding, 1 << bit, "{name}");
            assert_eq!(bit_of(name), Some(bit));
            let known = name.parse::<caps::Capability>().unwrap();
            assert_eq!(known.index() as usize, bit, "{name}");
        }
        assert_eq!(bit_of("KILL"), None);
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
