"""What containers may leave behind: their processes, cgroups and descriptors of this process."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyrunc.runtime.cgroup_layout import detect

WAIT_S = 60.0
_marks = itertools.count()


def eventually(condition: Callable[[], bool], what: object = "") -> None:
    """Wait until *condition* holds; on a busy machine that may take a while."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether *pid* runs: a zombie, which only its parent's wait is missing, does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def parent_of(pid: int) -> int:
    """The parent of *pid*: of a container's init, its supervisor."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def new_mark() -> str:
    """A number of seconds for sleep(1) that nobody else sleeps."""
    return f"{10_000 + next(_marks)}{os.getpid():07}"


def marked(mark: str) -> list[int]:
    """The processes that have *mark* among their arguments."""
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0") if name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark.encode() in words:
            found.append(int(name))
    return found


def cgroups(parent: str) -> set[str]:
    """The containers' cgroups in all hierarchies below *parent*."""
    found: set[str] = set()
    for hierarchy in detect().hierarchies:
        place = f"{hierarchy.mountpoint}{parent}"
        with suppress(FileNotFoundError):  # it goes with the last of them, maybe just now
            found.update(f"{place}/{name}" for name in os.listdir(place) if os.path.isdir(f"{place}/{name}"))
    return found


def descriptors() -> set[str]:
    """This process's open descriptors, by number and target."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # the directory itself
    return found


@contextmanager
def nothing_left(parent: str) -> Iterator[None]:
    """Soon after the end no descriptor is new and no cgroup is below *parent*."""
    before = descriptors()
    yield
    eventually(lambda: not cgroups(parent), cgroups(parent))
    eventually(lambda: len(descriptors()) <= len(before), descriptors() ^ before)
