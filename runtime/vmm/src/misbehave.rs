//! A port by which the guest makes a thread of the monitor do what one does that was taken over.
//!
//! It exists in debug builds with the feature `misbehave` alone, to show that such a thread gets nothing: the first
//! byte of `MISBEHAVE_PORT` is for the processor that writes it, the second for the event loop. The value chooses from
//! `CALLS`. A call that comes back, whatever it answers, ends the machine with its name; the filter lets none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::{Bus, Registers};
use crate::ending::{End, Ending};
use crate::error::Error;

#[cfg(not(debug_assertions))]
compile_error!("the feature `misbehave` is not for release builds");

pub(crate) const MISBEHAVE_PORT: u16 = 0x700;

/// What can be asked for. The first is allowed, to show that the port works.
pub(crate) const CALLS: &[&str] = &[
    "sched_yield",
    "open",
    "execve",
    "socket",
    "ptrace",
    "kill",
    "mount",
    "process_vm_readv",
    "clone",
    "unshare",
    "pidfd_open",
    "bpf",
    "io_uring_setup",
];

/// Both halves of the port.
pub(crate) struct Misbehaviour {
    parent: libc::pid_t,
    asked: AtomicU8,
    event: EventFd,
    end: End,
}

impl Misbehaviour {
    /// Puts the port on `bus`; answers the part of the event loop.
    pub(crate) fn insert(bus: &mut Bus, end: &End) -> std::io::Result<InLoop> {
        let misbehaviour = Arc::new(Self {
            parent: nix::unistd::getppid().as_raw(),
            asked: AtomicU8::new(0),
            event: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            end: end.clone(),
        });
        bus.insert(MISBEHAVE_PORT.into(), 2, misbehaviour.clone());
        Ok(InLoop(misbehaviour))
    }

    fn perform(&self, index: u8) {
        let Some(name) = CALLS.get(usize::from(index)) else { return };
        let answer = call(name, self.parent);
        let error = Error::new("misbehave", format_args!("{name} came back with {answer}"));
        self.end.say(Ending::Failed(error));
    }
}

/// Each is harmless if it is allowed, except that `execve` makes the process another program.
#[allow(unsafe_code)]
fn call(name: &str, parent: libc::pid_t) -> i64 {
    let (mut byte, null) = (0_u8, std::ptr::null::<u8>());
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let program = [c"/bin/true".as_ptr(), std::ptr::null()];
    // SAFETY: every pointer is to what lives during the call and is as large as the call takes it to be, or null.
    unsafe {
        match name {
            "sched_yield" => libc::syscall(libc::SYS_sched_yield),
            "open" => libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                c"/etc/passwd".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            ),
            "execve" => libc::syscall(libc::SYS_execve, program[0], program.as_ptr(), null),
            "socket" => libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, parent, null, null),
            "kill" => libc::syscall(libc::SYS_kill, parent, 0),
            "mount" => libc::syscall(
                libc::SYS_mount,
                null,
                c"/nonexistent".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                null,
            ),
            "process_vm_readv" => libc::syscall(
                libc::SYS_process_vm_readv,
                parent,
                &raw const local,
                1,
                &raw const remote,
                1,
                0,
            ),
            // No flags that go together: it fails after the filter has let it pass.
            "clone" => libc::syscall(libc::SYS_clone, libc::CLONE_THREAD, null, null, null, 0),
            "unshare" => libc::syscall(libc::SYS_unshare, 0),
            "pidfd_open" => libc::syscall(libc::SYS_pidfd_open, parent, 0),
            "bpf" => libc::syscall(libc::SYS_bpf, -1, null, 0),
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 0, null),
            _ => -1,
        }
    }
}

impl Registers for Misbehaviour {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [index]) => self.perform(*index),
            (1, [index]) => {
                self.asked.store(*index, Ordering::SeqCst);
                let _ = self.event.write(1);
            }
            _ => {}
        }
    }
}

/// The event loop's half.
pub(crate) struct InLoop(Arc<Misbehaviour>);

impl MutEventSubscriber for InLoop {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        ops.add(Events::new(&self.0.event, EventSet::IN)).expect("a new event can be waited for");
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.0.event.read();
        self.0.perform(self.0.asked.load(Ordering::SeqCst));
    }
}
