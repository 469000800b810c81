"""A runtime with a root directory of its own, of which nothing is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.bundles import Runtime, cgroups


@pytest.fixture
def oci(tmp_path: Path, rootfs: Path) -> Iterator[Runtime]:
    """The front door, with a root directory and an id of the test's own."""
    found = Runtime(tmp_path / "state", rootfs)
    yield found
    found.end()
    assert not cgroups(found.id)
