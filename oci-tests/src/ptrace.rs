//! A driver for processes that are stopped at each of their system calls: records the calls of a
//! command and of the processes it forks, and makes one chosen call fail, or the last of its caller.
//!
//! A call is known by who makes it (processes are numbered in the order of their birth), which it is,
//! and how many of its kind the process has made: that repeats from run to run, the order between
//! processes does not. Programs that the command executes, hooks and the container's own, are let go.
//!
//! A stop costs more than most calls. So when a call is chosen, only its caller is stopped, and only up to
//! that call; of the others no more is wanted than their births. Once the command has ended, those who
//! still run are stopped again, to see who has come to wait.
//!
//! And a hold on one process, which is made to make calls itself ([`Hold`]).
//!
//! See [ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html).
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use libc::{c_int, pid_t};

/// What happens to the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// It fails with this errno and does nothing.
    Errno(i32),
    /// Its caller is killed before it is carried out.
    Kill,
}

/// A system call of a recorded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Who makes it: 0 is the command itself.
    pub process: usize,
    /// Which it is; `SYS_*`.
    pub number: i64,
    /// How many of its kind that process has made with this one.
    pub nth: usize,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Every call, in the order of their beginnings.
    pub sites: Vec<Site>,
    /// The wait status of the command.
    pub status: c_int,
    /// Whether the chosen call was reached.
    pub hit: bool,
    /// The calls in which processes still were when time was up.
    pub stuck: Vec<Site>,
}

/// Whether this machine lets us trace; a container around the suite may not.
pub fn available() -> io::Result<bool> {
    // SAFETY: PTRACE_TRACEME takes no memory of ours; the child ends right after.
    let status = crate::sys::forked(|| unsafe {
        i32::from(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == -1)
    })?;
    Ok(status == 0)
}

/// Has the command stop at its `execve`, for [`drive`].
pub fn trace_me(command: &mut Command) {
    // SAFETY: between fork and exec only ptrace(2) is called, which is async-signal-safe and takes no
    // memory of ours.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

struct Tracee {
    process: usize,
    number: i64,
    made: BTreeMap<i64, usize>,
    inside: bool,
    fail: Option<i32>,
    /// Its first stop, by SIGSTOP, is ptrace's own.
    fresh: bool,
    /// A SIGSTOP of ours is on its way to it.
    called: bool,
    /// It is to be let go once that has come.
    leaving: bool,
}

struct Driver {
    tracees: BTreeMap<pid_t, Tracee>,
    /// Everybody ever seen: a child may have come and gone before its parent tells of its birth.
    born: BTreeSet<pid_t>,
    main: pid_t,
    chosen: Option<(Site, Blow)>,
    /// Whether the command itself has ended.
    ended: bool,
    trace: Trace,
}

/// Lets a command that was prepared with [`trace_me`] run to its end, and its children to theirs, to
/// the execution of another program, or to the wait for a connection.
pub fn drive(main: pid_t, chosen: Option<(Site, Blow)>, deadline: Duration) -> io::Result<Trace> {
    let trace = Trace::default();
    let mut driver = Driver {
        tracees: BTreeMap::new(),
        born: BTreeSet::new(),
        main,
        chosen,
        ended: false,
        trace,
    };
    driver.meet(main, false);
    let alarm = Alarm::set(deadline)?;
    let mut prepared = false;
    while !driver.tracees.is_empty() {
        let mut status = 0;
        // SAFETY: waitpid writes one int, and `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL) };
        if pid == -1 {
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {
                    driver.abandon();
                    break;
                }
                Some(libc::ECHILD) => break,
                _ => return Err(io::Error::last_os_error()),
            }
        }
        if libc::WIFSTOPPED(status) {
            if pid == main && !prepared {
                prepared = true;
                let options = libc::PTRACE_O_TRACESYSGOOD
                    | libc::PTRACE_O_TRACEFORK
                    | libc::PTRACE_O_TRACEVFORK
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_TRACEEXEC
                    | libc::PTRACE_O_EXITKILL;
                request(libc::PTRACE_SETOPTIONS, pid, options as usize);
                driver.go_on(pid, 0);
            } else {
                driver.stopped(pid, status);
            }
        } else {
            driver.tracees.remove(&pid);
            if pid == main {
                driver.trace.status = status;
                driver.main_has_ended();
            }
        }
    }
    drop(alarm);
    Ok(driver.trace)
}

impl Driver {
    fn meet(&mut self, pid: pid_t, fresh: bool) {
        let process = self.born.len();
        self.born.insert(pid);
        let made = BTreeMap::new();
        let tracee = Tracee {
            process,
            number: -1,
            made,
            inside: false,
            fail: None,
            fresh,
            called: false,
            leaving: false,
        };
        self.tracees.insert(pid, tracee);
    }

