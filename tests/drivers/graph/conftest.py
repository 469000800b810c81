"""Each graph driver with an image in it, and containers on its snapshots."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.drivers.graph.snapshotter import Snapshotter
from pyrunc.drivers.registry import graph
from pyrunc.runtime.compile_host import Rootfs
from pyrunc.runtime.launcher import Launcher
from pyrunc.runtime.options import to_request

Shell = Callable[..., str]


@pytest.fixture(params=["overlay2", "vfs"])
def driver(
    request: pytest.FixtureRequest, tmp_path: Path, make_rootfs: Callable[[Path], Path]
) -> Iterator[Snapshotter]:
    """A driver with the committed snapshot "image": busybox, users, and what a test may change."""
    if os.geteuid() != 0:
        pytest.skip("needs root to own files and start containers")
    found = graph(request.param, str(tmp_path / "state"))
    (layer,) = found.prepare("making", None).layers
    make_rootfs(Path(layer))
    (Path(layer) / "data/below").mkdir(parents=True)
    for name in ("kept", "gone", "changed", "below/deep"):
        (Path(layer) / "data" / name).write_text(f"{name}\n")
    found.commit("image", "making")
    yield found
    found.close()


def box(rootfs: Rootfs, **options: Any) -> Sandbox:
    """A Sandbox on a snapshot."""
    request = to_request([*rootfs.layers, *([rootfs.upper] if rootfs.upper else [])], options)  # type: ignore[arg-type]
    found = Sandbox.__new__(Sandbox)
    found._launcher = Launcher(request._replace(rootfs=rootfs))
    return found


@pytest.fixture
def shell() -> Shell:
    """Run a shell script in a container on a snapshot; what it wrote to stdout."""

    def run(rootfs: Rootfs, script: str, *, code: int = 0, **options: Any) -> str:
        with box(rootfs, **options) as sandbox:
            result = sandbox.run(["/bin/sh", "-c", script], timeout_s=60)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
        return result.stdout.decode()

    return run
