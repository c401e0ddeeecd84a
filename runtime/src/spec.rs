//! Loading of `config.json`, `process.json` and resource files.
//!
//! Text becomes the specification's types in three steps: the strict reader ([`json`]) checks it
//! against a table of the specification ([`schema`]); tolerance is applied to the value where the
//! specification asks for it (unknown capabilities) or where clients need it; `oci-spec` takes the
//! rest, each error with its JSON path. What the types cannot hold is not silently lost: see
//! [`Config`]. Rules between fields are in [`crate::validate`].
//!
//! The stored copy of a configuration ([`to_stored`]) can be read back by [`parse_config`]; the way there and
//! back is the identity.

#[cfg(any(test, fuzzing))]
pub(crate) mod grow;
mod json;
#[cfg(test)]
mod mutants;
mod schema;
mod vm;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use oci_spec::runtime::{ExecCPUAffinity, LinuxResources, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::caps;
use crate::error::{Call, Context, Error, ErrorKind, Result, quote};
pub(crate) use json::member;
pub use vm::{VmHardware, VmIoMemory};

/// The longest file that is read. A configuration of 10,000 mounts has 3 MiB; `execve` takes 6 MiB
/// of arguments and environment.
const LONGEST: u64 = 16 << 20;

/// A parsed configuration.
///
/// It holds every property of runtime-spec 1.3 for Linux and for virtual machines.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The configuration as the specification's types.
    pub spec: Spec,
    /// `vm.hwConfig`, which has no place in those.
    pub hardware: Option<VmHardware>,
}

impl From<Spec> for Config {
    fn from(spec: Spec) -> Self {
        Self { spec, hardware: None }
    }
}

/// Reads `config.json` of the bundle. Warnings: what the specification says to tolerate.
///
/// # Errors
/// `Invalid` with the JSON path of what cannot be accepted; `System` when the file cannot be read.
pub fn load_config(bundle: &Path, warnings: &mut Vec<String>) -> Result<Config> {
    parse_config(&read_file(&bundle.join("config.json"))?, warnings)
}

/// Parses the text of a `config.json`.
///
/// # Errors
/// `Invalid` with the JSON path of what cannot be accepted.
pub fn parse_config(json: &[u8], warnings: &mut Vec<String>) -> Result<Config> {
    let mut value = json::read(json, &schema::CONFIG, "config.json", warnings)?;
    let affinity = match value.get_mut("process") {
        Some(process) => tolerate_process(process, "process.", warnings)?,
        None => None,
    };
    let zero_pids = zero_pids_is_a_limit(&value);
    if let Some(linux) = value.get_mut("linux") {
        if let Some(resources) = linux.get_mut("resources") {
            if !zero_pids {
                drop_zero_pids(resources);
            }
            tolerate_resources(resources);
        }
        tolerate_architectures(linux, warnings);
        need_device_numbers(linux)?;
    }
    if let Some(vm) = value.get_mut("vm").and_then(Value::as_object_mut) {
        for object in ["hypervisor", "image"] {
            if vm.get(object).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
                vm.remove(object);
            }
        }
    }
    let hardware = take_hardware(&mut value)?;
    let mut spec: Spec = typed(value, "config.json")?;
    check_version(spec.version())?;
    if let Some(process) = spec.process_mut() {
        process.set_exec_cpu_affinity(affinity);
    }
    Ok(Config { spec, hardware })
}

/// Takes `vm.hwConfig` out.
fn take_hardware(config: &mut Value) -> Result<Option<VmHardware>> {
    let vm = config.get_mut("vm").and_then(Value::as_object_mut);
    match vm.and_then(|vm| vm.remove("hwConfig")) {
        None | Some(Value::Null) => Ok(None),
        Some(hardware) => {
            let section = serde_json::json!({ "vm": { "hwConfig": hardware } });
            typed::<vm::Section>(section, "vm.hwConfig").map(|section| Some(section.vm.hardware))
        }
    }
}

/// Every device but a FIFO has both numbers. The types take an absent one for 0.
fn need_device_numbers(linux: &Value) -> Result<()> {
    let devices = linux.get("devices").and_then(Value::as_array);
    for (i, device) in devices.into_iter().flatten().enumerate() {
        let numbered = device.get("type").is_some_and(|kind| kind != "p");
        for key in ["major", "minor"] {
            if numbered && device.get(key).is_none_or(Value::is_null) {
                return Err(Error::invalid(format!("linux.devices[{i}].{key}"), "is required"));
            }
        }
    }
    Ok(())
}

