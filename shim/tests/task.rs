//! The shim as a process, called as containerd calls it: by `start`, by the task service under both of
//! its names, with a server for events in containerd's place.
//!
//! What real daemons make of it is tested in `integration`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, DeleteRequest, Empty,
    ExecProcessRequest, ForwardRequest, KillRequest, PauseRequest, PidsRequest, ResizePtyRequest,
    ResumeRequest, ShutdownRequest, StartRequest, StateRequest, StatsRequest, Status,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::events::task::{TaskExit, TaskStart};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest,
    SandboxStatusRequest, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
    WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::ttrpc::context::{Context, with_timeout};
use containerd_shim_protos::ttrpc::{self, Code, Server, TtrpcContext};
use containerd_shim_protos::types::mount::Mount;
use containerd_shim_protos::{Client, Events, TaskClient, create_events};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-bulkhead-v2");
const BUSYBOX: &str = "/bin/busybox";

fn deadline() -> Context {
    with_timeout(Duration::from_secs(30).as_nanos() as i64)
}

/// Stands in containerd's place for events: remembers topic, container or exec id, and pid.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Events for Seen {
    fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap();
        assert!(envelope.timestamp.is_some() && envelope.namespace == "bulkhead-test");
        let event = envelope.event.unwrap();
        let line = match envelope.topic.as_str() {
            "/tasks/exit" => {
                let exit = TaskExit::parse_from_bytes(&event.value).unwrap();
                assert_eq!(event.type_url, "containerd.events.TaskExit");
                format!("exit {} {}", exit.id, exit.exit_status)
            }
            "/tasks/start" => {
                assert!(TaskStart::parse_from_bytes(&event.value).unwrap().pid > 0);
                "start".to_owned()
            }
            other => other.trim_start_matches("/tasks/").to_owned(),
        };
        self.0.lock().unwrap().push(line);
        Ok(Empty::new())
    }
}

struct Lab {
    directory: PathBuf,
    seen: Seen,
    _server: Server,
    address: String,
    client: Client,
    tasks: TaskClient,
    /// What the shim logs.
    log: fs::File,
}

impl Lab {
    /// A shim for a container of `args`.
    fn new(name: &str, args: &[&str]) -> Self {
        Self::of(name, &configuration(name, args))
    }

    /// A shim for a container with this configuration.
    fn of(name: &str, config: &Value) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make containers: run them as root");
        assert!(Path::new(BUSYBOX).exists(), "these tests need the package busybox-static");
        let directory = std::env::temp_dir().join(format!("bh-shim-{}-{name}", std::process::id()));
        bundle(&directory.join("bundle"), config);
        nix::unistd::mkfifo(&directory.join("bundle/log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let log = read(&directory.join("bundle/log").to_string_lossy());
        let address = format!("unix://{}", directory.join("events.sock").display());
        let seen = Seen::default();
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(create_events(Arc::new(seen.clone())));
        server.start().unwrap();
        let address = start(&directory, name, &address);
        let client = Client::connect(&address).unwrap();
        let tasks = TaskClient::new(client.clone());
        Self { directory, seen, _server: server, address, client, tasks, log }
    }

    /// The same with the shim that `start` finds or makes now.
    fn next(mut self, name: &str) -> Self {
        let events = format!("unix://{}", self.directory.join("events.sock").display());
        self.address = start(&self.directory, name, &events);
        self.client = Client::connect(&self.address).unwrap();
        self.tasks = TaskClient::new(self.client.clone());
        self
    }

    fn create(&self, id: &str, request: CreateTaskRequest) -> ttrpc::Result<u32> {
        self.create_at(id, &self.directory.join("bundle"), request)
    }

    fn create_at(&self, id: &str, bundle: &Path, request: CreateTaskRequest) -> ttrpc::Result<u32> {
        let options = options_of(&self.directory);
        let request = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.to_string_lossy().into_owned(),
            options: MessageField::some(options),
            ..request
        };
        self.tasks.create(deadline(), &request).map(|response| response.pid)
    }

    fn start(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.tasks.start(deadline(), &request).map(|response| response.pid)
    }

    fn wait(&self, id: &str, exec: &str) -> u32 {
        let request = WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.tasks.wait(deadline(), &request).unwrap().exit_status
    }

    fn delete(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.tasks.delete(deadline(), &request).map(|response| response.exit_status)
    }

    fn kill(&self, id: &str, exec: &str, signal: u32) -> ttrpc::Result<Empty> {
        let request =
            KillRequest { id: id.into(), exec_id: exec.into(), signal, ..Default::default() };
        self.tasks.kill(deadline(), &request)
    }

