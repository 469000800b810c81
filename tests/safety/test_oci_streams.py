"""A caller's standard streams give the container no more of the host than they are.

What is opened next, where one was closed, is no stream of the container's; and what the caller reads, or its terminal,
does not become the container's user's.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
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


USER = 1000
WAYS = pytest.mark.parametrize("way", ["run", "create", "exec"])


def giving(oci: Runtime, tmp_path: Path, way: str, stdin: int, stdout: int) -> None:
    """Start a program of USER's with these streams."""
    user = {"uid": USER, "gid": USER}
    bundle = oci.write(
        tmp_path / "b", document(oci.rootfs, ["sleep", "100"] if way == "exec" else ["true"], user=user)
    )
    given: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stdout}
    with open(os.devnull, "r+") as null:
        nothing: dict[str, Any] = {"stdin": null, "stdout": null, "stderr": null}
        try:
            if way == "exec":
                oci.call("run", "--detach", "-b", bundle, oci.id, **nothing)
                oci.call("exec", "--user", f"{USER}:{USER}", oci.id, "true", **given)
            else:
                oci.call(way, "-b", bundle, oci.id, **given)
        finally:
            oci.end()


@WAYS
def test_what_the_caller_reads_and_its_terminal_stay_the_callers(
    oci: Runtime, tmp_path: Path, way: str
) -> None:
    secret, device = tmp_path / "secret", tmp_path / "full"
    secret.write_text("root's")
    secret.chmod(0o600)
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    master, terminal = os.openpty()
    reading, writing = os.open(secret, os.O_RDONLY), os.open(device, os.O_RDWR)
    try:
        giving(oci, tmp_path, way, reading, writing)
        giving(oci, tmp_path, way, terminal, terminal)
        assert [os.fstat(fd).st_uid for fd in (reading, writing, terminal)] == [0, 0, 0]
        careless_runtime(oci, tmp_path, reading, terminal)
    finally:
        for fd in (master, terminal, reading, writing):
            os.close(fd)


def careless_runtime(oci: Runtime, tmp_path: Path, reading: int, terminal: int) -> None:
    """Gives whatever it is called with: runc does, where it puts no pipes between."""
    runc = shutil.which("runc")
    if runc is None:
        return
    root = ["--root", str(tmp_path / "runc")]
    with open(os.devnull, "w") as null:
        bundle = str(tmp_path / "b")
        words = [runc, *root, "run", "--detach", "--bundle", bundle, oci.id]
        subprocess.run(words, check=True, stdin=reading, stdout=terminal, stderr=null, timeout=60)
        subprocess.run([runc, *root, "delete", "--force", oci.id], check=True, timeout=60)
    assert [os.fstat(fd).st_uid for fd in (reading, terminal)] == [USER, USER]
    os.fchown(reading, 0, 0)


@WAYS
def test_what_is_written_to_can_be_opened_once_more_by_the_user(
    oci: Runtime, tmp_path: Path, way: str
) -> None:
    """As /dev/stdout, which is in the configuration of many images."""
    reading, writing = os.pipe()
    output = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        giving(oci, tmp_path, way, reading, output)
        giving(oci, tmp_path, way, reading, writing)
        assert [os.fstat(fd).st_uid for fd in (reading, writing, output)] == [USER, USER, USER]
    finally:
        for fd in (reading, writing, output):
            os.close(fd)
