//! The shape of `config.json`, as data.
//!
//! The types of `oci-spec` fill in defaults for properties that the specification requires, and their
//! derived parsers take an array for an object and a one-key object for an enum word. This table is
//! stricter: it says which properties exist, which are required and which JSON type each has. The
//! reader ([`super::json`]) walks it beside the text; what is not in it is skipped unparsed, as the
//! specification demands of unknown properties.
//!
//! Source: `config.md`, `config-linux.md`, `config-vm.md` and `schema/` of runtime-spec 1.3. Numbers
//! are checked for range by the field's Rust type and by [`crate::validate`].

/// What a JSON value must be.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// An array.
    List(&'static Shape),
    /// An object whose keys are data.
    Map(&'static Shape),
    /// An object whose keys are properties.
    Object(&'static [Field]),
}

/// Whether a property may be missing. `null` and, for strings, `""` count as missing: Go programs
/// write these for values that are not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Optional,
    Required,
}

/// A property.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    pub(crate) shape: Shape,
}

const fn opt(name: &'static str, shape: Shape) -> Field {
    Field { name, need: Need::Optional, shape }
}

const fn req(name: &'static str, shape: Shape) -> Field {
    Field { name, need: Need::Required, shape }
}

use Shape::{Bool, List, Map, Number, Object, Text};

const TEXTS: Shape = List(&Text);
const NUMBERS: Shape = List(&Number);
const TEXT_MAP: Shape = Map(&Text);

/// `config.json`.
pub(crate) const CONFIG: Shape = Object(&[
    req("ociVersion", Text),
    req("root", Object(&[req("path", Text), opt("readonly", Bool)])),
    opt("mounts", List(&MOUNT)),
    opt("process", PROCESS),
    opt("hostname", Text),
    opt("domainname", Text),
    opt("hooks", HOOKS),
    opt("annotations", TEXT_MAP),
    opt("linux", LINUX),
    opt("vm", VM),
]);

/// `process.json`, and `process` of `config.json`.
pub(crate) const PROCESS: Shape = Object(&[
    opt("terminal", Bool),
    opt("consoleSize", Object(&[req("height", Number), req("width", Number)])),
    req(
        "user",
        Object(&[
            req("uid", Number),
            req("gid", Number),
            opt("umask", Number),
            opt("additionalGids", NUMBERS),
            opt("username", Text),
        ]),
    ),
    opt("args", TEXTS),
    opt("commandLine", Text),
    opt("env", TEXTS),
    req("cwd", Text),
    opt(
        "capabilities",
        Object(&[
            opt("bounding", TEXTS),
            opt("effective", TEXTS),
            opt("inheritable", TEXTS),
            opt("permitted", TEXTS),
            opt("ambient", TEXTS),
        ]),
    ),
    opt("rlimits", List(&Object(&[req("type", Text), req("hard", Number), req("soft", Number)]))),
    opt("noNewPrivileges", Bool),
    opt("apparmorProfile", Text),
    opt("oomScoreAdj", Number),
    opt("selinuxLabel", Text),
    opt("ioPriority", Object(&[req("class", Text), opt("priority", Number)])),
    opt(
        "scheduler",
        Object(&[
            req("policy", Text),
            opt("nice", Number),
            opt("priority", Number),
            opt("flags", TEXTS),
            opt("runtime", Number),
            opt("deadline", Number),
            opt("period", Number),
        ]),
    ),
    opt("execCPUAffinity", Object(&[opt("initial", Text), opt("final", Text)])),
]);

const ID_MAPPINGS: Shape =
    List(&Object(&[req("containerID", Number), req("hostID", Number), req("size", Number)]));

const MOUNT: Shape = Object(&[
    req("destination", Text),
    opt("type", Text),
    opt("source", Text),
    opt("options", TEXTS),
    opt("uidMappings", ID_MAPPINGS),
    opt("gidMappings", ID_MAPPINGS),
]);

const HOOK_LIST: Shape = List(&Object(&[
    req("path", Text),
    opt("args", TEXTS),
    opt("env", TEXTS),
    opt("timeout", Number),
]));

const HOOKS: Shape = Object(&[
    opt("prestart", HOOK_LIST),
    opt("createRuntime", HOOK_LIST),
    opt("createContainer", HOOK_LIST),
    opt("startContainer", HOOK_LIST),
    opt("poststart", HOOK_LIST),
    opt("poststop", HOOK_LIST),
]);

