//! What the shim tells containerd about: the events of its tasks.

use std::path::Path;
use std::time::SystemTime;

use containerd_shim_protos::events::task::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO,
    TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::topics;

use crate::container::Container;
use crate::events::Publisher;
use crate::process::{Exit, Process};
use crate::rootfs::Mount;

/// Events on their way to containerd, in the order of the calls.
#[derive(Debug)]
pub struct Events(Publisher);

impl Events {
    /// Events go through `publisher`.
    pub fn new(publisher: Publisher) -> Self {
        Self(publisher)
    }

    /// What still has to be sent, and is, when the shim is about to end.
    pub fn publisher(&self) -> &Publisher {
        &self.0
    }

    fn send(&self, topic: &'static str, event: impl MessageFull) {
        self.0.publish(topic, &event);
    }

    /// A container was created.
    pub fn created(&self, container: &Container, rootfs: &[Mount], pid: i32) {
        let streams = &container.init.streams;
        let io = TaskIO {
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            terminal: streams.terminal,
            ..TaskIO::default()
        };
        self.send(
            topics::TASK_CREATE_EVENT_TOPIC,
            TaskCreate {
                container_id: container.name.id.clone(),
                bundle: container.bundle.to_string_lossy().into_owned(),
                rootfs: rootfs.iter().map(Mount::message).collect(),
                io: MessageField::some(io),
                pid: number(pid),
                ..TaskCreate::default()
            },
        );
    }

    /// A process runs.
    pub fn started(&self, process: &Process, pid: i32) {
        let container_id = process.container.clone();
        if process.is_init() {
            let event = TaskStart { container_id, pid: number(pid), ..TaskStart::default() };
            return self.send(topics::TASK_START_EVENT_TOPIC, event);
        }
        self.send(
            topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            TaskExecStarted {
                container_id,
                exec_id: process.exec.clone(),
                pid: number(pid),
                ..TaskExecStarted::default()
            },
        );
    }

    /// A process was added to a container.
    pub fn exec_added(&self, container: &str, exec: &str) {
        self.send(
            topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            TaskExecAdded {
                container_id: container.to_owned(),
                exec_id: exec.to_owned(),
                ..TaskExecAdded::default()
            },
        );
    }

    /// A process has ended.
    pub fn exited(&self, process: &Process, pid: i32, exit: Exit) {
        self.send(
            topics::TASK_EXIT_EVENT_TOPIC,
            TaskExit {
                container_id: process.container.clone(),
                id: process.id().to_owned(),
                pid: number(pid),
                exit_status: exit.status,
                exited_at: MessageField::some(timestamp(exit.at)),
                ..TaskExit::default()
            },
        );
    }

    /// A container was deleted.
    pub fn deleted(&self, init: &Process, pid: i32, exit: Option<Exit>) {
        self.send(
            topics::TASK_DELETE_EVENT_TOPIC,
            TaskDelete {
                container_id: init.container.clone(),
                pid: number(pid),
                exit_status: exit.map_or(0, |exit| exit.status),
                exited_at: exit.map(|exit| timestamp(exit.at)).into(),
                ..TaskDelete::default()
            },
        );
    }

    /// The kernel killed a process for want of memory.
    pub fn oom(&self, container: &str) {
        let event = TaskOOM { container_id: container.to_owned(), ..TaskOOM::default() };
        self.send(topics::TASK_OOM_EVENT_TOPIC, event);
    }

    /// A container was frozen.
    pub fn paused(&self, container: &str) {
        let event = TaskPaused { container_id: container.to_owned(), ..TaskPaused::default() };
        self.send(topics::TASK_PAUSED_EVENT_TOPIC, event);
    }

    /// A container was thawed.
    pub fn resumed(&self, container: &str) {
        let event = TaskResumed { container_id: container.to_owned(), ..TaskResumed::default() };
        self.send(topics::TASK_RESUMED_EVENT_TOPIC, event);
    }

    /// A container was saved in a directory.
    pub fn checkpointed(&self, container: &str, images: &Path) {
        let event = TaskCheckpointed {
            container_id: container.to_owned(),
            checkpoint: images.to_string_lossy().into_owned(),
            ..TaskCheckpointed::default()
        };
        self.send(topics::TASK_CHECKPOINTED_EVENT_TOPIC, event);
    }
}

/// A pid as the messages have it.
pub fn number(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or_default()
}

/// A moment as the messages have it.
pub fn timestamp(at: SystemTime) -> Timestamp {
    at.into()
}
