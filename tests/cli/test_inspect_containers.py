"""Whole documents of `container inspect` beside those that dockerd 20.10 answered, but for networks."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli import record
from tests.cli.shell import Shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_STEPS: list[dict[str, Any]] = json.loads((record.FIXTURES / "inspect_containers.json").read_text())["steps"]
_SHOWN = ["inspect created", "inspect exited", "inspect runs", "inspect hosted", "inspect logless"]
_FRESH = {"Id", "Created", "LogPath"}  # of each container
# Files that are made in memory have no path; layers are where each has them; networks do not exist yet.
_OWN = {"ResolvConfPath", "HostnamePath", "HostsPath", "GraphDriver", "NetworkSettings", "Driver"}
_TIMES = {"Pid", "StartedAt", "FinishedAt"}
# HostConfig: not in API v1.51 any more; Init is only where somebody said something.
_GONE = {"KernelMemory", "KernelMemoryTCP", "Init"}
# What this runtime, newer versions of Docker and cgroup v1 have otherwise.
_OTHERWISE = {"Runtime", "CgroupnsMode", "MaskedPaths", "ReadonlyPaths"}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> "dict[str, Any]":
    found = {}
    with Shell.opened(tmp_path_factory.mktemp("inspect"), busybox) as shell:
        for step in _STEPS:
            line = step["line"]
            if line.startswith(("load", "create", "run")):
                answer = shell.run(line)
                assert answer.code == step["code"], answer
            elif line in _SHOWN:
                (found[line],) = json.loads(shell.run(line).stdout)
    return found


@pytest.mark.parametrize("line", _SHOWN)
def test_the_document_is_dockers(documents: "dict[str, Any]", line: str) -> None:
    ours = documents[line]
    (theirs,) = json.loads(next(step["stdout"] for step in _STEPS if step["line"] == line))
    assert list(ours) == list(theirs)
    for key in ours.keys() - _FRESH - _OWN - {"State", "HostConfig", "Config", "Mounts"}:
        assert ours[key] == theirs[key], key
    assert _without(ours["State"], _TIMES) == _without(theirs["State"], _TIMES)
    for time in ("StartedAt", "FinishedAt"):
        assert ours["State"][time].startswith("0001") == theirs["State"][time].startswith("0001")
    host, their_host = _without(ours["HostConfig"], _GONE), _without(theirs["HostConfig"], _GONE)
    assert set(host) == set(their_host)
    for key in host.keys() - _OTHERWISE:
        assert host[key] == their_host[key], key
    for key in ("MaskedPaths", "ReadonlyPaths"):
        assert (host[key] is None) == (their_host[key] is None) and set(their_host[key] or ()) <= set(
            host[key] or ()
        )
    assert list(ours["Config"]) == list(theirs["Config"])
    for key, value in ours["Config"].items():
        if key == "Hostname" and line == "inspect hosted":
            assert value == os.uname().nodename  # as Docker has it: the host's name with the host's network
        elif key == "Hostname" and theirs["Config"][key] == theirs["Id"][:12]:
            assert value == ours["Id"][:12]
        else:
            assert value == theirs["Config"][key], key
    assert [_mount(mount) for mount in ours["Mounts"]] == [_mount(mount) for mount in theirs["Mounts"]]


def _without(document: "dict[str, Any]", keys: set[str]) -> "dict[str, Any]":
    return {key: value for key, value in document.items() if key not in keys}


def _mount(mount: "dict[str, Any]") -> "dict[str, Any]":
    """A mount point without the name of an anonymous volume, and where it is."""
    return _without(mount, {"Name", "Source"} if mount["Type"] == "volume" else set())
