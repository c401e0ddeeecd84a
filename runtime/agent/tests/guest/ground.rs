//! A guest, and the host's side of a connection.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wire::{
    Answer, Call, Error, ErrorKind, Exec, First, Frames, Notice, Opening, Root, StreamName,
    Streams, Token, Word,
};

const BUSYBOX: &str = "/bin/busybox";
/// For everything that is to happen.
pub const LIMIT: Duration = Duration::from_secs(60);
/// A guest that a failed test has left ends by itself, in seconds.
const GUEST_LIMIT: u32 = 120;

pub const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true };
pub const OUT: Streams = Streams { stdin: false, stdout: true, stderr: false };
pub const NONE: Streams = Streams { stdin: false, stdout: false, stderr: false };
pub const TERMINAL: Streams = Streams { stdin: true, stdout: true, stderr: false };

/// A guest: the agent in namespaces of its own.
pub struct Guest {
    directory: PathBuf,
    /// Waits for the agent and ends as it does.
    outside: Pid,
    /// The hello connection.
    hello: Option<UnixStream>,
    heard: Frames,
    over: bool,
}

impl Guest {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests make containers: run them as root");
        assert!(Path::new(BUSYBOX).exists(), "these tests need the package busybox-static");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulkhead-agent-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        rootfs(&directory.join("rootfs"));
        let listener = UnixListener::bind(directory.join("agent")).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: glibc keeps its allocator usable in the child of a threaded process, and the child needs
        // nothing else of the test's.
        let outside = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => runtime::leave(outside(theirs.into(), listener.into())),
        };
        drop(theirs);
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let heard = Frames::default();
        let mut guest = Self { directory, outside, hello: Some(ours), heard, over: false };
        assert_eq!(guest.notice(), Notice::Serving);
        guest
    }

    /// The next notice.
    pub fn notice(&mut self) -> Notice {
        receive(self.hello.as_mut().unwrap(), &mut self.heard).unwrap()
    }

    pub fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(self.directory.join("agent")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    pub fn open(&self, opening: &Opening) -> UnixStream {
        let mut socket = self.connect();
        socket.write_all(&wire::frame(opening).unwrap()).unwrap();
        socket
    }

    pub fn call(&self, call: Call) -> Answer {
        let mut socket = self.open(&Opening::Call(call));
        let answer = receive(&mut socket, &mut Frames::default()).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "the answer is the end");
        answer
    }

    /// The same, of a call that fails.
    pub fn refused(&self, call: Call) -> Error {
        match self.call(call) {
            Answer::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    pub fn stream(&self, token: &Token, name: StreamName) -> UnixStream {
        self.open(&Opening::Stream(token.clone(), name))
    }

    fn streams(&self, token: &Token, streams: Streams) -> [Option<UnixStream>; 3] {
        [
            streams.stdin.then(|| self.stream(token, StreamName::Stdin)),
            streams.stdout.then(|| self.stream(token, StreamName::Stdout)),
            streams.stderr.then(|| self.stream(token, StreamName::Stderr)),
        ]
    }

    /// A container with this configuration.
    pub fn first(&self, container: &str, config: Value, streams: Streams) -> Process {
        let token = token();
        let first = First {
            container: container.to_owned(),
            config,
            root: Root::Shared,
            disks: Vec::new(),
            token: token.clone(),
            streams,
        };
        let connection = self.open(&Opening::First(Box::new(first)));
        Process::new(connection, self.streams(&token, streams))
    }

    /// A container of a shell that does `script`, started.
    pub fn shell(&self, container: &str, script: &str, streams: Streams) -> Process {
        let mut process =
            self.first(container, self.config(container, &["sh", "-c", script]), streams);
        process.start();
        process
    }

    /// A further process.
    pub fn exec(&self, container: &str, process: Value, streams: Streams) -> Process {
        let token = token();
        let exec = Exec { container: container.to_owned(), process, token: token.clone(), streams };
        // Streams may come first.
        let streams = self.streams(&token, streams);
        Process::new(self.open(&Opening::Exec(Box::new(exec))), streams)
    }

    /// The configuration of a container that runs busybox.
    pub fn config(&self, container: &str, args: &[&str]) -> Value {
        let namespaces = ["pid", "mount", "ipc", "uts"];
        json!({
            "ociVersion": "1.2.0",
            "root": { "path": self.directory.join("rootfs") },
            "process": process(args),
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{container}", self.name()),
                "namespaces": namespaces.map(|kind| json!({ "type": kind })),
            },
        })
    }

    fn name(&self) -> String {
        self.directory.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Waits until there is nothing of a container any more.
    pub fn until_gone(&self, container: &str) {
        let call = || Call::Stats { container: container.to_owned() };
        until(|| matches!(self.call(call()), Answer::Failed(e) if e.kind == ErrorKind::NotFound));
        until(|| !self.run_directory().join("bundles").join(container).exists());
    }

    /// `/run/bulkhead` of the guest.
    pub fn run_directory(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/bulkhead", self.agent()))
    }

    /// The agent's pid outside.
    pub fn agent(&self) -> Pid {
        let path = format!("/proc/{0}/task/{0}/children", self.outside);
        Pid::from_raw(fs::read_to_string(path).unwrap().trim().parse().unwrap())
    }

    /// The agent's children: pid and state.
    pub fn children(&self) -> Vec<(i32, char)> {
        let agent = self.agent();
        let path = format!("/proc/{agent}/task/{agent}/children");
        let children = fs::read_to_string(path).unwrap();
        let child = |word: &str| {
            let stat = fs::read_to_string(format!("/proc/{word}/stat")).ok()?;
            Some((word.parse().ok()?, stat.rsplit_once(") ")?.1.chars().next()?))
        };
        children.split_whitespace().filter_map(child).collect()
    }

    /// Closes the hello connection. The guest is to end, without a fault.
    pub fn end(mut self) {
        let agent = self.agent();
        self.hello = None;
        self.ended(agent);
    }

    /// Waits for the end of the guest, whose agent had this pid.
    pub fn ended(&mut self, agent: Pid) {
        self.over = true;
        assert_eq!(waitpid(self.outside, None).unwrap(), WaitStatus::Exited(self.outside, 0));
        assert!(!Path::new(&format!("/proc/{agent}")).exists());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hello = None;
        if !self.over {
            if std::thread::panicking()
                && let Ok(agent) =
                    fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.outside))
                && let Ok(agent) = agent.trim().parse()
            {
                let _ = kill(Pid::from_raw(agent), Signal::SIGKILL);
            }
            let status = waitpid(self.outside, None);
            assert!(std::thread::panicking() || status == Ok(WaitStatus::Exited(self.outside, 0)));
        }
        let _ = fs::remove_dir_all(&self.directory);
        // What containers had whose guest was ended.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroups(&hierarchy.path().join(self.name()));
        }
        remove_cgroups(&Path::new("/sys/fs/cgroup").join(self.name()));
    }
}

