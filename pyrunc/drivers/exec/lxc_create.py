"""Have LXC make a container: BUNDLE PROGRAM. What `create` is of an OCI runtime, for one that has no such thing.

It is started by `pyrunc-init drive`, in a mount namespace of its own where BUNDLE/rootfs is the container's root, with
the container's streams. PROGRAM is `lxc-start`. It leaves the pid of the container's init, whose parent is then who
has started this, in BUNDLE/pid; the terminal, if it is to have one, is sent to BUNDLE/console. What fails is said in
BUNDLE/error, behind the name of its kind.

It is a script, so that it needs nothing but the interpreter's path and its own.
"""

import os
import sys

sys.path.insert(
    0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
)

import _socket
import fcntl
import select
import stat
import struct
from signal import SIGKILL

from pyrunc._native import mount, namespaces
from pyrunc._native import plan as native
from pyrunc.drivers.exec import lxc_config, lxc_root, lxc_run
from pyrunc.errors import CommandNotExecutable, CommandNotFound, PyruncError, StartError
from pyrunc.records import loads
from pyrunc.runtime import spawner

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Of pyrunc/_native/channel.pxd: progress, its kinds, and GO.
_PROGRESS = struct.Struct("=IIiI16Q")
_READY, _FAILED, _FORKED, _TERMINAL = 1, 2, 4, 5
_GO = b"\0\0\0\0"
_ENOENT, _ENOTDIR, _EXDEV = 2, 20, 18
_CREDENTIALS = struct.Struct("3i")
_AT_FDCWD = -100
_SIZE_MAX = 256
_OF_SYSCTLS = namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
_SLASHES = str.maketrans("./", "/.")


def main(bundle: str, program: str) -> None:
    """Make the container. Raises PyruncError, OSError."""
    with open(f"{bundle}/config.json", encoding="utf-8", errors="surrogateescape") as file:
        spec: Mapping[str, Any] = loads(file.read())
    container_id = os.path.basename(os.path.dirname(bundle))
    lxc_run.cover(container_id)
    # The commands of LXC's monitor come by a socket of its network namespace, not of the host's.
    host_network = os.open("/proc/self/ns/net", os.O_RDONLY)
    namespaces.unshare(namespaces.CLONE_NEWNET)
    linux: Mapping[str, Any] = spec["linux"]
    owner = lxc_root.Owner(linux.get("uidMappings") or (), linux.get("gidMappings") or ())
    place = bundle
    if owner.maps:
        place = spec["root"]["path"]
        _open(place)
        for number in os.listdir(f"{bundle}/files"):
            os.chown(f"{bundle}/files/{number}", owner.uid(0), owner.gid(0))
    found = lxc_config.config(spec, container_id, place, owner, f"/proc/self/fd/{host_network}")
    with open(f"{bundle}/lxc-config", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("\n".join(found.lines) + "\n")
    plan = spawner.sealed_memfd("lxc-init", lxc_config.process_plan(spec["process"], container_id))
    own, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    own.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    init = spawner.protected(spawner.init_path())
    streams = _streams(owner.uid(spec["process"]["user"]["uid"]))
    for fd in (init, plan, theirs.fileno(), host_network, *streams):
        os.set_inheritable(fd, True)
    above = place if owner.maps else os.path.dirname(os.path.dirname(bundle))
    argv = [
        program, "-F", "-q", "-n", container_id, "-P", above, "-f", f"{bundle}/lxc-config", "-o", f"{bundle}/log",
        "-l", "ERROR", "--", f"/proc/self/fd/{init}", "lxc-init", *map(str, (plan, theirs.fileno(), *streams)),
    ]  # fmt: skip
    # What it says, and what it changes the owner of, is nobody's.
    own_streams = os.memfd_create("lxc-start")
    actions = [(os.POSIX_SPAWN_DUP2, own_streams, number) for number in range(3)]
    # With newuidmap in PATH it wants root's own ranges in /etc/subuid, and without it writes what it is told.
    environment = {**os.environ, "PATH": "/nonexistent"} if owner.maps else os.environ
    monitor = os.posix_spawn(
        program, argv, environment, file_actions=actions, setsigmask=[], setsigdef=range(1, 32)
    )  # fmt: skip
    for fd in (init, plan, *streams):
        os.close(fd)
    theirs.close()
    try:
        _await(own, monitor, spec, bundle)
    finally:
        _end(monitor)
        lxc_run.uncover(container_id)


def _open(place: str) -> None:
    """Make room at *place*, to which root of a user namespace may walk, for what else is to be there but the root."""
    root = mount.open_tree(_AT_FDCWD, os.fsencode(place), mount.OPEN_TREE_CLONE | os.O_CLOEXEC)
    mount.umount2(os.fsencode(place), mount.MNT_DETACH)
    mount.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"mode=755,size=1m")
    os.mkdir(f"{place}/rootfs")
    target = os.open(f"{place}/rootfs", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mount.move_mount(root, target)
    os.close(target)
    os.close(root)


def _streams(uid: int) -> list[int]:
    """Our own, which are the container's, at other numbers; pipes are given to the program's user, as by runc."""
    found = []
    for number in range(3):
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            os.fchown(number, uid, -1)
        found.append(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 16))
    return found


