//! Events for containerd, in the order in which they happened.
//!
//! Publishing never waits: an event is put at the end of a queue, and one thread hands over the first
//! of it until containerd has taken it. An event is tried again while containerd is down or being
//! restarted, and nothing behind it goes before it. After a minute it is given up: a daemon that was
//! away so long asks for the state of everything when it is back. (containerd's own shims try six
//! times within fifteen seconds, and let later events overtake.)
//!
//! With an empty queue the thread sleeps for good. The queue is bounded; when it is full the oldest
//! event is lost, since the newer one tells of the state that lasts.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use runtime::{Call, Context, Result};

use crate::forward::{Connection, Failure};
use crate::log::Log;

/// As many as containerd's own shims keep.
const QUEUE: usize = 2048;

/// How long an event is tried.
const KEPT: Duration = Duration::from_secs(60);

/// The longest wait between two tries; the first one is a fifth of it.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The wait between two tries when the shim is about to end.
const CLOSING_WAIT: Duration = Duration::from_millis(50);

/// The queue's end that events are put in. Dropping it loses what is queued: see [`Publisher::close`].
#[derive(Debug)]
pub struct Publisher {
    namespace: String,
    log: Log,
    /// `None` when there is nobody to tell.
    queue: Option<Arc<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// One event is with the thread, and not among `events`.
    in_hand: bool,
    /// The shim is about to end: waits are short.
    closing: bool,
    /// The thread is to end.
    stop: bool,
}

#[derive(Debug)]
struct Event {
    envelope: Envelope,
    since: Instant,
}

impl Publisher {
    /// A publisher for the daemon at `ttrpc_address`; without one, events go nowhere. Starts a thread:
    /// the process cannot fork as a whole afterwards.
    pub fn new(ttrpc_address: Option<String>, namespace: String, log: Log) -> Result<Self> {
        let queue = match ttrpc_address {
            None => None,
            Some(address) => {
                let queue = Arc::new(Queue::default());
                let worker =
                    Worker { address, queue: queue.clone(), connection: None, log: log.clone() };
                thread::Builder::new()
                    .name("events".to_owned())
                    .spawn(move || worker.run())
                    .call("clone")
                    .context("start thread", "events")?;
                Some(queue)
            }
        };
        Ok(Self { namespace, log, queue })
    }

    /// Queues an event under a topic of [`containerd_shim_protos::topics`].
    pub fn publish<M: MessageFull>(&self, topic: &str, event: &M) {
        let Some(queue) = &self.queue else { return };
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => return self.log.error(&format!("encode event {topic}: {error}")),
        };
        // Go's `typeurl` wants the bare name, without a host before it.
        let any = Any { type_url: M::descriptor().full_name().to_owned(), value, ..Any::default() };
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::from(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(any),
            ..Envelope::default()
        };
        let mut state = queue.lock();
        if state.events.len() >= QUEUE
            && let Some(lost) = state.events.pop_front()
        {
            self.log.error(&format!("event {} is lost: too many wait", lost.envelope.topic));
        }
        state.events.push_back(Event { envelope, since: Instant::now() });
        drop(state);
        queue.changed.notify_all();
    }

    /// Waits until everything was handed over, or until `deadline`; the number of events that were not.
    /// What is published afterwards is lost.
    pub fn close(&self, deadline: Instant) -> usize {
        let Some(queue) = &self.queue else { return 0 };
        let mut state = queue.lock();
        state.closing = true;
        queue.changed.notify_all();
        while state.in_hand || !state.events.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = queue.wait(state, left);
        }
        let left = state.events.len() + usize::from(state.in_hand);
        state.events.clear();
        state.stop = true;
        drop(state);
        queue.changed.notify_all();
        left
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.lock().stop = true;
            queue.changed.notify_all();
        }
    }
}

impl Queue {
    /// A thread that panicked left the state between two statements that belong together at worst in
    /// the number of events.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The first event, when there is one; `None` when the thread is to end.
    fn take(&self) -> Option<Event> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            if let Some(event) = state.events.pop_front() {
                state.in_hand = true;
                return Some(event);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The event in hand is done with.
    fn done(&self) {
        self.lock().in_hand = false;
        self.changed.notify_all();
    }

    /// Waits between two tries; whether there is to be another one.
    fn pause(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.lock();
        let started_closing = state.closing;
        let end = if started_closing { Instant::now() + CLOSING_WAIT } else { end };
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // The shim is about to end: try at once.
            if state.stop || left.is_zero() || state.closing != started_closing {
                return !state.stop;
            }
            // New events do not end the wait.
            state = self.wait(state, left);
        }
    }
}

/// The queue's other end.
struct Worker {
    address: String,
    queue: Arc<Queue>,
    connection: Option<Connection>,
    log: Log,
}

impl Worker {
    fn run(mut self) {
        while let Some(event) = self.queue.take() {
            self.deliver(&event);
            self.queue.done();
        }
    }