const LINUX: Shape = Object(&[
    opt("netDevices", Map(&Object(&[opt("name", Text)]))),
    opt("uidMappings", ID_MAPPINGS),
    opt("gidMappings", ID_MAPPINGS),
    opt("sysctl", TEXT_MAP),
    opt("resources", RESOURCES),
    opt("cgroupsPath", Text),
    opt("namespaces", List(&Object(&[req("type", Text), opt("path", Text)]))),
    opt(
        "devices",
        List(&Object(&[
            req("path", Text),
            req("type", Text),
            opt("major", Number),
            opt("minor", Number),
            opt("fileMode", Number),
            opt("uid", Number),
            opt("gid", Number),
        ])),
    ),
    opt("seccomp", SECCOMP),
    opt("rootfsPropagation", Text),
    opt("maskedPaths", TEXTS),
    opt("readonlyPaths", TEXTS),
    opt("mountLabel", Text),
    opt(
        "intelRdt",
        Object(&[
            opt("closID", Text),
            opt("schemata", TEXTS),
            opt("l3CacheSchema", Text),
            opt("memBwSchema", Text),
            opt("enableCMT", Bool),
            opt("enableMBM", Bool),
            opt("enableMonitoring", Bool),
        ]),
    ),
    opt("memoryPolicy", Object(&[req("mode", Text), opt("nodes", Text), opt("flags", TEXTS)])),
    opt("personality", Object(&[req("domain", Text), opt("flags", TEXTS)])),
    opt("timeOffsets", Map(&Object(&[opt("secs", Number), opt("nanosecs", Number)]))),
]);

const SECCOMP: Shape = Object(&[
    req("defaultAction", Text),
    opt("defaultErrnoRet", Number),
    opt("architectures", TEXTS),
    opt("flags", TEXTS),
    opt("listenerPath", Text),
    opt("listenerMetadata", Text),
    opt(
        "syscalls",
        List(&Object(&[
            req("names", TEXTS),
            req("action", Text),
            opt("errnoRet", Number),
            opt(
                "args",
                List(&Object(&[
                    req("index", Number),
                    req("value", Number),
                    opt("valueTwo", Number),
                    req("op", Text),
                ])),
            ),
        ])),
    ),
]);

const THROTTLE: Shape =
    List(&Object(&[req("major", Number), req("minor", Number), req("rate", Number)]));

/// `resources.json`, and `linux.resources` of `config.json`.
pub(crate) const RESOURCES: Shape = Object(&[
    opt(
        "devices",
        List(&Object(&[
            req("allow", Bool),
            opt("type", Text),
            opt("major", Number),
            opt("minor", Number),
            opt("access", Text),
        ])),
    ),
    opt(
        "memory",
        Object(&[
            opt("limit", Number),
            opt("reservation", Number),
            opt("swap", Number),
            opt("kernel", Number),
            opt("kernelTCP", Number),
            opt("swappiness", Number),
            opt("disableOOMKiller", Bool),
            opt("useHierarchy", Bool),
            opt("checkBeforeUpdate", Bool),
        ]),
    ),
    opt(
        "cpu",
        Object(&[
            opt("shares", Number),
            opt("quota", Number),
            opt("burst", Number),
            opt("period", Number),
            opt("realtimeRuntime", Number),
            opt("realtimePeriod", Number),
            opt("cpus", Text),
            opt("mems", Text),
            opt("idle", Number),
        ]),
    ),
    // The limit is optional since 1.3; without one the object says nothing.
    opt("pids", Object(&[opt("limit", Number)])),
    opt(
        "blockIO",
        Object(&[
            opt("weight", Number),
            opt("leafWeight", Number),
            opt(
                "weightDevice",
                List(&Object(&[
                    req("major", Number),
                    req("minor", Number),
                    opt("weight", Number),
                    opt("leafWeight", Number),
                ])),
            ),
            opt("throttleReadBpsDevice", THROTTLE),
            opt("throttleWriteBpsDevice", THROTTLE),
            opt("throttleReadIOPSDevice", THROTTLE),
            opt("throttleWriteIOPSDevice", THROTTLE),
        ]),
    ),
    opt("hugepageLimits", List(&Object(&[req("pageSize", Text), req("limit", Number)]))),
    opt(
        "network",
        Object(&[
            opt("classID", Number),
            opt("priorities", List(&Object(&[req("name", Text), req("priority", Number)]))),
        ]),
    ),
    opt("rdma", Map(&Object(&[opt("hcaHandles", Number), opt("hcaObjects", Number)]))),
    opt("unified", TEXT_MAP),
]);

/// Paths of the hypervisor and image are optional here: Go programs write these objects empty.
const VM: Shape = Object(&[
    opt("hypervisor", Object(&[opt("path", Text), opt("parameters", TEXTS)])),
    req("kernel", Object(&[req("path", Text), opt("parameters", TEXTS), opt("initrd", Text)])),
    opt("image", Object(&[opt("path", Text), opt("format", Text)])),
    opt(
        "hwConfig",
        Object(&[
            opt("deviceTree", Text),
            opt("vcpus", Number),
            opt("memory", Number),
            opt("dtdevs", TEXTS),
            opt(
                "iomems",
                List(&Object(&[
                    opt("firstGFN", Number),
                    req("firstMFN", Number),
                    req("nrMFNs", Number),
                ])),
            ),
            opt("irqs", NUMBERS),
        ]),
    ),
]);
