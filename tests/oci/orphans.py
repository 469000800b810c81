"""Whose the orphans are while pyrunc-oci is tried: the host's, whose first process reaps them."""

import ctypes
from collections.abc import Iterator

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
