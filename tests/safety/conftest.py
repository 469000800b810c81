"""A root directory, and a Sandbox on it, for each attack."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Sandbox
from tests import rootfs as roots


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A busybox root that a test may spoil."""
    root = roots.make(tmp_path / "rootfs")
    for applet in ("grep", "chmod", "pwd", "mkdir", "yes", "dd", "mount", "id", "mknod", "touch"):
        (root / "bin" / applet).symlink_to("busybox")
    return root


@pytest.fixture
def sandbox(rootfs: Path) -> Callable[..., Sandbox]:
    """Makes a Sandbox on `rootfs`, without the seccomp filter, which would stop some attacks early."""

    def make(**options: object) -> Sandbox:
        return Sandbox(rootfs, **{"seccomp": "unconfined", **options})  # type: ignore[arg-type]

    return make
