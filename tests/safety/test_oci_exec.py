"""What `exec` brings into a container that may be hostile: no way to the host, and nothing of the caller's."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oci.runtime import OURS, SUBJECT, Runtime
from tests.runtime.cgroup_support import needs_root
from tests.safety.support import wait_until

pytestmark = [needs_root, pytest.mark.skipif(str(OURS) != SUBJECT, reason="a peer is tried")]
SECRET = "PYRUNC_TEST_SECRET=of-the-caller"


@pytest.fixture(autouse=True)
def no_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRUNC_OCI_PLANNER", "0")


@pytest.fixture
def box(runtime: Runtime, bundle: Callable[..., Path]) -> str:
    name = runtime.create(bundle("bundle", "sleep", "1000"))
    runtime("start", name)
    return name


@pytest.fixture
def joining(runtime: Runtime, box: str) -> Iterator[tuple[int, int]]:
    """The front door of an exec, and the process of its that is about to join the container, which is frozen."""
    state = json.loads((runtime.root / box / "state.json").read_text())["pyrunc"]
    freezer = Path(state["freezer"])
    if not (freezer / "freezer.state").exists():
        pytest.skip("needs the freezer of cgroup v1, in which whoever joins stops at once")
    (freezer / "freezer.state").write_text("FROZEN")
    name, _, value = SECRET.partition("=")
    command = runtime.command("exec", "--ignore-paused", box, "true")
    with subprocess.Popen(command, env={**os.environ, name: value}) as child:
        try:
            assert wait_until(lambda: bool(joiners(child.pid, freezer)))
            yield child.pid, joiners(child.pid, freezer)[0]
        finally:
            (freezer / "freezer.state").write_text("THAWED")
        assert child.wait(60) == 0


def joiners(front_door: int, freezer: Path) -> list[int]:
    """The children of *front_door* that are in the cgroup."""
    children = Path(f"/proc/{front_door}/task/{front_door}/children").read_text().split()
    return [int(pid) for pid in children[:1] if pid in (freezer / "tasks").read_text().split()]


def test_who_joins_is_no_copy_of_the_callers_secrets(joining: tuple[int, int]) -> None:
    front_door, process = joining
    assert SECRET in Path(f"/proc/{front_door}/environ").read_text()
    assert SECRET not in Path(f"/proc/{process}/environ").read_text()
    # Neither on the stack nor anywhere else, by the same look at the one that has it.
    assert SECRET.encode() in memory(front_door)
    assert SECRET.encode() not in memory(process)


def memory(pid: int) -> bytes:
    """All that a process can write to."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in maps:
            place, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            file.seek(start)
            try:
                found.append(file.read(end - start))
            except OSError:
                continue
    return b"".join(found)


def test_the_executable_of_who_joins_can_be_written_by_nobody(
    joining: tuple[int, int], busybox: Path, tmp_path: Path
) -> None:
    # CVE-2019-5736: what is opened as /proc/<pid>/exe is the host's file, and is writable once nobody executes it.
    plain = tmp_path / "busybox"
    plain.write_bytes(busybox.read_bytes())
    plain.chmod(0o755)
    with subprocess.Popen([plain, "sleep", "1000"]) as child:
        held = os.open(f"/proc/{child.pid}/exe", os.O_RDONLY)
        child.kill()
    with open(f"/proc/self/fd/{held}", "r+b") as file:
        file.write(b"#!/evil")
    os.close(held)
    assert plain.read_bytes().startswith(b"#!/evil")
    for pid in joining:
        assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
        assert not os.access(f"/proc/{pid}/exe", os.W_OK)


def test_no_descriptor_of_the_host_is_a_working_directory(
    runtime: Runtime,
    box: str,
    tmp_path: Path,
) -> None:
    # CVE-2024-21626. The caller passes a directory of the host on: as a descriptor it can be used, which shows that
    # it is there to be entered, but no program begins in it.
    (tmp_path / "outside").write_text("of the host")
    runtime.prefix[:] = ["sh", "-c", 'exec 3<"$0"; exec "$@"', str(tmp_path)]
    words = ("exec", "--preserve-fds", "1")
    assert runtime(*words, box, "cat", "/proc/self/fd/3/outside").out == "of the host"
    for number in range(3, 20):
        result = runtime(*words, "--cwd", f"/proc/self/fd/{number}", box, "cat", "outside", code=255)
        assert "of the host" not in result.out
