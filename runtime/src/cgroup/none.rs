//! A container that is to have no cgroup (`--cgroup-manager disabled`): it stays in its creator's.

use oci_spec::runtime::Linux;

use super::devices::Rules;
use super::resources::{Version, knobs};
use super::{Permission, Plan};
use crate::error::{Error, Result};

/// Why nothing can be limited, paused or counted.
pub(crate) const NO_CGROUP: &str = "it was created without a cgroup (--cgroup-manager disabled)";

/// The `cgroupsPath` of a stored configuration without a cgroup; no configuration may have it.
pub(crate) const NOWHERE: &str = "/";

/// Decides that there is no cgroup, and says what that costs.
///
/// # Errors
/// A limit was asked for.
pub(crate) fn plan_none(
    linux: &Linux,
    own_pid_namespace: bool,
    permission: Permission,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let version = |_: &str| Some(Version::V2);
    let resources = linux.resources().as_ref();
    let asked = resources.map_or(Ok(Vec::new()), |r| knobs(r, &version, &mut Vec::new()))?;
    if let Some(knob) = asked.iter().find(|knob| !knob.is_no_limit()) {
        return Err(Error::unsupported("set", &knob.field, "there is no cgroup to limit"));
    }
    if permission != Permission::Lacking {
        warnings.push("devices are not restricted: there is no cgroup".to_owned());
    }
    if !own_pid_namespace {
        warnings.push(
            "without a cgroup and a pid namespace only the container's first process is killed, \
             and others stay"
                .to_owned(),
        );
    }
    // With no directory to make, nothing may be missed.
    let permission = match permission {
        Permission::Required => Permission::Tolerated,
        other => other,
    };
    Ok(Plan {
        targets: Vec::new(),
        knobs: Vec::new(),
        devices: Rules::new(linux)?,
        permission,
        scope: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str, own: bool, permission: Permission) -> (Result<Plan>, Vec<String>) {
        let linux: Linux = serde_json::from_str(json).unwrap();
        let mut warnings = Vec::new();
        (plan_none(&linux, own, permission, &mut warnings), warnings)
    }

    #[test]
    fn what_it_costs() {
        for (own, permission, said) in [
            (true, Permission::Required, &["devices"][..]),
            (false, Permission::Required, &["devices", "first process"]),
            (true, Permission::Lacking, &[]),
            (false, Permission::Lacking, &["first process"]),
        ] {
            let (plan, warnings) = plan("{}", own, permission);
            assert!(plan.unwrap().paths().is_empty());
            assert_eq!(warnings.len(), said.len(), "{warnings:?}");
            assert!(warnings.iter().zip(said).all(|(warning, word)| warning.contains(word)));
        }
    }

    #[test]
    fn limits_are_refused() {
        for (json, field) in [
            (r#"{"resources":{"memory":{"limit":1048576}}}"#, "linux.resources.memory.limit"),
            (r#"{"resources":{"pids":{"limit":5}}}"#, "linux.resources.pids.limit"),
            (r#"{"resources":{"unified":{"cpu.weight":"1"}}}"#, "linux.resources.unified"),
        ] {
            let (plan, _) = plan(json, true, Permission::Lacking);
            let text = plan.unwrap_err().to_string();
            assert!(text.contains(field) && text.contains("no cgroup"), "{text}");
        }
        let none = r#"{"resources":{"memory":{"limit":-1},"pids":{"limit":-1}}}"#;
        plan(none, true, Permission::Lacking).0.unwrap();
    }
}