    fn stopped(&mut self, pid: pid_t, status: c_int) {
        const SYSCALL: c_int = libc::SIGTRAP | 0x80;
        if !self.tracees.contains_key(&pid) {
            self.meet(pid, true);
        }
        let signal = libc::WSTOPSIG(status);
        let deliver = match (status >> 16, signal) {
            (libc::PTRACE_EVENT_EXEC, _) => {
                if pid != self.main {
                    return self.let_go(pid);
                }
                0
            }
            (libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE, _) => {
                let child = message(pid);
                if child > 0 && !self.born.contains(&child) {
                    self.meet(child, true);
                }
                0
            }
            (_, SYSCALL) => {
                if !self.call(pid) {
                    return;
                }
                0
            }
            (_, libc::SIGSTOP) if self.tracees[&pid].fresh => 0,
            (_, libc::SIGSTOP) if self.tracees[&pid].called => {
                let tracee = self.tracees.get_mut(&pid).expect("it was just looked up");
                tracee.called = false;
                if tracee.leaving || waits(pid) {
                    return self.let_go(pid);
                }
                0
            }
            (0, signal) => signal,
            _ => 0,
        };
        if let Some(tracee) = self.tracees.get_mut(&pid) {
            tracee.fresh &= signal != libc::SIGSTOP;
        }
        self.go_on(pid, deliver);
    }

    /// Lets a process run to its next call if somebody wants to see that, else to its next event.
    fn go_on(&mut self, pid: pid_t, deliver: c_int) {
        let Some(tracee) = self.tracees.get_mut(&pid) else { return };
        let wanted = match self.chosen {
            None => true,
            // The end of the chosen call is where its result is replaced.
            Some((site, _)) if site.process == tracee.process => {
                !self.trace.hit || tracee.fail.is_some()
            }
            Some(_) => false,
        };
        if wanted || self.ended {
            request(libc::PTRACE_SYSCALL, pid, deliver as usize);
        } else {
            tracee.inside = false;
            request(libc::PTRACE_CONT, pid, deliver as usize);
        }
    }

    /// Stops those who run without being looked at.
    fn main_has_ended(&mut self) {
        self.ended = true;
        if self.chosen.is_some() {
            for (pid, tracee) in self.tracees.iter_mut().filter(|(_, tracee)| !tracee.fresh) {
                tracee.called = true;
                // SAFETY: kill takes two numbers.
                unsafe { libc::kill(*pid, libc::SIGSTOP) };
            }
        }
    }

    /// Looks at the beginning or end of a call; answers whether the process is to go on.
    fn call(&mut self, pid: pid_t) -> bool {
        let Some(tracee) = self.tracees.get_mut(&pid) else { return false };
        let Some(mut registers) = registers(pid) else { return true };
        if tracee.inside {
            tracee.inside = false;
            if let Some(errno) = tracee.fail.take() {
                registers.rax = i64::from(-errno) as u64;
                set_registers(pid, &registers);
            }
            return true;
        }
        tracee.inside = true;
        tracee.number = registers.orig_rax as i64;
        let nth = tracee.made.entry(tracee.number).or_default();
        *nth += 1;
        let site = Site { process: tracee.process, number: tracee.number, nth: *nth };
        self.trace.sites.push(site);
        match self.chosen {
            Some((chosen, blow)) if chosen == site => {
                self.trace.hit = true;
                match blow {
                    Blow::Errno(errno) => {
                        tracee.fail = Some(errno);
                        // No such call: the kernel does nothing.
                        registers.orig_rax = u64::MAX;
                        set_registers(pid, &registers);
                        true
                    }
                    Blow::Kill => {
                        kill(pid);
                        false
                    }
                }
            }
            // The process of `create` waits for `start`.
            _ if tracee.process != 0
                && matches!(tracee.number, libc::SYS_accept | libc::SYS_accept4) =>
            {
                self.let_go(pid);
                false
            }
            _ => true,
        }
    }

    fn let_go(&mut self, pid: pid_t) {
        if let Some(tracee) = self.tracees.get_mut(&pid).filter(|tracee| tracee.called) {
            // A signal that came after the tracer has gone would stop it for good.
            tracee.leaving = true;
            return request(libc::PTRACE_CONT, pid, 0);
        }
        request(libc::PTRACE_DETACH, pid, 0);
        self.tracees.remove(&pid);
    }

    /// Time is up: notes where everybody is, and kills them.
    fn abandon(&mut self) {
        for (pid, tracee) in &self.tracees {
            let process = tracee.process;
            let number = current_call(*pid).unwrap_or(tracee.number);
            let nth = tracee.made.get(&number).copied().unwrap_or(0);
            self.trace.stuck.push(Site { process, number, nth });
            kill(*pid);
        }
        for pid in std::mem::take(&mut self.tracees).into_keys() {
            // SAFETY: a null status pointer is allowed.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
        }
    }
}

/// Whether a process that was stopped by a signal has been waiting for a connection.
fn waits(pid: pid_t) -> bool {
    registers(pid).is_some_and(|registers| {
        matches!(registers.orig_rax as i64, libc::SYS_accept | libc::SYS_accept4)
            && RESTARTS.contains(&(registers.rax as i64))
    })
}

/// The call that a process is in.
fn current_call(pid: pid_t) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// A request without memory of ours. A process that was killed meanwhile does not answer; its end is
/// reported by waitpid.
fn request(request: libc::c_uint, pid: pid_t, data: usize) {
    // SAFETY: the requests used here take a number as data and ignore the address.
    unsafe { libc::ptrace(request, pid, 0usize, data) };
}

