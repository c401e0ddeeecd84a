//! The runtime's own program through /proc/PID/exe (CVE-2019-5736).
//!
//! The attacker shares its pid namespace with the runtime's process, as containers of a pod do, and
//! has all capabilities and no user namespace: more than a tenant should ever get, and still the
//! host's file must be out of reach. It opens the link for writing in every phase, takes the
//! read-only flag from its mount, clones the mount, tries the mappings, and keeps links open to try
//! them when the runtime is gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{Attacker, CAPABILITIES, STOP, give};
use crate::check::{Res, Test, brief, ensure, test};
use crate::lab::Lab;
use crate::lab::bundle::Bundle;
use crate::lab::container::Container;

const SECTION: &str = "hostile#binary";

/// How often a phase that passes quickly is repeated.
const ROUNDS: usize = 15;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "S12",
            "the program of an init that waits for start cannot be written",
            |lab| {
                besieged(lab, true, |attacker| {
                    let victim = lab.create(&["pause"], |spec| attacker.invite(spec))?;
                    // The attacker has had its time when it has been heard of inside.
                    attacker.container.exec(&[], &["exit 0"])?;
                    victim.end()
                })
            },
        ),
        test(
            SECTION,
            "S12",
            "the runtime's program cannot be written during create, start and the end",
            |lab| {
                besieged(lab, false, |attacker| {
                    for _ in 0..ROUNDS {
                        let victim = lab.create(&["exit 0"], |spec| attacker.invite(spec))?;
                        victim.start()?;
                        victim.wait()?;
                        victim.delete()?;
                    }
                    Ok(())
                })
            },
        ),
        test(SECTION, "S12", "the runtime's program cannot be written while exec joins", |lab| {
            besieged(lab, false, |attacker| {
                for _ in 0..ROUNDS {
                    attacker.container.exec(&[], &["exit 0"])?;
                }
                Ok(())
            })
        }),
        test(
            SECTION,
            "S12",
            "the runtime as interpreter of the image's program (#!/proc/self/exe) cannot be written",
            |lab| {
                besieged(lab, false, |attacker| {
                    for _ in 0..ROUNDS {
                        let bundle = lab.bundle(&[], |spec| {
                            attacker.invite(spec);
                            spec["process"]["args"] = json!(["/bin/evil"]);
                        })?;
                        evil(&bundle.inside("/bin/evil"))?;
                        end_anyhow(lab, &bundle)?;
                    }
                    Ok(())
                })
            },
        ),
        test(
            SECTION,
            "S12",
            "the runtime as interpreter of exec's program cannot be written",
            |lab| {
                besieged(lab, false, |attacker| {
                    let id = &attacker.container.id;
                    evil(format!("{}/rootfs/bin/evil", attacker.container.dir).as_ref())?;
                    for program in ["/bin/evil", "/proc/self/exe"] {
                        for _ in 0..ROUNDS {
                            lab.call(&["exec", id, program]).output()?;
                        }
                    }
                    Ok(())
                })
            },
        ),
        test(
            SECTION,
            "S12",
            "the runtime as the container's program itself (/proc/self/exe) cannot be written",
            |lab| {
                besieged(lab, false, |attacker| {
                    for _ in 0..ROUNDS {
                        let bundle = lab.bundle(&[], |spec| {
                            attacker.invite(spec);
                            spec["process"]["args"] = json!(["/proc/self/exe", "--version"]);
                        })?;
                        end_anyhow(lab, &bundle)?;
                    }
                    Ok(())
                })
            },
        ),
    ]
}

/// Runs `phase` beside an attacker; fails if that could open a program of the runtime.
fn besieged(lab: &Lab, must_be_seen: bool, phase: impl FnOnce(&Attacker<'_>) -> Res) -> Res {
    let step = format!("besiege {STOP}");
    let attacker = Attacker::start(lab, &step, |spec| give(spec, &CAPABILITIES))?;
    phase(&attacker)?;
    let seen = attacker.end(&step)?;
    ensure(seen["opened"] == json!([]), format!("opened for writing: {}", brief(&seen["opened"])))?;
    let programs = seen["programs"].as_array().map_or(0, Vec::len);
    if must_be_seen {
        return ensure(programs > 0, "the attacker never saw the runtime: nothing is proved");
    }
    if programs == 0 {
        lab.note("the attacker was too slow to see the runtime");
    }
    Ok(())
}

fn evil(path: &std::path::Path) -> Res {
    fs::write(path, "#!/proc/self/exe\n")?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Creates and starts; whatever comes of the program, the container is deleted.
fn end_anyhow(lab: &Lab, bundle: &Bundle) -> Res {
    let container = Container::create(lab, bundle, &[])?;
    let _ = container.call(&["start"])?;
    let _ = container.call(&["kill", "KILL"])?;
    container.wait()?;
    let _ = lab.call(&["delete", "--force", &bundle.id]).output()?;
    Ok(())
}
