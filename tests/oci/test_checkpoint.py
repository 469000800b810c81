"""checkpoint and restore, where a criu works: under the second kernel with Debian's (./dev vm --kernel qemu)."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.live import live, remove_cgroups
from tests.oci.play import Player
from tests.oci.runtime import OURS
from tests.oci.test_verbs import log_of
from tests.runtime.cgroup_support import needs_root

pytestmark = [needs_root, pytest.mark.vm]
# Its streams are the container's own, so that nothing leads outside.
_COUNT = "exec </dev/null >/dev/null 2>&1; i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.05; done"


_CACHE = Path("/run/criu.kdat")  # what criu knows of the kernel


@pytest.fixture
def criu() -> Iterator[None]:
    if shutil.which("criu") is None:
        pytest.skip("needs criu")
    if not OURS.exists():
        pytest.skip("needs bin/pyrunc-oci, which build_ext --inplace makes")
    known = _CACHE.exists()
    if subprocess.run(["criu", "check"], capture_output=True, check=False).returncode:
        pytest.skip("criu does not work under this kernel")
    yield
    if not known:
        _CACHE.unlink(missing_ok=True)


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    found = Player([str(OURS)], "pyrunc-oci", tmp_path, f"pyrunc-test-{os.getpid()}-{tmp_path.name}")
    yield found
    for container in sorted(found.root.glob("*")):
        found.run("delete", "--force", container.name)
    remove_cgroups(found.cgroup)


def counting(player: Player, container: str = "box") -> int:
    """Start the container that counts; what it had counted to, after a while."""
    changes = {"process.args": ["sh", "-c", _COUNT], "root.readonly": False}
    player.play(f"% bundle b '{json.dumps(changes)}'")
    assert player.run("run", "-d", "-b", "b", container) == (0, "", "")
    return grown(player, 3)


def grown(player: Player, beyond: int) -> int:
    """Wait until the container has counted further than *beyond*; how far."""
    count = player.work / "b/rootfs/count"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = count.read_text().strip() if count.exists() else ""
        if text and int(text) > beyond:
            return int(text)
        time.sleep(0.05)
    raise AssertionError(f"it does not count beyond {beyond}")


@pytest.mark.usefixtures("criu")
def test_a_restored_container_goes_on_where_it_was(player: Player) -> None:
    counting(player)
    images = str(player.work / "images")
    assert player.run("checkpoint", "--image-path", images, "box") == (0, "", "")
    assert player.run("list", "-q")[1] == ""
    before = grown(player, 0)
    pid_file = player.work / "pid"
    words = ["--image-path", images, "-b", "b", "-d", "--pid-file", str(pid_file)]
    assert player.run("restore", *words, "box") == (0, "", "")
    state = json.loads(player.run("state", "box")[1])
    assert (state["status"], str(state["pid"])) == ("running", pid_file.read_text())
    assert grown(player, before) > before
    assert player.run("pause", "box") == (0, "", "")
    assert player.run("resume", "box") == (0, "", "")
    assert player.run("kill", "box", "KILL")[0] == 0
    player.play("% wait box stopped")
    assert player.run("delete", "box") == (0, "", "")


@pytest.mark.usefixtures("criu")
def test_a_container_can_go_on_after_it_was_saved(player: Player) -> None:
    before = counting(player)
    images = str(player.work / "images")
    assert player.run("checkpoint", "--leave-running", "--image-path", images, "box") == (0, "", "")
    assert grown(player, before) > before
    code, _, err = player.run("restore", "--image-path", images, "-b", "b", "-d", "box")
    assert code == 1 and "container with given ID already exists" in err
    code, _, err = player.run("restore", "--image-path", images + "x", "-b", "b", "-d", "other")
    assert code == 1 and f"stat {images}x: no such file or directory" in err
    assert not (player.root / "other").exists()


def test_without_a_criu_one_line_says_so(tmp_path: Path) -> None:
    with live(tmp_path) as box:
        answer = box.player.run("--criu", "/nonexistent/criu", "checkpoint", "box")
        words = "CRIU version check failed: fork/exec /nonexistent/criu: no such file or directory"
        assert log_of(answer) == words
        fake = tmp_path / "criu"
        fake.write_text("#!/bin/sh\necho 'Error (kerndat.c:1): no vdso here' >&2\nexit 1\n")
        fake.chmod(0o755)
        answer = box.player.run("--criu", str(fake), "checkpoint", "box")
        assert log_of(answer) == "criu does not work on this host: Error (kerndat.c:1): no vdso here"
        assert box.status() == "running"