    /// Tries until the event was taken, refused, or too old.
    fn deliver(&mut self, event: &Event) {
        let topic = &event.envelope.topic;
        let mut tries = 0;
        loop {
            let error = match self.forward(&event.envelope) {
                Ok(()) => return,
                Err(Failure::Refused(reason)) => {
                    return self.log.error(&format!("event {topic} is refused: {reason}"));
                }
                Err(Failure::Lost(error)) => error,
            };
            if event.since.elapsed() >= KEPT {
                return self.log.error(&format!("event {topic} is lost: {error}"));
            }
            tries += 1;
            self.log.debug(&format!("event {topic} is not taken yet: {error}"));
            if !self.queue.pause((LONGEST_WAIT / 5 * tries).min(LONGEST_WAIT)) {
                return;
            }
        }
    }

    fn forward(&mut self, envelope: &Envelope) -> Result<(), Failure> {
        // A connection that was open while containerd restarted fails with its first use. That is no
        // reason to wait.
        if let Some(mut connection) = self.connection.take() {
            match connection.forward(envelope) {
                Err(Failure::Lost(error)) if error.kind() != io::ErrorKind::WouldBlock => {}
                Err(lost @ Failure::Lost(_)) => return Err(lost),
                done => {
                    self.connection = Some(connection);
                    return done;
                }
            }
        }
        let mut connection = Connection::open(&self.address)?;
        let result = connection.forward(envelope);
        if !matches!(result, Err(Failure::Lost(_))) {
            self.connection = Some(connection);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::api::{Empty, ForwardRequest};
    use containerd_shim_protos::events::task::TaskExit;
    use containerd_shim_protos::protobuf::Message;
    use containerd_shim_protos::ttrpc::{self, Server, TtrpcContext};
    use containerd_shim_protos::{Events, create_events};
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::{self, Receiver, Sender};

    /// containerd's end, by the crate's own server.
    struct Daemon {
        seen: Mutex<Sender<Envelope>>,
    }

    impl Events for Daemon {
        fn forward(&self, context: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            assert_eq!(context.metadata["containerd-namespace-ttrpc"], ["ns"]);
            let envelope = request.envelope.unwrap();
            if envelope.topic == "/refused" {
                let status = ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no");
                return Err(ttrpc::Error::RpcStatus(status));
            }
            self.seen.lock().unwrap().send(envelope).unwrap();
            Ok(Empty::default())
        }
    }

    fn daemon(path: &Path) -> (Server, Receiver<Envelope>) {
        let (sender, receiver) = mpsc::channel();
        let service = Arc::new(Daemon { seen: Mutex::new(sender) });
        let mut server = Server::new()
            .bind(&format!("unix://{}", path.display()))
            .unwrap()
            .register_service(create_events(service));
        server.start().unwrap();
        (server, receiver)
    }

    fn publisher(directory: &Path) -> (Publisher, PathBuf) {
        let path = directory.join("s");
        let log = Log::new(directory, "ns", "c", true);
        let address = Some(path.display().to_string());
        (Publisher::new(address, "ns".into(), log).unwrap(), path)
    }

    fn exit(pid: u32) -> TaskExit {
        TaskExit { pid, ..TaskExit::default() }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn pids(seen: &Receiver<Envelope>) -> Vec<u32> {
        let pid = |envelope: Envelope| {
            assert_eq!(
                (envelope.namespace.as_str(), envelope.topic.as_str()),
                ("ns", "/tasks/exit")
            );
            assert!(envelope.timestamp.seconds > 0);
            assert_eq!(envelope.event.type_url, "containerd.events.TaskExit");
            TaskExit::parse_from_bytes(&envelope.event.value).unwrap().pid
        };
        seen.try_iter().map(pid).collect()
    }

    #[test]
    fn in_order() {
        let directory = crate::testing::directory("events");
        let (publisher, path) = publisher(&directory);
        // Not there yet: nothing is lost and nobody waits.
        (0..50).for_each(|pid| publisher.publish("/tasks/exit", &exit(pid)));
        let (server, seen) = daemon(&path);
        publisher.publish("/refused", &exit(0));
        publisher.publish("/tasks/exit", &exit(50));
        assert_eq!(publisher.close(soon()), 0);
        assert_eq!(pids(&seen), (0..=50).collect::<Vec<_>>());
        drop(server);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn over_a_restart() {
        let directory = crate::testing::directory("events");
        let (publisher, path) = publisher(&directory);
        let (server, seen) = daemon(&path);
        publisher.publish("/tasks/exit", &exit(1));
        let first = seen.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(TaskExit::parse_from_bytes(&first.event.value).unwrap().pid, 1);
        server.shutdown();
        std::fs::remove_file(&path).unwrap();
        let (server, seen) = daemon(&path);
        publisher.publish("/tasks/exit", &exit(2));
        publisher.publish("/tasks/exit", &exit(3));
        assert_eq!(publisher.close(soon()), 0);
        assert_eq!(pids(&seen), [2, 3]);
        server.shutdown();
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn nobody_there() {
        let directory = crate::testing::directory("events");
        let (publisher, _) = publisher(&directory);
        (0..QUEUE as u32 + 10).for_each(|pid| publisher.publish("/tasks/exit", &exit(pid)));
        assert!(publisher.queue.as_ref().unwrap().lock().events.len() <= QUEUE);
        assert!(publisher.close(Instant::now() + Duration::from_millis(20)) >= QUEUE);
        let log = Log::new(&directory, "ns", "c", true);
        let silent = Publisher::new(None, "ns".into(), log).unwrap();
        silent.publish("/tasks/exit", &exit(1));
        assert_eq!(silent.close(soon()), 0);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