/// The JSON of a configuration that was accepted, for the state directory.
pub(crate) fn to_stored(config: &Config) -> Vec<u8> {
    const KEYS: &str = "every map of a configuration has string keys";
    let Some(hardware) = &config.hardware else {
        return serde_json::to_vec(&config.spec).expect(KEYS);
    };
    let mut value = serde_json::to_value(&config.spec).expect(KEYS);
    value["vm"]["hwConfig"] = serde_json::to_value(hardware).expect(KEYS);
    serde_json::to_vec(&value).expect(KEYS)
}

/// Reads back what [`to_stored`] wrote. It was checked then.
pub(crate) fn stored(json: &[u8]) -> Result<Spec> {
    serde_json::from_slice(json).map_err(|e| {
        Error::new(ErrorKind::System, "read", "the stored configuration", e.to_string())
    })
}

/// Parses a `process.json`.
///
/// # Errors
/// As [`load_config`].
pub fn load_process(path: &Path, warnings: &mut Vec<String>) -> Result<Process> {
    parse_process(&read_file(path)?, warnings)
}

/// Parses the text of a `process.json`.
///
/// # Errors
/// As [`load_config`].
pub fn parse_process(json: &[u8], warnings: &mut Vec<String>) -> Result<Process> {
    let mut value = json::read(json, &schema::PROCESS, "process.json", warnings)?;
    let affinity = tolerate_process(&mut value, "", warnings)?;
    let mut process: Process = typed(value, "process.json")?;
    process.set_exec_cpu_affinity(affinity);
    Ok(process)
}

/// Parses a `resources.json` (`update -r`).
///
/// # Errors
/// `Invalid` with the JSON path of what cannot be accepted.
pub fn load_resources(json: &[u8], warnings: &mut Vec<String>) -> Result<LinuxResources> {
    let mut value = json::read(json, &schema::RESOURCES, "resources.json", warnings)?;
    tolerate_resources(&mut value);
    typed(value, "resources.json")
}

/// Reads a regular file of bounded size. `O_NONBLOCK`: opening a FIFO must fail here and not hang.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let fd = open(path, flags, Mode::empty()).call("open").context("read", quote(path))?;
    let stat = fstat(&fd).call("fstat").context("read", quote(path))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Error::invalid(quote(path), "is not a regular file"));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    // One byte more, so that a file that grows while it is read is still noticed.
    let mut text = Vec::with_capacity(usize::try_from(size.min(LONGEST)).unwrap_or(0) + 1);
    File::from(fd)
        .take(LONGEST + 1)
        .read_to_end(&mut text)
        .call("read")
        .context("read", quote(path))?;
    if text.len() as u64 > LONGEST {
        return Err(Error::invalid(quote(path), format!("is longer than {LONGEST} bytes")));
    }
    Ok(text)
}

/// The value as a type of `oci-spec`; `subject` names the whole in an error without a path.
fn typed<T: DeserializeOwned>(value: Value, subject: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = json::path(error.path());
        json::refuse(if path.is_empty() { subject } else { &path }, error.inner())
    })
}

/// Accepts 1.x.y with any pre-release or build suffix: a newer minor only adds properties, and these
/// are to be ignored when unknown.
fn check_version(version: &str) -> Result<()> {
    let end = version.find(['-', '+']).unwrap_or(version.len());
    let (numbers, suffix) = version.split_at(end);
    let number = |part: &str| {
        (1..=9).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_digit())
    };
    let parts: Vec<&str> = numbers.split('.').collect();
    let semantic = parts.len() == 3
        && parts.iter().all(|part| number(part))
        && suffix.len() != 1
        && suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b));
    if !semantic {
        let shown = json::brief(version);
        return Err(Error::invalid(
            "ociVersion",
            format!("{shown:?} is not a semantic version such as 1.2.0"),
        ));
    }
    if parts[0] != "1" {
        return Err(Error::invalid(
            "ociVersion",
            format!("{version:?} is not supported: the major version must be 1"),
        ));
    }
    Ok(())
}

const CAPABILITY_SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];

