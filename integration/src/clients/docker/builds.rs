//! `docker build`, by the old builder and by BuildKit.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use oci_tests::check::{Res, cut, ensure, eq, has};

use super::docker;
use crate::images::BOX;
use crate::known::MISSING;
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("build with steps that run", "F150", classic),
        scenario("build fails with the step's exit code", "F150", classic_failure)
            .but_crun(MISSING),
        scenario("BuildKit: build with steps that run", "F150 F160", buildkit).within(90),
        scenario("BuildKit: a failing step's exit code", "F150 F160", buildkit_failure).within(90),
    ]
}

/// Builds; answers whether that worked, and what was said.
fn build(stage: &Stage, tag: &str, kit: bool, steps: &str) -> Res<(bool, String)> {
    let dir = stage.path(&format!("build{}", stage.next()));
    std::fs::create_dir_all(&dir)?;
    std::fs::write(format!("{dir}/Dockerfile"), format!("FROM {BOX}\n{steps}"))?;
    std::fs::write(format!("{dir}/added"), "added\n")?;
    stage.later(&["docker", "rmi", "--force", tag]);
    if !kit {
        let cmd = docker(stage, &["build", "--network", "none", "--tag", tag, &dir]);
        let output = cmd.env("DOCKER_BUILDKIT", "0").output()?;
        return Ok((output.code == Some(0), output.out + &output.err));
    }
    // Debian has no buildx, without which the command refuses: this is the request that it would make.
    let archive = format!("{dir}.tar");
    stage.cmd(&["tar", "-C", &dir, "-cf", &archive, "."]).must()?;
    let body = std::fs::read(archive)?;
    let head = format!(
        "POST /build?version=2&networkmode=none&t={tag} HTTP/1.0\r\nHost: docker\r\n\
         Content-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut socket = UnixStream::connect(stage.dir.join("docker/docker.sock"))?;
    socket.set_read_timeout(Some(stage.remaining()))?;
    socket.write_all(head.as_bytes())?;
    socket.write_all(&body)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let errors: Vec<&str> = answer.lines().filter(|line| line.contains("\"error")).collect();
    let good = errors.is_empty() && answer.contains(" 200 OK");
    Ok((good, if good { answer } else { errors.join("\n") }))
}

const STEPS: &str = "COPY added /added\nRUN cat /added > /made && id -u >> /made\nUSER tester\n\
                     RUN id -u > /tmp/user; test ! -w /made\nCMD [\"cat\", \"/made\", \"/tmp/user\"]\n";

fn good(stage: &Stage, kit: bool) -> Res {
    let tag = format!("localhost/built:{}", stage.next());
    let (good, said) = build(stage, &tag, kit, STEPS)?;
    ensure(good, cut(&said))?;
    let text = docker(stage, &["run", "--rm", "--network", "none", &tag]).must()?;
    eq("what was built", &text.as_str(), &"added\n0\n1000")
}

fn bad(stage: &Stage, kit: bool) -> Res {
    let tag = format!("localhost/built:{}", stage.next());
    let (good, said) = build(stage, &tag, kit, "RUN echo before; exit 37\n")?;
    ensure(!good, "the build worked")?;
    has("message", &said, "37")?;
    let (_, said) = build(stage, &tag, kit, "RUN [\"/no/such/program\"]\n")?;
    // BuildKit has the runtime's message among the step's output, which is encoded.
    let last = said.trim().lines().next_back().unwrap_or_default();
    if kit {
        has("message", &said, "exit code: 1")
    } else {
        has("message", last, "no such file or directory")
    }
}

fn classic(stage: &Stage) -> Res {
    good(stage, false)
}

fn classic_failure(stage: &Stage) -> Res {
    bad(stage, false)
}

fn buildkit(stage: &Stage) -> Res {
    good(stage, true)
}

fn buildkit_failure(stage: &Stage) -> Res {
    bad(stage, true)
}
