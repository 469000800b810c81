"""One bundle for each feature of config.json: what is changed in the document that `runc spec` writes.

A case is compared in full with every peer that knows the feature; one that no peer knows says what is to be seen.
"""

import os
from typing import Any, NamedTuple

from tests.runtime.test_cgroup_peers import CASES as RESOURCES
from tests.runtime.test_cgroup_peers import CRUN_CANNOT

M = 1 << 20
CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")


class Case(NamedTuple):
    """A change of the document, and what is to be found out beside `observe.SCRIPT`."""

    changes: dict[str, Any]
    extra: str = ""
    """Shell that is run in the container too; its words are the section `extra`."""
    peers: tuple[str, ...] = ("runc", "crun")
    """The peers whose observation is to be the same."""
    unlike: tuple[str, ...] = ()
    """Regular expressions of differences from crun that are crun's own ways."""
    seen: tuple[str, ...] = ()
    """Lines `section: line` that must be there."""


def capabilities(**sets: list[str]) -> dict[str, Any]:
    """All five sets, of which some are not empty."""
    return {"process.capabilities": {name: sets.get(name, []) for name in CAPABILITIES}}


def mount(destination: str, source: str, kind: str, *options: str) -> dict[str, Any]:
    """One more mount."""
    return {
        "mounts+": [{"destination": destination, "source": source, "type": kind, "options": list(options)}]
    }


def rlimit(name: str, soft: int, hard: int) -> dict[str, Any]:
    return {"process.rlimits": [{"type": name, "soft": soft, "hard": hard}]}


def namespaces(*kinds: str) -> dict[str, Any]:
    """Only these namespaces, all new."""
    return {"linux.namespaces": [{"type": kind} for kind in kinds]}


def identity(container: int, host: int, size: int) -> dict[str, int]:
    """One mapping of ids."""
    return {"containerID": container, "hostID": host, "size": size}


