/* The floor: the system calls that a container of the benchmark needs, and nothing else.
 *
 *     floor [-u] [-m BYTES] [-q CPU_US_OF_100000] [-p PIDS] [-s FILTER] [-b SOURCE TARGET ro|rw]... ROOTFS CGROUP HIERARCHY... -- PROGRAM
 *
 * It gives the same isolation as a runtime does for the same bundle: the namespaces, the mounts with their flags, the
 * masked and read-only paths, the devices and device rules, the capabilities, a cgroup in the same hierarchies, which
 * is removed after. `run --check` compares the result from inside. What a runtime has to do and this program has not:
 * read a configuration, keep state, accept another configuration, explain an error, defend its own binary.
 *
 * The order is that of docs/design.md: cgroup first, then one clone3. The child waits for its parent only when there is
 * a user namespace, for the id maps.
 *
 * HIERARCHY is a mount point of a cgroup hierarchy. A single one is cgroup2; among several, "unified" is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* <sys/mount.h> and <linux/mount.h> of this C library exclude each other; this is all that is needed of the former. */
#define MNT_DETACH 2

#define ARRAY(a) (sizeof(a) / sizeof((a)[0]))
/* A failed call ends the program with its source line: this program has one user, the benchmark. */
#define MUST(call) must((long)(call), #call)

static long must(long result, const char *what) {
    if (result < 0) {
        dprintf(2, "floor: %s: %s\n", what, strerror(errno));
        _exit(1);
    }
    return result;
}

struct bind {
    const char *source, *target;
    int readonly;
};

static struct bind binds[64];
static size_t nbinds;
static int user_namespace;
static const char *memory, *quota, *pids, *filter_file;
static const char *rootfs, *name, *hierarchies[16];
static size_t nhierarchies;
static int cgroups[16]; /* our directory in each hierarchy */
static int into = -1;   /* index of the cgroup2 that clone3 puts the child into, or -1 */
static int v2;          /* whether that is the only hierarchy, with all the controllers */
static int filter_fd;
static char **program;

/* ---- cgroup, in the creator ---- */

static void put(int dir, const char *file, const char *text) {
    int fd = MUST(openat(dir, file, O_WRONLY | O_CLOEXEC));
    if (write(fd, text, strlen(text)) < 0) {
        dprintf(2, "floor: write %s \"%s\": %s\n", file, text, strerror(errno));
        _exit(1);
    }
    close(fd);
}

static const char *basename_of(const char *path) {
    return strrchr(path, '/') + 1;
}

/* The device rules every container has: make any node, use the ordinary ones. */
static const struct {
    char type;
    int major, minor; /* -1: any */
    const char *access;
} rules[] = {
    {'c', -1, -1, "m"}, {'b', -1, -1, "m"},  {'c', 1, 3, "rwm"},    {'c', 1, 5, "rwm"}, {'c', 1, 7, "rwm"},
    {'c', 1, 8, "rwm"}, {'c', 1, 9, "rwm"},  {'c', 5, 0, "rwm"},    {'c', 5, 2, "rwm"}, {'c', 136, -1, "rwm"},
};

static void device_rules_v1(int dir) {
    put(dir, "devices.deny", "a");
    for (size_t i = 0; i < ARRAY(rules); i++) {
        char text[64], major[12] = "*", minor[12] = "*";
        if (rules[i].major >= 0)
            snprintf(major, sizeof major, "%d", rules[i].major);
        if (rules[i].minor >= 0)
            snprintf(minor, sizeof minor, "%d", rules[i].minor);
        snprintf(text, sizeof text, "%c %s:%s %s", rules[i].type, major, minor, rules[i].access);
        put(dir, "devices.allow", text);
    }
}

