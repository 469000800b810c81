"""Real planners, started as a cold command starts one."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from pyrunc.oci import resident
from tests.oci.planning import socket_of
from tests.oci.waiting import PATIENCE_S

# Nobody else comes where it is late for a few times on a busy machine.
CODE = "import sys; from pyrunc.oci import planner, resident; resident._OVERDUE_MOST = 1000;"


def start_planner(front_door: Path, directory: Path, code: str = CODE) -> int:
    """Start one, of which *code* may change something, and wait until it listens; its pid."""
    environment = {**os.environ, "PYRUNC_OCI_PLANNER": str(directory)}
    command = [sys.executable, "-c", f"{code} planner.ensure(sys.argv[1])", str(front_door)]
    subprocess.run(command, check=True, env=environment)
    return pid_of_planner(front_door, directory)


def pid_of_planner(front_door: Path, directory: Path) -> int:
    """The planner's, as soon as it listens."""
    place = socket_of(front_door, directory)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, contextlib.suppress(OSError):
            here = os.open(directory, os.O_PATH)
            try:
                probe.connect(f"/proc/self/fd/{here}/{place.name}")
                return resident._peer(probe)[0]
            finally:
                os.close(here)
        assert time.monotonic() < deadline
        time.sleep(0.01)
