"""vfs passes the suite of all graph drivers; what is its own follows."""

import os

import pytest

from pyrunc.drivers.graph.vfs import Vfs
from pyrunc.testing.snapshotters import SnapshotterSuite

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files")


class TestVfs(SnapshotterSuite):
    chain = 20

    def open(self, root: str) -> Vfs:
        return Vfs(root)