fn remove_cgroups(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

/// Between the test and the guest: the exit status.
fn outside(hello: OwnedFd, listener: OwnedFd) -> i32 {
    // Other guests' sockets above all, which would never be at their end.
    runtime::close_all_but(&[hello.as_fd(), listener.as_fd()]).unwrap();
    alarm::set(GUEST_LIMIT);
    let new = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID;
    unshare(new).unwrap();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(GUEST_LIMIT);
            runtime::leave(i32::from(inside(hello, listener).is_err()))
        }
        ForkResult::Parent { child } => {
            drop((hello, listener));
            match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, status) => status,
                _ => 1,
            }
        }
    }
}

/// The guest's first process.
fn inside(hello: OwnedFd, listener: OwnedFd) -> runtime::Result<()> {
    let none = None::<&str>;
    let mount = |what, at: &str, flags| mount(Some(what), at, Some(what), flags, none).unwrap();
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount("proc", "/proc", MsFlags::empty());
    mount("tmpfs", "/run", MsFlags::empty());
    agent::serve_on(hello, listener)
}

/// A root file system of busybox.
fn rootfs(directory: &Path) {
    for name in ["bin", "dev", "proc", "tmp"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    fs::copy(BUSYBOX, directory.join("bin/busybox")).unwrap();
    for name in
        ["sh", "cat", "echo", "sleep", "stty", "head", "tail", "setsid", "true", "yes", "kill"]
    {
        std::os::unix::fs::symlink("busybox", directory.join("bin").join(name)).unwrap();
    }
    fs::write(directory.join("text"), "no program").unwrap();
}

/// A process that runs busybox.
pub fn process(args: &[&str]) -> Value {
    json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
    })
}