static void device_rules_v2(int dir) {
    struct bpf_insn p[96];
    size_t n = 0;
#define I(c, d, s, o, i) (p[n++] = (struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
    I(BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0); /* r2 = type, r3 = access, r4 = major, r5 = minor */
    I(BPF_ALU64 | BPF_MOV | BPF_X, 3, 2, 0, 0);
    I(BPF_ALU64 | BPF_AND | BPF_K, 2, 0, 0, 0xffff);
    I(BPF_ALU64 | BPF_RSH | BPF_K, 3, 0, 0, 16);
    I(BPF_LDX | BPF_MEM | BPF_W, 4, 1, 4, 0);
    I(BPF_LDX | BPF_MEM | BPF_W, 5, 1, 8, 0);
    for (size_t i = 0; i < ARRAY(rules); i++) {
        int only_mknod = rules[i].access[0] == 'm';
        int rest = 2 + only_mknod + (rules[i].major >= 0) + (rules[i].minor >= 0);
        I(BPF_JMP | BPF_JNE | BPF_K, 2, 0, rest--, rules[i].type == 'c' ? BPF_DEVCG_DEV_CHAR : BPF_DEVCG_DEV_BLOCK);
        if (only_mknod)
            I(BPF_JMP | BPF_JNE | BPF_K, 3, 0, rest--, BPF_DEVCG_ACC_MKNOD);
        if (rules[i].major >= 0)
            I(BPF_JMP | BPF_JNE | BPF_K, 4, 0, rest--, rules[i].major);
        if (rules[i].minor >= 0)
            I(BPF_JMP | BPF_JNE | BPF_K, 5, 0, rest--, rules[i].minor);
        I(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1);
        I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
    I(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
    I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
#undef I
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insns = (uintptr_t)p, .insn_cnt = n, .license = (uintptr_t) "GPL"};
    int fd = MUST(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
    union bpf_attr attach = {.target_fd = dir, .attach_bpf_fd = fd, .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI};
    MUST(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
    close(fd);
}

/* A new v1 cpuset is empty, and a process cannot join it before it has the processors and nodes of its parent. */
static void inherit_cpuset(int dir) {
    static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
    for (size_t i = 0; i < ARRAY(files); i++) {
        char up[32], text[256];
        snprintf(up, sizeof up, "../%s", files[i]);
        int fd = MUST(openat(dir, up, O_RDONLY | O_CLOEXEC));
        ssize_t n = MUST(read(fd, text, sizeof text - 1));
        close(fd);
        text[n] = 0;
        put(dir, files[i], text);
    }
}

static void make_cgroups(void) {
    for (size_t i = 0; i < nhierarchies; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", hierarchies[i], name);
        MUST(mkdir(path, 0755));
        int dir = cgroups[i] = MUST(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
        const char *kind = basename_of(hierarchies[i]);
        if ((int)i == into)
            cgroups[i] = MUST(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (v2) {
            if (memory)
                put(dir, "memory.max", memory);
            if (quota)
                put(dir, "cpu.max", quota);
            if (pids)
                put(dir, "pids.max", pids);
            device_rules_v2(cgroups[i]);
        } else if (!strcmp(kind, "cpuset"))
            inherit_cpuset(dir);
        else if (!strcmp(kind, "devices"))
            device_rules_v1(dir);
        else if (!strcmp(kind, "memory") && memory)
            put(dir, "memory.limit_in_bytes", memory);
        else if (!strcmp(kind, "cpu") && quota) {
            put(dir, "cpu.cfs_period_us", "100000");
            put(dir, "cpu.cfs_quota_us", quota);
        } else if (!strcmp(kind, "pids") && pids)
            put(dir, "pids.max", pids);
    }
}

/* The child joins v1 cgroups itself, by a "0" in `tasks`: moving one's own single thread is the one migration that does
 * not take cgroup_threadgroup_rwsem for writing (cgroup_procs_write_start), and on a quiet machine that lock costs an RCU
 * grace period, several milliseconds. A cgroup2 was joined by clone3, also that of a hybrid layout, for the same reason. */
static void join_cgroups(void) {
    for (size_t i = 0; i < nhierarchies; i++)
        if ((int)i != into)
            put(cgroups[i], "tasks", "0");
}

static void remove_cgroups(void) {
    for (size_t i = 0; i < nhierarchies; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", hierarchies[i], name);
        MUST(rmdir(path));
    }
}

/* ---- mounts, in the child ---- */

static int root; /* the new root, by descriptor */

static int target(const char *path) {
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    return MUST(syscall(SYS_openat2, root, path, &how, sizeof how));
}

static void attach(int mount, int at) {
    MUST(syscall(SYS_move_mount, mount, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
    close(at);
    close(mount);
}

static int clone_tree(int dir, const char *path, unsigned flags) {
    return MUST(syscall(SYS_open_tree, dir, path, flags | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
}

static void set_attributes(int fd, uint64_t set, uint64_t propagation, unsigned flags) {
    struct mount_attr a = {.attr_set = set, .propagation = propagation};
    MUST(syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &a, sizeof a));
}

#define NS MOUNT_ATTR_NOSUID
#define ND MOUNT_ATTR_NODEV
#define NX MOUNT_ATTR_NOEXEC
#define RO MOUNT_ATTR_RDONLY

static int filesystem(const char *type, const char *const *options, uint64_t attributes) {
    int fs = MUST(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
    for (; options && options[0]; options += 2)
        MUST(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, options[0], options[1], 0));
    MUST(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    int mount = MUST(syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes));
    close(fs);
    return mount;
}

static const struct {
    const char *target, *type;
    uint64_t attributes;
    const char *options[12];
} mounts[] = {
    {"proc", "proc", 0, {0}},
    {"dev", "tmpfs", NS | MOUNT_ATTR_STRICTATIME, {"source", "tmpfs", "mode", "755", "size", "65536k"}},
    {"dev/pts", "devpts", NS | NX, {"source", "devpts", "ptmxmode", "0666", "mode", "0620", "gid", "5"}},
    {"dev/shm", "tmpfs", NS | NX | ND, {"source", "shm", "mode", "1777", "size", "65536k"}},
    {"dev/mqueue", "mqueue", NS | NX | ND, {0}},
    {"sys", "sysfs", NS | NX | ND | RO, {0}},
};

static const struct {
    const char *path;
    int major, minor;
} nodes[] = {
    {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
};

static const char *const links[][2] = {
    {"/proc/self/fd", "dev/fd"},          {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
    {"/proc/self/fd/2", "dev/stderr"},    {"pts/ptmx", "dev/ptmx"},
};

static const char *const masked[] = {
    "/proc/acpi",       "/proc/asound",      "/proc/kcore",       "/proc/keys",     "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",  "/proc/scsi",
};

static const char *const readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

static void devices(void) {
    for (size_t i = 0; i < ARRAY(nodes); i++) {
        if (user_namespace) {
            /* mknod of a device is not for the root of a user namespace: the host's nodes are bound. */
            char host[32];
            snprintf(host, sizeof host, "/%s", nodes[i].path);
            int source = clone_tree(AT_FDCWD, host, 0);
            close(MUST(openat(root, nodes[i].path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666)));
            attach(source, target(nodes[i].path));
        } else
            MUST(mknodat(root, nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    }
    for (size_t i = 0; i < ARRAY(links); i++)
        MUST(symlinkat(links[i][0], root, links[i][1]));
}

static void cgroup_view(void) {
    if (v2) {
        attach(filesystem("cgroup2", NULL, NS | NX | ND | RO), target("sys/fs/cgroup"));
        return;
    }
    static const char *const options[] = {"mode", "755", NULL};
    int view = filesystem("tmpfs", options, NS | NX | ND);
    attach(dup(view), target("sys/fs/cgroup"));
    for (size_t i = 0; i < nhierarchies; i++) {
        /* The cgroup2 of a hybrid layout is joined, and not shown: runc does the same. */
        if ((int)i == into)
            continue;
        /* By path: a tree cannot be cloned from the creator's descriptor, which belongs to another mount namespace. */
        char path[512];
        snprintf(path, sizeof path, "%s/%s", hierarchies[i], name);
        int source = clone_tree(AT_FDCWD, path, 0);
        set_attributes(source, NS | NX | ND | RO, 0, 0);
        MUST(mkdirat(view, basename_of(hierarchies[i]), 0755));
        MUST(syscall(SYS_move_mount, source, "", view, basename_of(hierarchies[i]), MOVE_MOUNT_F_EMPTY_PATH));
        close(source);
    }
    set_attributes(view, RO, 0, 0);
    close(view);
}

static void build_root(void) {
    struct mount_attr slave = {.propagation = MS_SLAVE};
    MUST(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &slave, sizeof slave));
    root = clone_tree(AT_FDCWD, rootfs, AT_RECURSIVE);
    set_attributes(root, RO, MS_SLAVE, AT_RECURSIVE);
    MUST(syscall(SYS_move_mount, root, "", AT_FDCWD, rootfs, MOVE_MOUNT_F_EMPTY_PATH));

    for (size_t i = 0; i < ARRAY(mounts); i++) {
        if (i == 2) { /* the new /dev is empty */
            MUST(mkdirat(root, "dev/pts", 0755));
            MUST(mkdirat(root, "dev/shm", 0755));
            MUST(mkdirat(root, "dev/mqueue", 0755));
        }
        attach(filesystem(mounts[i].type, mounts[i].options, mounts[i].attributes), target(mounts[i].target));
    }
    cgroup_view();
    for (size_t i = 0; i < nbinds; i++) {
        int source = clone_tree(AT_FDCWD, binds[i].source, 0);
        set_attributes(source, NS | ND | (binds[i].readonly ? RO : 0), 0, 0);
        attach(source, target(binds[i].target));
    }
    devices();

    MUST(fchdir(root));
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(syscall(SYS_umount2, ".", MNT_DETACH));
    MUST(chdir("/"));
}

static void hide(void) {
    for (size_t i = 0; i < ARRAY(masked); i++) {
        struct stat st;
        int fd = open(masked[i], O_PATH | O_CLOEXEC);
        if (fd < 0)
            continue;
        MUST(fstat(fd, &st));
        if (S_ISDIR(st.st_mode))
            attach(filesystem("tmpfs", NULL, RO), fd);
        else
            attach(clone_tree(AT_FDCWD, "/dev/null", 0), fd);
    }
    for (size_t i = 0; i < ARRAY(readonly); i++) {
        int fd = open(readonly[i], O_PATH | O_CLOEXEC);
        if (fd < 0)
            continue;
        int tree = clone_tree(fd, "", AT_EMPTY_PATH | AT_RECURSIVE);
        set_attributes(tree, RO, 0, AT_RECURSIVE);
        attach(tree, fd);
    }
}

/* ---- credentials, in the child ---- */

static const unsigned capabilities[] = {CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE};

static void confine(void) {
    uint64_t set = 0;
    for (size_t i = 0; i < ARRAY(capabilities); i++)
        set |= 1ULL << capabilities[i];
    struct rlimit files = {1024, 1024};
    MUST(setrlimit(RLIMIT_NOFILE, &files));
    for (unsigned c = 0; c <= CAP_LAST_CAP; c++)
        if (!(set >> c & 1) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
            break; /* newer headers than kernel */
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(syscall(SYS_setgroups, 0, NULL));
    MUST(syscall(SYS_setresgid, 0, 0, 0));
    MUST(syscall(SYS_setresuid, 0, 0, 0));
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = set, .permitted = set},
        {.effective = set >> 32, .permitted = set >> 32},
    };
    MUST(syscall(SYS_capset, &header, data));

    struct sock_filter instructions[4096];
    struct sock_fprog filter = {.filter = instructions};
    if (filter_file)
        filter.len = MUST(read(filter_fd, instructions, sizeof instructions)) / sizeof instructions[0];
    MUST(syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC));
    if (filter_file)
        MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
}

static void loopback_up(void) {
    int s = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    MUST(ioctl(s, SIOCSIFFLAGS, &lo));
    close(s);
}

static void become_container(int go) {
    static char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL};
    MUST(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    join_cgroups(); /* while the kernel still knows us as the user who owns the files */
    if (user_namespace) {
        char byte;
        if (MUST(read(go, &byte, 1)) != 1)
            _exit(1);
        MUST(syscall(SYS_setresgid, 0, 0, 0));
        MUST(syscall(SYS_setresuid, 0, 0, 0));
    }
    MUST(setsid());
    MUST(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, "floor"));
    MUST(sethostname("floor", 5));
    loopback_up();
    umask(0);
    build_root();
    hide();
    umask(022);
    confine();
    execve(program[0], program, environment);
    MUST(-1);
}

/* ---- the creator ---- */

static void map_ids(pid_t pid) {
    static const char *const files[] = {"uid_map", "gid_map"};
    for (size_t i = 0; i < ARRAY(files); i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        put(AT_FDCWD, path, "0 100000 65536");
    }
}

static void arguments(int argc, char **argv) {
    int c;
    while ((c = getopt(argc, argv, "+um:q:p:s:b:")) != -1) {
        switch (c) {
        case 'u': user_namespace = 1; break;
        case 'm': memory = optarg; break;
        case 'q': quota = optarg; break;
        case 'p': pids = optarg; break;
        case 's': filter_file = optarg; break;
        case 'b':
            if (nbinds == ARRAY(binds) || optind + 2 > argc)
                exit(2);
            binds[nbinds++] = (struct bind){optarg, argv[optind], !strcmp(argv[optind + 1], "ro")};
            optind += 2;
            break;
        default: exit(2);
        }
    }
    if (argc - optind < 5)
        exit(2);
    rootfs = argv[optind++];
    name = argv[optind++];
    while (optind < argc && strcmp(argv[optind], "--") && nhierarchies < ARRAY(hierarchies))
        hierarchies[nhierarchies++] = argv[optind++];
    program = argv + optind + 1;
    v2 = nhierarchies == 1;
    for (size_t i = 0; i < nhierarchies; i++)
        if (v2 || !strcmp(basename_of(hierarchies[i]), "unified"))
            into = i;
}

int main(int argc, char **argv) {
    arguments(argc, argv);
    if (filter_file)
        filter_fd = MUST(open(filter_file, O_RDONLY | O_CLOEXEC));
    make_cgroups();
    int go[2] = {-1, -1}, status;
    if (user_namespace)
        MUST(pipe2(go, O_CLOEXEC));
    struct clone_args clone = {
        .flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS,
        .exit_signal = SIGCHLD,
    };
    if (user_namespace)
        clone.flags |= CLONE_NEWUSER;
    if (v2)
        clone.flags |= CLONE_NEWCGROUP;
    if (into >= 0) {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = cgroups[into];
    }
    pid_t pid = MUST(syscall(SYS_clone3, &clone, sizeof clone));
    if (pid == 0)
        become_container(go[0]);
    if (user_namespace) {
        map_ids(pid);
        MUST(write(go[1], "", 1));
    }
    MUST(waitpid(pid, &status, 0));
    remove_cgroups();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
