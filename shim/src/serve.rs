//! The shim as a daemon: its threads, its children, and its end.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim_protos::ttrpc::Server;
use crossbeam_channel::bounded;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runtime::{Call, Context, Error, ErrorKind};

use crate::announce::Events;
use crate::bootstrap::Launch;
use crate::ending::Ending;
use crate::events::Publisher;
use crate::log::Log;
use crate::pod::Pod;
use crate::service::Service;
use crate::socket::{self, Doorkeeper};
use crate::spawner::Spawner;

/// How long a shim waits for its first container: a containerd that died after `start` asks for none.
const FIRST_CONTAINER: Duration = Duration::from_secs(300);
/// How long events may take to get to containerd when the shim ends.
const FLUSH: Duration = Duration::from_secs(5);
/// How long the answer to `Shutdown` may take to get to its client.
const GOODBYE: Duration = Duration::from_millis(500);

/// Serves on `listener`, which is bound to `socket`, until containerd says `Shutdown`. Returns the exit
/// status.
pub fn serve(listener: OwnedFd, path: PathBuf, launch: Launch) -> i32 {
    let log = Log::new(&launch.bundle, &launch.namespace, &launch.id, launch.debug);
    let served = run(listener, &path, launch, &log);
    match served {
        Ok(()) => 0,
        Err(error) => {
            log.error(&error.to_string());
            1
        }
    }
}

fn run(listener: OwnedFd, path: &Path, launch: Launch, log: &Log) -> runtime::Result<()> {
    runtime::keep_child_statuses()?;
    // Before the first thread, and before signals are blocked: its workers inherit the mask.
    let spawner = Spawner::start()?;
    socket::take_over(&listener)?;
    let signals = signals()?;
    nix::sys::prctl::set_child_subreaper(true)
        .call("prctl(PR_SET_CHILD_SUBREAPER)")
        .context("adopt", "orphans")?;
    let address = launch.ttrpc_address.clone();
    // The workers have the power that containers take; this process, to which their terminals speak and
    // clients talk, has little. Threads inherit that.
    runtime::confine_server()?;
    let publisher = Publisher::new(address, launch.namespace.clone(), log.clone())?;
    let events = Events::new(publisher);
    let namespace = launch.namespace.clone();
    let pod = Arc::new(Pod::new(spawner, events, log.clone(), namespace));
    let (shutdown, told) = bounded(1);
    let socket = path.to_owned();
    let ending = Ending::new(Arc::clone(&pod), socket, log.clone(), shutdown.clone());
    let ending = Arc::new(ending);
    let service = Service::new(Arc::clone(&pod), launch, log.clone(), Arc::clone(&ending));
    let mut server = Server::new()
        .add_listener(listener.into_raw_fd())
        .map_err(|error| failed("listen on", path, &error))?
        .set_accept_hook(Doorkeeper)
        .register_service(service.methods());
    server.start().map_err(|error| failed("serve", path, &error))?;
    let reaper = Arc::clone(&pod);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            attend(&signals, &reaper);
            let _ = shutdown.try_send(());
        })
        .call("clone")
        .context("watch", "children")?;
    if told.recv_timeout(FIRST_CONTAINER).is_err() {
        if !pod.was_used() {
            ending.when_empty();
        }
        // The other end is here too: an error cannot come.
        let _ = told.recv();
    }
    // After `Shutdown` all of this has been done. A signal asks for it with containers too.
    ending.now();
    let lost = pod.events().publisher().close(Instant::now() + FLUSH);
    if lost > 0 {
        log.error(&format!("{lost} events could not be sent"));
    }
    let (sender, done) = bounded::<()>(0);
    let ended = thread::Builder::new().name("goodbye".to_owned()).spawn(move || {
        server.shutdown();
        drop(sender);
    });
    if ended.is_ok() {
        let _ = done.recv_timeout(GOODBYE);
    }
    Ok(())
}

/// Signals come as messages from here on, in every thread.
fn signals() -> runtime::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        set.add(signal);
    }
    set.thread_block().call("sigprocmask").context("block", "signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).call("signalfd").context("receive", "signals")
}

/// Reaps children for as long as the shim lives; ends with a signal that asks for its end.
fn attend(signals: &SignalFd, pod: &Arc<Pod>) {
    loop {
        match signals.read_signal() {
            Ok(Some(info)) if info.ssi_signo == Signal::SIGCHLD as u32 => {}
            Ok(Some(_)) => return,
            Ok(None) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        while let Ok(Some((pid, status))) = runtime::reap_child() {
            pod.reaped(pid, status);
        }
    }
}

fn failed(operation: &str, path: &Path, error: &impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::System, operation, runtime::quote(path), error.to_string())
}