/// The same on a terminal.
pub fn on_terminal(mut process: Value) -> Value {
    process["terminal"] = true.into();
    process
}

fn token() -> Token {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    Token(format!("token {}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

/// A process' connection and streams.
pub struct Process {
    connection: UnixStream,
    frames: Frames,
    pub stdin: Option<UnixStream>,
    pub stdout: Option<UnixStream>,
    pub stderr: Option<UnixStream>,
}

impl Process {
    fn new(connection: UnixStream, [stdin, stdout, stderr]: [Option<UnixStream>; 3]) -> Self {
        Self { connection, frames: Frames::default(), stdin, stdout, stderr }
    }

    pub fn answer(&mut self) -> Answer {
        receive(&mut self.connection, &mut self.frames).unwrap()
    }

    pub fn say(&mut self, word: Word) {
        self.connection.write_all(&wire::frame(&word).unwrap()).unwrap();
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.connection.write_all(bytes).unwrap();
    }

    /// Waits for its making, and returns its pid in the guest.
    pub fn created(&mut self) -> i32 {
        match self.answer() {
            Answer::Created { pid, warnings } => {
                assert_eq!(warnings, [""; 0]);
                pid
            }
            other => panic!("{other:?}"),
        }
    }

    /// Waits for its making and starts it.
    pub fn start(&mut self) -> i32 {
        let pid = self.created();
        self.say(Word::Start);
        assert_eq!(self.answer(), Answer::Started);
        pid
    }

    /// The error that it fails with, which is the last that is heard.
    pub fn failure(mut self) -> Error {
        let answer = self.answer();
        self.close();
        match answer {
            Answer::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// What it writes to standard output, to the end.
    pub fn output(&mut self) -> String {
        to_end(self.stdout.take().unwrap())
    }

    /// Nothing more is to come. The host closes first.
    fn close(&mut self) {
        self.connection.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!(self.connection.read(&mut [0]).is_err(), "more after the end");
        self.connection.shutdown(Shutdown::Both).unwrap();
    }

    /// Waits for its end: the status.
    pub fn exited(&mut self) -> u8 {
        match self.answer() {
            Answer::Exited { status } => {
                self.close();
                status
            }
            other => panic!("{other:?}"),
        }
    }
}

pub fn to_end(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Reads until `text` has come.
pub fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).ends_with(text) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

fn receive<T: DeserializeOwned>(socket: &mut UnixStream, frames: &mut Frames) -> io::Result<T> {
    loop {
        if let Some(message) = frames.take().map_err(io::Error::other)? {
            return Ok(message);
        }
        let mut chunk = vec![0; frames.wanted()];
        match socket.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => frames.push(&chunk[..length]),
        }
    }
}

/// What an agent answers to these bytes on a new connection, before it closes that.
pub fn said_to(guest: &Guest, bytes: &[u8]) -> Option<Answer> {
    let mut socket = guest.connect();
    // It may close before it has read everything.
    let _ = socket.write_all(bytes);
    receive(&mut socket, &mut Frames::default()).ok()
}

pub fn frame(message: &impl Serialize) -> Vec<u8> {
    wire::frame(message).unwrap()
}

/// Waits for something that has no descriptor.
pub fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
