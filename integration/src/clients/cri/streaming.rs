//! What goes through the streaming server: `exec`, `attach` and `port-forward` as kubectl, kubelet and
//! crictl ask for them.
//!
//! The call answers a URL, which takes SPDY; the names of the streams are those of
//! <https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/types.go>. WebSocket, which the
//! server takes too, cannot end the input alone, and the API server turns it into SPDY.

use oci_tests::check::{Res, ensure, eq, fail, has};
use oci_tests::process::Output;
use serde_json::Value;

use super::{Mode, Pod, ask, call, ended, exec, exec_ok, of};
use crate::known::MISSING;
use crate::left::find_process;
use crate::scenario::{Scenario, scenario};
use crate::spdy::Connection;
use crate::stage::Stage;
use crate::wire::Message;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("streamed exec: output and error output apart, exit codes", "F150", outputs),
        scenario("streamed exec: input and its end, a mebibyte both ways", "F150", input),
        scenario("streamed exec on a terminal, and its size", "F150 F152", terminal),
        scenario("streamed exec: a missing program, a container that has ended", "F149", mistakes)
            .but_crun(MISSING),
        scenario("streamed exec: ten at once", "F150", many),
        scenario("attach: output, input and its end", "F151", attached),
        scenario(
            "attach to a terminal, and its size; detach, and attach again",
            "F151",
            reattached,
        ),
        scenario("clients of exec and attach that hang up", "F151", hangs_up),
        scenario("port-forward: two connections, a port without a listener", "F146", forwarded),
    ]
}

/// What a client of `exec` or `attach` asks for.
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    /// Output and error output.
    Outputs,
    /// Input too.
    Input,
    /// Input and output of a terminal.
    Terminal,
}

/// A client of `exec` or `attach`.
struct Session<'s> {
    connection: Connection<'s>,
    errors: u32,
    stdin: u32,
    stdout: u32,
    stderr: u32,
    resize: u32,
}

impl<'s> Session<'s> {
    fn exec(stage: &'s Stage, id: &str, command: &[&str], wish: Wish) -> Res<Self> {
        let request = of(id).texts(2, command);
        Self::open(stage, &url(stage, "Exec", &asks(request, wish, [3, 4, 5, 6]))?, wish)
    }

    fn attach(stage: &'s Stage, id: &str, wish: Wish) -> Res<Self> {
        Self::open(stage, &url(stage, "Attach", &asks(of(id), wish, [3, 2, 4, 5]))?, wish)
    }

    fn open(stage: &'s Stage, url: &str, wish: Wish) -> Res<Self> {
        let mut connection = Connection::open(stage, url, "v4.channel.k8s.io")?;
        let mut stream = |kind: &str, wanted: bool| match wanted {
            true => connection.stream(&[("streamtype", kind)]),
            false => Ok(0),
        };
        let errors = stream("error", true)?;
        let stdin = stream("stdin", wish != Wish::Outputs)?;
        let stdout = stream("stdout", true)?;
        let stderr = stream("stderr", wish != Wish::Terminal)?;
        let resize = stream("resize", wish == Wish::Terminal)?;
        Ok(Self { connection, errors, stdin, stdout, stderr, resize })
    }

    fn write(&mut self, text: &str) -> Res {
        self.connection.send(self.stdin, text.as_bytes())
    }

    fn size(&mut self, columns: u16, rows: u16) -> Res {
        let text = format!("{{\"Width\":{columns},\"Height\":{rows}}}");
        self.connection.send(self.resize, text.as_bytes())
    }

    /// Waits until the output has the words.
    fn until(&mut self, words: &str) -> Res {
        let stdout = self.stdout;
        self.connection.until(&format!("the output has {words:?}"), |connection| {
            connection.received(stdout).text().contains(words)
        })
    }

    /// Waits for the end; answers what kubectl would have printed, and its exit code.
    fn wait(mut self) -> Res<Output> {
        self.connection.until_closed()?;
        let text = |stream| self.connection.received(stream).text();
        let status = text(self.errors);
        let value: Value = serde_json::from_str(&status).unwrap_or_default();
        let code = match value["status"].as_str() {
            Some("Success") => 0,
            Some("Failure") if value["reason"] == "NonZeroExitCode" => {
                let code = value["details"]["causes"][0]["message"].as_str();
                code.and_then(|code| code.parse().ok()).unwrap_or(-1)
            }
            _ => return fail(format!("the stream of errors says {status:?}")),
        };
        Ok(Output {
            code: Some(code),
            signal: None,
            out: text(self.stdout),
            err: text(self.stderr),
        })
    }
}

/// Adds terminal, input, output and error output, which have these field numbers.
fn asks(request: Message, wish: Wish, fields: [u32; 4]) -> Message {
    let flags = [wish == Wish::Terminal, wish != Wish::Outputs, true, wish != Wish::Terminal];
    let all = fields.into_iter().zip(flags);
    all.fold(request, |request, (field, flag)| request.number(field, i64::from(flag)))
}

