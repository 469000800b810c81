"""A front door that a user with nothing but a number can execute."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oci.bundles import FRONT_DOOR, REPOSITORY

UID = 12345
# setpriv itself keeps what root may until it has executed another program.
USER = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "env")
_PYTHONS = (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3")


def install(work: Path) -> Path:
    """A front door in *work*/bin, which other users may look into."""
    front_door = work / "bin/pyrunc-oci"
    front_door.parent.mkdir()
    shutil.copy2(FRONT_DOOR, front_door)
    (work / "bin/pyrunc-oci.python").write_text(f"{_python()}\n{_checkout(work)}\n")
    return front_door


def _python() -> str:
    """An interpreter that the user can execute."""
    program = "import sys; sys.exit(sys.version_info < (3, 11))"
    for path in _PYTHONS:
        if os.path.exists(path) and not subprocess.run(
            [*USER, path, "-I", "-S", "-c", program], check=False, capture_output=True
        ).returncode:  # fmt: skip
            return path
    pytest.skip("needs a Python that other users can execute")


def _checkout(work: Path) -> Path:
    """Where pyrunc is that the user can read."""
    readable = [*USER, "test", "-r", str(REPOSITORY / "pyrunc/oci/main.py")]
    if not subprocess.run(readable, check=False).returncode:
        return REPOSITORY
    shutil.copytree(REPOSITORY / "pyrunc", work / "checkout/pyrunc")
    return work / "checkout"