/// Drops unknown capabilities, as the specification demands since 1.1 (with a warning), and takes out
/// the CPU affinity: `oci-spec` would compile a regular expression to check it.
fn tolerate_process(
    process: &mut Value,
    prefix: &str,
    warnings: &mut Vec<String>,
) -> Result<Option<ExecCPUAffinity>> {
    if let Some(sets) = process.get_mut("capabilities") {
        for set in CAPABILITY_SETS {
            let place = format!("{prefix}capabilities.{set}");
            // Only exact names: `oci-spec` also takes `sys_admin` and `SYS_ADMIN`, which other
            // runtimes do not know and drop.
            retain(sets.get_mut(set), &place, "capability", warnings, caps::is_name);
        }
    }
    if let Some(Value::Array(flags)) = process.pointer_mut("/scheduler/flags") {
        // The derived name of this variant in `oci-spec` 0.10 has an underscore too many.
        for flag in flags.iter_mut().filter(|flag| *flag == "SCHED_FLAG_DL_OVERRUN") {
            *flag = Value::from("SCHED_FLAG_D_L_OVERRUN");
        }
    }
    let Some(affinity) = process.as_object_mut().and_then(|p| p.remove("execCPUAffinity")) else {
        return Ok(None);
    };
    let list = |name: &str| match affinity.get(name).and_then(Value::as_str) {
        Some(text) => cpu_list(text).map(Some).ok_or_else(|| {
            Error::invalid(
                format!("{prefix}execCPUAffinity.{name}"),
                format!("{:?} is not a list of CPUs such as 0-3,7", json::brief(text)),
            )
        }),
        None => Ok(None),
    };
    let mut parsed = ExecCPUAffinity::default();
    parsed.set_initial(list("initial")?).set_cpu_affinity_final(list("final")?);
    Ok(Some(parsed))
}

/// A CPU list without its spaces, or nothing when it is malformed.
fn cpu_list(text: &str) -> Option<String> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let mut items = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (low, high) = item.split_once('-').unwrap_or((item, item));
        if number(low)? > number(high)? {
            return None;
        }
        items.push(item);
    }
    Some(items.join(","))
}

/// Drops `pids` without a limit, which `oci-spec` cannot tell from a limit of 0, and brings huge page
/// limits, unsigned in the specification and signed in `oci-spec`, into range.
fn tolerate_resources(resources: &mut Value) {
    let Some(resources) = resources.as_object_mut() else {
        return;
    };
    if resources.get("pids").is_some_and(|pids| pids.get("limit").is_none()) {
        resources.remove("pids");
    }
    if let Some(Value::Array(limits)) = resources.get_mut("hugepageLimits") {
        for limit in limits.iter_mut().filter_map(|entry| entry.get_mut("limit")) {
            if limit.as_u64().is_some_and(|number| i64::try_from(number).is_err()) {
                *limit = i64::MAX.into();
            }
        }
    }
}

/// Whether `pids.limit` 0 means none at all. The specification says so since 1.3; before, every
/// runtime took it for "no limit", and engines wrote it for that (Podman 4: `--pids-limit=-1`).
fn zero_pids_is_a_limit(config: &Value) -> bool {
    let version = config.get("ociVersion").and_then(Value::as_str).unwrap_or_default();
    let mut numbers = version.split(['.', '-', '+']).map(|n| n.parse::<u32>().ok());
    matches!((numbers.next().flatten(), numbers.next().flatten()), (Some(1), Some(3..)))
}

fn drop_zero_pids(resources: &mut Value) {
    if resources.pointer("/pids/limit").and_then(Value::as_i64) == Some(0)
        && let Some(resources) = resources.as_object_mut()
    {
        resources.remove("pids");
    }
}

/// Drops architectures that this build has no name for: profiles list those of newer libraries, and
/// a system call of an architecture without rules is never allowed.
fn tolerate_architectures(linux: &mut Value, warnings: &mut Vec<String>) {
    let list = linux.pointer_mut("/seccomp/architectures");
    retain(list, "linux.seccomp.architectures", "architecture", warnings, |name| {
        ARCHITECTURES.binary_search(&name).is_ok()
    });
}

fn retain(
    list: Option<&mut Value>,
    place: &str,
    what: &str,
    warnings: &mut Vec<String>,
    known: impl Fn(&str) -> bool,
) {
    let Some(Value::Array(list)) = list else {
        return;
    };
    let mut index = 0;
    list.retain(|item| {
        let keep = item.as_str().is_some_and(&known);
        if !keep {
            let name = json::brief(&item.to_string());
            warnings.push(format!("{place}[{index}]: unknown {what} {name} is ignored"));
        }
        index += 1;
        keep
    });
}

