"""What the attacks share: programs inside a container, a host that may be broken, and careless runtimes."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrunc import Mount, Sandbox, errors
from pyrunc._native import mount, namespaces
from pyrunc._native import plan as native
from pyrunc.runtime import cgroup_layout, spawner
from pyrunc.runtime.plan import Step
from tests.child import in_child

HOST_PYTHON = "/usr/bin/python3"
RENAME_EXCHANGE = 2
_MS_BIND, _MS_MOVE = 4096, 8192
PR_SET_DUMPABLE = 4
ABSENT = native.ABSENT
FLAG = native.FLAGS
libc = ctypes.CDLL(None, use_errno=True)
# add_key(2), request_key(2), keyctl(2), which libc has no functions for.
ADD_KEY, REQUEST_KEY, KEYCTL = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}[os.uname().machine]


def call(result: int) -> int:
    """The *result* of a libc function, which must not be an error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def python_mounts() -> list[Mount]:
    """What a container needs to run the host's python3, so that an attack can be written in Python."""
    if not os.path.exists(HOST_PYTHON):
        pytest.skip("needs /usr/bin/python3, to run attacks inside containers")
    places = [path for path in ("/usr", "/lib", "/lib64", "/lib32") if os.path.isdir(path)]
    return [Mount(path, path, options=["rbind", "ro"]) for path in places]


def python(source: str, *args: str) -> list[str]:
    """The command that runs *source* in a container which has `python_mounts`."""
    return [HOST_PYTHON, "-I", "-S", "-c", source, *args]


def patch(box: Sandbox, change: Callable[[Step], Step | None]) -> Sandbox:
    """Make *box* careless: each step of its plan becomes what *change* makes of it, None for nothing."""
    template = box._launcher._template
    template.steps[:] = [step for step in map(change, template.steps) if step is not None]
    template._base = None
    return box


def without_flag(op: str, flag: str, path: str | None = None) -> Callable[[Step], Step]:
    """A change for `patch`: *op* (at *path*) loses *flag*."""
    bit = FLAG[flag]

    def change(step: Step) -> Step:
        if step.op == op and path in (None, step.s0):
            return step._replace(flags=step.flags & ~bit)
        return step

    return change


def with_flag(op: str, flag: str, path: str) -> Callable[[Step], Step]:
    """A change for `patch`: *op* at *path* has *flag* too."""
    return lambda step: (
        step._replace(flags=step.flags | FLAG[flag]) if (step.op, step.s0) == (op, path) else step
    )


def exchange(one: Path, other: Path) -> None:
    """Swap two paths atomically; renameat2(2)."""
    call(libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE))


def on_a_host_of_its_own(function: Callable[[], None]) -> None:
    """Run *function* where /dev is a tmpfs with device nodes of its own: what it breaks there dies with it."""

    def inside() -> None:
        spawner._forget()  # the parent's spawner has the real /dev
        mount.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, b"mode=755")
        for minor, name in ((3, "null"), (5, "zero"), (7, "full"), (8, "random"), (9, "urandom")):
            os.mknod(f"/mnt/{name}", 0o020666, os.makedev(1, minor))
            os.chmod(f"/mnt/{name}", 0o666)
        os.mknod("/mnt/tty", 0o020666, os.makedev(5, 0))
        mount.mount(b"/mnt", b"/dev", None, _MS_MOVE)
        try:
            function()
        finally:
            spawner.shut_down()

    in_child(inside, namespaces.CLONE_NEWNS)


def in_a_mount_namespace(function: Callable[[], None]) -> None:
    """Run *function* in a process whose mounts nobody else sees."""
    in_child(function, namespaces.CLONE_NEWNS)


def bind(source: str | Path, target: str | Path) -> None:
    """Bind mount by path, symlinks and races included: how a careless runtime does it."""
    mount.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND | mount.MS_REC)


def cgroups(path: str) -> list[Path]:
    """Where the cgroup *path* exists, in whichever hierarchies this host has."""
    places = [Path(hierarchy.mountpoint + path) for hierarchy in cgroup_layout.detect().hierarchies]
    return [place for place in places if place.exists()]


def children(pid: int) -> list[int]:
    """The processes whose parent is *pid*, zombies left out."""
    return [child for child, (parent, state) in process_table().items() if parent == pid and state != "Z"]


def process_table() -> dict[int, tuple[int, str]]:
    """pid -> (parent, state) of every process there is."""
    table = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b") ")[2].split()
            except OSError:
                continue
            table[int(entry)] = (int(fields[1]), fields[0].decode())
    return table


def descendants(pid: int) -> set[int]:
    """All processes below *pid*, zombies too."""
    table = process_table()
    found: set[int] = set()
    pending = [pid]
    while pending:
        above = pending.pop()
        below = [child for child, (parent, _) in table.items() if parent == above]
        found.update(below)
        pending += below
    return found


def spawner_pid() -> int:
    """This process's spawner, which must have been started."""
    assert spawner._current is not None
    return spawner._current.pid


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def supervisor_of(init: int) -> int:
    """The supervisor of the container whose init is *init*."""
    return process_table()[init][0]


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Whether *condition* becomes true before *timeout_s* seconds have passed."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def in_time(run: Callable[[float], object], said: bytes) -> errors.TimedOut:
    """How *run* is late: with a time-out of seconds, one that on a slow machine too is enough for it to say *said*."""
    for timeout_s in (0.3, 3.0, 30.0):
        try:
            run(timeout_s)
        except errors.TimedOut as late:
            if said in late.stdout + late.stderr or timeout_s == 30:
                return late
        else:
            break
    raise AssertionError("it is not late")


@contextmanager
def forked(function: Callable[[], None]) -> Iterator[int]:
    """A child that runs *function* and then sleeps; killed at the end. Gives its pid once *function* is done."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            function()
            os.write(writing, b"x")
            os.close(writing)
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"x", "the child failed"
        yield pid
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def memory_contains(pid: int, secret: bytes) -> bool:
    """Whether the readable memory of a process holds *secret*."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if "r" not in rights or "[v" in line:
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            if secret in data:
                return True
    return False


def fds_below(pid: int, places: Sequence[str]) -> list[str]:
    """What the open descriptors of *pid* lead to, if it begins with one of *places*."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if target.startswith(tuple(places)):
            found.append(target)
    return found


def failure_of(function: Callable[[], object]) -> errors.StartError | None:
    """The StartError that *function* raises, if it does."""
    try:
        function()
    except errors.StartError as error:
        return error
    return None
