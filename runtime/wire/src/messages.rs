//! The messages. Each connection's order of them is drawn in the crate's documentation.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The agent's first word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] of the agent.
    pub version: u32,
    /// The agent's own version.
    pub agent: String,
    /// The guest's kernel release.
    pub kernel: String,
}

/// What the guest cannot know by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Seconds since 1970, UTC.
    pub seconds: u64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
    /// Random bytes, to be credited to the guest's pool.
    pub entropy: Vec<u8>,
    /// Whether there is a shared file system.
    pub shares: bool,
}

/// What the agent says by itself, once it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notice {
    /// It listens on [`crate::AGENT`]; the first notice.
    Serving,
    /// What the welcome asked for could not be done; the guest is of no use.
    Failed(Error),
    /// The guest's kernel has killed processes of the container for want of memory, so many since the last notice.
    OutOfMemory {
        /// The container's id.
        container: String,
        /// How many.
        kills: u64,
    },
}

/// The first frame of a connection to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Opening {
    /// One question.
    Call(Call),
    /// A container and its first process.
    First(Box<First>),
    /// A further process in a container.
    Exec(Box<Exec>),
    /// A stream of the process with this token.
    Stream(Token, StreamName),
}

/// Names a process' streams; chosen by the host, at random.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token(pub String);

/// Which streams a process has. Those that it has not are `/dev/null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input, or what is typed on the terminal.
    pub stdin: bool,
    /// Standard output, or what the terminal shows.
    pub stdout: bool,
    /// Standard error; not of a process with a terminal.
    pub stderr: bool,
}

/// One of a process' streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamName {
    /// From the host.
    Stdin,
    /// To the host.
    Stdout,
    /// To the host.
    Stderr,
}

/// Where a container's root file system is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Root {
    /// Where the configuration says, on the shared file system.
    Shared,
    /// On a disk.
    Disk {
        /// Of the machine's disks, from 0.
        disk: u32,
        /// What to mount it as, for example `erofs`.
        filesystem: String,
    },
}

/// A block device of the container's that is a disk of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Index into `linux.devices` of the configuration, whose numbers are to become those of the disk.
    pub device: u32,
    /// Of the machine's disks, from 0.
    pub disk: u32,
}

/// A container to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct First {
    /// Its id.
    pub container: String,
    /// Its configuration, `config.json`, as it applies in the guest: paths are the guest's.
    pub config: Value,
    /// See [`Root`].
    pub root: Root,
    /// See [`Disk`].
    pub disks: Vec<Disk>,
    /// Of the first process.
    pub token: Token,
    /// Of the first process.
    pub streams: Streams,
}

/// A further process to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// In which container.
    pub container: String,
    /// As in `process.json` of runc's `exec --process`.
    pub process: Value,
    /// Of this process.
    pub token: Token,
    /// Of this process.
    pub streams: Streams,
}

/// What the host says to a process, on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// Execute the program.
    Start,
    /// The terminal has another size.
    Resize(Size),
    /// Signal the process, by number.
    Signal(i32),
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A question, or something to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// Whether the agent answers at all.
    Ping,
    /// Signals the container's first process; with `all` every process.
    Signal {
        /// The container.
        container: String,
        /// By number.
        signal: i32,
        /// Every process of the container.
        all: bool,
    },
    /// Figures of the container's cgroup.
    Stats {
        /// The container.
        container: String,
    },
    /// The container's processes.
    Processes {
        /// The container.
        container: String,
    },
    /// Other limits: `linux.resources`.
    Update {
        /// The container.
        container: String,
        /// As in the configuration.
        resources: Value,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It is done.
    Done {
        /// What the user should know all the same.
        warnings: Vec<String>,
    },
    /// It could not be done.
    Failed(Error),
    /// The process is there and waits for [`Word::Start`].
    Created {
        /// In the guest's pid namespace.
        pid: i32,
        /// What the user should know all the same.
        warnings: Vec<String>,
    },
    /// The program runs.
    Started,
    /// The process has ended: its exit status, 128 + N when signal N ended it. The last frame.
    Exited {
        /// As a shell's `$?`.
        status: u8,
    },
    /// Figures: the `data` of runc's `events --stats`.
    Stats(Value),
    /// One for each process.
    Processes(Vec<Row>),
}

/// A process of the guest, as `ps -ef` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The name in the guest's eyes: a number.
    pub user: u32,
    /// In the guest's pid namespace.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Seconds since 1970 when it was started.
    pub started: u64,
    /// Its terminal, `?` when it has none.
    pub terminal: String,
    /// Processor time, in seconds.
    pub time: u64,
    /// The program and its arguments.
    pub command: String,
}

/// As the runtime's error: what was being done, to what, and why it failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// See [`ErrorKind`].
    pub kind: ErrorKind,
    /// A verb phrase.
    pub operation: String,
    /// A path or the JSON path of a field.
    pub subject: String,
    /// The system call that failed and its errno.
    pub call: Option<(String, i32)>,
    /// Without a system call: why it failed.
    pub reason: String,
}

/// The runtime's kinds of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum ErrorKind {
    NotFound,
    Exists,
    WrongState,
    NotRunning,
    Invalid,
    Unsupported,
    Exec,
    System,
}