/// The architectures of `oci-spec`, sorted.
const ARCHITECTURES: [&str; 24] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_first_major_are_accepted() {
        for version in ["1.0.0", "1.0.2-dev", "1.3.0-rc.1", "1.99.0", "1.2.3+x.y", "1.0.0-a+b"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        let odd = [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "1.0.0-",
            "1.0.a",
            "1..0",
            "2.0.0",
            "0.5.0-dev",
            "-1.0.0",
            "1.0.0 ",
            "1.+1.0",
            "01234567890.0.0",
            "1.0.0-\n",
        ];
        for version in odd {
            assert_eq!(check_version(version).unwrap_err().subject(), "ociVersion", "{version}");
        }
    }

    #[test]
    fn devices_have_numbers_unless_they_are_fifos() {
        for (device, subject) in [
            (r#""type":"c","major":0,"minor":0"#, None),
            (r#""type":"p""#, None),
            (r#""type":"b","minor":3"#, Some("linux.devices[0].major")),
            (r#""type":"u","major":1,"minor":null"#, Some("linux.devices[0].minor")),
        ] {
            let json = format!(
                r#"{{"ociVersion":"1.0.2","root":{{"path":"x"}},"linux":{{"devices":[{{"path":"/dev/x",{device}}}]}}}}"#
            );
            let parsed = parse_config(json.as_bytes(), &mut Vec::new());
            assert_eq!(parsed.as_ref().err().map(Error::subject), subject, "{device}");
        }
    }

    #[test]
    fn no_processes_at_all_since_1_3() {
        for (version, limit) in
            [("1.0.2-dev", None), ("1.2.1", None), ("1.3.0-rc.1", Some(0)), ("1.10.0", Some(0))]
        {
            let json = format!(
                r#"{{"ociVersion":"{version}","root":{{"path":"x"}},"linux":{{"resources":{{"pids":{{"limit":0}}}}}}}}"#
            );
            let spec = parse_config(json.as_bytes(), &mut Vec::new()).unwrap().spec;
            let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
            assert_eq!(resources.pids().as_ref().map(|p| p.limit()), limit, "{version}");
        }
    }

    #[test]
    fn cpu_lists_are_checked_without_a_regular_expression() {
        let cases = [
            ("0", Some("0")),
            ("0-3, 7", Some("0-3,7")),
            ("", None),
            ("3-1", None),
            ("a", None),
            ("-1", None),
            ("1-", None),
            ("+1", None),
            ("1-2-3", None),
            ("99999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(cpu_list(text).as_deref(), expected, "{text}");
        }
        assert!(ARCHITECTURES.is_sorted());
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = std::env::temp_dir().join(format!("bulkhead-spec-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let mut warnings = Vec::new();
        let mut error = |bundle: &Path| load_config(bundle, &mut warnings).unwrap_err().to_string();
        assert!(error(&dir).ends_with("open: ENOENT (no such file or directory)"));
        let config = dir.join("config.json");
        nix::unistd::mkfifo(&config, Mode::S_IRWXU).unwrap();
        assert!(error(&dir).ends_with("is not a regular file"));
        std::fs::remove_file(&config).unwrap();
        std::fs::create_dir(&config).unwrap();
        assert!(error(&dir).ends_with("is not a regular file"));
        std::fs::remove_dir(&config).unwrap();
        File::create(&config).unwrap().set_len(LONGEST + 1).unwrap();
        assert!(error(&dir).ends_with("is longer than 16777216 bytes"));
        std::fs::write(&config, r#"{"ociVersion":"1.0.0","root":{"path":"r"}}"#).unwrap();
        assert_eq!(load_config(&dir, &mut Vec::new()).unwrap().spec.version(), "1.0.0");
        std::fs::write(&config, r#"{"user":{"uid":1,"gid":2},"cwd":"/","args":["a"]}"#).unwrap();
        assert_eq!(load_process(&config, &mut Vec::new()).unwrap().user().gid(), 2);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn errors_of_the_types_name_path_and_value() {
        let base = r#""ociVersion":"1.0.0","root":{"path":"r"}"#;
        let cases = [
            (
                r#""linux":{"resources":{"memory":{"limit":"1G"}}}"#,
                "parse linux.resources.memory.limit: invalid type: string \"1G\", expected an integer",
            ),
            (
                r#""linux":{"uidMappings":[{"containerID":0,"hostID":-1,"size":1}]}"#,
                "parse linux.uidMappings[0].hostID: invalid value: integer `-1`, expected u32",
            ),
            (
                r#""linux":{"namespaces":[{"type":"mnt"}]}"#,
                "parse linux.namespaces[0].type: unknown variant `mnt`, expected one of",
            ),
            (
                r#""linux":{"resources":{"rdma":{"a-b":{"hcaHandles":-1}}}}"#,
                "parse linux.resources.rdma[\"a-b\"].hcaHandles: invalid value: integer `-1`",
            ),
        ];
        for (more, expected) in cases {
            let json = format!("{{{base},{more}}}");
            let error = parse_config(json.as_bytes(), &mut Vec::new()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
