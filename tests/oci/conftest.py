"""Bundles as `runc spec` writes them, and the runtimes that are to treat them alike."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc.oci.planner import PLACE
from tests.oci import bundles, planning
from tests.oci.native import install
from tests.oci.orphans import orphans_go_home
from tests.oci.planning import end_planner
from tests.oci.runtime import OURS, SUBJECT, Runtime, program, remove_cgroups

__all__ = ["orphans_go_home"]
APPLETS = (
    "sh", "true", "false", "sleep", "cat", "echo", "ls", "kill", "readlink", "stat", "grep", "cut", "tr", "sed",
    "hostname", "touch", "mkdir", "rm", "id", "mount", "chmod", "dd", "env", "tty", "stty", "ps", "sort", "ionice",
    "chrt", "taskset", "mknod", "ln", "pwd", "wc", "test", "umount", "nc", "unshare", "seq", "date", "head", "tail",
)  # fmt: skip
Bundle = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def no_planner_is_left() -> Iterator[None]:
    """Some clients hand no variable on to the runtime, which then has a planner at the usual place for a minute."""
    yield
    if bundles.FRONT_DOOR.exists() and Path(PLACE).is_dir():
        planning.end_planner(bundles.FRONT_DOOR, Path(PLACE))
    planning.forget_cgroups()  # of one that was killed with the namespaces of its own that a client had


@pytest.fixture(scope="session")
def spec_text() -> str:
    """The document that `runc spec` writes, with no terminal."""
    made = subprocess.run(
        ["sh", "-c", 'd=$(mktemp -d) && cd "$d" && "$0" spec && cat config.json; rm -r "$d"', program("runc")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    spec = json.loads(made.stdout)
    spec["process"]["terminal"] = False
    return json.dumps(spec)


@pytest.fixture
def spec(spec_text: str) -> dict[str, Any]:
    """A document of one's own."""
    found: dict[str, Any] = json.loads(spec_text)
    return found


@pytest.fixture
def bundle(busybox: Path, tmp_path: Path, spec_text: str) -> Bundle:
    """Makes a bundle with a busybox root: `bundle(name, process_args, **changes of the document)`."""

    def make(name: str = "bundle", *args: str, **changes: Any) -> Path:
        from tests.oci.observe import settle

        path = tmp_path / name
        root = path / "rootfs"
        for directory in ("bin", "etc", "proc", "sys", "dev", "tmp", "root"):
            (root / directory).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        shutil.copy(busybox, root / "bin/busybox")
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        spec = json.loads(spec_text)
        if args:
            spec["process"]["args"] = list(args)
        settle(spec, {key.replace("__", "."): value for key, value in changes.items()})
        (path / "config.json").write_text(json.dumps(spec))
        return path

    return make


@pytest.fixture(scope="session")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a planner that the first command starts, and that is ended in the end."""
    directory = tmp_path_factory.mktemp("planner") / "p"
    directory.mkdir(mode=0o700)
    yield directory
    end_planner(OURS, directory)


@pytest.fixture
def front_door(tmp_path: Path) -> Path:
    """A front door without a Python, beside an empty directory for a bundle."""
    (tmp_path / "bundle").mkdir()
    return install(tmp_path / "installed")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The file of what a made-up planner answers."""
    path = tmp_path / "plan"
    path.write_bytes(planning.PLAN)
    return path


@pytest.fixture
def make_runtime(tmp_path: Path) -> Iterator[Callable[[str], Runtime]]:
    """Makes a runtime with a state directory of its own; its containers go away after the test."""
    made: list[Runtime] = []

    def make(path: str) -> Runtime:
        runtime = Runtime(path, tmp_path / f"state{len(made)}" / "root")
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        runtime.clean()
    remove_cgroups()


@pytest.fixture
def runtime(make_runtime: Callable[[str], Runtime]) -> Runtime:
    """The runtime that is tried."""
    return make_runtime(SUBJECT)


@pytest.fixture
def oci(tmp_path: Path, rootfs: Path) -> Iterator[bundles.Runtime]:
    """The front door, with a root directory and an id of the test's own."""
    found = bundles.Runtime(tmp_path / "state", rootfs)
    yield found
    found.end()
    assert not bundles.cgroups(found.id)
