"""Whether there is a planner, and how one comes to be: what a command that starts Python anyway needs to know of it.

What a planner is and does: `pyrunc/oci/resident.py`.
"""

from __future__ import annotations

import os

from pyrunc import bundled

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Mapping

PLACE = "/run/pyrunc-planner"
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # its inode; linux/proc_ns.h, PROC_USER_INIT_INO


def place(env: Mapping[str, str]) -> str:
    """The directory of the planners' sockets, or "" where there shall be none.

    Of who is not the host's root it is below XDG_RUNTIME_DIR, which is nobody else's.
    """
    wanted = env.get("PYRUNC_OCI_PLANNER", "")
    if wanted == "0":
        return ""
    if wanted.startswith("/"):
        return wanted
    root = os.geteuid() == 0
    runtime = env.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and not (root and _is_host()):
        return f"{runtime}/pyrunc-planner"
    return PLACE if root else ""


def _is_host() -> bool:
    """Whether this is no user namespace but the first."""
    try:
        return os.stat("/proc/self/ns/user").st_ino == _FIRST_USER_NAMESPACE
    except OSError:
        return True


def ensure(front_door: str) -> None:
    """Start a planner for callers of *front_door* unless there is one. Nothing is raised: without it all works too."""
    bundled.save()
    directory = place(os.environ)
    if not directory:
        return
    try:
        name = f"{directory}/{name_of(os.stat(front_door))}"
        if not _answers(name):
            _start(front_door, directory, name)
    except OSError:
        pass


def name_of(status: os.stat_result) -> str:
    """What the socket for callers of the front door with this *status* is called."""
    return f"{status.st_dev:x}-{status.st_ino:x}"


def _answers(path: str) -> bool:
    """Whether somebody listens there."""
    import _socket  # without what the socket module adds: its import costs milliseconds

    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK)
    here = -1
    try:
        here = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
        # The directory may have a longer name than a socket.
        probe.connect(f"/proc/self/fd/{here}/{os.path.basename(path)}")
    except BlockingIOError:
        return True  # it has more to do than it can
    except OSError:
        return False
    finally:
        probe.close()
        if here >= 0:
            os.close(here)
    return True


def _start(front_door: str, directory: str, name: str) -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    code = 1
    try:
        os.setsid()
        if os.fork() == 0:
            let_go()
            from pyrunc.oci import parting, resident

            parting.leave()
            resident.Planner(front_door, directory, name).serve()
        code = 0
    finally:
        # Whatever happened: this process is not the one that was called.
        os._exit(code)


def let_go() -> None:
    """Close every descriptor of the starter's; the standard streams are /dev/null from here on."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 1 << 30)