    fn exec(&self, id: &str, exec: &str, args: &[&str], stdout: &str) -> ttrpc::Result<Empty> {
        let process =
            json!({ "args": args, "cwd": "/", "env": ["PATH=/"], "user": {"uid": 0, "gid": 0} });
        let spec = Any { value: process.to_string().into_bytes(), ..Any::default() };
        let request = ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            stdout: stdout.into(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        self.tasks.exec(deadline(), &request)
    }

    fn status(&self, id: &str, exec: &str) -> Status {
        let request = StateRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.tasks.state(deadline(), &request).unwrap().status.unwrap()
    }

    /// Waits until the shim has told of so many events.
    fn until_told(&self, events: usize) {
        let limit = Instant::now() + Duration::from_secs(30);
        while self.seen.0.lock().unwrap().len() < events {
            assert!(Instant::now() < limit, "{:?}", self.seen.0.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the shim has logged since the last call.
    fn logged(&self) -> String {
        let mut text = Vec::new();
        // It ends where the shim has written no more.
        let _ = (&self.log).read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    fn fifo(&self, name: &str) -> String {
        let path = self.directory.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.to_string_lossy().into_owned()
    }

    fn shut_down(self, events: &[&str]) {
        let seen = self.seen.clone();
        self.shut_down_unheard();
        assert_eq!(*seen.0.lock().unwrap(), events);
    }

    /// The same, whatever was told.
    fn shut_down_unheard(self) {
        let connected = self.tasks.connect(deadline(), &ConnectRequest::new()).unwrap();
        self.tasks.shutdown(deadline(), &ShutdownRequest::new()).unwrap();
        until_gone(connected.shim_pid);
        let state = self.directory.join("state/bulkhead-test");
        // Of containers that were never made there is no directory either.
        assert_eq!(fs::read_dir(state).map_or(0, Iterator::count), 0, "state is left");
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

impl Drop for Lab {
    /// A test that failed leaves no shim for the next one.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Ok(connected) = self.tasks.connect(deadline(), &ConnectRequest::new()) {
            let pid = nix::unistd::Pid::from_raw(connected.shim_pid as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let state = fs::read_dir(self.directory.join("state/bulkhead-test"));
        for id in state.into_iter().flatten().flatten() {
            let id = id.file_name().to_string_lossy().into_owned();
            let _ = shim_command(&self.directory, &id).arg("delete").output();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Calls `start` as containerd does, and answers the shim's address.
fn start(directory: &Path, id: &str, events: &str) -> String {
    let mut start = shim_command(directory, id);
    start.env("TTRPC_ADDRESS", events).arg("start");
    // The options, as a file: that is a standard input which ends.
    let options = directory.join("options");
    fs::write(&options, options_of(directory).write_to_bytes().unwrap()).unwrap();
    start.stdin(fs::File::open(&options).unwrap());
    let out = start.output().unwrap();
    let answer = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(answer.starts_with("unix:///"), "{answer}");
    answer.trim().to_owned()
}

/// Waits for the end of a shim.
fn until_gone(pid: u32) {
    let limit = Instant::now() + Duration::from_secs(10);
    // Whose parent has yet to collect it has no command line any more.
    while fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(Instant::now() < limit, "the shim is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The state of a test's containers is in its own directory.
fn options_of(directory: &Path) -> Any {
    let options = Options {
        root: directory.join("state").to_string_lossy().into_owned(),
        ..Options::default()
    };
    Any {
        type_url: "containerd.runc.v1.Options".to_owned(),
        value: options.write_to_bytes().unwrap(),
        ..Any::default()
    }
}

/// A bundle with busybox and nothing else.
fn bundle(directory: &Path, config: &Value) {
    let rootfs = directory.join("rootfs");
    fs::create_dir_all(rootfs.join("proc")).unwrap();
    fs::copy(BUSYBOX, rootfs.join("busybox")).unwrap();
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
}

fn shim_command(directory: &Path, id: &str) -> Command {
    let mut command = Command::new(SHIM);
    command.current_dir(directory.join("bundle"));
    command.args(["-namespace", "bulkhead-test", "-address", "/run/nobody.sock", "-id", id]);
    command.args(["-publish-binary", "/bin/false"]);
    command
}

fn configuration(name: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/"], "user": {"uid": 0, "gid": 0},
        },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": {
            "cgroupsPath": format!("/bulkhead-shim-{}-{name}", std::process::id()),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
        },
    })
}

/// A container whose making takes two seconds: a hook sleeps.
fn slow_to_create(name: &str) -> Value {
    let mut config = configuration(name, &["/busybox", "true"]);
    let hook = json!({"path": BUSYBOX, "args": ["busybox", "sleep", "2"]});
    config["hooks"] = json!({ "createRuntime": [hook] });
    config
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.code.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn read(path: &str) -> fs::File {
    fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).unwrap()
}

#[test]
fn the_life_of_a_task() {
    let lab = Lab::new("life", &["/busybox", "sleep", "100"]);
    assert!(lab.create("life", CreateTaskRequest::new()).unwrap() > 0);
    assert_eq!(code(lab.create("life", CreateTaskRequest::new())), Code::ALREADY_EXISTS);
    assert_eq!(lab.status("life", ""), Status::CREATED);
    lab.start("life", "").unwrap();
    assert_eq!(code(lab.start("life", "")), Code::FAILED_PRECONDITION);
    assert_eq!(lab.status("life", ""), Status::RUNNING);
    assert_eq!(code(lab.delete("life", "")), Code::FAILED_PRECONDITION);

    lab.exec("life", "e", &["/busybox", "sh", "-c", "exit 7"], "").unwrap();
    assert_eq!(code(lab.exec("life", "e", &["/busybox"], "")), Code::ALREADY_EXISTS);
    lab.start("life", "e").unwrap();
    assert_eq!(lab.wait("life", "e"), 7);
    assert_eq!(lab.delete("life", "e").unwrap(), 7);

    let pause = PauseRequest { id: "life".into(), ..Default::default() };
    lab.tasks.pause(deadline(), &pause).unwrap();
    assert_eq!(lab.status("life", ""), Status::PAUSED);
    let resume = ResumeRequest { id: "life".into(), ..Default::default() };
    lab.tasks.resume(deadline(), &resume).unwrap();
    assert_eq!(lab.status("life", ""), Status::RUNNING);
    let pids = PidsRequest { id: "life".into(), ..Default::default() };
    assert_eq!(lab.tasks.pids(deadline(), &pids).unwrap().processes.len(), 1);
    let stats = StatsRequest { id: "life".into(), ..Default::default() };
    let stats = lab.tasks.stats(deadline(), &stats).unwrap().stats.unwrap();
    assert!(stats.type_url.starts_with("io.containerd.cgroups.v"), "{}", stats.type_url);

    lab.kill("life", "", 9).unwrap();
    assert_eq!(lab.wait("life", ""), 137);
    assert_eq!(lab.status("life", ""), Status::STOPPED);
    assert_eq!(code(lab.kill("life", "", 15)), Code::NOT_FOUND);
    assert_eq!(lab.delete("life", "").unwrap(), 137);
    assert_eq!(code(lab.delete("life", "")), Code::NOT_FOUND);
    lab.shut_down(&[
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit e 7",
        "paused",
        "resumed",
        "exit life 137",
        "delete",
    ]);
}

#[test]
fn output_goes_to_fifos_and_input_ends_when_it_is_closed() {
    let lab = Lab::new("streams", &["/busybox", "cat"]);
    let (stdin, stdout) = (lab.fifo("in"), lab.fifo("out"));
    let mut output = read(&stdout);
    let request = CreateTaskRequest {
        stdin: stdin.clone(),
        stdout: stdout.clone(),
        ..CreateTaskRequest::default()
    };
    lab.create("streams", request).unwrap();
    lab.start("streams", "").unwrap();
    // Two clients, one after the other: the end of one is not the end of the input, nor is a restart of
    // containerd.
    for word in ["one\n", "two\n"] {
        fs::write(&stdin, word).unwrap();
    }
    let close = CloseIORequest { id: "streams".into(), stdin: true, ..Default::default() };
    lab.tasks.close_io(deadline(), &close).unwrap();
    assert_eq!(lab.wait("streams", ""), 0);
    assert_eq!(lab.delete("streams", "").unwrap(), 0);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n");

    // A client that is done before the process is there.
    let request = CreateTaskRequest { stdin: stdin.clone(), ..CreateTaskRequest::default() };
    lab.create("streams", request).unwrap();
    lab.start("streams", "").unwrap();
    let process = json!({ "args": ["/busybox", "cat"], "cwd": "/", "user": {"uid": 0, "gid": 0} });
    let spec = Any { value: process.to_string().into_bytes(), ..Any::default() };
    let second = lab.fifo("second");
    let request = ExecProcessRequest {
        id: "streams".into(),
        exec_id: "e".into(),
        stdin: second,
        spec: MessageField::some(spec),
        ..Default::default()
    };
    lab.tasks.exec(deadline(), &request).unwrap();
    let early = CloseIORequest {
        id: "streams".into(),
        exec_id: "e".into(),
        stdin: true,
        ..Default::default()
    };
    lab.tasks.close_io(deadline(), &early).unwrap();
    lab.start("streams", "e").unwrap();
    assert_eq!(lab.wait("streams", "e"), 0);
    lab.delete("streams", "e").unwrap();
    lab.kill("streams", "", 9).unwrap();
    lab.wait("streams", "");
    lab.delete("streams", "").unwrap();
    lab.shut_down(&[
        "create",
        "start",
        "exit streams 0",
        "delete",
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit e 0",
        "exit streams 137",
        "delete",
    ]);
}

#[test]
fn a_program_that_cannot_be_executed() {
    let lab = Lab::new("missing", &["/busybox", "sleep", "100"]);
    lab.create("missing", CreateTaskRequest::new()).unwrap();
    lab.start("missing", "").unwrap();
    lab.exec("missing", "e", &["/nothing"], "").unwrap();
    let Err(ttrpc::Error::RpcStatus(status)) = lab.start("missing", "e") else { panic!() };
    assert!(status.message.contains("no such file or directory"), "{}", status.message);
    assert_eq!(lab.wait("missing", "e"), 255);
    lab.delete("missing", "e").unwrap();
    lab.kill("missing", "", 9).unwrap();
    lab.wait("missing", "");
    lab.delete("missing", "").unwrap();
    lab.shut_down(&["create", "start", "exec-added", "exit missing 137", "delete"]);
}

#[test]
fn programs_that_end_at_once_are_told_in_order() {
    let lab = Lab::new("early", &["/busybox", "true"]);
    let mut expected = Vec::new();
    for _ in 0..20 {
        lab.create("early", CreateTaskRequest::new()).unwrap();
        lab.start("early", "").unwrap();
        assert_eq!(lab.wait("early", ""), 0);
        lab.delete("early", "").unwrap();
        expected.extend(["create", "start", "exit early 0", "delete"]);
    }
    lab.shut_down(&expected);
}

#[test]
fn a_terminal_shows_its_last_words() {
    let lab = Lab::new("terminal", &["/busybox", "sleep", "100"]);
    lab.create("terminal", CreateTaskRequest::new()).unwrap();
    lab.start("terminal", "").unwrap();
    let stdout = lab.fifo("out");
    let mut output = read(&stdout);
    let process = json!({
        "args": ["/busybox", "sh", "-c", "busybox tty; busybox seq 1 2000; exit 3"],
        "cwd": "/", "env": ["PATH=/"], "user": {"uid": 0, "gid": 0},
    });
    let spec = Any { value: process.to_string().into_bytes(), ..Any::default() };
    let request = ExecProcessRequest {
        id: "terminal".into(),
        exec_id: "t".into(),
        terminal: true,
        stdout,
        spec: MessageField::some(spec),
        ..Default::default()
    };
    // There is no devpts in this container: first it has to fail, and say so.
    lab.tasks.exec(deadline(), &request).unwrap();
    let Err(ttrpc::Error::RpcStatus(status)) = lab.start("terminal", "t") else { panic!() };
    assert!(status.message.contains("/dev/ptmx"), "{}", status.message);
    let mut text = String::new();
    let _ = output.read_to_string(&mut text);
    assert_eq!(text, "");
    lab.kill("terminal", "", 9).unwrap();
    lab.wait("terminal", "");
    lab.delete("terminal", "").unwrap();
    lab.shut_down(&["create", "start", "exec-added", "exit terminal 137", "delete"]);
}

#[test]
fn both_names_of_the_service_answer() {
    let lab = Lab::new("names", &["/busybox", "true"]);
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let mut request = ttrpc::Request::new();
        request.service = service.to_owned();
        request.method = "Wait".to_owned();
        request.payload =
            WaitRequest { id: "x".into(), ..Default::default() }.write_to_bytes().unwrap();
        request.timeout_nano = Duration::from_secs(10).as_nanos() as i64;
        let Err(ttrpc::Error::RpcStatus(status)) = lab.client.request(request) else { panic!() };
        assert_eq!(status.code.unwrap(), Code::NOT_FOUND, "{service}");
    }
    let _ = WaitResponse::new();
    lab.create("names", CreateTaskRequest::new()).unwrap();
    lab.delete("names", "").unwrap();
    lab.shut_down(&["create", "exit names 137", "delete"]);
}

#[test]
fn who_was_killed_for_lack_of_memory_is_named() {
    // Under cgroup v2 alone all of the cgroup go at once.
    let group = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let line = "busybox sleep 1000 & busybox sleep 1000 & busybox tail /dev/zero; true";
    let mut config = configuration("oom", &["/busybox", "sh", "-c", line]);
    config["linux"]["resources"] = json!({ "memory": { "limit": 8 << 20, "swap": 8 << 20 } });
    if group {
        config["linux"]["resources"]["unified"] = json!({ "memory.oom.group": "1" });
    }
    let lab = Lab::of("oom", &config);
    lab.create("oom", CreateTaskRequest::new()).unwrap();
    lab.start("oom", "").unwrap();
    assert_eq!(lab.wait("oom", ""), if group { 137 } else { 0 });
    // The kill and the end are seen by two threads.
    lab.until_told(4);
    let logged = lab.logged();
    assert!(logged.contains("out of memory: killed \\\"busybox\\\" ("), "{logged}");
    assert_eq!(logged.contains("and all others of its cgroup"), group, "{logged}");
    lab.delete("oom", "").unwrap();
    let mut events = lab.seen.0.lock().unwrap().clone();
    events[2..4].sort();
    let exit = if group { "exit oom 137" } else { "exit oom 0" };
    assert_eq!(events[..4], ["create", "start", exit, "oom"]);
    let told = lab.seen.clone();
    lab.shut_down_unheard();
    assert_eq!(told.0.lock().unwrap()[4..], ["delete"]);
}

#[test]
fn what_an_init_leaves_in_another_pid_namespace_is_killed() {
    let line = "busybox sleep 1000 & busybox sleep 1000 & exit 4";
    let mut config = configuration("remains", &["/busybox", "sh", "-c", line]);
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    let lab = Lab::of("remains", &config);
    lab.create("remains", CreateTaskRequest::new()).unwrap();
    lab.start("remains", "").unwrap();
    assert_eq!(lab.wait("remains", ""), 4);
    let pids = PidsRequest { id: "remains".into(), ..Default::default() };
    let limit = Instant::now() + Duration::from_secs(10);
    while !lab.tasks.pids(deadline(), &pids).unwrap().processes.is_empty() {
        assert!(Instant::now() < limit, "what it started lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.delete("remains", "").unwrap();
    lab.shut_down(&["create", "start", "exit remains 4", "delete"]);
}

#[test]
fn what_is_unknown_is_not_found() {
    let lab = Lab::new("unknown", &["/busybox", "sleep", "1000"]);
    lab.create("unknown", CreateTaskRequest::new()).unwrap();
    for (container, exec) in [("nobody", ""), ("nobody", "e"), ("unknown", "e"), ("../state", "")] {
        let (id, exec_id) = (|| container.to_owned(), || exec.to_owned());
        let state = StateRequest { id: id(), exec_id: exec_id(), ..Default::default() };
        assert_eq!(code(lab.tasks.state(deadline(), &state)), Code::NOT_FOUND);
        assert_eq!(code(lab.start(container, exec)), Code::NOT_FOUND);
        assert_eq!(code(lab.kill(container, exec, 9)), Code::NOT_FOUND);
        assert_eq!(code(lab.delete(container, exec)), Code::NOT_FOUND);
        let wait = WaitRequest { id: id(), exec_id: exec_id(), ..Default::default() };
        assert_eq!(code(lab.tasks.wait(deadline(), &wait)), Code::NOT_FOUND);
        let resize = ResizePtyRequest { id: id(), exec_id: exec_id(), ..Default::default() };
        assert_eq!(code(lab.tasks.resize_pty(deadline(), &resize)), Code::NOT_FOUND);
        let close = CloseIORequest { id: id(), exec_id: exec_id(), ..Default::default() };
        assert_eq!(code(lab.tasks.close_io(deadline(), &close)), Code::NOT_FOUND);
    }
    let id = || "nobody".to_owned();
    let pause = PauseRequest { id: id(), ..Default::default() };
    assert_eq!(code(lab.tasks.pause(deadline(), &pause)), Code::NOT_FOUND);
    let resume = ResumeRequest { id: id(), ..Default::default() };
    assert_eq!(code(lab.tasks.resume(deadline(), &resume)), Code::NOT_FOUND);
    let pids = PidsRequest { id: id(), ..Default::default() };
    assert_eq!(code(lab.tasks.pids(deadline(), &pids)), Code::NOT_FOUND);
    let stats = StatsRequest { id: id(), ..Default::default() };
    assert_eq!(code(lab.tasks.stats(deadline(), &stats)), Code::NOT_FOUND);
    let update = UpdateTaskRequest { id: id(), ..Default::default() };
    assert_eq!(code(lab.tasks.update(deadline(), &update)), Code::NOT_FOUND);
    let checkpoint = CheckpointTaskRequest { id: id(), ..Default::default() };
    assert_eq!(code(lab.tasks.checkpoint(deadline(), &checkpoint)), Code::NOT_FOUND);
    assert_eq!(code(lab.exec("nobody", "e", &["/busybox"], "")), Code::NOT_FOUND);
    lab.delete("unknown", "").unwrap();
    lab.shut_down(&["create", "exit unknown 137", "delete"]);
}

#[test]
fn a_container_that_cannot_be_made_leaves_nothing() {
    let lab = Lab::new("broken", &["/nothing"]);
    let mount = |kind: &str, options: &[&str]| Mount {
        type_: kind.into(),
        source: "nothing".into(),
        options: options.iter().map(|&option| option.into()).collect(),
        ..Default::default()
    };
    let broken = [
        (vec![mount("nosuchtype", &[])], "nosuchtype"),
        (vec![mount("overlay", &["lowerdir=/no/such/layer"])], "overlay"),
        // What was mounted before the one that fails is unmounted.
        (vec![mount("tmpfs", &[]), mount("bind", &["rbind"])], "nothing"),
    ];
    for (rootfs, word) in broken {
        let request = CreateTaskRequest { rootfs, ..CreateTaskRequest::new() };
        let Err(ttrpc::Error::RpcStatus(status)) = lab.create("broken", request) else { panic!() };
        assert!(status.message.contains(word), "{}", status.message);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = lab.directory.to_string_lossy();
        assert!(!mounts.contains(&*place), "{mounts}");
        let state = fs::read_dir(lab.directory.join("state/bulkhead-test"));
        assert_eq!(state.map_or(0, Iterator::count), 0);
    }
    let created = lab.create("broken", CreateTaskRequest::new());
    let Err(ttrpc::Error::RpcStatus(status)) = created else { panic!() };
    assert!(status.message.contains("\"/nothing\""), "{}", status.message);
    assert!(status.message.contains("no such file or directory"), "{}", status.message);
    let unknown = StateRequest { id: "broken".into(), ..Default::default() };
    assert_eq!(code(lab.tasks.state(deadline(), &unknown)), Code::NOT_FOUND);
    lab.shut_down(&[]);
}

/// What is mounted below a test's directory.
fn mounted_below(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = directory.to_string_lossy();
    mounts.lines().filter(|line| line.contains(&*place)).map(str::to_owned).collect()
}

/// The code and the words of a refusal.
fn refusal<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (Code, String) {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        other => panic!("{other:?}"),
    }
}

/// A request for a container that goes on from `checkpoint`, with a root file system to mount.
fn restored(checkpoint: &Path) -> CreateTaskRequest {
    let tmpfs = Mount { type_: "tmpfs".into(), source: "tmpfs".into(), ..Default::default() };
    let checkpoint = checkpoint.to_string_lossy().into_owned();
    CreateTaskRequest { checkpoint, rootfs: vec![tmpfs], ..CreateTaskRequest::new() }
}

#[test]
fn images_that_are_none_are_refused_when_a_container_is_created() {
    let lab = Lab::new("images", &["/busybox", "true"]);
    let (code, text) = refusal(lab.create("images", restored(&lab.directory)));
    assert_eq!(code, Code::INVALID_ARGUMENT, "{text}");
    assert!(text.contains("has no inventory.img: it is no checkpoint"), "{text}");
    let (code, text) = refusal(lab.create("images", restored(Path::new("relative"))));
    assert!(code == Code::INVALID_ARGUMENT && text.contains("not an absolute path"), "{text}");
    let request =
        CreateTaskRequest { parent_checkpoint: "/parent".into(), ..CreateTaskRequest::new() };
    let (code, text) = refusal(lab.create("images", request));
    assert!(code == Code::INVALID_ARGUMENT && text.contains("parent_checkpoint"), "{text}");
    assert_eq!(mounted_below(&lab.directory), [""; 0]);
    // The name is free.
    lab.create("images", CreateTaskRequest::new()).unwrap();
    lab.delete("images", "").unwrap();
    lab.shut_down(&["create", "exit images 137", "delete"]);
}

#[test]
fn a_container_that_cannot_be_restored_says_why_and_leaves_nothing() {
    let lab = Lab::new("corrupt", &["/busybox", "true"]);
    let images = lab.directory.join("checkpoint");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("inventory.img"), "these are not CRIU's words").unwrap();
    let wait = || {
        let (tasks, id) = (lab.tasks.clone(), "corrupt".to_owned());
        let request = WaitRequest { id, ..Default::default() };
        std::thread::spawn(move || tasks.wait(deadline(), &request).unwrap().exit_status)
    };
    // There is a task, and no process.
    assert_eq!(lab.create("corrupt", restored(&images)).unwrap(), 0);
    assert_eq!(lab.status("corrupt", ""), Status::CREATED);
    let waits = wait();
    let pause = PauseRequest { id: "corrupt".into(), ..Default::default() };
    for refused in [lab.tasks.pause(deadline(), &pause), lab.kill("corrupt", "", 9)] {
        let (answer, text) = refusal(refused);
        assert_eq!(answer, Code::FAILED_PRECONDITION);
        assert!(text.contains("is restored when it is started"), "{text}");
    }
    assert_eq!(mounted_below(&lab.directory).len(), 1);
    let (answer, text) = refusal(lab.start("corrupt", ""));
    let has_criu = ["/usr/sbin/criu", "/usr/local/sbin/criu"].iter().any(|p| Path::new(p).exists());
    if has_criu {
        assert!(text.contains("criu failed: type RESTORE"), "{text}");
        assert!(text.contains("Magic doesn't match") && text.contains("restore.log"), "{text}");
    } else {
        assert_eq!(answer, Code::UNIMPLEMENTED, "{text}");
        assert!(text.starts_with("find criu: it is not installed"), "{text}");
    }
    assert_eq!(waits.join().unwrap(), 255);
    assert_eq!(lab.status("corrupt", ""), Status::STOPPED);
    assert_eq!(code(lab.start("corrupt", "")), Code::FAILED_PRECONDITION);
    assert_eq!(code(lab.kill("corrupt", "", 9)), Code::NOT_FOUND);
    assert_eq!(lab.delete("corrupt", "").unwrap(), 255);
    assert_eq!(mounted_below(&lab.directory), [""; 0]);
    // One that is deleted instead.
    lab.create("corrupt", restored(&images)).unwrap();
    let waits = wait();
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    assert_eq!(lab.delete("corrupt", "").unwrap(), 137);
    assert!(began.elapsed() < Duration::from_secs(2), "it waited for an end that does not come");
    assert_eq!(waits.join().unwrap(), 137);
    assert_eq!(mounted_below(&lab.directory), [""; 0]);
    lab.shut_down(&["create", "delete", "create", "delete"]);
}

#[test]
fn a_container_that_cannot_be_saved_goes_on() {
    let lab = Lab::new("saved", &["/busybox", "sleep", "100"]);
    let images = lab.directory.join("checkpoint");
    let checkpoint = |path: &Path, options: Option<Any>| {
        let request = CheckpointTaskRequest {
            id: "saved".into(),
            path: path.to_string_lossy().into_owned(),
            options: options.into(),
            ..Default::default()
        };
        lab.tasks.checkpoint(deadline(), &request)
    };
    lab.create("saved", CreateTaskRequest::new()).unwrap();
    lab.start("saved", "").unwrap();
    let unknown = Any { type_url: "x.Options".into(), ..Any::default() };
    let (code, text) = refusal(checkpoint(&images, Some(unknown)));
    assert!(code == Code::INVALID_ARGUMENT && text.contains("x.Options"), "{text}");
    let (code, text) = refusal(checkpoint(Path::new("relative"), None));
    assert!(code == Code::INVALID_ARGUMENT && text.contains("\"relative\""), "{text}");
    // Under a file there can be no directory, with CRIU or without.
    let (_, text) = refusal(checkpoint(Path::new("/proc/version/x"), None));
    assert!(text.contains("find criu") || text.contains("ENOTDIR"), "{text}");
    assert_eq!(lab.status("saved", ""), Status::RUNNING);
    lab.kill("saved", "", 9).unwrap();
    assert_eq!(lab.wait("saved", ""), 137);
    let (code, text) = refusal(checkpoint(&images, None));
    assert!(text.contains("find criu") || code == Code::FAILED_PRECONDITION, "{text}");
    lab.delete("saved", "").unwrap();
    assert!(!images.exists());
    lab.shut_down(&["create", "start", "exit saved 137", "delete"]);
}

/// A request as it goes over the wire: length, stream and kind, then the message.
fn frame(method: &str, message: &impl Message) -> Vec<u8> {
    let mut request = ttrpc::Request::new();
    request.service = "containerd.task.v3.Task".to_owned();
    request.method = method.to_owned();
    request.payload = message.write_to_bytes().unwrap();
    let body = request.write_to_bytes().unwrap();
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_be_bytes()[..], &1u32.to_be_bytes(), &[1, 0], &body].concat()
}

#[test]
fn a_client_that_hangs_up_half_way() {
    let lab = Lab::of("hangup", &slow_to_create("hangup"));
    let request = CreateTaskRequest {
        id: "hangup".into(),
        bundle: lab.directory.join("bundle").to_string_lossy().into_owned(),
        options: MessageField::some(options_of(&lab.directory)),
        ..Default::default()
    };
    let whole = frame("Create", &request);
    let connect = || UnixStream::connect(lab.address.trim_start_matches("unix://")).unwrap();
    // In the midst of a request, at every kind of place.
    for length in [0, 3, 10, whole.len() - 1] {
        connect().write_all(&whole[..length]).unwrap();
    }
    // In the midst of its answer: what was asked for is done.
    let mut client = connect();
    client.write_all(&whole).unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    while !lab.directory.join("state/bulkhead-test/hangup").exists() {
        assert!(Instant::now() < limit, "the request was not read");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(client);
    lab.until_told(1);
    let state = StateRequest { id: "hangup".into(), ..Default::default() };
    while lab.tasks.state(deadline(), &state).is_err() {
        assert!(Instant::now() < limit, "the container was not made");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(code(lab.create("hangup", CreateTaskRequest::new())), Code::ALREADY_EXISTS);
    lab.delete("hangup", "").unwrap();
    lab.shut_down(&["create", "exit hangup 137", "delete"]);
}

/// Open descriptors and threads of a process.
fn held(pid: u32) -> (usize, usize) {
    let count = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
    (count("fd"), count("task"))
}

#[test]
fn a_thousand_execs_leave_nothing_in_the_shim() {
    let lab = Lab::new("flat", &["/busybox", "sleep", "1000"]);
    lab.create("flat", CreateTaskRequest::new()).unwrap();
    lab.start("flat", "").unwrap();
    let (stdin, stdout) = (lab.fifo("in"), lab.fifo("out"));
    let _output = read(&stdout);
    let run = |number: usize| {
        let exec = format!("e{number}");
        let process = json!({
            "args": ["/busybox", "true"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        });
        let spec = Any { value: process.to_string().into_bytes(), ..Any::default() };
        let request = ExecProcessRequest {
            id: "flat".into(),
            exec_id: exec.clone(),
            stdin: stdin.clone(),
            stdout: stdout.clone(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        lab.tasks.exec(deadline(), &request).unwrap();
        lab.start("flat", &exec).unwrap();
        assert_eq!(lab.wait("flat", &exec), 0);
        assert_eq!(lab.delete("flat", &exec).unwrap(), 0);
    };
    let shim = lab.tasks.connect(deadline(), &ConnectRequest::new()).unwrap().shim_pid;
    (0..20).for_each(run);
    let before = held(shim);
    (20..1020).for_each(run);
    let after = held(shim);
    // Idle threads of the server come and go, by two.
    assert!(after.0 <= before.0 && after.1 <= before.1 + 2, "{before:?} {after:?}");
    lab.kill("flat", "", 9).unwrap();
    lab.wait("flat", "");
    lab.delete("flat", "").unwrap();
    let mut events = vec!["create".to_owned(), "start".to_owned()];
    for number in 0..1020 {
        let exit = format!("exit e{number} 0");
        events.extend(["exec-added".to_owned(), "exec-started".to_owned(), exit]);
    }
    events.extend(["exit flat 137".to_owned(), "delete".to_owned()]);
    lab.shut_down(&events.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn many_who_wait_and_a_slow_create_hold_up_nobody() {
    let lab = Lab::new("slow", &["/busybox", "sleep", "1000"]);
    lab.create("slow", CreateTaskRequest::new()).unwrap();
    lab.start("slow", "").unwrap();
    let shim = lab.tasks.connect(deadline(), &ConnectRequest::new()).unwrap().shim_pid;
    let threads = held(shim).1;
    // A second bundle, whose hook takes its time.
    let second = lab.directory.join("second");
    bundle(&second, &slow_to_create("slow-second"));
    std::thread::scope(|scope| {
        let waiting = Client::connect(&lab.address).unwrap();
        for _ in 0..30 {
            let tasks = TaskClient::new(waiting.clone());
            scope.spawn(move || {
                let request = WaitRequest { id: "slow".into(), ..Default::default() };
                let _ =
                    tasks.wait(with_timeout(Duration::from_secs(2).as_nanos() as i64), &request);
            });
        }
        let slow = scope.spawn(|| lab.create_at("second", &second, CreateTaskRequest::new()));
        let began = Instant::now();
        while !lab.directory.join("state/bulkhead-test/second").exists() {
            assert!(began.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(5));
        }
        let began = Instant::now();
        assert_eq!(lab.status("slow", ""), Status::RUNNING);
        lab.exec("slow", "e", &["/busybox", "true"], "").unwrap();
        lab.start("slow", "e").unwrap();
        assert_eq!(lab.wait("slow", "e"), 0);
        lab.delete("slow", "e").unwrap();
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
        assert!(!slow.is_finished(), "the hook sleeps still");
        slow.join().unwrap().unwrap();
    });
    lab.delete("second", "").unwrap();
    // The client that waited is gone, and so are the threads that waited for it.
    let limit = Instant::now() + Duration::from_secs(10);
    while held(shim).1 > threads + 2 {
        assert!(Instant::now() < limit, "{} threads, once {threads}", held(shim).1);
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.kill("slow", "", 9).unwrap();
    lab.wait("slow", "");
    lab.delete("slow", "").unwrap();
    lab.shut_down(&[
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit e 0",
        "create",
        "exit second 137",
        "delete",
        "exit slow 137",
        "delete",
    ]);
}

/// A file system without room, until it is dropped.
struct Full(PathBuf);

impl Full {
    fn mount(at: &Path) -> Self {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("full"), at, Some("tmpfs"), flags, Some("nr_inodes=1")).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_state_directory_is_an_error_and_leaves_nothing() {
    let lab = Lab::new("full", &["/busybox", "true"]);
    // A file system whose one file is its root: the next one is ENOSPC.
    let state = lab.directory.join("state");
    fs::create_dir(&state).unwrap();
    let full = Full::mount(&state);
    let Err(ttrpc::Error::RpcStatus(status)) = lab.create("full", CreateTaskRequest::new()) else {
        panic!()
    };
    assert!(status.message.contains("state directory"), "{}", status.message);
    assert!(status.message.contains("ENOSPC"), "{}", status.message);
    drop(full);
    lab.create("full", CreateTaskRequest::new()).unwrap();
    lab.delete("full", "").unwrap();
    lab.shut_down(&["create", "exit full 137", "delete"]);
}

#[test]
fn the_life_of_a_sandbox() {
    let lab = Lab::new("sandbox", &["/busybox", "sleep", "1000"]);
    let sandboxes = SandboxClient::new(lab.client.clone());
    let named = |bundle: &str| CreateSandboxRequest {
        sandbox_id: "sandbox".into(),
        bundle_path: lab.directory.join(bundle).to_string_lossy().into_owned(),
        ..Default::default()
    };
    fs::create_dir(lab.directory.join("empty")).unwrap();
    let refused = sandboxes.create_sandbox(deadline(), &named("empty"));
    assert_eq!(code(refused), Code::FAILED_PRECONDITION);
    sandboxes.create_sandbox(deadline(), &named("bundle")).unwrap();
    let id = || "sandbox".to_owned();
    let start = StartSandboxRequest { sandbox_id: id(), ..Default::default() };
    let started = sandboxes.start_sandbox(deadline(), &start).unwrap();
    assert!(started.pid > 0 && started.created_at.is_some());
    let platform = sandboxes.platform(deadline(), &PlatformRequest::new()).unwrap();
    assert_eq!(platform.platform.os, "linux");
    let ping = PingRequest { sandbox_id: id(), ..Default::default() };
    sandboxes.ping_sandbox(deadline(), &ping).unwrap();
    let status = SandboxStatusRequest { sandbox_id: id(), ..Default::default() };
    let ready = sandboxes.sandbox_status(deadline(), &status).unwrap();
    assert_eq!((ready.state.as_str(), ready.pid), ("SANDBOX_READY", started.pid));
    let metrics = SandboxMetricsRequest { sandbox_id: id(), ..Default::default() };
    let metrics = sandboxes.sandbox_metrics(deadline(), &metrics).unwrap().metrics.unwrap();
    assert!(metrics.data.type_url.starts_with("io.containerd.cgroups.v"));
    // Its program is pid 1 and takes no notice of SIGTERM: it is killed after its grace.
    let stop = StopSandboxRequest { sandbox_id: id(), timeout_secs: 1, ..Default::default() };
    sandboxes.stop_sandbox(deadline(), &stop).unwrap();
    let wait = WaitSandboxRequest { sandbox_id: id(), ..Default::default() };
    assert_eq!(sandboxes.wait_sandbox(deadline(), &wait).unwrap().exit_status, 137);
    let ended = sandboxes.sandbox_status(deadline(), &status).unwrap();
    assert_eq!(ended.state, "SANDBOX_NOTREADY");
    let shutdown = ShutdownSandboxRequest { sandbox_id: id(), ..Default::default() };
    sandboxes.shutdown_sandbox(deadline(), &shutdown).unwrap();
    lab.until_told(4);
    assert_eq!(*lab.seen.0.lock().unwrap(), ["create", "start", "exit sandbox 137", "delete"]);
    fs::remove_dir_all(&lab.directory).unwrap();
}

/// Does `what` while a shim that was told to shut down cannot yet decide whether it does.
fn while_shutting_down(lab: &Lab, socket: &Path, what: impl FnOnce()) {
    let directory = fs::File::open(socket.parent().unwrap()).unwrap();
    let lock = Flock::lock(directory, FlockArg::LockExclusive).unwrap();
    let tasks = lab.tasks.clone();
    let shutdown =
        std::thread::spawn(move || tasks.shutdown(deadline(), &ShutdownRequest::new()).is_ok());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!shutdown.is_finished(), "it was answered before anything was decided");
    what();
    drop(lock);
    assert!(shutdown.join().unwrap());
}

#[test]
fn the_next_of_the_same_name_gets_a_new_shim() {
    let lab = Lab::new("next", &["/busybox", "sleep", "100"]);
    let socket = PathBuf::from(lab.address.strip_prefix("unix://").unwrap());
    let pid =
        |tasks: &TaskClient| tasks.connect(deadline(), &ConnectRequest::new()).unwrap().shim_pid;
    let first = pid(&lab.tasks);
    // It may not end once it has a container: not even if it was told to before.
    while_shutting_down(&lab, &socket, || {
        lab.create("next", CreateTaskRequest::default()).unwrap();
    });
    assert!(socket.exists());
    assert_eq!(lab.status("next", ""), Status::CREATED);
    lab.delete("next", "").unwrap();
    // With the answer nobody finds it any more.
    while_shutting_down(&lab, &socket, || assert!(socket.exists()));
    assert!(!socket.exists(), "`start` still finds it");
    assert!(lab.create("next", CreateTaskRequest::default()).is_err(), "it ends");
    let lab = lab.next("next");
    assert_ne!(pid(&lab.tasks), first);
    let second = lab.create("next", CreateTaskRequest::default()).unwrap();
    until_gone(first);
    assert!(socket.exists(), "the first one has removed the socket of the second");
    assert!(Path::new(&format!("/proc/{second}")).exists());
    lab.delete("next", "").unwrap();
    lab.shut_down_unheard();
    assert!(!socket.exists());
}

#[test]
fn a_program_takes_the_output() {
    let args = ["/busybox", "sh", "-c", "echo out; echo err >&2"];
    let lab = Lab::new("logger", &args);
    let script = lab.directory.join("logger.sh");
    let log = lab.directory.join("log.txt");
    let text = format!(
        "#!/bin/sh\nexec 5>&-\n(cat <&3; cat <&4; echo $CONTAINER_NAMESPACE/$CONTAINER_ID $*) >{0}.new\n\
         mv {0}.new {0}\n",
        log.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let uri = format!("binary://{}?key=value", script.display());
    let request = CreateTaskRequest {
        stdout: uri.clone(),
        stderr: uri.clone(),
        ..CreateTaskRequest::default()
    };
    lab.create("logger", request).unwrap();
    lab.start("logger", "").unwrap();
    assert_eq!(lab.wait("logger", ""), 0);
    lab.delete("logger", "").unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    while !log.exists() {
        assert!(Instant::now() < limit, "the program has not written its log");
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text, "out\nerr\nbulkhead-test/logger key value\n");
    let missing = CreateTaskRequest {
        stdout: "binary:///no/such/program".into(),
        ..CreateTaskRequest::default()
    };
    let Err(ttrpc::Error::RpcStatus(status)) = lab.create("logger", missing) else { panic!() };
    assert!(status.message.contains("no such file or directory"), "{}", status.message);
    lab.shut_down(&["create", "start", "exit logger 0", "delete"]);
}

#[test]
fn the_shim_has_little_power_and_its_spawner_dies_with_it() {
    let lab = Lab::new("power", &["/busybox", "sleep", "1000"]);
    lab.create("power", CreateTaskRequest::new()).unwrap();
    lab.start("power", "").unwrap();
    let shim = lab.tasks.connect(deadline(), &ConnectRequest::new()).unwrap().shim_pid;
    for thread in fs::read_dir(format!("/proc/{shim}/task")).unwrap() {
        // One that answered a call may have ended since.
        let Ok(status) = fs::read_to_string(thread.unwrap().path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        let capabilities = u64::from_str_radix(&field("CapPrm:"), 16).unwrap();
        // CAP_DAC_OVERRIDE, CAP_KILL, CAP_SYSLOG.
        assert_eq!(capabilities & !(1 << 1 | 1 << 5 | 1 << 34), 0, "{}: {status}", field("Name:"));
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
    }
    let spawner = children(shim).into_iter().find(|pid| name_of(*pid) == "shim-spawner").unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(shim as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    while name_of(spawner) == "shim-spawner" {
        assert!(Instant::now() < limit, "the spawner lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = shim_command(&lab.directory, "power").arg("delete").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(fs::read_dir(lab.directory.join("state/bulkhead-test")).unwrap().count(), 0);
    fs::remove_dir_all(&lab.directory).unwrap();
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
    let all: String = lists.map(|list| list.unwrap() + " ").collect();
    all.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The name of a process that has not ended; empty for others.
fn name_of(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    if status.contains("State:\tZ") {
        return String::new();
    }
    status.lines().next().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("").to_owned()
}
