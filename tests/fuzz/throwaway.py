"""A world in which a mutated plan may do as it likes: what it reaches is gone afterwards and was never the host's.

The process that enters it has its own user, pid, mount, network, ipc, uts and cgroup namespaces. Its root is a
tmpfs with a procfs of its own, two directories and one small program; the old root is detached. Root in there is
an ordinary uid of the host, one that owns nothing: even what leads out, such as /proc/sys or a device number,
refuses it. It is pid 1 of its namespace, so its end is the end of everything that was started.
"""

import os
import socket
import struct
import traceback
from collections.abc import Callable
from pathlib import Path

from pyrunc._native import mount, namespaces
from pyrunc.runtime import cgroup_layout, spawner

PROGRAM = "/bin/program"
PROGRAM_STATUS = 64  # pyrunc-init itself: it does nothing but refuse what it is told
HOST_ID = 1_879_048_192
NAMESPACES = (
    namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWCGROUP
)  # fmt: skip
_REQUEST = struct.pack("=II", 0x51525950, 1)


def call(function: Callable[[], bytes]) -> bytes:
    """Return what *function* returns in a throw-away world; it must not import anything there.

    Raises RuntimeError if the world ended without an answer.
    """
    answer_r, answer_w = os.pipe()
    ready_r, ready_w = os.pipe()
    program = Path(spawner.init_path()).read_bytes()
    pid, pidfd = namespaces.clone3(NAMESPACES)
    if pid == 0:
        try:
            os.close(ready_w)
            os.read(ready_r, 1)
            os.dup2(answer_w, 3)
            os.closerange(4, 1 << 16)
            _enter(program)
            os.write(3, function())
        except BaseException:  # noqa: BLE001 - there is nobody else to tell
            os.write(3, traceback.format_exc().encode())
        finally:
            os._exit(0)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {HOST_ID} 65536")
    os.write(ready_w, b"x")
    for fd in (answer_w, ready_r, ready_w):
        os.close(fd)
    with open(answer_r, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    os.close(pidfd)
    if not answer:
        raise RuntimeError("the throw-away world ended without an answer")
    return answer


def _enter(program: bytes) -> None:
    """Become root of the world and leave the old one."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.umask(0o022)
    mount.mount(None, b"/", flags=mount.MS_REC | mount.MS_PRIVATE)
    here = "/tmp"
    _attach(mount.new_mount(b"tmpfs", [(b"size", b"64m"), (b"mode", b"0755")]), here)
    for name in ("proc", "sys", "bin", "srv", "tmp"):
        os.mkdir(f"{here}/{name}")
    for name in ("proc", "sys", "bin", "tmp"):
        os.mkdir(f"{here}/srv/{name}")
    for path in (f"{here}{PROGRAM}", f"{here}/srv{PROGRAM}"):
        with open(path, "wb") as file:
            file.write(program)
        os.chmod(path, 0o755)
    _attach(mount.new_mount(b"proc"), f"{here}/proc")
    os.chdir(here)
    mount.pivot_root(b".", b".")
    mount.umount2(b".", mount.MNT_DETACH)
    os.chdir("/")
    cgroup_layout.detect.cache_clear()  # there are none here


def _attach(mount_fd: int, target: str) -> None:
    target_fd = os.open(target, os.O_PATH | os.O_CLOEXEC)
    mount.move_mount(mount_fd, target_fd)
    os.close(target_fd)
    os.close(mount_fd)


class Spawner:
    """A spawner in this world, spoken to without the layer that would start a dead one anew."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = os.open(PROGRAM, os.O_RDONLY | os.O_CLOEXEC)
        null = os.open("/tmp", os.O_RDONLY | os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            for number, fd in ((0, null), (1, null), (2, null), (3, theirs.fileno())):
                os.dup2(fd, number)
            os.execve(program, ["pyrunc-init", "spawner"], {})
        for fd in (program, null):
            os.close(fd)
        theirs.close()
        self._socket = ours

    def request(self, plan: bytes, descriptors: list[int]) -> socket.socket:
        """Send *plan*; returns the socket that its supervisor answers on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memfd = spawner.sealed_memfd("plan", plan)
        rights = struct.pack(f"={2 + len(descriptors)}i", memfd, theirs.fileno(), *descriptors)
        self._socket.sendmsg(
            [_REQUEST], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL
        )
        os.close(memfd)
        theirs.close()
        return ours