fn message(pid: pid_t) -> pid_t {
    let mut value: libc::c_ulong = 0;
    // SAFETY: PTRACE_GETEVENTMSG writes one unsigned long, and `value` outlives the call.
    unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid, 0usize, &raw mut value) };
    value as pid_t
}

fn registers(pid: pid_t) -> Option<libc::user_regs_struct> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: PTRACE_GETREGS writes one user_regs_struct, and `registers` outlives the call.
    match unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0usize, &raw mut registers) } {
        -1 => None,
        _ => Some(registers),
    }
}

fn set_registers(pid: pid_t, registers: &libc::user_regs_struct) {
    // SAFETY: PTRACE_SETREGS reads one user_regs_struct.
    unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid, 0usize, std::ptr::from_ref(registers)) };
}

fn kill(pid: pid_t) {
    // SAFETY: kill takes two numbers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// ERESTARTSYS to ERESTART_RESTARTBLOCK: what the kernel has in store for an interrupted call.
const RESTARTS: std::ops::RangeInclusive<i64> = -516..=-512;

/// A process that waits in a system call, held there to make others. On drop it goes on waiting.
pub struct Hold {
    pid: pid_t,
    /// As they were: behind the instruction that calls.
    registers: libc::user_regs_struct,
    memory: File,
}

/// The length of x86-64's `syscall` instruction, and its bytes.
const CALLING: (u64, [u8; 2]) = (2, [0x0f, 0x05]);
/// What a program may use below its stack's end, and we may not.
const RED_ZONE: u64 = 4096;

impl Hold {
    /// Stops a process.
    pub fn take(pid: i32) -> io::Result<Self> {
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let options = libc::PTRACE_O_TRACESYSGOOD as usize;
        // SAFETY: PTRACE_SEIZE takes numbers.
        if unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0usize, options) } == -1 {
            return Err(io::Error::last_os_error());
        }
        request(libc::PTRACE_INTERRUPT, pid, 0);
        wait_for_stop(pid)?;
        let registers = registers(pid).ok_or_else(io::Error::last_os_error)?;
        let hold = Self { pid, registers, memory };
        let mut behind = [0; 2];
        hold.memory.read_exact_at(&mut behind, hold.registers.rip - CALLING.0)?;
        match behind == CALLING.1 {
            true => Ok(hold),
            false => Err(io::Error::other("it is not in a system call")),
        }
    }

    /// Puts text where the process can read it, for one call.
    pub fn text(&self, text: &str) -> io::Result<u64> {
        let address = (self.registers.rsp - RED_ZONE - text.len() as u64) & !15;
        self.memory.write_all_at(format!("{text}\0").as_bytes(), address)?;
        Ok(address)
    }

    /// Has the process make a system call; answers what that returns: a negative errno if it failed.
    pub fn call(&self, number: i64, arguments: &[u64]) -> io::Result<i64> {
        let argument = |n: usize| arguments.get(n).copied().unwrap_or(0);
        let mut registers = self.registers;
        registers.rip -= CALLING.0;
        // Not in a system call, or the kernel would begin the interrupted one again.
        registers.orig_rax = u64::MAX;
        registers.rax = number as u64;
        registers.rdi = argument(0);
        registers.rsi = argument(1);
        registers.rdx = argument(2);
        registers.r10 = argument(3);
        registers.r8 = argument(4);
        registers.r9 = argument(5);
        set_registers(self.pid, &registers);
        for _ in ["begins", "ends"] {
            request(libc::PTRACE_SYSCALL, self.pid, 0);
            wait_for_stop(self.pid)?;
        }
        self::registers(self.pid)
            .map(|registers| registers.rax as i64)
            .ok_or_else(io::Error::last_os_error)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut registers = self.registers;
        if RESTARTS.contains(&(registers.rax as i64)) {
            registers.rip -= CALLING.0;
            registers.rax = registers.orig_rax;
            registers.orig_rax = u64::MAX;
        }
        set_registers(self.pid, &registers);
        request(libc::PTRACE_DETACH, self.pid, 0);
    }
}

/// Waits until a traced process stops.
fn wait_for_stop(pid: pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: waitpid writes one int, and `status` outlives the call.
    match unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } {
        -1 => Err(io::Error::last_os_error()),
        _ if libc::WIFSTOPPED(status) => Ok(()),
        _ => Err(io::Error::other("it ended")),
    }
}

/// Interrupts a wait after a time.
struct Alarm;

impl Alarm {
    fn set(after: Duration) -> io::Result<Self> {
        extern "C" fn ring(_: c_int) {}
        // SAFETY: the action is zeroed but for a handler that does nothing; without SA_RESTART a wait
        // ends with EINTR.
        let set = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ring as *const () as usize;
            libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut())
        };
        if set == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: alarm takes a number.
        unsafe { libc::alarm(after.as_secs().max(1) as u32) };
        Ok(Self)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: alarm takes a number; 0 cancels.
        unsafe { libc::alarm(0) };
    }
}
