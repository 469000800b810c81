"""Who calls with a standard stream closed does not give the container what is opened next: files of the host."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.oci.bundles import Runtime, document
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
CLOSED = pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])


@pytest.fixture
def oci(tmp_path: Path, rootfs: Path) -> Runtime:
    return Runtime(tmp_path / "state", rootfs)


def close(numbers: tuple[int, ...]) -> Callable[[], None]:
    def act() -> None:
        for number in numbers:
            os.close(number)

    return act


def streams(pid: str) -> set[str]:
    """What the descriptors of the process are, but for the socket on which a start comes."""
    return {os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd")}


@CLOSED
def test_streams_that_the_caller_has_closed_are_dev_null(
    oci: Runtime, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    bundle = oci.write(tmp_path / "b", document(oci.rootfs, ["sleep", "100"]))
    with open(os.devnull, "r+") as null:
        alone: dict[str, Any] = {
            "preexec_fn": close(closed), "stdin": null, "stdout": null, "stderr": null,
        }  # fmt: skip
        try:
            oci.call("create", "-b", bundle, oci.id, **alone)
            assert streams(str(oci.saved()["pid"])) <= {"/dev/null", "socket"}
            oci.call("start", oci.id, **alone)
            oci.call("exec", "--detach", "--pid-file", tmp_path / "pid", oci.id, "sleep", "100", **alone)
            joined = int((tmp_path / "pid").read_text())
            assert streams(str(joined)) == {"/dev/null"}
            # Where this process is a subreaper, init does not end before it was reaped here.
            os.kill(joined, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(joined, 0)
            assert json.loads(oci.call("state", oci.id).stdout)["status"] == "running"
        finally:
            oci.end()
