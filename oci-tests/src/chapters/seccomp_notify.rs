//! config-linux.md, seccomp: the listener. The suite plays the agent.

use std::os::fd::AsFd;

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, same, skip, test};
use crate::lab::Lab;
use crate::lab::agent::{Agent, Delivery};
use crate::sys;

const SECTION: &str = "config-linux#container-process-state";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "F56",
            "the listener gets one descriptor named seccompFd and the container's state",
            |lab| {
                let (container, delivery) = created(lab, "metadata")?;
                let Some(delivery) = delivery else {
                    return fail("nobody connected to the listener");
                };
                eq("descriptors", &delivery.fds.len(), &1)?;
                eq("messages with descriptors", &delivery.with_fds, &1)?;
                let state: Value = serde_json::from_slice(&delivery.payload).unwrap_or_default();
                same("fds", &state["fds"], json!(["seccompFd"]))?;
                same("metadata", &state["metadata"], json!("metadata"))?;
                ensure(state["ociVersion"].is_string(), format!("no ociVersion in {state}"))?;
                same("pid", &state["pid"], json!(container.pid()))?;
                same("state.id", &state["state"]["id"], json!(container.id))?;
                same("state.bundle", &state["state"]["bundle"], json!(container.dir))?;
                // The filter may be installed by create or by start.
                let status = state["state"]["status"].as_str().unwrap_or_default();
                ensure(["creating", "created"].contains(&status), format!("status {status:?}"))?;
                container.end()
            },
        ),
        test(SECTION, "F56", "the agent answers the container's calls", |lab| {
            let (mut container, delivery) = created(lab, "")?;
            let Some(delivery) = delivery else {
                return fail("nobody connected to the listener");
            };
            let listener = delivery.fds[0].as_fd();
            let request = sys::seccomp_receive(listener)?;
            eq("call", &request.number, &140)?;
            ensure(request.pid > 0, "the request has no pid")?;
            sys::seccomp_answer(listener, request.id, Some(Ok(77)))?;
            let request = sys::seccomp_receive(listener)?;
            sys::seccomp_answer(listener, request.id, Some(Err(libc::ENOTTY)))?;
            let request = sys::seccomp_receive(listener)?;
            sys::seccomp_answer(listener, request.id, None)?;
            let seen = container.seen()?;
            same("first answer", &seen["syscall 140 0 0"]["value"], json!(77))?;
            same("second answer", &seen["syscall 140 0 1"]["errno"], json!("ENOTTY"))?;
            ensure(
                seen["syscall 140 0 2"]["errno"] != "ENOTTY",
                "the third call did not continue",
            )?;
            container.wait()?;
            container.delete()
        }),
        test(
            SECTION,
            "F56",
            "the state of a further process names it and the running container",
            |lab| {
                let agent = Agent::listen(&lab.dir.join("listener"))?;
                let path = agent.path().to_owned();
                let mut container = lab.create(&["pause"], |spec| profile(spec, &path, ""))?;
                container.start()?;
                agent.receive()?;
                container.ready()?;
                container.exec(&[], &["report"])?;
                let delivery = agent.receive()?;
                let state: Value = serde_json::from_slice(&delivery.payload).unwrap_or_default();
                ensure(
                    state["pid"].is_i64() && state["pid"] != json!(container.pid()),
                    "pid of exec",
                )?;
                same("state.status", &state["state"]["status"], json!("running"))?;
                same("state.pid", &state["state"]["pid"], json!(container.pid()))?;
                container.end()
            },
        ),
        test(
            SECTION,
            "F56",
            "a listener that is not there is an error and leaves nothing",
            |lab| {
                let path = lab.dir.join("no-listener").display().to_string();
                lab.refused(|spec| profile(spec, &path, "")).map(drop)
            },
        ),
        test(SECTION, "F56", "without SCMP_ACT_NOTIFY the listener is not called", |lab| {
            let agent = Agent::listen(&lab.dir.join("listener"))?;
            lab.probe(&["report"], |spec| {
                profile(spec, agent.path(), "");
                spec["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_ERRNO");
            })?;
            ensure(!agent.called()?, "somebody connected to the listener")
        }),
        test(SECTION, "F56", "SCMP_ACT_NOTIFY without a listenerPath is an error", |lab| {
            lab.refused(|spec| {
                profile(spec, "", "");
                spec["linux"]["seccomp"]
                    .as_object_mut()
                    .map(|seccomp| seccomp.remove("listenerPath"));
            })
            .map(drop)
        }),
        test(SECTION, "F56", "listenerMetadata without listenerPath is an error", |lab| {
            let refused = lab.refused(|spec| {
                profile(spec, "", "x");
                spec["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_ERRNO");
                spec["linux"]["seccomp"]
                    .as_object_mut()
                    .map(|seccomp| seccomp.remove("listenerPath"));
            });
            lab.quality(refused.is_ok(), "listenerMetadata without listenerPath is accepted")
        }),
        test(
            "config-linux#seccomp",
            "F52",
            "SCMP_ACT_NOTIFY for write is refused: the runtime could not go on",
            |lab| {
                let agent = Agent::listen(&lab.dir.join("listener"))?;
                let refused = lab.refused(|spec| {
                    profile(spec, agent.path(), "");
                    spec["linux"]["seccomp"]["syscalls"][0]["names"] = json!(["write"]);
                });
                lab.quality(refused.is_ok(), "notify for write is accepted")
            },
        ),
        test(
            "config-linux#seccomp",
            "F52",
            "SCMP_ACT_NOTIFY as the default action is refused",
            |lab| {
                let agent = Agent::listen(&lab.dir.join("listener"))?;
                let refused = lab.refused(|spec| {
                    profile(spec, agent.path(), "");
                    spec["linux"]["seccomp"]["defaultAction"] = json!("SCMP_ACT_NOTIFY");
                });
                lab.quality(refused.is_ok(), "notify as the default action is accepted")
            },
        ),
        test(SECTION, "F55", "flag WAIT_KILLABLE_RECV is accepted with a listener", |lab| {
            let agent = Agent::listen(&lab.dir.join("listener"))?;
            let bundle = lab.bundle(&["pause"], |spec| {
                profile(spec, agent.path(), "");
                spec["linux"]["seccomp"]["flags"] =
                    json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
            })?;
            let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            if output.code != Some(0) && lab.kind != crate::lab::Kind::Bulkhead {
                return skip(format!("this runtime's libseccomp is older: {}", output.brief()));
            }
            eq("create", &output.code, &Some(0))
        }),
    ]
}

fn profile(spec: &mut Value, path: &str, metadata: &str) {
    spec["ociVersion"] = json!("1.1.0");
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": path,
        "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_NOTIFY" }],
    });
    if !metadata.is_empty() {
        spec["linux"]["seccomp"]["listenerMetadata"] = json!(metadata);
    }
}

/// A started container whose program makes three calls that the agent is asked about, and what the
/// listener got, at create or at start.
fn created<'l>(
    lab: &'l Lab,
    metadata: &str,
) -> Res<(crate::lab::container::Container<'l>, Option<Delivery>)> {
    let agent = Agent::listen(&lab.dir.join("listener"))?;
    let path = agent.path().to_owned();
    let steps = ["syscall 140 0 0", "syscall 140 0 1", "syscall 140 0 2"];
    let container = lab.create(&steps, |spec| profile(spec, &path, metadata))?;
    container.start()?;
    let delivery = agent.receive()?;
    Ok((container, Some(delivery)))
}
