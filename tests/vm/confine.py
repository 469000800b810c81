"""The namespaces in which a second kernel runs: the host's tree read-only, one private tmpfs, own pids.

Run as `python -m tests.vm.confine`; standard input is one line, the Spec as JSON, and then a lifeline:

    caller  --- line of JSON, then nothing ---> outer   (waits; in the caller's pid namespace)
                                                  |  fork
                                                pid 1   (of the new pid namespace: starts the programs)
                                                  |  fork, exec
                                                helpers..., main

When the lifeline closes, because the caller wants it or has died in whatever way, outer kills pid 1 and the
kernel kills the rest before outer returns. The tmpfs dies with its mount namespace: nothing is ever left.
The exit code is main's, 128 + N for a signal.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TypedDict

from . import linux

# Hidden under the private tmpfs: a guest has a sysfs of its own, so nobody misses the host's.
COVERED = "/sys"
SHARED = "/sys/vm"
# A sparse file there, for the guest to use as a block device.
DISK = f"{SHARED}/disk"
DISK_MIB = 256
# Where a helper listens for main; in a helper's argv the second stands for the descriptor.
SOCKET = f"{SHARED}/socket"
SOCKET_FD = "SOCKET_FD"


class Spec(TypedDict):
    """What to run: *files* (name in SHARED to text, all executable), *helpers* in the background, *main*."""

    files: dict[str, str]
    tmpfs_mib: int
    helpers: list[list[str]]
    main: list[str]
    keep_fds: list[int]


def _namespaces() -> None:
    """Enter new mount and pid namespaces; not as root, through a user namespace that maps only the caller."""
    uid, gid = os.geteuid(), os.getegid()
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID
    if uid == 0:
        linux.unshare(flags)
        return
    linux.unshare(flags | linux.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _mounts(spec: Spec) -> None:
    """Make the whole tree private and read-only, and SHARED a tmpfs with the files of *spec*."""
    attributes = linux.MountAttr(attr_set=linux.MOUNT_ATTR_RDONLY, propagation=linux.MS_PRIVATE)
    linux.mount_setattr("/", attributes, linux.AT_RECURSIVE)
    linux.mount("pyrunc-vm", COVERED, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"size={spec['tmpfs_mib']}m")
    os.mkdir(SHARED)
    for directory in ("tmp", "rw", "root", "uml"):
        os.mkdir(f"{SHARED}/{directory}")
    with open(DISK, "wb") as disk:
        disk.truncate(DISK_MIB << 20)
    for name, text in spec["files"].items():
        with open(f"{SHARED}/{name}", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o755)


def _pid_1(spec: Spec) -> int:
    """Start the helpers and main, wait for main, and return its exit code."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    # UML puts the guest's memory in TMPDIR; HOME would get a .uml directory.
    environment = os.environ | {"TMPDIR": f"{SHARED}/tmp", "HOME": SHARED}
    # It listens before anybody starts, so main need not wait for the helpers.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(SOCKET)
        listener.listen()
        fd = listener.fileno()
        for helper in spec["helpers"]:
            argv = [word.replace(SOCKET_FD, str(fd)) for word in helper]
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=environment, pass_fds=[fd])
    main = subprocess.Popen(
        spec["main"], stdin=subprocess.DEVNULL, env=environment, pass_fds=spec["keep_fds"]
    )
    code = main.wait()
    return code if code >= 0 else 128 - code


def _outer(pid: int, keep_fds: list[int]) -> int:
    """Wait for pid 1 or for the end of the lifeline, and return the exit code once every process is gone."""
    for fd in keep_fds:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    ready, _, _ = select.select([pidfd, 0], [], [])
    if pidfd not in ready:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF


def main() -> int:
    """Read the Spec, confine, run; see the module's docstring."""
    # Byte by byte: what follows the line must stay in the pipe, where select sees it end.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return 1
        line += byte
    spec: Spec = json.loads(line)
    _namespaces()
    _mounts(spec)
    pid = os.fork()
    if pid == 0:
        os._exit(_pid_1(spec))
    return _outer(pid, spec["keep_fds"])


if __name__ == "__main__":
    sys.exit(main())
