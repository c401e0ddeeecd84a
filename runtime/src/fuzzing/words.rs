//! What strings of mutated documents are taken from: the names of all properties and options, the
//! words of their enumerations, and values at the edges of what is accepted.

use std::collections::BTreeSet;

use super::Once;
use crate::spec::grow;
use crate::{caps, mount, seccomp};

/// The words.
pub fn words() -> &'static [String] {
    static WORDS: Once<Vec<String>> = Once::new();
    WORDS.get_or_init(|| {
        let mut words = BTreeSet::new();
        grow::names(&grow::CONFIG, &mut words);
        words.extend(mount::options::known().map(str::to_owned));
        words.extend(caps::names());
        words.extend(seccomp::ARCHS.iter().map(|arch| {
            serde_json::to_value(arch)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .expect("an architecture is written as a word")
        }));
        words.extend(seccomp::OPERATORS.map(str::to_owned));
        words.extend(seccomp::known_flags().into_iter().map(str::to_owned));
        words.extend(EDGES.split('\n').map(|word| word.trim_start().to_owned()));
        words.into_iter().collect()
    })
}

/// One per line; the first is empty.
const EDGES: &str = "
    1.0.2
    1.3.0
    SCMP_ACT_KILL
    SCMP_ACT_KILL_PROCESS
    SCMP_ACT_KILL_THREAD
    SCMP_ACT_TRAP
    SCMP_ACT_ERRNO
    SCMP_ACT_TRACE
    SCMP_ACT_ALLOW
    SCMP_ACT_LOG
    SCMP_ACT_NOTIFY
    read
    write
    socket
    socketcall
    ipc
    semop
    bind
    clone
    clone3
    execve
    cacheflush
    openat2
    no_such_call
    /run/agent.sock
    pid
    network
    mount
    ipc
    uts
    user
    cgroup
    time
    boottime
    monotonic
    /proc/self/ns/net
    /proc/1/ns/user
    RLIMIT_NOFILE
    RLIMIT_CORE
    RLIMIT_NO_SUCH
    a
    b
    c
    u
    p
    rwm
    /
    /proc
    /proc/sys
    /proc/uptime
    /sys
    /sys/fs/cgroup
    /dev
    /dev/null
    /dev/shm
    /a/../proc
    ../../x
    /x//./y
    ..
    .
    relative
    proc
    sysfs
    tmpfs
    devpts
    mqueue
    cgroup2
    none
    bind
    rbind
    size=64k
    mode=755,ro
    gid=5
    context=\"u:r:t:s0:c1,c2\"
    rslave
    shared
    net.ipv4.ip_forward
    net/ipv4/conf/eth0.1/rp_filter
    kernel.shmmax
    kernel.domainname
    kernel.core_pattern
    net.../sysrq-trigger
    fs.mqueue.msg_max
    user.max_user_namespaces
    memory.max
    memory.swap.max
    cpu.max
    pids.max
    ../cgroup.procs
    max
    2MB
    1GB
    64KB
    0-3,7
    mlx5_0
    PER_LINUX32
    LINUX
    LINUX32
    SCHED_FIFO
    IOPRIO_CLASS_IDLE
    MPOL_BIND
    Kvm
    TERM=xterm
    NOTIFY_SOCKET=/x
    run.oci.systemd.force_cgroup_v1
    unconfined
    system_u:system_r:t:s0
    a.slice:b:c
    18446744073709551615
    -1
    4294967296";