fn url(stage: &Stage, method: &str, request: &Message) -> Res<String> {
    Ok(ask(stage, method, request)?.text(1))
}

fn sh<'s>(stage: &'s Stage, id: &str, line: &str, wish: Wish) -> Res<Session<'s>> {
    Session::exec(stage, id, &["sh", "-c", line], wish)
}

fn outputs(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let line = "echo out; echo err >&2; exit 9";
    let seen = sh(stage, &id, line, Wish::Outputs)?.wait()?;
    eq("exit code", &seen.code, &Some(9))?;
    eq("output", &seen.out.as_str(), &"out\n")?;
    eq("error output", &seen.err.as_str(), &"err\n")?;
    let seen = sh(stage, &id, "kill -9 $$", Wish::Outputs)?.wait()?;
    eq("exit code of a killed one", &seen.code, &Some(137))?;
    let seen = sh(stage, &id, "yes | head -c 3000000", Wish::Outputs)?.wait()?;
    eq("bytes and exit code", &(seen.out.len(), seen.code), &(3_000_000, Some(0)))
}

fn input(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let mut session = sh(stage, &id, "cat; echo end >&2; exit 4", Wish::Input)?;
    session.write("one\n")?;
    session.until("one\n")?;
    session.write("two\n")?;
    session.until("two\n")?;
    session.connection.finish(session.stdin)?;
    let seen = session.wait()?;
    eq("after the end", &(seen.code, seen.err.as_str()), &(Some(4), "end\n"))?;
    let text: String = (0..1 << 17).map(|number| format!("{number:07}\n")).collect();
    let mut session = sh(stage, &id, "cat", Wish::Input)?;
    session.write(&text)?;
    session.connection.finish(session.stdin)?;
    let seen = session.wait()?;
    ensure(seen.out == text, format!("{} of {} bytes came back", seen.out.len(), text.len()))
}

fn terminal(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    // A signal ends `read` too.
    let line = "trap 'stty size' WINCH; until read x; do :; done; \
                echo start; tty; stty size; until read x; do :; done; exit 5";
    let mut session = sh(stage, &id, line, Wish::Terminal)?;
    session.size(91, 31)?;
    exec_ok(stage, &id, "until [ \"$(stty size -F /dev/pts/0)\" = '31 91' ]; do :; done")?;
    session.write("go\n")?;
    session.until("/dev/pts/0\r\n31 91\r\n")?;
    session.size(77, 22)?;
    session.until("22 77\r\n")?;
    session.write("go\n")?;
    eq("exit code", &session.wait()?.code, &Some(5))?;
    // The terminal's keys are signals.
    let mut session = sh(stage, &id, "echo ready; sleep 1000", Wish::Terminal)?;
    session.until("ready")?;
    session.write("\x03")?;
    eq("exit code after ^C", &session.wait()?.code, &Some(130))
}

fn mistakes(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let mut session = Session::exec(stage, &id, &["nosuchprogram"], Wish::Outputs)?;
    session.connection.until_closed()?;
    let status = session.connection.received(session.errors).text();
    let status: Value = serde_json::from_str(&status).unwrap_or_default();
    eq("status", &status["status"].as_str(), &Some("Failure"))?;
    let message = status["message"].as_str().unwrap_or_default();
    has("message", message, "executable file not found in $PATH")?;
    let gone = pod.run(&["true"], |config| config)?;
    ended(stage, &gone)?;
    let request = asks(of(&gone).texts(2, &["true"]), Wish::Outputs, [3, 4, 5, 6]);
    let reply = call(stage, "Exec", &request)?;
    ensure(reply.code != 0, "exec in a container that has ended")?;
    has("message", &reply.text, "CONTAINER_EXITED")?;
    // The other container is none the worse.
    eq("exec", &exec(stage, &id, &["true"])?.0, &0)
}

fn many(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = pod.sleeping()?;
    let mut sessions = Vec::new();
    for number in 0..10 {
        let line = format!("read x; echo $x; exit {number}");
        sessions.push(sh(stage, &id, &line, Wish::Input)?);
    }
    for (number, mut session) in sessions.into_iter().enumerate() {
        session.write(&format!("line {number}\n"))?;
        let seen = session.wait()?;
        eq("exit code", &seen.code, &Some(number as i32))?;
        eq("output", &seen.out, &format!("line {number}\n"))?;
    }
    Ok(())
}

/// A container whose input clients can have; with `once` the first client's end is the input's.
fn taking_input(pod: &Pod<'_>, line: &str, once: bool, tty: bool) -> Res<String> {
    pod.run(&["sh", "-c", line], |config| {
        config.number(12, 1).number(13, i64::from(once)).number(14, i64::from(tty))
    })
}

