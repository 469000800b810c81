"""overlay2 passes the suite of all graph drivers; what is its own follows."""

import os

import pytest

from pyrunc.drivers.graph.overlay2 import Overlay2
from pyrunc.testing.snapshotters import SnapshotterSuite

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files and mount overlays")


class TestOverlay2(SnapshotterSuite):
    def open(self, root: str) -> Overlay2:
        return Overlay2(root)
