"""What is measured: the two configurations, and the same two as arguments of the floor."""

import json
import os
import re
import struct

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
BINDS = 20
MEMORY = 64 << 20
QUOTA = 50000
PIDS = 100
PROFILE = "/usr/share/containers/seccomp.json"


def default(cgroup, v2, args):
    """What `spec` writes, without a terminal. No ambient set: without an inheritable one the kernel refuses it."""
    namespaces = ["pid", "network", "ipc", "uts", "mount"] + (["cgroup"] if v2 else [])
    mounts = [
        ("/proc", "proc", "proc", None),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bench",
        "mounts": [
            {"destination": d, "type": t, "source": s, **({"options": o} if o else {})} for d, t, s, o in mounts
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": n} for n in namespaces],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def full(cgroup, v2, args, sources, profile):
    """The default and what an engine adds: user namespace, seccomp profile, 20 bind mounts, three limits."""
    config = default(cgroup, v2, args)
    linux = config["linux"]
    linux["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        linux[kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux["resources"].update(
        memory={"limit": MEMORY}, cpu={"quota": QUOTA, "period": 100000}, pids={"limit": PIDS}
    )
    linux["seccomp"] = profile
    for i, (source, target, mode) in enumerate(binds(sources)):
        config["mounts"].append(
            {"destination": "/" + target, "type": "bind", "source": source, "options": ["bind", mode, "nosuid", "nodev"]}
        )
    return config


def binds(sources):
    return [(f"{sources}/{i}", f"mnt/{i}", "rw" if i % 2 else "ro") for i in range(BINDS)]


def seccomp(path):
    """The profile of Debian's containers packages in OCI form, for x86-64 and the capabilities above."""
    with open(path) as f:
        source = json.load(f)
    arch = next(a for a in source["archMap"] if a["architecture"] == "SCMP_ARCH_X86_64")
    rules = []
    for rule in source["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("arches") and not {"amd64", "x32", "x86"} & set(includes["arches"]):
            continue
        if not set(includes.get("caps") or []) <= set(CAPABILITIES) or set(excludes.get("caps") or []) & set(CAPABILITIES):
            continue
        if {"amd64", "x32", "x86"} & set(excludes.get("arches") or []):
            continue
        out = {"names": rule["names"], "action": rule["action"]}
        if rule.get("args"):
            out["args"] = [{k: v for k, v in a.items() if k in ("index", "value", "valueTwo", "op")} for a in rule["args"]]
        if rule["action"] == "SCMP_ACT_ERRNO" and "errnoRet" in rule:
            out["errnoRet"] = rule["errnoRet"]
        rules.append(out)
    return {
        "defaultAction": source["defaultAction"],
        "defaultErrnoRet": source.get("defaultErrnoRet", 1),
        "architectures": [arch["architecture"], *arch["subArchitectures"]],
        "syscalls": rules,
    }


def floor_filter(profile):
    """The profile as a filter for the floor: a search by number for x86-64. Conditions on arguments are left out."""
    header = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
    with open(header) as f:
        numbers = {n: int(v) for n, v in re.findall(r"#define __NR_(\w+) (\d+)", f.read())}
    refuse = 0x00050000 | profile["defaultErrnoRet"]
    verdicts = {}
    for rule in profile["syscalls"]:
        verdict = 0x7FFF0000 if rule["action"] == "SCMP_ACT_ALLOW" else 0x00050000 | rule.get("errnoRet", 1)
        for n in rule["names"]:
            if n in numbers and verdicts.get(numbers[n]) != 0x7FFF0000:
                verdicts[numbers[n]] = verdict
    ranges = [(0, verdicts.get(0, refuse))]
    for n in range(1, max(verdicts) + 2):
        if verdicts.get(n, refuse) != ranges[-1][1]:
            ranges.append((n, verdicts.get(n, refuse)))

    def search(part):
        if len(part) == 1:
            return [(0x06, 0, 0, part[0][1])]
        middle = len(part) // 2
        below, above = search(part[:middle]), search(part[middle:])
        return [(0x35, len(below), 0, part[middle][0]), *below, *above]

    load_arch, load_number = (0x20, 0, 0, 4), (0x20, 0, 0, 0)
    program = [load_arch, (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, refuse), load_number, *search(ranges)]
    return b"".join(struct.pack("=HBBI", *i) for i in program)


def floor_arguments(scenario, name, hierarchies, rootfs, sources, filter_file, args, memory=None):
    options = ["-m", str(memory)] if memory else []
    if scenario == "full":
        options = ["-u", "-m", str(MEMORY), "-q", str(QUOTA), "-p", str(PIDS)]
        if filter_file:
            options += ["-s", filter_file]
        for source, target, mode in binds(sources):
            options += ["-b", source, "/" + target, mode]
    return [*options, rootfs, name.lstrip("/"), *hierarchies, "--", *args]


def write(directory, config):
    os.makedirs(f"{directory}/rootfs", exist_ok=True)
    with open(f"{directory}/config.json", "w") as f:
        json.dump(config, f)
