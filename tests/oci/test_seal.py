"""Nobody who gets hold of the executable that acts for a container can write it (CVE-2019-5736)."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from pyrunc import _native
from tests.oci import bundles
from tests.oci.native import PYTHON, install
from tests.oci.planning import socket_of, stranger
from tests.oci.waiting import PATIENCE_S, until
from tests.safety import stepper

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
    """In a user namespace whose mounts are another's, looked at in each of its system calls."""
    front_door = install(tmp_path / "installed")
    directory = tmp_path / "planner"
    found: list[str] = []
    with stranger(socket_of(front_door, directory)):
        waiting = ["sh", "-c", 'read line && exec "$0" "$@"']
        process = subprocess.Popen(
            [*waiting, "unshare", "--user", "--map-root-user", front_door, "run", "x"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={"PATH": "/usr/bin", "PYRUNC_OCI_PLANNER": str(directory)},
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None

        def begin() -> None:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

        code = stepper.walk(process.pid, begin, lambda: found.append(os.readlink(f"/proc/{process.pid}/exe")))
        with process.stdin, process.stdout:
            assert (code, process.stdout.read()) == (PYTHON, "run x\n")
        process.wait()
    places = list(dict.fromkeys(found))
    assert places.index("/memfd:pyrunc-oci (deleted)") == places.index(str(front_door)) + 1
