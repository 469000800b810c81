"""A pytest plugin: after the whole suite nothing of ours is left on the host.

It is loaded by ``pytest_plugins`` of the outermost conftest or by ``-p tests.leftovers``, looks at the host before
the first test and after the last one, and makes the session fail if something was left or has changed.
"""

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

_CGROUPS = Path("/sys/fs/cgroup")
_DEVICES = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev",
)
_PARAMETERS = (
    "kernel/core_pattern", "kernel/hostname", "kernel/domainname", "kernel/shm_rmid_forced", "net/ipv4/ip_forward",
    "net/ipv4/ip_default_ttl",
)  # fmt: skip
_STATE = "/run/pyrunc"
_OUR_PROGRAMS = (
    "pyrunc-init",
    "pyrunc-spawner",
    "pyrunc-super",
    "pyrunc-userns",
    "pyrunc-shim",
    "pyrunc-oci",
)
_CRUNS = "/run/crun"  # which crun makes whatever it is called for, --version too, and leaves
_ID_LENGTH, _STATE_DEPTH = 64, 4


def processes(root: int) -> tuple[set[str], bool]:
    """What is below *root*, and whether others use pyrunc on this host at the same time."""
    parents = {}
    names = {}
    found = set()
    strangers = False
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            name, _, rest = text.partition("(")[2].rpartition(") ")
            names[int(entry)] = name
            parents[int(entry)] = int(rest.split()[1])
    for pid, name in names.items():
        above = pid
        while above > 1 and above != root:
            above = parents.get(above, 0)
        if above == root and pid != root:
            found.add(f"process {pid} {name}")
        elif name in _OUR_PROGRAMS:
            if parents[pid] == 1:
                found.add(f"orphan {pid} {name}")
            strangers = True
    return found, strangers


def cgroups() -> Iterator[str]:
    """The containers' cgroups, in every hierarchy, and those that tests make."""
    for place in (_CGROUPS, *_CGROUPS.glob("*/")):
        for group in place.glob("pyrunc*"):
            yield from (f"cgroup {directory}" for directory, _, _ in os.walk(group))


def mounts() -> Iterator[str]:
    """What this mount namespace has; the numbers of mounts are left out."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" - ")
        yield f"mount {fields[0].split()[4]} {fields[1]}"


def links() -> Iterator[str]:
    for name in os.listdir("/sys/class/net"):
        yield f"network interface {name}"


def rules() -> Iterator[str]:
    try:
        found = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return
    yield from (f"nft {line}" for line in found.stdout.splitlines())


def devices() -> Iterator[str]:
    for path in _DEVICES:
        try:
            status = os.stat(path)
        except OSError:
            continue
        yield f"device {path} {stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid} {status.st_rdev:#x}"


def parameters() -> Iterator[str]:
    for name in _PARAMETERS:
        try:
            yield f"sysctl {name}={Path('/proc/sys', name).read_text().strip()}"
        except OSError:
            continue


def places() -> Iterator[str]:
    """Directories where a mount point or a state directory could be left."""
    for path in ("/", "/run", "/etc", "/mnt", "/var/lib"):
        yield from (
            f"path {path.rstrip('/')}/{name}" for name in os.listdir(path) if f"{path}/{name}" != _STATE
        )
    if os.path.isdir(_STATE):
        # What is meant to stay: compiled seccomp programs, for the processes that come after this one.
        yield from (f"path {_STATE}/{name}" for name in os.listdir(_STATE) if name != "seccomp")
    yield from (f"named network namespace {path}" for path in Path("/run/netns").glob("*"))


def states(place: Path) -> Iterator[str]:
    """The containers that still have a state directory below *place*, where tests have theirs."""
    above = len(place.parts)
    for directory, names, files in os.walk(place):
        if len(Path(directory).parts) - above >= _STATE_DEPTH:
            names.clear()
        if len(os.path.basename(directory)) == _ID_LENGTH and {"attach", "running"} & {*files, *names}:
            yield f"state of a container {directory}"
            names.clear()


def temporary(config: pytest.Config) -> Path | None:
    """Where the tests of this session have their directories, if there are any."""
    found: Path | None = getattr(getattr(config, "_tmp_path_factory", None), "_basetemp", None)
    return found


def look() -> tuple[set[str], bool]:
    """Everything that must be after the suite as it was before, and whether it may be of others."""
    ours, strangers = processes(os.getpid())
    return {*mounts(), *links(), *rules(), *devices(), *parameters(), *places(), *cgroups(), *ours}, strangers


def reap() -> None:
    """Collect orphans, which come to this process where a test has made it their reaper."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


class Leftovers:
    """Compares the host before and after a session."""

    def __init__(self, wait_s: float) -> None:
        self.before, self.strangers = look()
        self.wait_s = wait_s
        self.report: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Wait a little for what is on its way, then judge."""
        from pyrunc.runtime import spawner

        spawner.shut_down()
        if f"path {_CRUNS}" not in self.before:
            with suppress(OSError):  # it has something in it, and that is told
                os.rmdir(_CRUNS)
        deadline = time.monotonic() + self.wait_s
        while True:
            reap()
            after, strangers = look()
            self.strangers |= strangers
            self.report = [
                f"left: {entry}" for entry in sorted(after - self.before) if not self.of_others(entry)
            ]
            if place := temporary(session.config):
                self.report += [f"left: {entry}" for entry in sorted(states(place))]
            self.report += [f"gone: {entry}" for entry in sorted(self.before - after) if _ours_to_keep(entry)]
            if not self.report or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if self.report and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def of_others(self, entry: str) -> bool:
        """Whether *entry* may belong to another user of pyrunc, whose cgroups and orphans look like ours."""
        return self.strangers and entry.startswith(("cgroup", "orphan"))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell what was left."""
        if self.report:
            terminalreporter.section("left on the host")
            for line in self.report:
                terminalreporter.line(line, red=True)


def _ours_to_keep(entry: str) -> bool:
    """Whether it matters that *entry* is gone: not for what others, or an earlier run, had left."""
    return not entry.startswith(("cgroup", "process", "orphan", "path"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long what a killed container leaves may take to go."""
    parser.addoption(
        "--leftovers-wait-s", type=float, default=30.0, help="seconds until what is left is a failure"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Look at the host before the first test."""
    config.pluginmanager.register(Leftovers(config.getoption("--leftovers-wait-s")), "pyrunc-leftovers")
