"""An OCI runtime by its command line, as clients use one: ours, Debian's runc or Debian's crun."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.oci.waiting import PATIENCE_S
from tests.runtime.cgroup_support import kill_members, remove_busy

_counter = itertools.count()
_CRUN_SHY = 'mount --bind /dev/null "$0/cgroup.controllers" && exec "$@"'
OURS = Path(__file__).parents[2] / "bin/pyrunc-oci"
# What is tried: our own program, unless the tests themselves are tried on a peer.
SUBJECT = os.environ.get("TEST_OCI_RUNTIME") or (str(OURS) if OURS.exists() else "runc")


class Result(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def unique_id() -> str:
    """A container's id, and its cgroup's name, that no other test has."""
    return f"pyrunc-test-{os.getpid()}-oci{next(_counter)}"


def program(name: str) -> str:
    """The path of the runtime *name*; skips where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


class Runtime:
    """The runtime *path*, with containers of its own below *root*."""

    def __init__(self, path: str, root: Path) -> None:
        self.path = program(path)
        self.name = os.path.basename(path)
        self.root = root
        self.prefix: list[str] = []
        self.made: list[str] = []
        self.planner: Path | None = None
        """The directory of the planner that is to be asked; without it there is none."""
        layout = detect()
        if self.name == "crun" and layout.mode == "hybrid":
            # crun refuses hybrid hosts while v2 has a controller. In a mount namespace of its own it sees none.
            assert layout.v2 is not None
            self.prefix = [
                "unshare", "-m", "--propagation", "slave", "sh", "-c", _CRUN_SHY, layout.v2.mountpoint
            ]  # fmt: skip

    def command(self, *words: str) -> list[str]:
        """What is executed for the command line *words*."""
        return [*self.prefix, self.path, "--root", str(self.root), *words]

    def __call__(
        self,
        *words: str,
        code: int | None = 0,
        stdin: Any = None,
        output: Path | None = None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Result:
        """Run one command; it must end with *code*, if that is not None.

        Its words go to files (*output* and beside it), since a container keeps the descriptors of its `create`.
        """
        self.root.parent.mkdir(parents=True, exist_ok=True)
        out = output or self.root.parent / f"out{next(_counter)}"
        err = out.with_name(out.name + ".err")
        if self.planner is not None:
            env = {**(os.environ if env is None else env), "PYRUNC_OCI_PLANNER": str(self.planner)}
        # crun gives its standard descriptors to the container's user: not the host's /dev/null.
        nothing = self.root.parent / "nothing"
        nothing.touch()
        with open(out, "ab") as stdout, open(err, "ab") as stderr, open(nothing, "rb") as empty:
            ended = subprocess.run(
                self.command(*words), stdin=empty if stdin is None else stdin, stdout=stdout,
                stderr=stderr, cwd=cwd, env=env,
                pass_fds=pass_fds, timeout=120, check=False,
            )  # fmt: skip
        result = Result(ended.returncode, out.read_text(errors="replace"), err.read_text(errors="replace"))
        if output is None:
            out.unlink()
            err.unlink()
        assert code is None or result.code == code, (self.name, words, result)
        return result

    def create(
        self, bundle: Path, *flags: str, name: str = "", output: Path | None = None, **options: Any
    ) -> str:
        """Create a container of *bundle*, called *name* if that is given; its id. It will write to *output*."""
        name = name or unique_id()
        self.made.append(name)
        self("create", "--bundle", str(bundle), *flags, name, output=output, **options)
        return name

    def run(self, bundle: Path, *flags: str, **options: Any) -> Result:
        """Run a container of *bundle* in the foreground."""
        name = unique_id()
        self.made.append(name)
        return self("run", "--bundle", str(bundle), *flags, name, **options)

    def state(self, name: str) -> dict[str, Any]:
        """What `state` prints."""
        found: dict[str, Any] = json.loads(self("state", name).out)
        return found

    def wait(self, name: str, status: str) -> dict[str, Any]:
        """Wait until a container is *status*; its state."""
        deadline = time.monotonic() + PATIENCE_S
        while (state := self.state(name))["status"] != status:
            assert time.monotonic() < deadline, (self.name, status, state)
            time.sleep(0.02)
        return state

    def end(self, name: str) -> None:
        """Kill and delete a container."""
        self("kill", name, "KILL", code=None)
        self.wait(name, "stopped")
        self("delete", name)

    def clean(self) -> None:
        """Remove all containers that were made."""
        for name in self.made:
            if (self.root / name).exists():
                self("delete", "--force", name, code=None)


def remove_cgroups() -> None:
    """Remove the cgroups of this process's tests, and what peers leave in them of a failed start."""
    found = [
        Path(directory)
        for directory, _, _ in os.walk("/sys/fs/cgroup", topdown=False)
        if f"/pyrunc-test-{os.getpid()}-" in directory
    ]
    for place in found:
        thaw(place)
        kill_members(place)
    for place in found:
        remove_busy(place)


def thaw(directory: Path) -> None:
    """Let the processes of a cgroup run on."""
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (directory / name).exists():
            with contextlib.suppress(OSError):  # it has gone by now
                (directory / name).write_text(word)
