//! Filters on the running kernel. A filter belongs to a thread and what it starts, so each test has a
//! thread of its own and nothing is left.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getpgid;

use super::*;

/// `calls.c`, built for one architecture.
struct Calls(PathBuf);

impl Calls {
    /// `None`, and a word about it, where the compiler cannot do it.
    fn build(test: &str, machine: &str) -> Option<Self> {
        let name = format!("bulkhead-calls-{}-{test}{machine}", std::process::id());
        let calls = Self(std::env::temp_dir().join(name));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/tests/calls.c");
        let built = Command::new("gcc")
            .args([machine, "-O1", "-static", "-nostdlib", "-no-pie", "-fno-pie", "-fno-builtin"])
            .args(["-fno-stack-protector", source, "-o"])
            .arg(&calls.0)
            .output();
        if !built.is_ok_and(|output| output.status.success()) {
            println!("skipped: needs gcc {machine}");
            return None;
        }
        Some(calls)
    }

    fn run(&self, filter: &Filter, calls: &[&str]) -> Output {
        filtered(filter, || Command::new(&self.0).args(calls).output().unwrap())
    }

    fn results(&self, filter: &Filter, calls: &[&str]) -> Vec<i64> {
        let output = self.run(filter, calls);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs `job` in a thread that has the filter.
fn filtered<T: Send>(filter: &Filter, job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            filter.install().unwrap();
            job()
        });
        thread.join().unwrap()
    })
}

const EPERM: i64 = -(libc::EPERM as i64);
const ENOSYS: i64 = -(libc::ENOSYS as i64);
const EFAULT: i64 = -(libc::EFAULT as i64);

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_get_their_errno() {
    let Some(calls) = Calls::build("errno", "-m64") else {
        return;
    };
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 0, "value": u32::MAX, "op": "SCMP_CMP_EQ"}]},
            {"names": ["geteuid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
        ],
    }));
    // getppid, personality(-1) twice, geteuid; then the same by int $0x80, where bits above the
    // lower half of the argument do not reach the kernel.
    let results = calls.results(
        &filter,
        &[
            "n:6e",
            "n:87:ffffffff",
            "n:87:1ffffffff",
            "n:6b",
            "i:40",
            "i:88:ffffffff",
            "i:88:1ffffffff",
        ],
    );
    assert_eq!(results[..2], [-7, EPERM]);
    assert!(results[2] >= 0, "the value is another one: {results:?}");
    assert_eq!(results[3..], [0, -7, EPERM, EPERM]);
    // x32: the kernel may lack it, the filter does not.
    assert_eq!(calls.results(&filter, &["n:4000006e"]), [-7]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn unlisted_conventions_kill() {
    let Some(calls) = Calls::build("kill", "-m64") else {
        return;
    };
    let filter = compile(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    for call in ["i:14", "n:40000027"] {
        let output = calls.run(&filter, &[call]);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{call} {output:?}");
    }
    assert_eq!(calls.results(&filter, &["n:87:ffffffff"]).len(), 1);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn programs_of_32_bits_run_under_the_distributions_profile() {
    let Some(calls) = Calls::build("distribution", "-m32") else {
        return;
    };
    let Some(value) = distribution() else { return };
    let filter = compile(value);
    // getpid, socketcall(SYS_SOCKET, null), socket(AF_UNIX, SOCK_STREAM), mount, acct, swapon, nothing.
    let results =
        calls.results(&filter, &["i:14", "i:66:1", "i:167:1:1", "i:15", "i:33", "i:57", "i:3e8"]);
    assert!(results[0] > 0);
    assert_eq!(results[1], EFAULT, "allowed, so that the kernel looks at the arguments");
    assert!(results[2] > 2, "a descriptor: {results:?}");
    assert_eq!(results[4..], [EPERM, EPERM, ENOSYS]);
}

#[test]
fn ordinary_programs_run_under_the_distributions_profile() {
    let Some(value) = distribution() else { return };
    run_script(&compile(value));
}

#[test]
fn ordinary_programs_run_under_our_own_profile() {
    let profile = default_seccomp::default_seccomp(&Default::default());
    run_script(&super::super::plan(&profile, &mut Vec::new()).unwrap());
}

fn run_script(filter: &Filter) {
    let script = "set -e; ls / | sort | wc -l; sleep 0 & wait; cat /proc/self/status >/dev/null";
    let output = filtered(filter, || Command::new("sh").args(["-c", script]).output().unwrap());
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_notification_reaches_the_listener() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent.sock",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_NOTIFY"}],
    }));
    let (sender, receiver) = mpsc::channel::<OwnedFd>();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sender.send(filter.install().unwrap().unwrap()).unwrap();
            getpgid(None)
        });
        let listener = receiver.recv().unwrap();
        let flags = nix::fcntl::fcntl(&listener, nix::fcntl::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, PollTimeout::try_from(10_000).unwrap()), Ok(1));
        // Without anybody to answer, the call fails with ENOSYS.
        drop(listener);
        assert_eq!(thread.join().unwrap(), Err(Errno::ENOSYS));
    });
}

/// TSYNC filters the whole process, so the work is done in a copy of the test program.
#[test]
fn all_threads_and_a_listener_go_together() {
    const CHILD: &str = "BULKHEAD_TEST_TSYNC_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "seccomp::tests::kernel::all_threads_and_a_listener_go_together"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent.sock",
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
            {"names": ["getsid"], "action": "SCMP_ACT_NOTIFY"},
        ],
    }));
    let (go, gone) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        gone.recv().unwrap();
        getpgid(None)
    });
    assert!(filter.install().unwrap().is_some());
    go.send(()).unwrap();
    assert_eq!(other.join().unwrap(), Err(Errno::E2BIG));
}

#[test]
fn features_are_those_of_this_kernel() {
    assert_eq!(super::super::actions().len(), 9);
    assert!(super::super::supported_flags().contains(&"SECCOMP_FILTER_FLAG_TSYNC"));
    assert_eq!(super::super::known_flags().len(), 4);
}
