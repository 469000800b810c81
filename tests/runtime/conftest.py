"""Every test of the runtime leaves the host's cgroups as they were."""

from collections.abc import Iterator

import pytest

from pyrunc.runtime.cgroup_layout import detect
from tests.runtime.cgroup_support import leftovers


@pytest.fixture(autouse=True)
def no_cgroup_left() -> Iterator[None]:
    before = leftovers(detect())
    yield
    assert leftovers(detect()) == before