def _await(own: _socket.socket, monitor: int, spec: "Mapping[str, Any]", bundle: str) -> None:
    """Wait until the program runs, as the child of who has started this. Raises StartError, OSError."""
    poller = select.poll()
    poller.register(own, select.POLLIN)
    ended = os.pidfd_open(monitor)
    poller.register(ended, select.POLLIN)
    poller.poll()
    os.close(ended)
    try:
        message, passed, pid = _message(own, _socket.MSG_DONTWAIT)
    except BlockingIOError:
        message = b""
    if not message:
        raise StartError(_last_words(f"{bundle}/log"))
    kind, _, error, *_ = _PROGRESS.unpack(message)
    if kind != _FORKED or passed < 0:
        raise StartError(f"its plan: {os.strerror(-error).lower()}")
    _end(monitor)
    _set(lxc_config.sysctls(spec), pid)
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, passed)
    channel.send(_GO)
    ready = False
    while True:
        message, passed, _ = _message(channel)
        if not message:
            break
        kind, _, error, operation, *_ = _PROGRESS.unpack(message)
        if kind == _TERMINAL and passed >= 0:
            _send_terminal(f"{bundle}/console", passed)
        elif kind == _FAILED:
            raise _failure(spec["process"], native.STEP_NAMES[operation], -error)
        ready = ready or kind == _READY
    if not ready:
        raise StartError("its init died before the program ran; is its memory limit too low?")
    with open(f"{bundle}/pid", "w", encoding="ascii") as file:
        file.write(f"{pid}\n")


def _message(channel: _socket.socket, flags: int = 0) -> tuple[bytes, int, int]:
    """One message, the descriptor that came with it, or -1, and the pid of who has sent it, or 0. Raises OSError."""
    found, pid = -1, 0
    room = _socket.CMSG_SPACE(_CREDENTIALS.size) + _socket.CMSG_SPACE(4)
    message, ancillary, *_ = channel.recvmsg(_SIZE_MAX, room, flags | _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            found = int.from_bytes(data[:4], sys.byteorder)
        elif level == _socket.SOL_SOCKET and kind == _socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack_from(data)[0]
    return message, found, pid


def _end(monitor: int) -> None:
    """End LXC's monitor, if it has not ended: what it has started becomes the child of who has started this."""
    try:
        os.kill(monitor, SIGKILL)
        os.waitpid(monitor, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _set(values: "Mapping[str, str]", pid: int) -> None:
    """Write below /proc/sys in the namespaces of *pid*, where only our own program is yet. Raises StartError."""
    if not values:
        return
    child = os.fork()
    if child == 0:
        try:
            namespaces.setns(os.pidfd_open(pid), _OF_SYSCTLS)
            for key, value in values.items():
                # As sysctl(8): a slash in the key is a dot in the path.
                with open(f"/proc/sys/{key.translate(_SLASHES)}", "w", encoding="ascii") as file:
                    file.write(value)
        except OSError as exc:
            os._exit(exc.errno or 1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        reason = os.strerror(os.waitstatus_to_exitcode(status)).lower()
        raise StartError(f"sysctls: cannot set one of {', '.join(values)}: {reason}")


def _send_terminal(path: str, master: int) -> None:
    """As an OCI runtime does for --console-socket. From its directory: an address may be too short for *path*."""
    os.chdir(os.path.dirname(path))
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    sock.connect(os.path.basename(path))
    rights = struct.pack("=i", master)
    sock.sendmsg([b"/dev/ptmx"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    sock.close()
    os.close(master)


def _last_words(log: str) -> str:
    """Why LXC has failed: the first error in its log, which the others follow from."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            for line in file:
                # lxc-start NAME TIME ERROR CATEGORY - FILE:FUNCTION:LINE - WORDS
                _, _, rest = line.partition(" ERROR ")
                if rest:
                    return rest.split(" - ", 2)[-1].strip()
    except OSError:
        pass
    return "LXC did not say why"


def _failure(process: "Mapping[str, Any]", operation: str, error: int) -> StartError:
    """What a step that failed inside means."""
    reason = os.strerror(error).lower()
    if operation == "execve":
        command = process["args"][0]
        if error in (_ENOENT, _ENOTDIR):
            reason = "no such file or directory" if "/" in command else "executable file not found in $PATH"
            return CommandNotFound(f'exec: "{command}": {reason}')
        return CommandNotExecutable(f'exec: "{command}": {reason}')
    if operation == "chdir":
        reason = "it is outside of the container's root" if error == _EXDEV else reason
        return StartError(f"cannot enter the working directory {process['cwd']}: {reason}")
    return StartError(f"{operation}: {reason}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (PyruncError, OSError, ValueError) as exc:
        with open(f"{sys.argv[1]}/error", "w", encoding="utf-8", errors="surrogateescape") as error:
            error.write(f"{type(exc).__name__} {exc}")
        os._exit(1)
    os._exit(0)
