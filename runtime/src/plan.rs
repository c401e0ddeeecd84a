//! Configuration and host facts to a plan: everything that can be decided before the fork.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use nix::sys::personality::Persona;
use nix::unistd::Uid;
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxPersonalityDomain, Spec};

use crate::caps;
use crate::cgroup::{self, Permission};
use crate::error::{Call, Context, Error, Result, quote};
use crate::faults::Faults;
use crate::host::Host;
use crate::idmap::{self, Maps, Writer};
use crate::keyring::Keyring;
use crate::landlock;
use crate::lifecycle::Hooks;
use crate::lsm;
use crate::mount;
use crate::namespaces::{self, Order};
use crate::netdev;
use crate::netlink;
use crate::notify;
use crate::options::{CreateOptions, Rootless};
use crate::process::program::{self, Inherit, Program};
use crate::procfs::Procfs;
use crate::rdt;
use crate::scheduler;
use crate::seccomp;
use crate::sysctl;
use crate::uts;
use crate::validate;

/// What will be done, in the order of the fields.
#[derive(Debug)]
pub(crate) struct Plan {
    pub id: String,
    pub rootfs: PathBuf,
    pub cgroup: cgroup::Plan,
    /// Who the cgroup is given to, when the container may write it.
    pub cgroup_owner: Option<Uid>,
    pub rdt: Option<rdt::Plan>,
    pub namespaces: namespaces::Plan,
    pub order: Order,
    pub maps: Option<(Maps, Writer)>,
    pub uts: uts::Plan,
    pub net_devices: Vec<netdev::Device>,
    pub keyring: Option<Keyring>,
    pub mounts: mount::Plan,
    pub sysctls: Vec<sysctl::Sysctl>,
    pub hooks: Hooks,
    pub program: Program,
}

/// The parts of a plan; those that could not be planned are absent.
#[derive(Debug)]
pub(crate) struct Parts {
    pub cgroup: Option<cgroup::Plan>,
    pub cgroup_owner: Option<Uid>,
    pub namespaces: namespaces::Plan,
    pub order: Option<Order>,
    pub maps: Option<(Maps, Writer)>,
    pub uts: uts::Plan,
    pub rdt: Option<Option<rdt::Plan>>,
    pub keyring: Option<Option<Keyring>>,
    pub net_devices: Vec<netdev::Device>,
    pub mounts: Option<mount::Plan>,
    pub sysctls: Option<Vec<sysctl::Sysctl>>,
    pub hooks: Option<Hooks>,
    pub program: Option<Program>,
}

impl Parts {
    fn whole(self, id: &str) -> Option<Plan> {
        let mounts = self.mounts?;
        Some(Plan {
            id: id.to_owned(),
            rootfs: mounts.rootfs().to_owned(),
            cgroup: self.cgroup?,
            cgroup_owner: self.cgroup_owner,
            namespaces: self.namespaces,
            order: self.order?,
            maps: self.maps,
            uts: self.uts,
            rdt: self.rdt?,
            keyring: self.keyring?,
            net_devices: self.net_devices,
            mounts,
            sysctls: self.sysctls?,
            hooks: self.hooks?,
            program: self.program?,
        })
    }
}

/// Plans a container. `notify` is the directory that will hold the socket for its readiness.
pub(crate) fn plan(
    id: &str,
    options: &CreateOptions,
    notify: Option<&Path>,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let parts = parts(id, options, notify, host, &mut Faults::First, warnings)?;
    Ok(parts.whole(id).expect("a part that is missing was an error"))
}

