"""Lines as a user types them, run by pyrunc in this process."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from pyrunc.cli.main import main
from tests.cli import record
from tests.conftest import descendants
from tests.safety.support import wait_until


class Answer(NamedTuple):
    code: int
    stdout: str
    stderr: str


@contextmanager
def _captured(directory: Path, source: str | None) -> Iterator[None]:
    """Standard streams in files of *directory*, for what writes to descriptors too."""
    kept = [os.dup(number) for number in range(3)]
    streams = sys.stdin, sys.stdout, sys.stderr
    opened = [
        os.open(source or os.devnull, os.O_RDONLY),
        *(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")),
    ]
    try:
        for number, fd in enumerate(opened):
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdin, sys.stdout, sys.stderr = streams
        for number, fd in enumerate(kept):
            os.dup2(fd, number)
            os.close(fd)


def begins(line: str) -> bool:
    """Whether a program goes on behind this line."""
    words = line.split()
    return line[:1] == "&" or words[:2] == ["run", "-d"] or words[:1] in (["start"], ["restart"], ["unpause"])


def _sleeps(pid: int) -> bool:
    """Whether a process waits for something, or has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "SZX"
    except OSError:
        return True


class Shell:
    """Runs lines as `pyrunc` in *directory*, with its state in *root*."""

    @classmethod
    @contextmanager
    def opened(cls, top: Path, busybox: Path) -> Iterator[Self]:
        """One below the directory *top*, in which the archives are; at the end no container is left."""
        work = top / "work"
        work.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(work)
            patch.setenv("TZ", "UTC")
            patch.setenv("PYRUNC_STATE", str(top / "state"))
            time.tzset()
            found = cls(work, top / "root")
            found.ids = record.prepare(work, busybox)
            try:
                yield found
            finally:
                found.stop()
        time.tzset()

    def __init__(self, directory: Path, root: Path) -> None:
        self.ids: dict[str, str] = {}
        self.directory = directory
        self.root = root
        self._options = ["--root", str(root)]
        self._streams = directory.parent / "streams"
        self._streams.mkdir()

    def run(self, line: str) -> Answer:
        argv, source, target = record.split(line.removeprefix("&"))
        if line.startswith("&"):
            argv.insert(1, "-d")
        with _captured(self._streams, source):
            code = main([*self._options, *argv])
        stdout = (self._streams / "stdout").read_bytes()
        if target:
            (self.directory / target).write_bytes(stdout)
            stdout = b""
        text, error = stdout.decode("utf-8", "backslashreplace"), (self._streams / "stderr").read_text()
        return Answer(
            code,
            record.placed(text, self.directory, self.root),
            record.placed(error, self.directory, self.root),
        )

    def settle(self) -> None:
        """Wait until the programs of running containers sleep: they have set their traps and written their files."""
        ids = self.run("ps -q -f status=running").stdout.split()
        pids = [int(self.run(f"inspect -f {{{{.State.Pid}}}} {each}").stdout.strip() or 0) for each in ids]

        def sleep() -> bool:
            return all(_sleeps(each) for pid in pids for each in (pid, *descendants(pid)))

        def sleep_on() -> bool:
            seen = sleep()
            time.sleep(0.02)
            return seen and sleep()

        assert wait_until(sleep_on)

    def stop(self) -> None:
        """Remove what is left."""
        names = self.run("ps -aq").stdout.split()
        if names:
            self.run(f"rm -fv {' '.join(names)}")
