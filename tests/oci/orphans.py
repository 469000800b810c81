"""Whose the orphans are while pyrunc-oci is tried: the host's, whose first process reaps them; and what is left."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


@pytest.fixture(autouse=True, scope="module")
def orphans_go_home(request: pytest.FixtureRequest) -> Iterator[None]:
    """Other tests make this process a subreaper, and it reaps nobody: what ends would stay, with its pid namespace."""
    if "oci" not in str(request.path.relative_to(request.config.rootpath)):
        yield
        return
    libc, was = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    yield
    libc.prctl(_PR_SET_CHILD_SUBREAPER, was.value, 0, 0, 0)
    # The cgroup above all containers of tests: as with runc, a container's end takes away its own.
    for place in ("pyrunc-test", "*/pyrunc-test"):
        for cgroup in Path("/sys/fs/cgroup").glob(place):
            with contextlib.suppress(OSError):
                os.rmdir(cgroup)
