"""A root directory for the containers of tests."""

import shutil
from pathlib import Path

import pytest

BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "true", "false", "sleep", "cat", "echo", "ls", "kill")


def make(root: Path) -> Path:
    """Fill *root* with a static busybox and the usual empty directories; returns it."""
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    return root
