//! config.md terminal and consoleSize, and how engines get the other end of the terminal.

use std::fs;
use std::os::fd::AsFd;

use nix::sys::termios::{self, OutputFlags};
use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, same, test};
use crate::lab::agent::Agent;
use crate::lab::container::Container;
use crate::sys;

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    terminals()
}

fn terminals() -> Vec<Test> {
    let section = "contract#console-socket";
    /// A created container with a terminal and the terminal's other end.
    fn with_terminal<'l>(
        lab: &'l crate::lab::Lab,
        steps: &[&str],
        size: Option<(u16, u16)>,
    ) -> Res<(Container<'l>, fs::File)> {
        let agent = Agent::listen(&lab.dir.join("console"))?;
        let bundle = lab.bundle(steps, |spec| {
            spec["process"]["terminal"] = json!(true);
            if let Some((width, height)) = size {
                spec["process"]["consoleSize"] = json!({ "width": width, "height": height });
            }
        })?;
        let container = Container::create(lab, &bundle, &["--console-socket", agent.path()])?;
        let delivery = agent.receive()?;
        eq("descriptors", &delivery.fds.len(), &1)?;
        let Some(fd) = delivery.fds.into_iter().next() else {
            return fail("no descriptor");
        };
        Ok((container, fs::File::from(fd)))
    }
    fn line(terminal: &mut fs::File) -> Res<Value> {
        use std::io::Read;
        let mut text = Vec::new();
        let mut block = [0u8; 4096];
        while !text.contains(&b'\n') {
            if !crate::lab::call::readable(terminal, crate::lab::call::DEADLINE)? {
                return fail("the terminal printed nothing");
            }
            match terminal.read(&mut block) {
                Ok(0) | Err(_) => break,
                Ok(count) => text.extend_from_slice(&block[..count]),
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        serde_json::from_str(text.lines().next().unwrap_or_default())
            .or_else(|_| fail(format!("the terminal printed {text:?}")))
    }
    vec![
        test(
            section,
            "F152 F3",
            "the terminal's other end comes over the console socket, and works",
            |lab| {
                let (container, mut terminal) =
                    with_terminal(lab, &["stat /dev/console", "readlink /proc/self/fd/0"], None)?;
                container.start()?;
                let seen = line(&mut terminal)?;
                same("type of /dev/console", &seen["stat /dev/console"]["type"], json!("c"))?;
                has("standard input", &seen["readlink /proc/self/fd/0"].to_string(), "/dev/")?;
                container.wait()?;
                container.delete()
            },
        ),
        // docker and ctr put their own terminal in raw mode and rely on it: without the carriage
        // return every line starts where the one before it ended.
        test(
            section,
            "F152",
            "a terminal for a console socket has the kernel's output modes",
            |lab| {
                let (container, terminal) = with_terminal(lab, &["pause"], None)?;
                let modes = termios::tcgetattr(&terminal)?.output_flags;
                ensure(modes.contains(OutputFlags::ONLCR), "ONLCR is cleared")?;
                container.end()
            },
        ),
        test(
            "config#process",
            "F3",
            "with terminal the program leads a session with a controlling terminal",
            |lab| {
                let (container, mut terminal) =
                    with_terminal(lab, &["open-rw /dev/tty", "report"], None)?;
                container.start()?;
                let seen = line(&mut terminal)?;
                same("/dev/tty", &seen["open-rw /dev/tty"], json!("ok"))?;
                same("session", &seen["report"]["sid"], json!(1))?;
                container.wait()?;
                container.delete()
            },
        ),
        test(
            "config#process",
            "F3",
            "consoleSize is the terminal's size before the program starts",
            |lab| {
                let (container, terminal) = with_terminal(lab, &["pause"], Some((99, 33)))?;
                eq("size at create", &sys::window_size(terminal.as_fd())?, &(99, 33))?;
                container.end()
            },
        ),
        test("config#process", "F3", "consoleSize without terminal is ignored", |lab| {
            lab.report(|spec| spec["process"]["consoleSize"] = json!({ "width": 99, "height": 33 }))
                .map(drop)
        }),
        test(section, "F152", "terminal without a console socket is an error of create", |lab| {
            lab.refused(|spec| spec["process"]["terminal"] = json!(true)).map(drop)
        }),
        test(section, "F152", "a console socket without terminal is an error", |lab| {
            let agent = Agent::listen(&lab.dir.join("console"))?;
            let bundle = lab.bundle(&["pause"], |_| {})?;
            let output = lab
                .call(&[
                    "create",
                    "--console-socket",
                    agent.path(),
                    "--bundle",
                    bundle.path(),
                    &bundle.id,
                ])
                .output()?;
            lab.quality(output.code != Some(0), "a console socket without a terminal is accepted")
        }),
        test(
            section,
            "F152",
            "a console socket that is not there is an error and leaves nothing",
            |lab| {
                let bundle =
                    lab.bundle(&["pause"], |spec| spec["process"]["terminal"] = json!(true))?;
                let output = lab
                    .call(&[
                        "create",
                        "--console-socket",
                        "/no/such/socket",
                        "--bundle",
                        bundle.path(),
                        &bundle.id,
                    ])
                    .output()?;
                ensure(output.code.is_some_and(|code| code != 0), "create succeeded")?;
                lab.nothing_left()
            },
        ),
        test(section, "F152", "exec --tty with a console socket has a terminal", |lab| {
            let container = lab.running(|_| {})?;
            let agent = Agent::listen(&lab.dir.join("console"))?;
            let started = lab
                .call(&[
                    "exec",
                    "--tty",
                    "--detach",
                    "--console-socket",
                    agent.path(),
                    &container.id,
                    "/bin/probe",
                    "open-rw /dev/tty",
                ])
                .spawn()?;
            let delivery = agent.receive()?;
            let Some(fd) = delivery.fds.into_iter().next() else {
                return fail("no descriptor");
            };
            let seen = line(&mut fs::File::from(fd))?;
            eq("exec", &started.wait()?.code, &Some(0))?;
            same("/dev/tty", &seen["open-rw /dev/tty"], json!("ok"))?;
            container.end()
        }),
    ]
}