fn attached(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let line = "while read x; do echo out $x; echo err $x >&2; done; echo end; exit 6";
    let id = taking_input(&pod, line, true, false)?;
    let mut session = Session::attach(stage, &id, Wish::Input)?;
    session.write("one\n")?;
    session.until("out one\n")?;
    session.write("two\n")?;
    session.connection.finish(session.stdin)?;
    let seen = session.wait()?;
    eq("output", &seen.out.as_str(), &"out one\nout two\nend\n")?;
    eq("error output", &seen.err.as_str(), &"err one\nerr two\n")?;
    eq("exit code of the container", &ended(stage, &id)?, &6)
}

fn reattached(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let line = "trap 'stty size' WINCH; \
                while :; do read x && echo got $x; [ \"$x\" = end ] && exit 8; done";
    let id = taking_input(&pod, line, false, true)?;
    let mut session = Session::attach(stage, &id, Wish::Terminal)?;
    session.size(91, 31)?;
    exec_ok(stage, &id, "until [ \"$(stty size -F /dev/pts/0)\" = '31 91' ]; do :; done")?;
    session.write("one\n")?;
    session.until("got one\r\n")?;
    drop(session);
    let mut session = Session::attach(stage, &id, Wish::Terminal)?;
    session.write("two\n")?;
    session.until("got two\r\n")?;
    session.size(77, 22)?;
    session.until("22 77\r\n")?;
    session.write("end\n")?;
    session.until("got end\r\n")?;
    session.connection.until_closed()?;
    eq("exit code of the container", &ended(stage, &id)?, &8)
}

fn hangs_up(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = taking_input(
        &pod,
        "echo here; while read x; do echo got $x; done; sleep 1000",
        false,
        false,
    )?;
    let mut session = Session::attach(stage, &id, Wish::Input)?;
    session.write("one\n")?;
    session.until("got one\n")?;
    drop(session);
    // An exec ends with its client, for want of input or because containerd kills it.
    let mut session = Session::exec(stage, &id, &["cat"], Wish::Input)?;
    session.write("text\n")?;
    session.until("text\n")?;
    ensure(find_process("cat", "cat").is_some(), "the exec is not there")?;
    drop(session);
    stage.until("the exec has ended", || Ok(find_process("cat", "cat").is_none()))?;
    // One that goes on writing has nobody to write to; it goes with its container at the latest.
    let mut session = sh(stage, &id, "while :; do echo more; done", Wish::Outputs)?;
    session.until("more\n")?;
    drop(session);
    // A client that only took the URL.
    url(stage, "Exec", &asks(of(&id).texts(2, &["true"]), Wish::Outputs, [3, 4, 5, 6]))?;
    eq("exec after it", &exec(stage, &id, &["true"])?.0, &0)?;
    let mut session = Session::attach(stage, &id, Wish::Input)?;
    session.write("two\n")?;
    session.until("got two\n")?;
    ask(stage, "StopContainer", &of(&id).number(2, 1))?;
    session.connection.until_closed()?;
    eq("exit code of the container", &ended(stage, &id)?, &137)
}

/// A pair of streams to a port of the pod: for errors, and for data.
fn pair(connection: &mut Connection<'_>, port: &str, request: &str) -> Res<(u32, u32)> {
    let mut stream = |kind: &str| {
        connection.stream(&[("streamtype", kind), ("port", port), ("requestid", request)])
    };
    let errors = stream("error")?;
    let data = stream("data")?;
    connection.finish(errors)?;
    Ok((errors, data))
}

fn forwarded(stage: &Stage) -> Res {
    let pod = Pod::start_with(stage, Mode::Pod, Message::new(), &[])?;
    let line = "nc -ll -p 8080 -e cat";
    let id = pod.run(&["sh", "-c", line], |config| config)?;
    exec_ok(stage, &id, "until netstat -ltn | grep -q :8080; do :; done")?;
    let url = url(stage, "PortForward", &of(&pod.id).number(2, 8080))?;
    let mut connection = Connection::open(stage, &url, "portforward.k8s.io")?;
    let (first_errors, first) = pair(&mut connection, "8080", "0")?;
    let (_, second) = pair(&mut connection, "8080", "1")?;
    let text: String = (0..1 << 14).map(|number| format!("{number:07}\n")).collect();
    connection.send(second, b"second\n")?;
    connection.send(first, text.as_bytes())?;
    connection.until("what was sent comes back", |connection| {
        connection.received(second).text() == "second\n"
            && connection.received(first).bytes.len() == text.len()
    })?;
    ensure(connection.received(first).text() == text, "not what was sent came back")?;
    for data in [first, second] {
        connection.finish(data)?;
        connection.until("the data ends", |connection| connection.received(data).ended)?;
    }
    eq("errors", &connection.received(first_errors).text().as_str(), &"")?;
    let (errors, _) = pair(&mut connection, "8081", "2")?;
    connection.until("an error comes", |connection| connection.received(errors).ended)?;
    has("error", &connection.received(errors).text(), "refused")?;
    drop(connection);
    eq("exec after it", &exec(stage, &id, &["true"])?.0, &0)
}