def filtered(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    """A seccomp filter."""
    return {"linux.seccomp": {"defaultAction": default, "syscalls": list(rules), **more}}


def resources(**kinds: Any) -> dict[str, Any]:
    """Limits, and the rule that denies all devices, without which crun leaves a container what its parent may use."""
    return {"linux.resources": {"devices": [{"allow": False, "access": "rwm"}], **kinds}}


ALL = ("pid", "network", "ipc", "uts", "mount", "cgroup")
WITHOUT = {kind: tuple(other for other in ALL if other != kind) for kind in ALL}
SYS_BOUND = {
    "destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
}  # fmt: skip
TMP_LISTED = "ls -lan /mnt | grep -v total | tr -s ' ' | cut -d ' ' -f 1,3,4"

NAMESPACES: dict[str, Case] = {
    "as runc spec writes it": Case({}),
    "no pid namespace": Case(namespaces(*WITHOUT["pid"])),
    "no ipc namespace": Case(namespaces(*WITHOUT["ipc"])),
    "no uts namespace": Case(namespaces(*WITHOUT["uts"]) | {"hostname": None}),
    "no cgroup namespace": Case(namespaces(*WITHOUT["cgroup"])),
    "no network namespace": Case(namespaces(*WITHOUT["network"])),
    "a user namespace": Case(
        {
            "linux.namespaces+": [{"type": "user"}],
            "linux.uidMappings": [
                identity(0, 0, 1000),
                identity(1000, 100000, 1000),
                identity(5000, 70000, 7),
            ],
            "linux.gidMappings": [identity(0, 0, 2000), identity(2000, 200000, 500)],
        },
        "stat -c '%n %u:%g' /bin /proc/1 /dev/null",
        unlike=("mounts: .* /(proc|dev)", "dev: "),
    ),
    "a user of a user namespace": Case(
        {
            "linux.namespaces+": [{"type": "user"}],
            "linux.uidMappings": [identity(0, 0, 1000), identity(1000, 100000, 1000)],
            "linux.gidMappings": [identity(0, 0, 1000), identity(1000, 100000, 1000)],
            "process.user": {"uid": 1001, "gid": 1002, "additionalGids": [7]},
        },
        "id",
        unlike=("mounts: .* /(proc|dev)", "dev: "),
    ),
    **{
        f"the {kind} namespace of the host's by path": Case(
            {
                "linux.namespaces": [{"type": other} for other in WITHOUT[kind]]
                + [{"type": kind, "path": path}]
            }
            | ({"hostname": None} if kind == "uts" else {})
        )
        for kind, path in (
            ("ipc", "/proc/self/ns/ipc"),
            ("uts", "/proc/self/ns/uts"),
            ("network", "/proc/self/ns/net"),
        )
    },
}

PROCESS: dict[str, Case] = {
    "a user": Case({"process.user": {"uid": 1000, "gid": 1001}}),
    "additional groups": Case({"process.user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 29, 44]}}),
    "a umask": Case({"process.user": {"uid": 0, "gid": 0, "umask": 0o27}}),
    "a working directory": Case({"process.cwd": "/tmp"}),
    "a working directory that is made": Case({"process.cwd": "/new/deep", "root.readonly": False}),
    "an environment": Case({"process.env": ["A=1", "PATH=/bin", "B=two words", "EMPTY=", "A=again"]}),
    "no environment but a path": Case({"process.env": ["PATH=/bin"]}),
    "new privileges": Case({"process.noNewPrivileges": False}),
    "no capabilities": Case(capabilities()),
    "all sets": Case(capabilities(**{name: ["CAP_KILL", "CAP_CHOWN"] for name in CAPABILITIES})),
    "only bounding": Case(capabilities(bounding=["CAP_KILL", "CAP_SYS_ADMIN"])),
    "ambient for a user": Case(
        {"process.user": {"uid": 1000, "gid": 1000}}
        | capabilities(**{name: ["CAP_NET_BIND_SERVICE"] for name in CAPABILITIES})
    ),
    "permitted for a user": Case(
        {"process.user": {"uid": 1000, "gid": 1000}}
        | capabilities(bounding=["CAP_KILL"], effective=["CAP_KILL"], permitted=["CAP_KILL"])
    ),
    "no member capabilities": Case({"process.capabilities": None}),
    "limits of files": Case(rlimit("RLIMIT_NOFILE", 100, 200)),
    "limits of cores": Case(rlimit("RLIMIT_CORE", 0, 0)),
    "many limits": Case(
        {
            "process.rlimits": [
                {"type": f"RLIMIT_{name}", "soft": 1000 + number, "hard": 2000 + number}
                for number, name in enumerate(("MSGQUEUE", "NPROC", "SIGPENDING", "LOCKS", "MEMLOCK"))
            ]
        }
    ),
    "an oom score": Case({"process.oomScoreAdj": 500}),
    "a hostname": Case({"hostname": "marker"}),
    "a domainname": Case({"domainname": "marker.example"}, peers=("crun",)),
    "annotations": Case({"annotations": {"org.example/a": "one", "b": "quote \" and \\ and ä"}}),
    "a read-write root": Case({"root.readonly": False}),
    "sysctls": Case({"linux.sysctl": {"net.ipv4.ip_default_ttl": "77", "kernel.shmmni": "1234"}}),
    "a sysctl of mqueue": Case({"linux.sysctl": {"fs.mqueue.msg_max": "33"}}),
    "a personality": Case({"linux.personality": {"domain": "LINUX32"}}, "uname -m", peers=("crun",)),
    "a session keyring": Case({"linux.maskedPaths": []}, 'grep -c "keyring.*$id" /proc/keys', seen=("extra: 1",)),
    "an I/O priority": Case(
        {"process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 5}}, "ionice -p 1", peers=(),
        seen=("extra: best-effort: prio 5",),
    ),
    "a scheduler": Case(
        {"process.scheduler": {"policy": "SCHED_BATCH", "nice": 3}},
        "grep '^policy' /proc/1/sched | tr -d ' '; cut -d ' ' -f 19 /proc/1/stat", peers=(),
        seen=("extra: policy:3", "extra: 3"),
    ),
    "a CPU to execute on": Case(
        {"process.execCPUAffinity": {"initial": "0", "final": "0"}}, peers=(), seen=("state running: pid some",)
    ),
    "clocks": Case(
        {
            "linux.timeOffsets": {"boottime": {"secs": 864000, "nanosecs": 0}, "monotonic": {"secs": 5}},
            "linux.namespaces+": [{"type": "time"}],
        },
        "tr -s ' ' </proc/1/timens_offsets", peers=(),
        seen=("extra: monotonic 5 0", "extra: boottime 864000 0", "host namespaces: time own"),
    ),
}  # fmt: skip

MOUNTS: dict[str, Case] = {
    "a tmpfs": Case(
        mount("/mnt", "tmpfs", "tmpfs", "nosuid", "size=1m", "mode=1770"), "stat -c %a /mnt", peers=("crun",)
    ),
    "a tmpfs, all flags": Case(
        mount("/mnt", "tmpfs", "tmpfs", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync", "ro")
    ),
    "a tmpfs, flags lifted": Case(
        mount("/mnt", "tmpfs", "tmpfs", "nosuid", "suid", "noexec", "exec", "nodev", "dev", "ro", "rw", "strictatime"),
        peers=("runc",),
    ),
    "a tmpfs with owner": Case(mount("/mnt", "tmpfs", "tmpfs", "uid=7", "gid=8"), TMP_LISTED, peers=("runc",)),
    "a copy": Case(
        mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"), "ls /etc; cat /etc/file", seen=("extra: content",)
    ),
    "a bind": Case(mount("/mnt", "SOURCE", "bind", "bind"), "ls /mnt; cat /mnt/sub/below; touch /mnt/x && echo rw"),
    "a bind that says no type": Case(mount("/mnt", "SOURCE", "none", "bind")),
    "a recursive bind": Case(mount("/mnt", "SOURCE", "bind", "rbind"), "cat /mnt/sub/below"),
    "a read-only bind": Case(mount("/mnt", "SOURCE", "bind", "rbind", "ro"), "touch /mnt/x || echo ro"),
    "a bind with flags": Case(mount("/mnt", "SOURCE", "bind", "bind", "nosuid", "nodev", "noexec", "noatime")),
    "a bind of a file": Case(mount("/etc/one", "SOURCE/file", "bind", "bind", "ro"), "cat /etc/one"),
    "a relative source": Case(mount("/mnt", "source", "bind", "bind"), "cat /mnt/file"),
    "deep destinations": Case(mount("/made/deep/er", "SOURCE", "bind", "bind") | {"root.readonly": False}),
    "a destination through a link": Case(mount("/link/in", "SOURCE", "bind", "bind") | {"root.readonly": False}),
    "a destination with dots": Case(mount("/tmp/../mnt/./x", "SOURCE", "bind", "bind"), "cat /mnt/x/file"),
    "a relative destination": Case(mount("mnt", "SOURCE", "bind", "bind"), "cat /mnt/file"),
    "shared": Case(mount("/mnt", "SOURCE", "bind", "bind", "shared"), unlike=("mounts: . /mnt",)),
    "slave": Case(mount("/mnt", "SOURCE", "bind", "rbind", "rslave")),
    "private": Case(mount("/mnt", "SOURCE", "bind", "rbind", "rprivate")),
    "unbindable": Case(mount("/mnt", "SOURCE", "bind", "bind", "unbindable"), unlike=("mounts: . /mnt",)),
    "mounts above mounts": Case(
        {"mounts+": [
            {"destination": "/mnt", "source": "tmpfs", "type": "tmpfs", "options": []},
            {"destination": "/mnt/a", "source": "SOURCE", "type": "bind", "options": ["bind"]},
            {"destination": "/mnt/a/sub", "source": "tmpfs", "type": "tmpfs", "options": ["ro"]},
        ]}
    ),
    "the host's sys": Case(
        namespaces(*WITHOUT["network"]) | {"mounts+": [SYS_BOUND]}, unlike=("mounts: ",), peers=(),
        seen=("session: 1 1 0",),
    ),
    "a recursive read-only bind": Case(
        mount("/mnt", "SOURCE", "bind", "rbind", "rro"), "touch /mnt/sub/x || echo ro", peers=("crun",),
        seen=("extra: ro",),
    ),
    "cgroups": Case(
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "rw"), peers=("runc",),
    ),
    # As with runc, but for the copy with which that covers it; with crun it has no effect.
    "the whole root read-only": Case(
        {"linux.readonlyPaths": ["/"], "root.readonly": False},
        "touch /x || echo no file; touch /tmp/x || echo none here; touch /dev/shm/x && echo one there",
        peers=(), seen=("extra: no file", "extra: none here", "extra: one there"),
    ),
    "no cgroup mount, no masks": Case({"linux.maskedPaths": [], "linux.readonlyPaths": []}),
    "masks": Case({"linux.maskedPaths+": ["/etc", "/root/secret", "/absent", "/etc"]}, "ls /etc; wc -c </root/secret"),
    "read-only paths": Case(
        {"linux.readonlyPaths+": ["/etc", "/absent"], "root.readonly": False}, "touch /etc/x || echo ro; touch /tmp/x"
    ),
    **{
        f"a root that is {kind}": Case({"linux.rootfsPropagation": kind})
        for kind in ("private", "rprivate", "slave", "rslave")
    },
    # Debian's runc refuses one and does not do the others; crun makes all of them from the root down.
    **{
        f"a root that is {kind}": Case({"linux.rootfsPropagation": kind}, peers=(), seen=("session: 1 1 0",))
        for kind in ("unbindable", "shared", "rshared")
    },
}  # fmt: skip


def device(kind: str, path: str, major: int, minor: int, **more: Any) -> dict[str, Any]:
    return {"linux.devices": [{"type": kind, "path": path, "major": major, "minor": minor, **more}]}


DEVICES: dict[str, Case] = {
    "a character device": Case(device("c", "/dev/fuse", 10, 229, fileMode=0o640, uid=7, gid=8)),
    "a device with neither mode nor owner": Case(device("c", "/dev/fuse", 10, 229)),
    "a block device": Case(device("b", "/dev/disk/one", 7, 3, fileMode=0o600), "ls -lan /dev/disk/one | cut -c 1-10"),
    "a device named u": Case(device("u", "/dev/unbuffered", 10, 229, fileMode=0o666)),
    "a pipe": Case(device("p", "/dev/pipe", 0, 0, fileMode=0o622, uid=1)),
    "a device outside /dev": Case(device("c", "/tmp/null", 1, 3) | {"root.readonly": False}, "stat -c %t,%T /tmp/null"),
}  # fmt: skip


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def chmod_to(op: str, value: int, **more: Any) -> dict[str, Any]:
    """A rule for the mode of chmod(2), under each of the names it may have."""
    args = [{"index": 1, "value": value, "op": op, **more}]
    at = [{"index": 2, "value": value, "op": op, **more}]
    return filtered(
        rule("SCMP_ACT_ERRNO", "chmod", args=args, errnoRet=11),
        rule("SCMP_ACT_ERRNO", "fchmodat", args=at, errnoRet=11),
    ) | {"root.readonly": False}


MODES = "for m in 600 640 644; do chmod $m /tmp && echo $m; done 2>&1"
# What a runtime, a shell and its tools need; mkdir is not among them.
ENOUGH = """
    accept accept4 access arch_prctl bind brk capget capset chdir chown clock_gettime
    clock_nanosleep clone clone3 close close_range connect dup dup2 dup3 epoll_create1 epoll_ctl
    epoll_pwait execve execveat exit exit_group faccessat faccessat2 fchdir fchown fchownat fcntl
    fcntl64 fork fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getgroups getpeername
    getpgrp getpid getppid getpriority getrandom getsockname getsockopt gettid gettimeofday getuid
    getxattr ioctl ioprio_get ioprio_set keyctl kill lgetxattr listen lseek lstat madvise mkdirat
    mmap mount mprotect munmap nanosleep newfstatat open openat pipe pipe2 poll ppoll prctl pread64
    prlimit64 process_vm_readv pselect6 read readlink readlinkat readv recvfrom recvmsg rename
    restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity
    sched_setaffinity sched_yield seccomp select sendmsg sendto set_robust_list set_tid_address
    setgid setgroups setpgid setpriority setresgid setresuid setsid setsockopt setuid sigaltstack
    socket stat statfs statx sysinfo tgkill time times umask uname utimensat utimes vfork wait4
    write writev
"""
SECCOMP: dict[str, Case] = {
    "an error": Case(filtered(rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat")), "mkdir /tmp/x 2>&1"),
    "an error by number": Case(filtered(rule("SCMP_ACT_ERRNO", "mkdir", errnoRet=28)), "mkdir /tmp/x 2>&1"),
    "a call that does not exist": Case(filtered(rule("SCMP_ACT_ERRNO", "nonsense", "mkdir")), "mkdir /tmp/x 2>&1"),
    "a kill": Case(filtered(rule("SCMP_ACT_KILL_PROCESS", "mkdir")), "mkdir /tmp/x; echo $?"),
    "a kill of the thread": Case(filtered(rule("SCMP_ACT_KILL", "mkdir")), "mkdir /tmp/x; echo $?"),
    "a trap": Case(filtered(rule("SCMP_ACT_TRAP", "mkdir")), "mkdir /tmp/x; echo $?"),
    "a log": Case(filtered(rule("SCMP_ACT_LOG", "mkdir")), "mkdir /tmp/x 2>&1"),
    "a trace without tracer": Case(filtered(rule("SCMP_ACT_TRACE", "mkdir", errnoRet=7)), "mkdir /tmp/x 2>&1"),
    "equal": Case(chmod_to("SCMP_CMP_EQ", 0o640), MODES),
    "not equal": Case(chmod_to("SCMP_CMP_NE", 0o640), MODES),
    "less": Case(chmod_to("SCMP_CMP_LT", 0o640), MODES),
    "less or equal": Case(chmod_to("SCMP_CMP_LE", 0o640), MODES),
    "greater": Case(chmod_to("SCMP_CMP_GT", 0o640), MODES),
    "greater or equal": Case(chmod_to("SCMP_CMP_GE", 0o640), MODES),
    "masked equal": Case(chmod_to("SCMP_CMP_MASKED_EQ", 0o60, valueTwo=0o40), MODES),
    "two architectures": Case(
        filtered(rule("SCMP_ACT_ERRNO", "mkdir"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        "mkdir /tmp/x 2>&1",
    ),
    "flags": Case(
        filtered(rule("SCMP_ACT_ERRNO", "mkdir"), flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        "mkdir /tmp/x 2>&1", peers=("crun",),
    ),
    "a filter where privileges may be gained": Case(
        filtered(rule("SCMP_ACT_ERRNO", "mkdir")) | {"process.noNewPrivileges": False}, "mkdir /tmp/x 2>&1"
    ),
    "a default error by number": Case(
        filtered(rule("SCMP_ACT_ALLOW", *ENOUGH.split()), default="SCMP_ACT_ERRNO", defaultErrnoRet=38),
        "mkdir /tmp/x 2>&1", unlike=("status: .*",),
    ),
}  # fmt: skip

LIMITS: dict[str, Case] = {
    "memory": Case(resources(memory={"limit": 64 * M, "swap": 128 * M, "reservation": 32 * M})),
    "cpu": Case(resources(cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"})),
    "pids": Case(resources(pids={"limit": 77})),
    "device rules": Case(
        {"linux.resources": {"devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": True, "type": "b", "major": 7, "access": "rm"},
        ]}},
        "for n in 'c 10 229' 'c 1 1' 'b 7 0'; do rm -f /tmp/n; mknod /tmp/n $n && echo \"$n\"; done 2>&1",
    ),
    "huge pages": Case(resources(hugepageLimits=[{"pageSize": "2MB", "limit": 4 * M}]), peers=()),
}  # fmt: skip

# runc takes its own cgroup for the parent, the others take the root.
BELOW_ITSELF = ("(host )?(limits|cgroup): ", "mounts: . /sys/fs/cgroup/memory ")
# Debian's crun fails on values that OCI allows.
LIMITS |= {
    f"resources: {name}": Case(
        resources(**wanted), peers=("runc",) if name in CRUN_CANNOT else ("runc", "crun")
    )
    for name, wanted in RESOURCES.items()
    if "devices" not in wanted
}
CGROUPS: dict[str, Case] = {
    "a nested cgroup": Case({"linux.cgroupsPath": f"/pyrunc-test-{os.getpid()}-deep/er"}),
    "no cgroup": Case({"linux.cgroupsPath": None}, unlike=BELOW_ITSELF),
    "a relative cgroup": Case(
        {"linux.cgroupsPath": f"pyrunc-test-{os.getpid()}-relative"}, unlike=BELOW_ITSELF
    ),
}

CASES: dict[str, Case] = {**NAMESPACES, **PROCESS, **MOUNTS, **DEVICES, **SECCOMP, **LIMITS, **CGROUPS}

# What crun does otherwise than runc, whatever the case.
UNLIKE_CRUN = (
    r"mounts: . /sys/fs/cgroup",
    r"mounts: . /sys [a-z,]+ \[\w*\] sysfs sysfs (ro|rw) /$",
    # the host's null and one tmpfs for all, read-only, where runc has the container's own and one each
    r"mounts: . /(proc|sys)/(\w+) r[ow],[a-z,]+ \[\w*\] (dev)?tmpfs \w+ ",
    r"mounts: . (/etc|/root/secret) ",
    r"dev: . '/dev/core' -> ",
    r"dev: . /dev/null character special file 666 \d+:\d+ 1,3$",  # it gives the user its standard descriptors
    r"host limits: . devices.list c (10:200|5:1) rwm$",
)
# What ours does otherwise than both, whatever the case.
UNLIKE_PEERS = (
    r"(host )?cgroup: . \d+:name=systemd:",  # a named hierarchy is its owner's, usually systemd's
    r"mounts: . /sys/fs/cgroup/systemd ",
    r"mounts: . /sys/fs/cgroup r[ow],",  # the tmpfs above the hierarchies is as read-only as the mount is to be
    r"mounts: . /dev/\w+ r[ow],[a-z,]+ \[\] devtmpfs ",  # the host's nodes in a user namespace: none may change them
    *UNLIKE_CRUN[1:4],
)