/// As [`plan`], part by part: after a fault that is only noted the others are planned all the same.
pub(crate) fn parts(
    id: &str,
    options: &CreateOptions,
    notify: Option<&Path>,
    host: &Host,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Result<Parts> {
    let asked = &options.config.spec;
    validate::validate(asked, faults, warnings)?;
    faults.note(options.config.hardware.as_ref().map_or(Ok(()), validate::vm_hardware))?;
    let spec = match notify {
        Some(directory) => Cow::Owned(notify::with_socket(asked, directory)?),
        None => Cow::Borrowed(asked),
    };
    let spec = &*spec;
    faults.note(check_agent(spec))?;
    let linux = spec.linux().clone().unwrap_or_default();
    let net_devices = netdev::plan(&linux);
    faults.note(refuse_to_move(&net_devices, host))?;
    let namespaces =
        namespaces::plan(linux.namespaces().as_deref().unwrap_or_default(), time_offsets(spec));
    faults.note(refuse_to_change_own(spec, &net_devices, &namespaces, host))?;
    let maps = namespaces.creates(libc::CLONE_NEWUSER).then(|| {
        let maps = idmap::plan(
            linux.uid_mappings().as_deref().unwrap_or_default(),
            linux.gid_mappings().as_deref().unwrap_or_default(),
        );
        let writer = maps.writer(host.uid, host.gid);
        (maps, writer)
    });
    let own_pids = namespaces.creates(libc::CLONE_NEWPID);
    let cgroup = faults.keep(cgroup(&linux, id, spec, own_pids, options, host, warnings))?;
    // A new cgroup namespace is rooted where its maker is: after the child has joined.
    let late_cgroup = cgroup.as_ref().map(cgroup::Plan::is_joined_late);
    let order = late_cgroup.map(|late| namespaces.order(late, host.privileged()));
    let in_user_namespace = namespaces.has(libc::CLONE_NEWUSER);
    let cgroup_dirs = cgroup.as_ref().map(cgroup::Plan::paths).unwrap_or_default();
    let mounts = mounts(spec, options, host, &namespaces, cgroup_dirs, faults, warnings)?;
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "is required"));
    let program = process
        .and_then(|process| program(process, spec, options, host, in_user_namespace, warnings));
    let program = faults.keep(program)?;
    let cgroup_owner = match (&maps, &mounts, &program) {
        (Some((maps, _)), Some(mounts), Some(program))
            if namespaces.creates(libc::CLONE_NEWCGROUP) =>
        {
            cgroup::delegate::owner(&host.layout, &mounts.mounts, maps, program.uid)
        }
        _ => None,
    };
    let number = (!options.no_new_keyring).then_some(host.chance);
    Ok(Parts {
        cgroup,
        cgroup_owner,
        rdt: faults.keep(rdt::plan(&linux, id))?,
        order,
        maps,
        uts: uts::Plan { hostname: spec.hostname().clone(), domainname: spec.domainname().clone() },
        keyring: faults.keep(Keyring::plan(id, number))?,
        net_devices,
        mounts,
        sysctls: faults.keep(sysctl::plan(linux.sysctl().as_ref()))?,
        hooks: faults.keep(Hooks::plan(spec, id, &options.bundle))?,
        program,
        namespaces,
    })
}

