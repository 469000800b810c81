"""Nobody who gets hold of the executable that acts for a container can write it (CVE-2019-5736)."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pyrunc import _native
from tests.oci import bundles
from tests.oci.native import PYTHON, install
from tests.oci.planning import socket_of, stranger
from tests.oci.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not bundles.FRONT_DOOR.exists(),
    reason="needs root and a checkout that was built in place",
)


def attack(pid: int, end: "subprocess.Popen[bytes] | None" = None) -> int:
    """Keep the executable of *pid* as a container's process can, and open it for writing when it runs no more.

    0 if that succeeds, else its errno.
    """
    kept = os.open(f"/proc/{pid}/exe", os.O_PATH)
    try:
        os.kill(pid, signal.SIGKILL)
        if end is not None:
            end.wait()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                os.close(os.open(f"/proc/self/fd/{kept}", os.O_WRONLY))
            except OSError as error:
                if error.errno != 26 or time.monotonic() > deadline:  # ETXTBSY: it still runs
                    return error.errno or 0
                time.sleep(0.01)
            else:
                return 0
    finally:
        os.close(kept)


def test_init_of_a_created_container_is_not_the_hosts_file(oci: bundles.Runtime, tmp_path: Path) -> None:
    path = oci.bundle(tmp_path / "b", ["/bin/true"])
    oci.call("create", "--bundle", path, oci.id)
    assert attack(oci.state()["pid"]) == 30  # EROFS


def test_the_supervisor_is_not_the_hosts_file_either(oci: bundles.Runtime, tmp_path: Path) -> None:
    path = oci.bundle(tmp_path / "b", ["/bin/sleep", "1000"])
    child = subprocess.Popen(
        oci.command("run", "--bundle", path, oci.id), env=oci.environment, stdin=subprocess.DEVNULL
    )
    until(
        lambda: oci.directory.exists() and not oci.call("state", oci.id, code=None).returncode,
        "it does not begin",
    )
    oci.wait("running")
    assert attack(child.pid, child) == 30


def test_the_attack_succeeds_on_what_is_executed_as_it_is(tmp_path: Path) -> None:
    unsafe = tmp_path / "pyrunc-init"
    shutil.copy2(Path(_native.__file__).with_name("pyrunc-init"), unsafe)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        # A number of its own: the copy that the program gets is not closed.
        far = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 100)
        pid = os.posix_spawn(
            unsafe, ["pyrunc-init", "spawner"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, far, 3)]
        )
        os.close(far)
        assert attack(pid) == 0
        os.waitpid(pid, 0)


def test_where_it_may_not_mount_it_runs_from_a_sealed_copy(tmp_path: Path) -> None:
    """In a user namespace whose mounts are another's; what waits for a silent planner can be looked at."""
    front_door = install(tmp_path / "installed")
    directory = tmp_path / "planner"
    found: list[str] = []

    def look() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            pid = int.from_bytes(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little"
            )
            found.append(os.readlink(f"/proc/{pid}/exe"))
            connection.recv(1)

    def seen() -> bool:
        """Whether it was looked at before it gave up; then it is Python, or gone."""
        watcher = threading.Thread(target=look)
        watcher.start()
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", front_door, "run", "x"],
            capture_output=True, text=True, check=False, env={"PATH": "/usr/bin", "PYRUNC_OCI_PLANNER": str(directory)},
        )  # fmt: skip
        watcher.join()
        assert (done.returncode, done.stdout) == (PYTHON, "run x\n")
        return found[-1:] == ["/memfd:pyrunc-oci (deleted)"]

    with stranger(socket_of(front_door, directory)) as listener:
        until(seen, lambda: found)
    assert str(front_door) not in found
