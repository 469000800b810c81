"""Two commands at one container: neither waits for ever for the other, nor takes another container for its own."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.oci.bundles import Runtime, cgroups, document
from tests.oci.waiting import PATIENCE_S, until
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root


def removed(cgroup: Path) -> bool:
    """Whether it is gone; one that somebody is still in is not."""
    try:
        cgroup.rmdir()
    except OSError:
        return not cgroup.exists()
    return True


def background(oci: Runtime, *words: object) -> "subprocess.Popen[bytes]":
    with open(oci.root.parent / "said", "ab") as said:
        return subprocess.Popen(
            oci.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=oci.environment,
            cwd="/",
        )


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
def test_delete_ends_a_create_that_waits_for_a_hook(oci: Runtime, tmp_path: Path, kind: str) -> None:
    begun = tmp_path / "begun"
    spec = document(oci.rootfs, ["sleep", "100"])
    spec["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo > {begun}; exec sleep 1000"]}]}
    with background(oci, "create", "-b", oci.write(tmp_path / "b", spec), oci.id) as creator:
        until(begun.exists, "no hook")
        found = oci.state()
        assert (found["status"], found["pid"]) == ("creating", 0)
        assert "in the creating state" in oci.call("start", oci.id, code=1).stderr
        assert "is being created" in oci.call("exec", oci.id, "true", code=255).stderr
        assert "is not stopped: creating" in oci.call("delete", oci.id, code=1).stderr
        oci.call("delete", "--force", oci.id)
        assert creator.wait(PATIENCE_S) == 1
    assert not oci.directory.exists()
    assert not cgroups(oci.id)


def test_delete_ends_a_start_that_waits_for_what_the_container_does(oci: Runtime, tmp_path: Path) -> None:
    spec = document(oci.rootfs, ["sleep", "100"])
    (place := tmp_path / "shared").mkdir()
    # In a place that there is: the root is one for all tests, and none changes it.
    spec["mounts"].append({"destination": "/tmp", "type": "bind", "source": str(place), "options": ["bind"]})
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo > /tmp/begun; exec sleep 1000"]}
    spec["hooks"] = {"startContainer": [hook]}
    oci.call("create", "-b", oci.write(tmp_path / "b", spec), oci.id)
    with background(oci, "start", oci.id) as starter:
        until((place / "begun").exists, "no hook")
        # As runc has it: what is created becomes what runs when it executes its program.
        assert oci.state()["status"] == "created"
        oci.call("delete", "--force", oci.id)
        assert starter.wait(PATIENCE_S) == 1
    assert not oci.directory.exists()
    assert not cgroups(oci.id)


@pytest.mark.parametrize("namespaces", [["mount", "pid"], ["mount"]], ids=["own pids", "the host's pids"])
def test_run_ends_only_the_container_that_it_has_made(
    oci: Runtime, tmp_path: Path, namespaces: list[str]
) -> None:
    spec = document(oci.rootfs, ["sleep", "100"])
    spec["linux"]["namespaces"] = [{"type": kind} for kind in namespaces]
    del spec["hostname"]
    hook = f"echo end >> {tmp_path}/ends"
    spec["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]}
    bundle = oci.write(tmp_path / "b", spec)
    with background(oci, "run", "-b", bundle, oci.id) as first:
        until(
            lambda: (
                oci.directory.exists() and oci.call("state", oci.id, code=None).stdout.find("running") > 0
            ),
            "no run",
        )
        first.send_signal(signal.SIGSTOP)
        oci.call("delete", "--force", oci.id)
        oci.call("create", "-b", bundle, oci.id)
        oci.call("start", oci.id)
        first.send_signal(signal.SIGCONT)
        assert first.wait(PATIENCE_S) == 128 + signal.SIGKILL
    assert oci.state()["status"] == "running"
    assert all(group.is_dir() for group in cgroups(oci.id))
    assert (tmp_path / "ends").read_text() == "end\n"


@pytest.mark.parametrize("taken", [True, False], ids=["socket taken away", "socket left"])
def test_a_container_runs_though_whoever_started_it_was_killed(
    oci: Runtime, tmp_path: Path, taken: bool
) -> None:
    oci.call("create", "-b", oci.bundle(tmp_path / "b", ["sleep", "100"]), oci.id)
    pid = oci.saved()["pid"]
    os.kill(pid, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
        directory = os.open(oci.directory, os.O_PATH)
        starter.connect(f"/proc/self/fd/{directory}/start")
        if taken:
            os.unlink("start", dir_fd=directory)
        os.close(directory)
    os.kill(pid, signal.SIGCONT)
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), "it has ended")
    assert oci.state()["status"] == "running"
    assert json.loads(oci.call("list", "--format", "json").stdout)[0]["status"] == "running"
    assert "already running" in oci.call("start", oci.id, code=1).stderr
    assert "is not stopped: running" in oci.call("delete", oci.id, code=1).stderr


def test_a_cgroup_below_which_others_are_is_no_containers(oci: Runtime, tmp_path: Path) -> None:
    """What ends a container ends all below its cgroup: that was another container's end."""
    below = Runtime(tmp_path / "below", oci.rootfs)
    below.id = f"{oci.id}-below"
    spec = document(oci.rootfs, ["sleep", "100"])
    spec["linux"]["cgroupsPath"] = f"/pyrunc-test/{oci.id}/inner/{below.id}"
    below.call("create", "-b", below.write(tmp_path / "c", spec), below.id)
    try:
        done = oci.call("create", "-b", oci.bundle(tmp_path / "b", ["sleep", "100"]), oci.id, code=1)
        assert "container's cgroup is not empty" in done.stderr
        assert below.state()["status"] == "created"
    finally:
        below.call("delete", "--force", below.id)
    assert not oci.directory.exists()


@pytest.mark.parametrize("args", [["sleep", "100"], ["/nonexistent"]], ids=["good", "bad"])
def test_a_cgroup_in_which_others_are_is_no_containers(oci: Runtime, tmp_path: Path, args: list[str]) -> None:
    bundle = oci.bundle(tmp_path / "b", args)
    with subprocess.Popen(["sleep", "100"]) as stranger:
        place = Path("/sys/fs/cgroup/freezer/pyrunc-test", oci.id)
        if not place.parent.parent.is_dir():
            pytest.skip("needs the freezer of cgroup v1")
        place.mkdir(parents=True)
        try:
            (place / "cgroup.procs").write_text(str(stranger.pid))
            done = oci.call("create", "-b", bundle, oci.id, code=1)
            assert "container's cgroup is not empty" in done.stderr
            assert stranger.poll() is None
            assert cgroups(oci.id) == [place]
            (place.parent.parent / "cgroup.procs").write_text(str(stranger.pid))
        finally:
            stranger.kill()
            stranger.wait()
            until(lambda: removed(place), "busy")
    assert not oci.directory.exists()