fn cgroup(
    linux: &Linux,
    id: &str,
    spec: &Spec,
    own_pids: bool,
    options: &CreateOptions,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<cgroup::Plan> {
    let permission = tolerance(options, host);
    if options.no_cgroup {
        return cgroup::plan_none(linux, own_pids, permission, warnings);
    }
    let Some(manager) = &options.systemd_cgroup else {
        return cgroup::plan(linux, id, &host.layout, permission, warnings);
    };
    let whose = (manager, host.uid.as_raw());
    let annotations = spec.annotations().iter().flatten();
    cgroup::plan_scope(linux, id, &host.layout, whose, annotations, permission, warnings)
}

fn mounts(
    spec: &Spec,
    options: &CreateOptions,
    host: &Host,
    namespaces: &namespaces::Plan,
    cgroup_dirs: Vec<PathBuf>,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Result<Option<mount::Plan>> {
    let linux = spec.linux().as_ref();
    let label = linux.map_or(Ok(None), |linux| lsm::mount_label(linux, host.modules));
    let facts = mount::Facts {
        user_namespace: namespaces.has(libc::CLONE_NEWUSER),
        // A joined one belongs to others: to change its root would change theirs.
        mount_namespace: namespaces.creates(libc::CLONE_NEWNS),
        pid_namespace: namespaces.has(libc::CLONE_NEWPID),
        cgroup_namespace: namespaces.has(libc::CLONE_NEWCGROUP),
        label: faults.keep(label)?.flatten(),
        no_pivot: options.no_pivot,
        layout: &host.layout,
        cgroup_dirs,
    };
    mount::plan(spec, &options.bundle, &facts, faults, warnings)
}

fn program(
    process: &oci_spec::runtime::Process,
    spec: &Spec,
    options: &CreateOptions,
    host: &Host,
    in_user_namespace: bool,
    warnings: &mut Vec<String>,
) -> Result<Program> {
    let inherit = Inherit {
        preserve_fds: options.preserve_fds,
        listen_fds: options.listen_fds,
        listen_names: options.listen_names.clone(),
    };
    self::process(process, spec, &inherit, host, in_user_namespace, warnings)
}

/// Plans a process of a container, init or not.
pub(crate) fn process(
    process: &oci_spec::runtime::Process,
    spec: &Spec,
    inherit: &Inherit,
    host: &Host,
    in_user_namespace: bool,
    warnings: &mut Vec<String>,
) -> Result<Program> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = seccomp.map(|profile| seccomp::plan(profile, warnings)).transpose()?;
    let rules = spec.annotations().as_ref().and_then(|map| map.get(landlock::ANNOTATION));
    let rules = rules.map(|value| landlock::plan(value)).transpose()?;
    let labels = lsm::Labels::plan(process, spec.process().as_ref(), "process.", host.modules)?;
    let mut program = program::plan(process, filter, rules, labels, personality(spec), inherit)?;
    program.keeps_groups = program::keeps_groups(spec.annotations().as_ref(), process)?;
    let policy = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref());
    program.memory_policy = policy.map(scheduler::memory_policy).transpose()?;
    let grantable = if in_user_namespace { caps::ALL } else { host.permitted };
    program.capabilities = program.capabilities.restrict(grantable, warnings);
    Ok(program)
}

impl Plan {
    /// Whether the child makes its cgroup namespace itself, after it has joined its cgroups.
    pub(crate) fn late_cgroup_namespace(&self) -> bool {
        self.namespaces.creates(libc::CLONE_NEWCGROUP)
            && (self.order.clone | self.order.child_new) & libc::CLONE_NEWCGROUP == 0
    }

    /// Whether the child's id maps are written before it does anything.
    pub(crate) fn has_maps_of_creator(&self) -> bool {
        self.maps.is_some() && !self.order.child_makes_user_namespace()
    }

    /// Whether the child begins by waiting for a word of its creator: for its id maps, or its scope.
    pub(crate) fn waits_for_creator(&self) -> bool {
        self.has_maps_of_creator() || self.cgroup.unit().is_some()
    }

    /// Brings `lo` up in a new network namespace.
    pub(crate) fn bring_loopback_up(&self) -> Result<()> {
        if !self.namespaces.creates(libc::CLONE_NEWNET) {
            return Ok(());
        }
        netdev::bring_loopback_up()
    }

    /// The socket by which the creator gives the container its network devices, if it has any.
    pub(crate) fn network_socket(&self) -> Result<Option<netlink::Socket>> {
        let open = || netlink::Socket::open().context("prepare for", "linux.netDevices");
        (!self.net_devices.is_empty()).then(open).transpose()
    }

    /// Joins the container's session keyring, labelled as the process will be.
    pub(crate) fn join_keyring(&self, proc: &Procfs) -> Result<()> {
        join_keyring(self.keyring.as_ref(), &self.program.labels, proc)
    }
}

/// Joins a session keyring that carries the label of the process.
pub(crate) fn join_keyring(
    keyring: Option<&Keyring>,
    labels: &lsm::Labels,
    proc: &Procfs,
) -> Result<()> {
    let Some(keyring) = keyring else { return Ok(()) };
    labels.apply_key_label(proc)?;
    keyring.join()?;
    labels.clear_key_label(proc)
}

