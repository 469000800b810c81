"""Containers that are given one cgroup, one after the other: what is done to one never ends another's processes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.oci.bundles import Runtime, cgroups, document

Make = Callable[..., Runtime]


@pytest.fixture
def make(tmp_path: Path, rootfs: Path) -> Iterator[Make]:
    """Makes a running container of a program in the cgroup "shared" of this test, or in one below that."""
    made: list[Runtime] = []
    shared = f"shared-{os.getpid()}-{time.monotonic_ns()}"

    def container(*args: str, below: str = "", own_pids: bool = True) -> Runtime:
        found = Runtime(tmp_path / "state", rootfs)
        spec: dict[str, Any] = document(rootfs, list(args or ("sleep", "100")))
        spec["linux"]["cgroupsPath"] = f"/pyrunc-test/{shared}{below}"
        if not own_pids:
            spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
        bundle = found.write(tmp_path / found.id, spec)
        found.call("create", "--bundle", bundle, found.id)
        made.append(found)
        found.call("start", found.id)
        return found

    yield container
    for found in reversed(made):
        found.end()
    assert not cgroups(shared)


def end(container: Runtime) -> None:
    """Kill the first process of a container, and nobody else."""
    os.kill(container.state()["pid"], signal.SIGKILL)
    container.wait("stopped")


def members(container: Runtime) -> list[int]:
    """The processes in the container's cgroup."""
    return [
        int(word) for word in Path(container.saved()["pyrunc"]["kill"], "cgroup.procs").read_text().split()
    ]


@pytest.mark.parametrize("own_pids", [True, False])
@pytest.mark.parametrize(
    "words", [["delete"], ["delete", "--force"]], ids=["delete", "delete --force"]
)  # fmt: skip
def test_deleting_a_stopped_container_leaves_who_has_its_cgroup_by_now(
    make: Make, words: list[str], own_pids: bool
) -> None:
    first = make(own_pids=own_pids)
    end(first)
    second = make(own_pids=own_pids)
    assert "is left to them" in first.call(*words, first.id).stderr
    assert not first.directory.exists()
    assert second.state()["status"] == "running"
    assert members(second) == [second.state()["pid"]]


@pytest.mark.parametrize("own_pids", [True, False])
def test_killing_all_of_a_stopped_container_kills_nobody_elses(make: Make, own_pids: bool) -> None:
    first = make(own_pids=own_pids)
    end(first)
    second = make(own_pids=own_pids)
    first.call("kill", "--all", first.id, "KILL")
    first.call("kill", "--all", first.id, "TERM")
    first.call("kill", first.id, "KILL", code=1)
    assert second.state()["status"] == "running"


def test_what_a_container_in_the_hosts_pids_has_left_running_ends_with_it(make: Make) -> None:
    first = make(own_pids=False)
    end(first)
    second = make("sh", "-c", "sleep 100 & exec sleep 100", own_pids=False)
    for _ in range(1000):
        if len(members(second)) == 2:
            break
        time.sleep(0.01)
    end(second)
    (left,) = members(second)
    first.call("delete", first.id)
    assert members(second) == [left], "it was another's"
    place = Path(second.saved()["pyrunc"]["kill"])
    second.call("delete", second.id)
    assert not place.exists()


@pytest.mark.parametrize("own_pids", [True, False])
def test_who_was_created_below_a_container_outlives_it(make: Make, own_pids: bool) -> None:
    above = make(own_pids=own_pids)
    inside = make(own_pids=own_pids, below="/inside")
    assert "is left to them" in above.call("delete", "--force", above.id).stderr
    assert inside.state()["status"] == "running"