/// Whether missing cgroup permissions are tolerated.
fn tolerance(options: &CreateOptions, host: &Host) -> Permission {
    // Root of a user namespace (rootless Podman) has all capabilities and none over cgroups.
    match (options.rootless, host.privileged()) {
        (Rootless::No, _) | (Rootless::Auto, true) => Permission::Required,
        (Rootless::Yes, true) => Permission::Tolerated,
        (Rootless::Yes | Rootless::Auto, false) => Permission::Lacking,
    }
}

/// Devices of the host are the host's root's to give.
fn refuse_to_move(devices: &[netdev::Device], host: &Host) -> Result<()> {
    match devices.first() {
        Some(device) if !host.privileged() => Err(Error::unsupported(
            "move",
            &device.field,
            "an ordinary user has no power over the host's network devices",
        )),
        _ => Ok(()),
    }
}

/// The agent's socket must be there before anything is made for a container that needs it.
fn check_agent(spec: &Spec) -> Result<()> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(agent) = profile.and_then(seccomp::Notify::of) else { return Ok(()) };
    nix::sys::stat::stat(&agent.path)
        .call("stat")
        .context("find", format!("linux.seccomp.listenerPath {}", quote(&agent.path)))
        .map(drop)
}

/// What is set in a joined namespace changes it for all who are in it. When it turns out to be the
/// creator's own, that is the host.
fn refuse_to_change_own(
    spec: &Spec,
    devices: &[netdev::Device],
    plan: &namespaces::Plan,
    host: &Host,
) -> Result<()> {
    use LinuxNamespaceType as Kind;
    let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (kind, word) in [(Kind::Network, "network"), (Kind::Ipc, "ipc"), (Kind::Uts, "uts")] {
        let named =
            |is_set: bool, field: &str| (is_set && kind == Kind::Uts).then(|| field.to_owned());
        let set = sysctl::first_of(sysctls, kind)
            .or_else(|| named(spec.hostname().is_some(), "hostname"))
            .or_else(|| named(spec.domainname().is_some(), "domainname"))
            .or_else(|| {
                let first = devices.first().filter(|_| kind == Kind::Network);
                first.map(|device| device.field.clone())
            });
        let flag = namespaces::flag(kind);
        let joined = plan.joined.iter().find(|join| join.flag == flag);
        if let (Some(field), Some(join)) = (set, joined)
            && host.is_own_namespace(&join.path, namespaces::file_name(flag))
        {
            let reason = format!("is not allowed: the {word} namespace to join is the creator's");
            return Err(Error::invalid(field, reason));
        }
    }
    Ok(())
}

/// Of `linux/personality.h`.
const PER_LINUX32: i32 = 0x0008;

/// `linux.personality`: `LINUX32` makes the kernel name a 32-bit machine.
fn personality(spec: &Spec) -> Option<Persona> {
    let personality = (*spec.linux().as_ref()?.personality()).as_ref()?;
    Some(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => Persona::empty(),
        LinuxPersonalityDomain::PerLinux32 => Persona::from_bits_retain(PER_LINUX32),
    })
}

/// `linux.timeOffsets` as lines for `/proc/self/timens_offsets`, sorted.
fn time_offsets(spec: &Spec) -> Option<String> {
    let offsets = spec.linux().as_ref()?.time_offsets().as_ref()?;
    let mut lines: Vec<String> = offsets
        .iter()
        .map(|(clock, offset)| {
            let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            format!("{clock} {secs} {nanos}\n")
        })
        .collect();
    lines.sort();
    (!lines.is_empty()).then(|| lines.concat())
}

/// The kinds of namespace a configuration lists, new or joined, as `CLONE_NEW*` flags.
pub(crate) fn listed(spec: &Spec) -> i32 {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    list.iter().flat_map(|list| list.iter()).fold(0, |all, namespace| {
        let kind: LinuxNamespaceType = namespace.typ();
        all | namespaces::flag(kind)
    })
}

#[cfg(test)]
mod tests;
